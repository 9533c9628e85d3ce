"""Names that users still write and that the libraries renamed or never had: one table, announced when used.

`ALIASES[block][old]` is the new key of the same block, or a `Gone` that says what to write instead. To add a
name: one line. The left column collects what users of TRL before 1.0, alignment-handbook, LLaMA-Factory, axolotl,
torchtune and ms-swift write; `ft import` places the keys of their configs by it too (`recipe.place`), and those of
"recipe" that are `Gone` are what their flat files hold and a recipe does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Renamed:
    """The same meaning under a new key, with its value carried over by `value`."""

    to: str
    value: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Gone:
    """A key that cannot be carried over by itself; `fix` says what to write."""

    fix: str


def _is_true(value: object) -> bool:
    """`no` and `off` stay words in YAML 1.2, and people still write them."""
    return value is True or str(value).lower() in ("true", "yes", "on", "1")


def _sampling_strategy(value: object) -> str:
    return "group_by_length" if _is_true(value) else "random"


def _if_true(then: Any, otherwise: Any = None) -> Callable[[Any], Any]:
    """What a switch of theirs means as a value of ours."""
    return lambda value: then if _is_true(value) else otherwise


_ATTENTION = {
    **dict.fromkeys(("fa2", "flash_attn", "flash_attention", "flash_attention_2"), "flash_attention_2"),
    **dict.fromkeys(("fa3", "flash_attention_3"), "flash_attention_3"),
    **dict.fromkeys(("disabled", "off"), "eager"),
    "auto": None,
}


def _attention(value: Any) -> Any:
    """LLaMA-Factory's and ms-swift's words for an implementation of attention, and true as axolotl writes it."""
    return _ATTENTION.get(value, value) if isinstance(value, str) else _if_true("flash_attention_2")(value)


def _modules(value: Any) -> Any:
    """Names in one string, with commas between, are a list; `all` is PEFT's all-linear."""
    if isinstance(value, str):
        return "all-linear" if value.lower() in ("all", "default") else _names(value)
    names = [str(name).lower() for name in value] if isinstance(value, list) else []
    return "all-linear" if names in (["all"], ["all-linear"], ["default"]) else value


def _names(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) and "," in value else value


_BATCH_OF_ANSWERS = (
    "Write `generation_batch_size: …`, the answers of a batch; one optimizer step takes per_device_train_batch_size x "
    "gradient_accumulation_steps x processes of them."
)
_STEPS = (
    "Write `max_steps: …` or `num_train_epochs: …`: a batch of answers makes generation_batch_size / answers a step x "
    "num_iterations of these."
)
_END_OF_TURN = "Remove it: an answer ends with the template's end-of-turn token."
_JUDGE = "Write `inputs: {helpful: $stage}` in the stage, beside `train:`."
_LORA_ELSEWHERE = "Write it in the stage's `lora:` block."
_BATCH = "Write `global_batch: …` in the stage, beside `train:`."
_ROWS = "Write it in the stage's `rows:` block as "

# Why a key of a peer's flat file has no place in a recipe.
_PREPARED = "Remove it: ft prepares rows before training, and keeps them in runs/.cache by what decides them."
_TRACKER = "Remove it; write `report_to: [wandb]` in `train:`. The tracker's own environment variables name the rest."
_LAUNCH = "Remove it: several GPUs are used by `ft run --launch CONFIG`."
_KERNELS = "Remove it: kernels change the speed, not the result; `use_liger_kernel: true` in `train:` is there."
_MULTIMODAL = "Remove it: ft trains on text."
_ANSWERS = "Remove it: answers are made by a stage of kind `evaluate`, or by `ft chat`."
_OPTIMIZER = "Remove it; write `optim:` in `train:`, one of transformers' optimizers."
_ANOTHER_ADAPTER = "Remove it: ft trains whole models, LoRA and QLoRA."
_SAME = "Remove it: ft does so by itself, or finds it out from the model."
_DEBUG = "Remove it: it changes no result."
_TOKENS = "Remove it: the tokenizer is the model's own. Add tokens to it before, and give the folder as `model:`."
_GONE_AT_TOP: Mapping[Gone, tuple[str, ...]] = {
    Gone(_PREPARED): (
        *("dataset_prepared_path", "dataset_processes", "dataset_num_proc", "dataset_keep_in_memory", "tokenized_path"),
        *("overwrite_cache", "preprocessing_num_workers", "preprocessing_batch_size", "load_from_cache_file"),
        *("lazy_tokenize", "packing_cache", "download_mode", "dataset_shard_num", "dataset_shard_idx", "cache_dir"),
        *("sample_packing_group_size", "sample_packing_bin_size", "multipack_real_batches", "buffer_size"),
        *("push_dataset_to_hub", "shuffle_merged_datasets", "pad_to_sequence_len", "streaming_buffer_size"),
    ),
    Gone(_TRACKER): (
        *(
            "wandb_project",
            "wandb_entity",
            "wandb_watch",
            "wandb_name",
            "wandb_run_id",
            "wandb_log_model",
            "wandb_mode",
        ),
        *("use_wandb", "use_mlflow", "mlflow_tracking_uri", "mlflow_experiment_name", "hf_mlflow_log_artifacts"),
        *("use_comet", "comet_project_name", "comet_workspace", "use_tensorboard", "use_swanlab", "swanlab_project"),
        *("swanlab_workspace", "swanlab_run_name", "swanlab_mode", "swanlab_token", "swanlab_exp_name"),
        *("wandb_exp_name", "wandb_organization", "metric_logger"),
    ),
    Gone(_LAUNCH): (
        *(
            "nproc_per_node",
            "sequence_parallel_size",
            "sequence_parallel_degree",
            "context_parallel_size",
            "device_map",
        ),
        *(
            "fsdp_final_state_dict_type",
            "fsdp_cpu_offload",
            "low_cpu_ram",
            "low_cpu_mem_usage",
            "use_ray",
            "max_memory",
        ),
        *("device_groups", "custom_sharded_layers", "world_size", "fsdp_version", "qlora_sharded_model_loading"),
        *("tensor_parallel_dim", "data_parallel_replicate_dim", "data_parallel_shard_dim", "device"),
    ),
    Gone(_KERNELS): (
        *("use_unsloth", "use_unsloth_gc", "plugins", "flash_attn_cross_entropy", "flash_attn_rms_norm"),
        *("flash_attn_fuse_qkv", "flash_attn_fuse_mlp", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"),
        *("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_layer_norm", "liger_cross_entropy"),
        *("liger_fused_linear_cross_entropy", "cut_cross_entropy", "use_reentrant_gc", "unsloth_cross_entropy_loss"),
        *("xformers_attention", "s2_attention", "shift_attn", "tuner_backend", "use_cce", "use_v1_kernels"),
    ),
    Gone(_MULTIMODAL): (
        *("freeze_vit", "freeze_aligner", "freeze_llm", "freeze_vision_tower", "freeze_multi_modal_projector"),
        *("image_max_pixels", "image_min_pixels", "video_max_pixels", "video_min_pixels", "media_dir", "max_pixels"),
        *("processor_type", "image_size", "image_resize_algorithm", "video_maxlen", "video_fps"),
    ),
    Gone(_ANSWERS): (
        *("eval_table_size", "eval_max_new_tokens", "do_bench_eval", "predict_with_generate", "infer_backend"),
        *("do_causal_lm_eval", "bench_dataset", "eval_causal_lm_metrics", "infer_dtype", "eval_num_beams"),
    ),
    Gone(_OPTIMIZER): (
        *("use_galore", "galore_rank", "galore_target", "galore_scale", "use_apollo", "use_badam", "use_muon"),
        *("use_adam_mini", "loraplus_lr_ratio", "loraplus_lr_embedding", "lora_lr_ratio", "optimizer_in_bwd"),
        *("embedding_lr", "embedding_lr_scale", "lr_groups", "lisa_n_layers", "lisa_step_interval"),
    ),
    Gone(_ANOTHER_ADAPTER): (
        *("relora", "relora_steps", "relora_warmup_steps", "relora_cpu_offload", "freeze_trainable_layers"),
        *("freeze_trainable_modules", "use_llama_pro", "unfrozen_parameters", "freeze_parameters", "oft_rank"),
        *("freeze_parameters_ratio", "trainable_parameters", "qat", "gptq", "lora_on_cpu", "merge_lora"),
    ),
    Gone(_SAME): (
        *(
            "num_labels",
            "model_type",
            "tokenizer_type",
            "tokenizer_use_fast",
            "tokenizer_legacy",
            "is_llama_derived_model",
        ),
        *("is_mistral_derived_model", "is_qwen_derived_model", "is_falcon_derived_model", "use_fast_tokenizer"),
        *("gptneox_derived_model", "strict", "plot_loss", "save_safetensors", "resume_adapter_weights_only"),
        *("auto_resume_from_checkpoints", "resume_only_model", "save_adapter_weights_only", "add_version"),
        *("check_model", "use_hf", "hf_use_auth_token", "shuffle", "ignore_pad_token_for_loss", "upcast_layernorm"),
        *("overwrite_output_dir", "create_checkpoint_symlink", "hub_model_revision", "push_to_hub_revision"),
    ),
    Gone(_DEBUG): (
        *("debug", "gc_steps", "profiler_steps", "profiler", "log_peak_memory_stats", "print_param_status"),
        *("loss_watchdog_threshold", "loss_watchdog_patience", "logging_dir", "acc_strategy", "log_level_replica"),
        *("include_effective_tokens_per_second", "include_tokens_per_second", "compute_accuracy", "logprobs"),
    ),
    Gone(_TOKENS): (
        *("special_tokens", "tokens", "added_tokens_overrides", "resize_token_embeddings_to_32x", "resize_vocab"),
        *("add_tokens", "add_special_tokens", "new_special_tokens", "tokenizer_config", "fix_untrained_tokens"),
        *("eot_tokens", "split_special_tokens", "shrink_embeddings", "mean_resizing_embeddings"),
    ),
    Gone("Remove it: code from the Hub is never run; use a model that transformers knows."): ("trust_remote_code",),
    Gone("Set HF_TOKEN in the environment."): ("hf_hub_token", "ms_hub_token", "om_hub_token", "hub_token"),
    Gone("Write it in the rows: a message of the role system."): ("default_system", "default_system_message", "system"),
    Gone("Remove it: the run goes to its end, and `load_best_model_at_end` in `train:` takes the best checkpoint."): (
        *("early_stopping_patience", "early_stopping_steps", "early_stop_interval"),
    ),
    Gone("Write `init: $stage` in a stage: it goes on from that stage's adapter."): (
        *("adapter_name_or_path", "lora_model_dir", "adapters", "ref_adapters", "ref_model_adapters", "ref_model"),
        *("create_new_adapter", "ref_model_quantization_bit"),
    ),
    Gone("Write `inputs: {helpful: $stage}` in the stage, a stage of kind `reward` above."): (
        *(
            "reward_model",
            "reward_model_adapters",
            "reward_model_type",
            "reward_model_quantization_bit",
            "reward_funcs",
        ),
    ),
    Gone("Write `weight:` or `share:` at the sources."): ("mix_strategy", "interleave_probs", "stopping_strategy"),
    Gone("Write `rows: {on_too_long: error | drop | drop_turns | split}` in the stage."): (
        *("excess_length_strategy", "truncation_strategy", "truncation_side", "min_sample_len"),
    ),
    Gone("Write the fields of the loss in `train:`: `loss_type:` and `loss_weights:`."): (
        *("rpo_alpha", "pref_ftx", "cpo_alpha", "orpo_alpha", "simpo_gamma", "pref_bco_weight", "kto_chosen_weight"),
        *("kto_rejected_weight", "kto_desirable_weight", "kto_undesirable_weight", "undesirable_weight"),
    ),
}

ALIASES: Mapping[str, Mapping[str, Renamed | Gone]] = {
    "recipe": {
        "model_name_or_path": Renamed("model"),
        "base_model": Renamed("model"),
        "model_name": Renamed("model"),
        "template": Renamed("chat_template"),
        "output_dir": Gone("Folders are named by their content; choose where with `ft run --runs DIR`."),
        "dataset_mixer": Gone("Write the sources in a stage's `data:` list: {path: …, split: …, weight: …}."),
        "dataset_mixture": Gone("Write the sources in a stage's `data:` list: {path: …, split: …, weight: …}."),
        "datasets": Gone("Write the sources in a stage's `data:` list: {path: …, format: …}."),
        "use_peft": Gone("A stage trains an adapter when it has a `lora:` block."),
        "load_in_4bit": Gone("Write it in a stage's `quantization:` block."),
        **{key: gone for gone, keys in _GONE_AT_TOP.items() for key in keys},
    },
    "stage": {
        "stage": Renamed("kind"),
        "datasets": Renamed("data"),
        "dataset": Renamed("data"),
        "dataset_mixture": Renamed("data"),
        "args": Renamed("train"),
        "peft": Renamed("lora"),
        "peft_config": Renamed("lora"),
        "quantization_config": Renamed("quantization"),
        "eval_dataset": Renamed("eval_data"),
        "global_batch_size": Renamed("global_batch"),
        "total_batch_size": Renamed("global_batch"),
        "reward_model": Gone("Write `inputs: {helpful: $stage}`, a stage of kind `reward` above."),
    },
    "model": {
        "name_or_path": Renamed("path"),
        "model_name_or_path": Renamed("path"),
        "torch_dtype": Renamed("dtype"),
        "model_revision": Renamed("revision"),
        "use_flash_attention_2": Renamed("attn_implementation", _if_true("flash_attention_2")),
        "use_flash_attn": Renamed("attn_implementation", _if_true("flash_attention_2")),
        **dict.fromkeys(("flash_attention", "flash_attn", "attn_impl"), Renamed("attn_implementation", _attention)),
        "sdp_attention": Renamed("attn_implementation", _if_true("sdpa")),
        "eager_attention": Renamed("attn_implementation", _if_true("eager")),
        "flex_attention": Renamed("attn_implementation", _if_true("flex_attention")),
        "revision_of_model": Renamed("revision"),
        "trust_remote_code": Gone("Code from the Hub is never run; use a model that transformers knows."),
        "load_in_4bit": Gone("Write it in a stage's `quantization:` block."),
    },
    "data": {
        "dataset_name": Renamed("path"),
        "id": Renamed("path"),
        "config": Renamed("name"),
        "config_name": Renamed("name"),
        "type": Renamed("format"),
        "dataset_split": Renamed("split"),
        "fraction": Renamed("weight"),
        "subset": Renamed("name"),
        "max_rows": Renamed("rows"),
        "max_samples": Renamed("rows"),
        "num_samples": Renamed("rows"),
        "trust_remote_code": Gone("Code from the Hub is never run; use a data set of plain files."),
    },
    "train": {
        "warmup_ratio": Renamed("warmup_steps"),  # a float below 1 is a share of all steps in transformers 5
        "max_seq_length": Renamed("max_length"),
        "max_seq_len": Renamed("max_length"),
        "cutoff_len": Renamed("max_length"),
        "sequence_len": Renamed("max_length"),
        "evaluation_strategy": Renamed("eval_strategy"),
        "num_epochs": Renamed("num_train_epochs"),
        "epochs": Renamed("num_train_epochs"),
        "micro_batch_size": Renamed("per_device_train_batch_size"),
        "per_gpu_train_batch_size": Renamed("per_device_train_batch_size"),
        "per_gpu_eval_batch_size": Renamed("per_device_eval_batch_size"),
        "eval_batch_size": Renamed("per_device_eval_batch_size"),
        "lr": Renamed("learning_rate"),
        "lr_scheduler": Renamed("lr_scheduler_type"),
        "num_warmup_steps": Renamed("warmup_steps"),
        "clip_grad_norm": Renamed("max_grad_norm"),
        "log_every_n_steps": Renamed("logging_steps"),
        "enable_activation_checkpointing": Renamed("gradient_checkpointing"),
        "disable_gradient_checkpointing": Renamed("gradient_checkpointing", _if_true(False, True)),
        "enable_activation_offloading": Renamed("activation_offloading"),
        "compile": Renamed("torch_compile"),
        "enable_liger_kernel": Renamed("use_liger_kernel"),
        "use_liger": Renamed("use_liger_kernel"),
        "eval_sample_packing": Renamed("eval_packing"),
        "packed": Renamed("packing"),
        "dpo_label_smoothing": Renamed("label_smoothing"),
        "optimizer": Renamed("optim"),
        "sample_packing": Renamed("packing"),
        "neat_packing": Renamed("packing"),
        "group_by_length": Renamed("train_sampling_strategy", _sampling_strategy),
        "no_cuda": Renamed("use_cpu"),
        "pref_beta": Renamed("beta"),
        "pref_loss": Renamed("loss_type"),
        **dict.fromkeys(("kto_desirable_weight", "kto_chosen_weight"), Renamed("desirable_weight")),
        **dict.fromkeys(("kto_undesirable_weight", "kto_rejected_weight"), Renamed("undesirable_weight")),
        "rl_beta": Renamed("beta"),
        "kl_coef": Renamed("beta"),
        "init_kl_coef": Renamed("beta"),
        "cliprange": Renamed("epsilon"),
        "num_ppo_epochs": Renamed("num_iterations"),
        "ppo_epochs": Renamed("num_iterations"),
        "response_length": Renamed("max_completion_length"),
        "max_new_tokens": Renamed("max_completion_length"),
        "local_rollout_forward_batch_size": Renamed("rollout_batch_size"),
        "ppo_score_norm": Renamed("whiten_scores"),
        "ppo_whiten_rewards": Renamed("whiten_rewards"),
        "ppo_target": Renamed("kl_target"),
        "adap_kl_ctrl": Gone("Write `kl_target: …` to steer beta, or remove it: beta then stays as it is."),
        **dict.fromkeys(("num_mini_batches", "mini_batch_size", "ppo_buffer_size"), Gone(_BATCH_OF_ANSWERS)),
        "total_episodes": Gone(_STEPS),
        **dict.fromkeys(("stop_token", "stop_token_id"), Gone(_END_OF_TURN)),
        "num_sample_generations": Gone("Remove it: held-out prompts are answered at `eval_steps`."),
        **dict.fromkeys(("reward_model", "reward_model_path", "reward_model_adapters"), Gone(_JUDGE)),
        "reward_model_type": Gone("Remove it: the reward model's own folder says what it is."),
        "sft_model_path": Gone("Write `init: $sft` in the stage, beside `train:`."),
        "ref_model": Gone("Remove it: the reference is the policy as the stage began."),
        "overwrite_output_dir": Gone("Nothing is overwritten: remove the key; `ft run --force STAGE` makes it anew."),
        "logging_dir": Gone("Remove it; set TENSORBOARD_LOGGING_DIR in the environment."),
        "save_safetensors": Gone("Remove it: weights are always saved as safetensors."),
        "val_set_size": Gone(_ROWS + "`eval_fraction: 0.05`."),
        "test_split_size": Gone(_ROWS + "`eval_fraction: 0.05`."),
        "val_size": Gone(_ROWS + "`eval_fraction: 0.05`."),
        "train_on_inputs": Gone(_ROWS + "`train_on: all` or `train_on: assistant`."),
        "mask_history": Gone(_ROWS + "`train_on: last`."),
        **dict.fromkeys(("global_batch", "global_batch_size", "total_batch_size", "train_batch_size"), Gone(_BATCH)),
        "lora_r": Gone(_LORA_ELSEWHERE),
        "lora_rank": Gone(_LORA_ELSEWHERE),
        "lora_alpha": Gone(_LORA_ELSEWHERE),
        "lora_dropout": Gone(_LORA_ELSEWHERE),
        "lora_target_modules": Gone(_LORA_ELSEWHERE),
        "lora_target": Gone(_LORA_ELSEWHERE),
        "load_in_4bit": Gone("Write it in the stage's `quantization:` block."),
        "torch_dtype": Gone("Write `model: {path: …, dtype: …}` at the top."),
        "attn_implementation": Gone("Write `model: {path: …, attn_implementation: …}` at the top."),
        "dispatch_batches": Gone("Write it inside `accelerator_config`."),
        "split_batches": Gone("Write it inside `accelerator_config`."),
    },
    "lora": {
        "lora_r": Renamed("r"),
        "lora_rank": Renamed("r"),
        "rank": Renamed("r"),
        "alpha": Renamed("lora_alpha"),
        "dropout": Renamed("lora_dropout"),
        "lora_target_modules": Renamed("target_modules", _modules),
        "lora_target": Renamed("target_modules", _modules),
        "lora_target_linear": Renamed("target_modules", _if_true("all-linear")),
        "lora_modules_to_save": Renamed("modules_to_save"),
        "additional_target": Renamed("modules_to_save", _names),
        "lora_fan_in_fan_out": Renamed("fan_in_fan_out"),
        "lora_target_parameters": Renamed("target_parameters"),
        "peft_use_dora": Renamed("use_dora"),
        "peft_use_rslora": Renamed("use_rslora"),
        "peft_layers_to_transform": Renamed("layers_to_transform"),
        "peft_layers_pattern": Renamed("layers_pattern"),
        "peft_init_lora_weights": Renamed("init_lora_weights"),
        "pissa_init": Renamed("init_lora_weights", _if_true("pissa", True)),
        "lora_task_type": Gone("Remove it: the stage's kind decides."),
        "use_peft": Gone("Remove it: the block itself says that an adapter is trained."),
    },
    "quantization": {
        "use_bnb_nested_quant": Renamed("bnb_4bit_use_double_quant"),
        "double_quantization": Renamed("bnb_4bit_use_double_quant"),
        "load_4bit": Renamed("load_in_4bit"),
        "load_8bit": Renamed("load_in_8bit"),
        "quantization_bit": Gone("Write `load_in_4bit: true` or `load_in_8bit: true`."),
        "quant_type": Renamed("bnb_4bit_quant_type"),
        "quantization_type": Renamed("bnb_4bit_quant_type"),
        "compute_dtype": Renamed("bnb_4bit_compute_dtype"),
    },
    "rows": {
        "val_set_size": Renamed("eval_fraction"),
        "test_split_size": Renamed("eval_fraction"),
        "val_size": Renamed("eval_fraction"),
        "split_dataset_ratio": Renamed("eval_fraction"),
        "train_on_inputs": Renamed("train_on", _if_true("all", "assistant")),
        "train_on_input": Renamed("train_on", _if_true("all", "assistant")),
        "train_on_prompt": Renamed("train_on", _if_true("all", "assistant")),
        "assistant_only_loss": Renamed("train_on", _if_true("assistant", "all")),
        "mask_history": Renamed("train_on", _if_true("last", "assistant")),
    },
}

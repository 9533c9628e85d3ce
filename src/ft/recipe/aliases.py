"""Names that users still write and that the libraries renamed or never had: one table, announced when used.

`ALIASES[block][old]` is the new key of the same block, or a `Gone` that says what to write instead. To add a
name: one line. The left column collects what users of TRL before 1.0, alignment-handbook, LLaMA-Factory and axolotl
write.
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


def _flash(value: object) -> str | None:
    return "flash_attention_2" if _is_true(value) else None


def _all_linear(value: object) -> Any:
    return "all-linear" if value == "all" else value


def _all_linear_if(value: object) -> str | None:
    return "all-linear" if _is_true(value) else None


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
        "use_flash_attention_2": Renamed("attn_implementation", _flash),
        "use_flash_attn": Renamed("attn_implementation", _flash),
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
        "max_rows": Renamed("rows"),
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
        "lr_scheduler": Renamed("lr_scheduler_type"),
        "optimizer": Renamed("optim"),
        "sample_packing": Renamed("packing"),
        "neat_packing": Renamed("packing"),
        "group_by_length": Renamed("train_sampling_strategy", _sampling_strategy),
        "no_cuda": Renamed("use_cpu"),
        "pref_beta": Renamed("beta"),
        "pref_loss": Renamed("loss_type"),
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
        "lora_target_modules": Renamed("target_modules", _all_linear),
        "lora_target": Renamed("target_modules", _all_linear),
        "lora_target_linear": Renamed("target_modules", _all_linear_if),
        "lora_modules_to_save": Renamed("modules_to_save"),
        "use_peft": Gone("Remove it: the block itself says that an adapter is trained."),
    },
    "quantization": {
        "use_bnb_nested_quant": Renamed("bnb_4bit_use_double_quant"),
        "double_quantization": Renamed("bnb_4bit_use_double_quant"),
        "load_4bit": Renamed("load_in_4bit"),
        "load_8bit": Renamed("load_in_8bit"),
        "quantization_bit": Gone("Write `load_in_4bit: true` or `load_in_8bit: true`."),
        "quant_type": Renamed("bnb_4bit_quant_type"),
        "compute_dtype": Renamed("bnb_4bit_compute_dtype"),
    },
    "rows": {
        "val_set_size": Renamed("eval_fraction"),
        "test_split_size": Renamed("eval_fraction"),
        "val_size": Renamed("eval_fraction"),
    },
}

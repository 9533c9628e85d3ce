"""What ft decides of the blocks that belong to libraries: keys that are refused, each with the place where a user
decides the matter; values that are refused, with the reason; and keys that change nothing of a result."""

from __future__ import annotations

# Keys of every Trainer's arguments that ft decides, with the place where a user decides the matter.
TRAINER_KEYS = {
    "output_dir": "Folders are named by their content; choose where with `ft run --runs DIR`.",
    "seed": "Write `seed:` at the top of the recipe.",
    "do_train": "Remove it: the stage trains.",
    "do_eval": "Remove it: `eval_strategy` says when.",
    "do_predict": "Remove it; add a stage of kind `evaluate`.",
    "resume_from_checkpoint": "Remove it: the same command resumes by itself.",
    "ignore_data_skip": "Remove it: a resumed run would train the rows of its first steps again.",
    "local_rank": "Use `ft run --launch CONFIG`.",
    "disable_tqdm": "Remove it: ft shows its own progress.",
    "hub_token": "Set HF_TOKEN in the environment.",
    "trust_remote_code": "Remove it: code from the Hub is never run.",
    "model_init_kwargs": "Write `model: {path: …, dtype: …, attn_implementation: …}` at the top.",
    "save_only_model": "Remove it: without the optimizer's state an interrupted run cannot continue.",
    "remove_unused_columns": "Remove it: the stage hands the trainer the columns it reads.",
    "label_names": "Remove it: the stage hands the trainer the columns it reads.",
}
SFT_KEYS = TRAINER_KEYS | {
    "chat_template_path": "Write `chat_template:` at the top of the recipe.",
    "dataset_text_field": "Write `columns: {text: …}` at the source.",
    "dataset_kwargs": "Remove it: ft prepares the rows before the trainer starts.",
    "dataset_num_proc": "Remove it: ft prepares the rows before the trainer starts.",
    "completion_only_loss": "Write `rows: {train_on: completion}`.",
    "assistant_only_loss": "Write `rows: {train_on: assistant}`.",
    "truncation_mode": "Write `rows: {on_too_long: error | drop | drop_turns | split}`; no turn is cut.",
    "eos_token": "The template decides which token ends a turn; write `chat_template:` at the top.",
    "pad_token": "Remove it: labels are by position, so the pad token hides nothing.",
    "padding_free": "Write `packing: true`, which is padding-free.",
}

PICTURE_KEYS = TRAINER_KEYS | dict.fromkeys(
    (
        *("chat_template_path", "dataset_text_field", "dataset_kwargs", "dataset_num_proc", "completion_only_loss"),
        *("assistant_only_loss", "truncation_mode", "eos_token", "pad_token", "padding_free", "packing", "max_length"),
    ),
    "Remove it: rows are pictures with captions, which are trained whole.",
)

# Values that every Trainer takes and ft does not.
TRAINER_VALUES: dict[tuple[str, str | bool], str] = {
    ("accelerator_config.use_seedable_sampler", False): "after an interruption other rows would be trained",
    ("accelerator_config.dispatch_batches", True): "after an interruption other rows would be trained",
    ("logging_nan_inf_filter", True): "it hides a loss that is NaN; such a loss stops the stage",
    **dict.fromkeys(
        (("bf16_full_eval", True), ("fp16_full_eval", True)),
        "the trained weights would be rounded when they are measured, and saved so",
    ),
}
SFT_VALUES = TRAINER_VALUES | {
    ("packing_strategy", "wrapped"): "rows packed end to end see each other, and are cut where a packed row ends",
    ("packing_strategy", "bfd_split"): "it cuts rows, and the second half of an answer is trained without its question",
}

# Values of a `lora:` block that PEFT takes and ft does not.
LORA_VALUES: dict[tuple[str, str | bool], str] = {
    **dict.fromkeys(
        (("init_lora_weights", name) for name in ("corda", "eva", "lora_ga")),
        "it needs data to begin with, which ft does not show it; pissa, olora, orthogonal and gaussian need none",
    ),
    ("init_lora_weights", "loftq"): "it changes the base, and a result holds the adapter alone; pissa keeps the base",
}

DPO_KEYS = TRAINER_KEYS | {
    "chat_template_path": "Write `chat_template:` at the top of the recipe.",
    "dataset_num_proc": "Remove it: ft prepares the rows before the trainer starts.",
    "truncation_mode": "Write `rows: {on_too_long: error | drop | drop_turns}`; no answer is cut.",
    "pad_token": "Remove it: answers are told from padding by position.",
    "padding_free": "Remove it: a pair's prompt is shared instead.",
    "sync_ref_model": "Remove it: the reference is the policy as the stage began.",
}

KTO_KEYS = TRAINER_KEYS | {
    "dataset_num_proc": "Remove it: ft prepares the rows before the trainer starts.",
    "sync_ref_model": "Remove it: the reference is the policy as the stage began.",
    "train_sampling_strategy": "Remove it: rows come in one order, drawn by the seed; each prompt is also read with "
    "the answer before it in its batch.",
}
ORPO_KEYS = TRAINER_KEYS | {
    "dataset_num_proc": "Remove it: ft prepares the rows before the trainer starts.",
    "max_completion_length": "Remove it: `max_length` bounds prompt and answer together, and no answer is cut.",
    "generate_during_eval": "Remove it; add a stage of kind `evaluate`.",
    "is_encoder_decoder": "Remove it: the model says what it is.",
    "padding_value": "Remove it: answers are told from padding by position.",
}
SIMPO_KEYS = ORPO_KEYS | {
    "loss_type": "Remove it: `kind: simpo` is one of this class's losses; others are `loss_type:` of `kind: dpo`.",
}

REWARD_KEYS = TRAINER_KEYS | {
    "chat_template_path": "Write `chat_template:` at the top of the recipe.",
    "dataset_num_proc": "Remove it: ft prepares the rows before the trainer starts.",
    "eos_token": "The template decides which token ends a turn; write `chat_template:` at the top.",
    "pad_token": "Remove it: a score is read at the end of the answer, whatever pads behind it.",
}

RL_KEYS = TRAINER_KEYS | {
    "train_sampling_strategy": "Remove it: prompts come in the order of seed and epoch.",
    "reward_weights": "Write `reward: {rewards: {name: weight}}`.",
    "chat_template_kwargs": "Write `chat_template:` at the top of the recipe.",
    "log_completions": "Remove it: rollouts.jsonl has the answers; `guard: {shown: 4}` shows more of them.",
    "sync_ref_model": "Remove it: the reference is the policy as the stage began.",
    "use_transformers_continuous_batching": "Remove it: it would round adapters to bfloat16.",
    "use_transformers_paged": "Remove it: it would round adapters to bfloat16.",
}

PPO_KEYS = RL_KEYS | {
    "safety_threshold": "Write `reward: {safety_threshold: …}`.",
}

# One unit a key: in PPO the penalty comes after whitening, so it is no reward.
PPO_REWARD_KEYS = {
    "unfinished": "Write `train: {missing_eos_penalty: …}`, in standard deviations of a batch's scores: the same "
    "number means what it meant here.",
}

# What a user may change without training again: where things are logged, saved and shown. Workers that persist are
# none of these: they draw fewer random numbers, and dropout then draws others.
COSMETIC = tuple(
    f"train.{key}"
    for key in (
        *("logging_*", "log_*", "report_to", "run_name", "project", "trackio_*", "save_*", "eval_*"),
        *("push_to_hub", "hub_*", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
        *("ddp_timeout", "skip_memory_metrics", "include_*", "prediction_loss_only"),
        *("per_device_eval_batch_size", "use_cpu", "torch_empty_cache_steps", "bf16_full_eval", "fp16_full_eval"),
    )
)

# Tries out what the classes take and the library refuses when a run begins.
TRIAL = "ft.training.scheduler:try_scheduler"
KTO_TRIAL = "ft.training.dpo.unpaired:try_block"

# The classes take any number here, and a run would end hours later with nothing learnt.
MINIMUM = {
    **dict.fromkeys(("max_length", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1),
    **dict.fromkeys(("max_completion_length", "generation_batch_size", "num_generations"), 1),
    **dict.fromkeys(("num_train_epochs", "weight_decay", "max_grad_norm", "beta"), 0),
}
MAXIMUM = {"label_smoothing_factor": 1, "label_smoothing": 0.5}  # half of all labels turned around says nothing

"""What is usual in the blocks of classes that take seconds to import; see `ft.recipe.usual`.

To add a key: a line with the values that pass whatever else is written. What holds between keys is a function below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft.recipe.usual import Usual, anything, counted, either, mapping, named, not_negative, positive, switch, words

Values = Mapping[str, Any]


def _saves_what_it_judges(values: Values) -> bool:
    """The best checkpoint can be chosen: each one saved was judged."""
    if not values["load_best_model_at_end"]:
        return True
    if values["eval_strategy"] != values["save_strategy"]:
        return False
    each = values["eval_steps"] or values["logging_steps"]
    return bool(values["eval_strategy"] != "steps" or (counted(each) and values["save_steps"] % each == 0))


def _one_precision(values: Values) -> bool:
    return not (values["fp16"] and values["bf16"])


def _judged_where_that_sets_the_rate(values: Values) -> bool:
    return values["lr_scheduler_type"] not in ("reduce_lr_on_plateau", "greedy")


_TRAINER = {
    **dict.fromkeys(("eval_strategy", "logging_strategy", "save_strategy", "lr_scheduler_type", "optim"), named),
    **dict.fromkeys(("logging_steps", "save_steps"), counted),
    "eval_steps": lambda value: value is None or counted(value),
    "warmup_steps": not_negative,
    "dataloader_num_workers": lambda value: value == 0 or counted(value),
    "report_to": lambda value: words(value) and "all" not in value,
    "load_best_model_at_end": switch,
    "metric_for_best_model": lambda value: value is None or isinstance(value, str),
    "greater_is_better": lambda value: value is None or switch(value),
    **dict.fromkeys(("gradient_checkpointing", "activation_checkpointing"), switch),
    **dict.fromkeys(("gradient_checkpointing_kwargs", "lr_scheduler_kwargs"), mapping),
    # set aside while a block is checked, as on a machine without a GPU
    **dict.fromkeys(("bf16", "fp16", "use_cpu", "tf32"), anything),
    "ddp_timeout": positive,
    "loss_type": words,
    "packing_strategy": lambda value: isinstance(value, str),
    "pad_to_multiple_of": lambda value: value is None or counted(value),
}
TRAINER = Usual(_TRAINER, (_saves_what_it_judges, _one_precision, _judged_where_that_sets_the_rate))


def _one_schedule(values: Values) -> bool:
    """Passes over a batch of answers are said once, as its size or as steps."""
    return values["generation_batch_size"] is None or values["steps_per_generation"] is None


def _answers(values: Values) -> int:
    """Answers that are sampled before the model learns from them, on one device."""
    steps = values["steps_per_generation"] or values["gradient_accumulation_steps"]
    return int(values["generation_batch_size"] or values["per_device_train_batch_size"] * steps)


def _groups_are_whole(values: Values) -> bool:
    """A batch of answers holds all answers of each prompt, in training and in evaluation."""
    each, judged = values["num_generations"], values["num_generations_eval"] or values["num_generations"]
    if not each or each < 2 or _answers(values) % values["per_device_train_batch_size"] or _answers(values) % each:
        return False
    return bool(values["eval_strategy"] == "no" or values["per_device_eval_batch_size"] % judged == 0)


def _ppo_batches_fit(values: Values) -> bool:
    """An even number of answers, learnt from in whole steps."""
    each = max(2, values["num_generations"] or 1)
    if _answers(values) % (values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]):
        return False
    judged = values["num_generations_eval"] or 1
    return bool(_answers(values) % each == 0 and values["per_device_eval_batch_size"] % judged == 0)


def _beta_can_be_steered(values: Values) -> bool:
    return bool(values["kl_target"] is None or values["beta"])


_SIZES = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "num_generations")
_REINFORCED = {
    **_TRAINER,
    **dict.fromkeys(_SIZES, counted),
    **dict.fromkeys(
        ("generation_batch_size", "steps_per_generation", "num_generations_eval"),
        lambda value: value is None or counted(value),
    ),
    **dict.fromkeys(("disable_dropout", "temperature"), anything),
    "scale_rewards": lambda value: switch(value) or isinstance(value, str),
}
REINFORCED = Usual(_REINFORCED, (*TRAINER.together, _one_schedule, _groups_are_whole))

_PPO = {
    **_REINFORCED,
    "disable_dropout": either(True),
    "temperature": positive,
    "lam": lambda value: not_negative(value) and value <= 1,
    "gamma": lambda value: positive(value) and value <= 1,
    "beta": not_negative,
    "kl_target": lambda value: value is None or positive(value),
    "score_clamp": lambda value: positive(value) and value < 0.5,
    **dict.fromkeys(("kl_horizon", "rollout_batch_size"), counted),
}
PPO = Usual(_PPO, (*TRAINER.together, _one_schedule, _ppo_batches_fit, _beta_can_be_steered))

LORA = Usual(
    {
        "target_modules": lambda value: value is None or words(value),
        **dict.fromkeys(("exclude_modules", "modules_to_save"), lambda value: value is None or words(value)),
        **dict.fromkeys(("use_rslora", "init_lora_weights"), switch),
        "use_dora": switch,
        **dict.fromkeys(("rank_pattern", "alpha_pattern"), mapping),
    }
)


def _one_width(values: Values) -> bool:
    return bool(values["load_in_4bit"]) != bool(values["load_in_8bit"])


_DTYPES = ("bfloat16", "float16", "float32")
QUANTIZATION = Usual(
    {
        **dict.fromkeys(("load_in_4bit", "load_in_8bit", "bnb_4bit_use_double_quant"), switch),
        "bnb_4bit_quant_type": either("nf4", "fp4"),
        "bnb_4bit_compute_dtype": either(None, *_DTYPES),
        "bnb_4bit_quant_storage": either(None, "uint8", *_DTYPES),
        "llm_int8_threshold": positive,
    },
    (_one_width,),
)


def _plain_rope(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {"rope_type", "rope_theta"}:
        return False
    return value.get("rope_type") == "default" and positive(value.get("rope_theta"))


def _heads_share_the_width(values: Values) -> bool:
    heads, groups = values["num_attention_heads"], values["num_key_value_heads"]
    return values["hidden_size"] % heads == 0 and (groups is None or heads % groups == 0)


ARCHITECTURE = Usual(
    {
        **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), counted),
        **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "max_position_embeddings"), counted),
        **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias"), switch),
        "initializer_range": lambda value: positive(value) and value <= 1,
        "rms_norm_eps": positive,
        "rope_parameters": _plain_rope,
    },
    (_heads_share_the_width,),
)

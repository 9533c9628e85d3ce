"""The kinds of stages. To add one: a file here with its function, and one entry in STAGES.

Naming a kind imports neither torch nor TRL; its function is imported in the stage's own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ft.data.axes import AXES
from ft.recipe import Kind, Owner
from ft.stages import usual

# Keys of every Trainer's arguments that ft decides, with the place where a user decides the matter.
_OURS = {
    "output_dir": "Folders are named by their content; choose where with `ft run --runs DIR`.",
    "seed": "Write `seed:` at the top of the recipe.",
    "do_train": "Remove it: the stage trains.",
    "do_eval": "Remove it: `eval_strategy` says when.",
    "do_predict": "Remove it; add a stage of kind `evaluate`.",
    "resume_from_checkpoint": "Remove it: the same command resumes by itself.",
    "local_rank": "Use `ft run --launch CONFIG`.",
    "disable_tqdm": "Remove it: ft shows its own progress.",
    "hub_token": "Set HF_TOKEN in the environment.",
    "trust_remote_code": "Remove it: code from the Hub is never run.",
    "model_init_kwargs": "Write `model: {path: …, dtype: …, attn_implementation: …}` at the top.",
    "save_only_model": "Remove it: without the optimizer's state an interrupted run cannot continue.",
    "remove_unused_columns": "Remove it: the stage hands the trainer the columns it reads.",
    "label_names": "Remove it: the stage hands the trainer the columns it reads.",
}
_OURS_SFT = _OURS | {
    "chat_template_path": "Write `chat_template:` at the top of the recipe.",
    "dataset_text_field": "Write `columns: {text: …}` at the source.",
    "dataset_kwargs": "Remove it: ft prepares the rows before the trainer starts.",
    "dataset_num_proc": "Remove it: ft prepares the rows before the trainer starts.",
    "completion_only_loss": "Write `rows: {train_on: completion}`.",
    "assistant_only_loss": "Write `rows: {train_on: assistant}`.",
    "truncation_mode": "Write `rows: {on_too_long: error | drop | drop_turns}`; nothing is cut inside a turn.",
    "eos_token": "The template decides which token ends a turn; write `chat_template:` at the top.",
    "pad_token": "Remove it: labels are by position, so the pad token hides nothing.",
    "padding_free": "Write `packing: true`, which is padding-free.",
}

_REFUSED_SFT = {
    ("packing_strategy", "wrapped"): "rows packed end to end see each other, and are cut where a packed row ends",
    ("packing_strategy", "bfd_split"): "it cuts rows, and the second half of an answer is trained without its question",
}

_OURS_DPO = _OURS | {
    "chat_template_path": "Write `chat_template:` at the top of the recipe.",
    "dataset_num_proc": "Remove it: ft prepares the rows before the trainer starts.",
    "truncation_mode": "Write `rows: {on_too_long: error | drop | drop_turns}`; no answer is cut.",
    "pad_token": "Remove it: answers are told from padding by position.",
    "padding_free": "Remove it: a pair's prompt is shared instead.",
    "sync_ref_model": "Remove it: the reference is the policy as the stage began.",
}

_OURS_REWARD = _OURS | {
    "chat_template_path": "Write `chat_template:` at the top of the recipe.",
    "dataset_num_proc": "Remove it: ft prepares the rows before the trainer starts.",
    "eos_token": "The template decides which token ends a turn; write `chat_template:` at the top.",
    "pad_token": "Remove it: a score is read at the end of the answer, whatever pads behind it.",
}

_OURS_REINFORCED = _OURS | {
    "reward_weights": "Write `reward: {rewards: {name: weight}}`.",
    "chat_template_kwargs": "Write `chat_template:` at the top of the recipe.",
    "log_completions": "Remove it: rollouts.jsonl has the answers; `guard: {shown: 4}` shows more of them.",
    "sync_ref_model": "Remove it: the reference is the policy as the stage began.",
    "use_transformers_continuous_batching": "Remove it: it would round adapters to bfloat16.",
    "use_transformers_paged": "Remove it: it would round adapters to bfloat16.",
}

_OURS_PPO = _OURS_REINFORCED | {
    "safety_threshold": "Write `reward: {safety_threshold: …}`.",
}

# One unit a key: in PPO the penalty comes after whitening, so it is no reward.
_OURS_PPO_REWARD = {
    "unfinished": "Write `train: {missing_eos_penalty: …}`, in standard deviations of a batch's scores: the same "
    "number means what it meant here.",
}

# What a user may change without training again: where things are logged, saved and shown.
_COSMETIC = tuple(
    f"train.{key}"
    for key in (
        *("logging_*", "log_*", "report_to", "run_name", "project", "trackio_*", "save_*", "eval_*"),
        *("push_to_hub", "hub_*", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
        *("dataloader_persistent_workers", "ddp_timeout", "skip_memory_metrics", "include_*", "prediction_loss_only"),
        *("per_device_eval_batch_size", "use_cpu", "torch_empty_cache_steps", "bf16_full_eval", "fp16_full_eval"),
    )
)

# The classes take any number here, and a run would end hours later with nothing learnt.
_LEAST = {
    **dict.fromkeys(("max_length", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1),
    **dict.fromkeys(("num_train_epochs", "weight_decay", "max_grad_norm", "beta"), 0),
}
_TASK = {"task_type": "Remove it: the stage's kind decides."}
_LORA = Owner("peft:LoraConfig", _TASK, least={"r": 1}, usual=usual.LORA)
_WIDTHS = ("load_in_4bit", "load_in_8bit")
_QUANTIZATION = Owner("transformers:BitsAndBytesConfig", one_of=_WIDTHS, usual=usual.QUANTIZATION)


def _trained(
    about: str,
    make: str,
    train: Owner,
    rows: Owner,
    own: Mapping[str, Owner] | None = None,
    row_defaults: Mapping[str, Any] | None = None,
    leaves: Literal["model", "reward"] = "model",
    cosmetic: tuple[str, ...] = (),
) -> Kind:
    """A kind that trains a model: whole, by LoRA or by QLoRA, on rows that are prepared before it starts.

    `own` are the blocks only this kind has; left out of a recipe, they have their defaults.
    """
    own = own or {}
    return Kind(
        about=about,
        make=make,
        blocks={"train": train, **own, "rows": rows, "lora": _LORA, "quantization": _QUANTIZATION},
        leaves=leaves,
        required=("train.max_length",),
        cosmetic=(*_COSMETIC, *cosmetic),
        defaults={"rows": row_defaults or {}, **{name: {} for name in own}},
    )


def _reinforced(
    about: str, make: str, train: Owner, inputs: tuple[str, ...] = (), ours: Mapping[str, str] | None = None
) -> Kind:
    """A kind that samples answers to prompts and learns from what they are worth."""
    # Held-out answers, whose reward chooses the checkpoint, are drawn batch by batch.
    logged = tuple(key for key in _COSMETIC if key != "train.per_device_eval_batch_size")
    best = {"load_best_model_at_end": True, "metric_for_best_model": "reward", "greater_is_better": True}
    own = {
        "rows": Owner("ft.rl.prompts:PromptOptions"),
        "reward": Owner("ft.rl.reward:RewardedOptions", ours or {}),
        "guard": Owner("ft.rl.guard:GuardOptions"),
    }
    return Kind(
        about=about,
        make=make,
        blocks={"train": train, **own, "lora": _LORA, "quantization": _QUANTIZATION},
        leaves="model",
        inputs=(*AXES, *inputs),
        rewards=(*AXES, *inputs),
        pleases=AXES,
        rows=False,
        holds_out=True,
        required=("train.max_completion_length",),
        cosmetic=(*logged, *(f"guard.{key}" for key in ("cut", "empty", "longer", "repetition", "shown", "kept"))),
        defaults={
            "train": {"eval_strategy": "steps", "eval_on_start": True, "disable_dropout": True, **best},
            **{name: {} for name in own},
        },
    )


_ROWS, _PAIRS = Owner("ft.encode.prepare:RowOptions"), Owner("ft.encode.pairs:PairOptions")
_SFT = Owner("trl:SFTConfig", _OURS_SFT, refused=_REFUSED_SFT, least=_LEAST, usual=usual.TRAINER)

# Where a server is and how it is asked: the model's name decides what comes, not its address.
_HOW_A_SERVER_IS_ASKED = tuple(
    f"backend.{key}" for key in ("base_url", "key_env", "concurrency", "timeout", "retries", "wait", "gpu_memory")
)

STAGES: dict[str, Kind] = {
    "scratch": Kind(
        about="an untrained model and a tokenizer trained on the rows",
        make="ft.stages.scratch:make",
        blocks={
            "architecture": Owner("transformers:LlamaConfig", usual=usual.ARCHITECTURE),
            "tokenizer": Owner("ft.stages.scratch:TokenizerOptions"),
        },
        leaves="model",
        rows=False,
        starts=False,
        required=("architecture", "tokenizer"),
    ),
    "pretrain": _trained(
        "a model trained on every token of plain documents",
        "ft.stages.sft:make",
        train=_SFT,
        rows=_ROWS,
        row_defaults={"train_on": "all"},
    ),
    "sft": _trained("a model fine-tuned on conversations", "ft.stages.sft:make", train=_SFT, rows=_ROWS),
    "dpo": _trained(
        "a model trained to prefer the chosen answer of each pair",
        "ft.stages.dpo:make",
        train=Owner("trl:DPOConfig", _OURS_DPO, least=_LEAST, usual=usual.TRAINER),
        rows=_PAIRS,
        cosmetic=("train.precompute_ref_batch_size",),
    ),
    "reward": _trained(
        "a reward model, trained to score the chosen answer of each pair above the rejected one",
        "ft.stages.reward:make",
        train=Owner("trl:RewardConfig", _OURS_REWARD, least=_LEAST, usual=usual.TRAINER),
        rows=_PAIRS,
        own={"reward": Owner("ft.stages.reward:RewardOptions")},
        leaves="reward",
    ),
    "rloo": _reinforced(
        "a model that learns from rewards: several answers a prompt, each against the mean of the others",
        "ft.stages.rloo:make",
        train=Owner("trl:RLOOConfig", _OURS_REINFORCED, least=_LEAST, usual=usual.REINFORCED),
    ),
    "grpo": _reinforced(
        "a model that learns from rewards: several answers a prompt, each against their mean and spread",
        "ft.stages.grpo:make",
        train=Owner("trl:GRPOConfig", _OURS_REINFORCED, least=_LEAST, usual=usual.REINFORCED),
    ),
    "ppo": _reinforced(
        "a model that learns from rewards by PPO, with a critic",
        "ft.stages.ppo:make",
        train=Owner(
            "ft.rl.ppo_config:PPOConfig", _OURS_PPO, least=_LEAST | {"missing_eos_penalty": 0}, usual=usual.PPO
        ),
        inputs=("critic",),
        ours=_OURS_PPO_REWARD,
    ),
    "evaluate": Kind(
        about="answers to held-out prompts, judged by code or against references, and held-out loss, before and after",
        make="ft.stages.evaluate:make",
        blocks={
            "evaluate": Owner("ft.stages.evaluate:EvaluateOptions"),
            "rows": _ROWS,
            "quantization": _QUANTIZATION,
        },
        leaves="metrics",
        inputs=("baseline",),
        rows=False,
        required=("evaluate",),
    ),
    "harness": Kind(
        about="tasks of lm-evaluation-harness, asked with the model's own chat template",
        make="ft.stages.harness:make",
        blocks={
            "harness": Owner("ft.stages.harness:HarnessOptions", files=("file",)),
            "quantization": _QUANTIZATION,
        },
        leaves="metrics",
        inputs=("baseline",),
        data="none",
        rows=False,
        required=("harness",),
    ),
    "judge": Kind(
        about="which of two models answers better: wins, ties and losses by a judge asked in both orders",
        make="ft.stages.judge:make",
        blocks={
            "judge": Owner("ft.stages.judge:JudgeOptions", files=("prompt",)),
            "backend": Owner("ft.models.generation.backends:BackendOptions"),
            "quantization": _QUANTIZATION,
        },
        leaves="metrics",
        also_rows=True,
        inputs=("other", "scorer", "judge"),
        rewards=("scorer",),
        rows=False,
        required=("judge.kind",),
        cosmetic=_HOW_A_SERVER_IS_ASKED,
    ),
    "report-card": Kind(
        about="what a reward model gets right on held-out pairs, how sure it is, and what else its score follows",
        make="ft.stages.report_card:make",
        blocks={"card": Owner("ft.stages.report_card:CardOptions"), "quantization": _QUANTIZATION},
        leaves="metrics",
        inputs=("other",),
        rewards=("init", "other"),
        rows=False,
    ),
    "gatt": Kind(
        about="rows of Ghost Attention: an instruction said once, and the policy's answer that obeys it later",
        make="ft.stages.gatt:make",
        blocks={"gatt": Owner("ft.stages.gatt:GattOptions", files=("bank",)), "quantization": _QUANTIZATION},
        leaves="rows",
        inputs=("scorer",),
        rewards=("scorer",),
        rows=False,
        required=("gatt.bank",),
    ),
    "sample": Kind(
        about="the best of K answers a prompt, by reward models or functions, as rows to train on",
        make="ft.stages.sample:make",
        blocks={
            "sample": Owner("ft.stages.sample:SampleOptions"),
            "backend": Owner("ft.models.generation.backends:BackendOptions"),
            "quantization": _QUANTIZATION,
        },
        leaves="rows",
        inputs=AXES,
        rewards=AXES,
        rows=False,
        required=("sample",),
        cosmetic=_HOW_A_SERVER_IS_ASKED,
    ),
    "consistency": Kind(
        about="how long an instruction is obeyed: recall by turn, of one model or of several",
        make="ft.stages.consistency:make",
        blocks={
            "consistency": Owner("ft.stages.consistency:ConsistencyOptions", files=("bank",)),
            "quantization": _QUANTIZATION,
        },
        leaves="metrics",
        inputs=("before", "ablation"),
        rows=False,
        required=("consistency.bank",),
    ),
    "attention": Kind(
        about="how strongly answers attend to the instruction, by turn",
        make="ft.stages.attention:make",
        blocks={
            "attention": Owner("ft.stages.attention:AttentionOptions", files=("bank",)),
            "quantization": _QUANTIZATION,
        },
        leaves="metrics",
        inputs=("before",),
        rows=False,
        required=("attention.bank",),
    ),
}

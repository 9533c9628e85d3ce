"""The kinds of stages. To add one: a file here with its function, and one entry in STAGES.

Naming a kind imports neither torch nor TRL; its function is imported in the stage's own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ft import artifacts
from ft.data.axes import AXES
from ft.recipe import Kind, Owner
from ft.recipe.kind import Artifact, Display, LaunchOptions, Reference, Refused

if TYPE_CHECKING:
    from ft.recipe import Stage

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
_LORA = Owner("peft:LoraConfig", _TASK, minimum={"r": 1})
_WIDTHS = ("load_in_4bit", "load_in_8bit")
_QUANTIZATION = Owner("transformers:BitsAndBytesConfig", one_of=_WIDTHS)


_MODEL: frozenset[Artifact] = frozenset({"model"})
_METRICS: frozenset[Artifact] = frozenset({"metrics"})
_JUDGED_BY_AXIS: Mapping[str, Artifact] = dict.fromkeys(AXES, "reward_model")

_USE_DDP = "Use recipes/accelerate/ddp.yaml, with `lora:` where the whole model does not fit one GPU."
_PAIRS_REFUSED = Refused("ft compares the policy with its reference before the model is cut", _USE_DDP)
_SAMPLES_REFUSED = Refused("it samples answers as it learns, which was not tried with a model cut in slices", _USE_DDP)
_ADAPTERS_REFUSED = Refused("its adapters take turns on one base, which a model cut in slices does not allow", _USE_DDP)


def _in_slices(refused: Refused) -> Mapping[str, Refused]:
    return dict.fromkeys(("zero2", "fsdp", "zero3"), refused)


def _every_process_reads_weights(stage: Stage, launch: LaunchOptions) -> bool:
    return not launch.on("fsdp_cpu_ram_efficient_loading")


_REWARD_UNSUPPORTED = {
    "fsdp": Refused(
        "ft tries the model out before it is cut, and only the first process would hold its weights",
        "Write `fsdp_cpu_ram_efficient_loading: false` in the config.",
        _every_process_reads_weights,
        "`fsdp_cpu_ram_efficient_loading: false`",
        "fsdp_cpu_ram_efficient_loading",
    ),
    "zero3": Refused("ft opens the saved folder again in one process, which waits for the others", _USE_DDP),
}


def _trained(
    about: str,
    module: str,
    train: Owner,
    rows: Literal["documents", "conversations", "pairs"],
    memory: str,
    unsupported: Mapping[str, Refused],
    leaves: frozenset[Artifact] = _MODEL,
    own: Mapping[str, Owner] | None = None,
    front_curves: int | None = None,
    row_defaults: Mapping[str, Any] | None = None,
    reference: Reference | None = None,
    cosmetic: tuple[str, ...] = (),
) -> Kind:
    """A kind that trains a model: whole, by LoRA or by QLoRA, on rows that are prepared before it starts.

    `module` has its `make` and `trainer_of`. `own` are the blocks only this kind has; left out of a
    recipe, they have their defaults.
    """
    own = own or {}
    options = Owner("ft.encode.pairs:PairOptions") if rows == "pairs" else _ROWS
    return Kind(
        about=about,
        make=f"{module}:make",
        blocks={"train": train, **own, "rows": options, "lora": _LORA, "quantization": _QUANTIZATION},
        leaves=leaves,
        memory=memory,
        display=Display(front_curves=front_curves),
        trainer=f"{module}:trainer_of",
        unsupported=unsupported,
        rows=rows,
        reads_eval_data=True,
        reference=reference,
        required=("train.max_length",),
        defaults={"rows": row_defaults or {}, **{name: {} for name in own}},
        cosmetic=(*_COSMETIC, *cosmetic),
    )


def _reinforced(
    about: str,
    module: str,
    train: Owner,
    memory: str,
    unsupported: Mapping[str, Refused],
    reference: Reference,
    inputs: Mapping[str, Artifact] | None = None,
    reserved: Mapping[str, str] | None = None,
) -> Kind:
    """A kind that samples answers to prompts and learns from what they are worth."""
    # Held-out answers, whose reward chooses the checkpoint, are drawn batch by batch.
    logged = tuple(key for key in _COSMETIC if key != "train.per_device_eval_batch_size")
    best = {"load_best_model_at_end": True, "metric_for_best_model": "reward", "greater_is_better": True}
    own = {
        "rows": Owner("ft.rl.prompts:PromptOptions"),
        "reward": Owner("ft.rl.reward:RewardedOptions", reserved or {}),
        "guard": Owner("ft.rl.guard:GuardOptions"),
    }
    return Kind(
        about=about,
        make=f"{module}:make",
        blocks={"train": train, **own, "lora": _LORA, "quantization": _QUANTIZATION},
        leaves=_MODEL,
        memory=memory,
        display=Display(headline="reward"),
        trainer=f"{module}:trainer_of",
        unsupported=unsupported,
        inputs={**_JUDGED_BY_AXIS, **(inputs or {})},
        objectives=AXES,
        reads_eval_data=True,
        reference=reference,
        required=("train.max_completion_length",),
        defaults={
            "train": {"eval_strategy": "steps", "eval_on_start": True, "disable_dropout": True, **best},
            **{name: {} for name in own},
        },
        cosmetic=(*logged, *(f"guard.{key}" for key in ("cut", "empty", "longer", "repetition", "shown", "kept"))),
    )


_ROWS = Owner("ft.encode.prepare:RowOptions")
_SFT = Owner("trl:SFTConfig", _OURS_SFT, refused=_REFUSED_SFT, minimum=_LEAST)

# Where a server is and how it is asked: the model's name decides what comes, not its address.
_HOW_A_SERVER_IS_ASKED = tuple(
    f"backend.{key}" for key in ("base_url", "key_env", "concurrency", "timeout", "retries", "wait", "gpu_memory")
)

STAGES: dict[str, Kind] = {
    "scratch": Kind(
        about="an untrained model and a tokenizer trained on the rows",
        make="ft.stages.scratch:make",
        blocks={
            "architecture": Owner("transformers.models.llama:LlamaConfig"),
            "tokenizer": Owner("ft.stages.scratch:TokenizerOptions"),
        },
        leaves=_MODEL,
        memory="ft.fit.kinds:scratch",
        display=Display(),
        init=None,
        required=("architecture", "tokenizer"),
    ),
    "pretrain": _trained(
        "a model trained on every token of plain documents",
        "ft.stages.pretrain",
        train=_SFT,
        rows="documents",
        memory="ft.fit.kinds:sft",
        unsupported={},
        front_curves=1,
        row_defaults={"train_on": "all"},
    ),
    "sft": _trained(
        "a model fine-tuned on conversations",
        "ft.stages.sft",
        train=_SFT,
        rows="conversations",
        memory="ft.fit.kinds:sft",
        unsupported={},
        front_curves=1,
    ),
    "dpo": _trained(
        "a model trained to prefer the chosen answer of each pair",
        "ft.stages.dpo",
        train=Owner("trl:DPOConfig", _OURS_DPO, minimum=_LEAST),
        rows="pairs",
        memory="ft.fit.kinds:pairs",
        unsupported=_in_slices(_PAIRS_REFUSED),
        reference=Reference(model_unless={"precompute_ref_log_probs": True}),
        cosmetic=("train.precompute_ref_batch_size",),
    ),
    "reward": _trained(
        "a reward model, trained to score the chosen answer of each pair above the rejected one",
        "ft.stages.reward",
        train=Owner("trl:RewardConfig", _OURS_REWARD, minimum=_LEAST),
        rows="pairs",
        memory="ft.fit.kinds:pairs",
        unsupported=_REWARD_UNSUPPORTED,
        leaves=frozenset({"reward_model"}),
        own={"reward": Owner("ft.stages.reward:RewardOptions")},
        front_curves=3,
    ),
    "rloo": _reinforced(
        "a model that learns from rewards: several answers a prompt, each against the mean of the others",
        "ft.stages.rloo",
        train=Owner("trl:RLOOConfig", _OURS_REINFORCED, minimum=_LEAST),
        memory="ft.fit.answering:reinforcing",
        unsupported=_in_slices(_SAMPLES_REFUSED),
        reference=Reference(model_unless={"beta": 0}),
    ),
    "grpo": _reinforced(
        "a model that learns from rewards: several answers a prompt, each against their mean and spread",
        "ft.stages.grpo",
        train=Owner("trl:GRPOConfig", _OURS_REINFORCED, minimum=_LEAST),
        memory="ft.fit.answering:reinforcing",
        unsupported=_in_slices(_SAMPLES_REFUSED),
        reference=Reference(model_unless={"beta": 0}, adapter_unless={"beta": 0}),
    ),
    "ppo": _reinforced(
        "a model that learns from rewards by PPO, with a critic",
        "ft.stages.ppo",
        train=Owner(
            "ft.rl.ppo_config:PPOConfig", _OURS_PPO, minimum=_LEAST | {"missing_eos_penalty": 0}, inherits="trl"
        ),
        memory="ft.fit.answering:ppo",
        unsupported=_in_slices(_ADAPTERS_REFUSED),
        reference=Reference(),
        inputs={"critic": "reward_model"},
        reserved=_OURS_PPO_REWARD,
    ),
    "evaluate": Kind(
        about="answers to held-out prompts, judged by code or against references, and held-out loss, before and after",
        make="ft.stages.evaluate:make",
        blocks={
            "evaluate": Owner("ft.stages.evaluate:EvaluateOptions"),
            "rows": _ROWS,
            "quantization": _QUANTIZATION,
        },
        leaves=_METRICS,
        memory="ft.fit.answering:answering",
        display=Display(
            sections=(
                "ft.report.measured:by_topic",
                "ft.report.answers:dialogue",
                "ft.report.answers:before_and_after",
            ),
            shows_answers=True,
        ),
        inputs={"baseline": "model"},
        required=("evaluate",),
    ),
    "harness": Kind(
        about="tasks of lm-evaluation-harness, asked with the model's own chat template",
        make="ft.stages.harness:make",
        blocks={
            "harness": Owner("ft.stages.harness:HarnessOptions", files=("file",)),
            "quantization": _QUANTIZATION,
        },
        leaves=_METRICS,
        memory="ft.fit.kinds:not_estimated",
        display=Display(sections=("ft.report.measured:tasks",)),
        inputs={"baseline": "model"},
        reads_data=False,
        required=("harness",),
        preflight="ft.stages.harness:check_installed",
    ),
    "judge": Kind(
        about="which of two models answers better: wins, ties and losses by a judge asked in both orders",
        make="ft.stages.judge:make",
        blocks={
            "judge": Owner("ft.stages.judge:JudgeOptions", files=("prompt",)),
            "backend": Owner("ft.models.generation.backends:BackendOptions"),
            "quantization": _QUANTIZATION,
        },
        leaves=frozenset({"metrics", "rows"}),
        memory="ft.fit.kinds:not_estimated",
        display=Display(
            sections=("ft.report.measured:win_rates", "ft.report.answers:verdicts"),
            headline="win_rate",
            shows_answers=True,
            working_files=frozenset({artifacts.ROWS, artifacts.SCORES}),
        ),
        inputs={"other": "model", "scorer": "reward_model", "judge": "model"},
        required=("judge.kind",),
        cosmetic=_HOW_A_SERVER_IS_ASKED,
        preflight="ft.stages.judge:check_prompt",
    ),
    "report-card": Kind(
        about="what a reward model gets right on held-out pairs, how sure it is, and what else its score follows",
        make="ft.stages.report_card:make",
        blocks={"card": Owner("ft.stages.report_card:CardOptions"), "quantization": _QUANTIZATION},
        leaves=_METRICS,
        memory="ft.fit.answering:scoring",
        display=Display(sections=("ft.report.measured:card",), headline="accuracy"),
        init="reward_model",
        inputs={"other": "reward_model"},
    ),
    "gatt": Kind(
        about="rows of Ghost Attention: an instruction said once, and the policy's answer that obeys it later",
        make="ft.stages.gatt:make",
        blocks={"gatt": Owner("ft.stages.gatt:GattOptions", files=("bank",)), "quantization": _QUANTIZATION},
        leaves=frozenset({"rows"}),
        memory="ft.fit.answering:dialogues",
        display=Display(
            sections=("ft.report.answers:made_rows",),
            headline="rows",
            working_files=frozenset({artifacts.ANSWERS, "scores-scorer.jsonl"}),
        ),
        inputs={"scorer": "reward_model"},
        required=("gatt.bank",),
        preflight="ft.stages.gatt:check_bank",
    ),
    "sample": Kind(
        about="the best of K answers a prompt, by reward models or functions, as rows to train on",
        make="ft.stages.sample:make",
        blocks={
            "sample": Owner("ft.stages.sample:SampleOptions"),
            "backend": Owner("ft.models.generation.backends:BackendOptions"),
            "quantization": _QUANTIZATION,
        },
        leaves=frozenset({"rows"}),
        memory="ft.fit.answering:sampling",
        display=Display(
            sections=("ft.report.measured:sampling", "ft.report.answers:sampled", "ft.report.answers:made_rows"),
            working_files=frozenset({artifacts.ANSWERS, artifacts.SCORES}),
        ),
        inputs=_JUDGED_BY_AXIS,
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
        leaves=_METRICS,
        memory="ft.fit.answering:dialogues",
        display=Display(sections=("ft.report.measured:consistency",), headline=r"turn_\d+"),
        inputs={"before": "model", "ablation": "model"},
        required=("consistency.bank",),
        preflight="ft.stages.gatt:check_bank",
    ),
    "attention": Kind(
        about="how strongly answers attend to the instruction, by turn",
        make="ft.stages.attention:make",
        blocks={
            "attention": Owner("ft.stages.attention:AttentionOptions", files=("bank",)),
            "quantization": _QUANTIZATION,
        },
        leaves=_METRICS,
        memory="ft.fit.answering:dialogues",
        display=Display(
            sections=("ft.report.measured:attention",),
            headline=r"attention_turn_\d+",
            is_card=False,
            working_files=frozenset({artifacts.ANSWERS}),
        ),
        inputs={"before": "model"},
        required=("attention.bank",),
        preflight="ft.stages.gatt:check_bank",
    ),
}

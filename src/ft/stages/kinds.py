"""The kinds of stages. To add one: a file here with its function, and one entry in STAGES.

Naming a kind imports neither torch nor TRL; its function is imported in the stage's own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ft import artifacts
from ft.data.axes import AXES
from ft.recipe import Kind, Owner
from ft.recipe.kind import Artifact, Display, LaunchOptions, Reference, Refused
from ft.stages import reserved
from ft.stages.methods import STAND_INS

if TYPE_CHECKING:
    from ft.recipe import Stage

_TASK = {"task_type": "Remove it: the stage's kind decides."}
_PROMPT, _DIALOGUE = "ft.data.prompts:check_prompt", "ft.gatt.dialogues:row_answers"
_LORA = Owner(
    "peft:LoraConfig",
    _TASK,
    refused=reserved.LORA_VALUES,
    minimum={"r": 1, "lora_alpha": 1},
    maximum={"lora_dropout": 1},
)
_QUANTIZATION = Owner("transformers:BitsAndBytesConfig", one_of=("load_in_4bit", "load_in_8bit"))

_MODEL: frozenset[Artifact] = frozenset({"model"})
_METRICS: frozenset[Artifact] = frozenset({"metrics"})
_REWARD_MODELS: Mapping[str, Artifact] = dict.fromkeys(AXES, "reward_model")

_ONE_SEQUENCE = ("causal",)  # what TRL's trainers of preferences, rewards and rollouts read

_USE_DDP = "Use recipes/accelerate/ddp.yaml, with `lora:` where the whole model does not fit one GPU."
_PAIRS_REFUSED = Refused("ft compares the policy with its reference before the model is cut", _USE_DDP)
_PAIRS_APART = Refused("ft tries the shared prompts out before the model is cut", _USE_DDP)
_SAMPLES_REFUSED = Refused("it samples answers as it learns, which was not tried with a model cut in slices", _USE_DDP)
_ONE_PROCESS = Refused("its losses compare the rows of one process's batch", "Run it without --launch.")
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


# Held-out answers that are drawn batch by batch, and losses that read a batch as a whole
_BY_BATCH = tuple(key for key in reserved.COSMETIC if key != "train.per_device_eval_batch_size")


def _training_kind(
    about: str,
    module: str,
    train: Owner,
    rows: Literal["documents", "conversations", "pairs", "labelled answers"],
    memory: str,
    unsupported: Mapping[str, Refused],
    leaves: frozenset[Artifact] = _MODEL,
    blocks: Mapping[str, Owner] | None = None,
    front_curves: int | None = None,
    row_defaults: Mapping[str, Any] | None = None,
    reference: Reference | None = None,
    train_defaults: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Artifact] | None = None,
    summary: tuple[str, ...] = ("steps",),
    families: tuple[str, ...] = _ONE_SEQUENCE,
    reads_pictures: bool = False,
) -> Kind:
    """A kind that trains a model: whole, by LoRA or by QLoRA, on rows that are prepared before it starts.

    `module` has its `make` and `trainer_of`. `blocks` are those only this kind has; left out of a recipe,
    they have their defaults. `summary`: the numbers that a run ends with, behind the loss.
    """
    blocks = blocks or {}
    pair_options = {"pairs": "ScoredPairOptions" if "reward_model" in leaves else "PairOptions"}
    pair_options["labelled answers"] = "UnpairedOptions"
    options = Owner(f"ft.encode.pairs:{pair_options[rows]}") if rows in pair_options else _ROWS
    return Kind(
        about=about,
        make=f"{module}:make",
        blocks={"train": train, **blocks, "rows": options, "lora": _LORA, "quantization": _QUANTIZATION},
        leaves=leaves,
        memory=memory,
        display=Display(front_curves=front_curves, summary=(r"(eval|training) loss", *summary)),
        trainer=f"{module}:trainer_of",
        unsupported=unsupported,
        rows=rows,
        families=families,
        reads_eval_data=True,
        reads_pictures=reads_pictures,
        reference=reference,
        inputs=inputs or {},
        required=("train.max_length",),
        defaults={
            **({"train": train_defaults} if train_defaults else {}),
            "rows": row_defaults or {},
            **{name: {} for name in blocks},
        },
        cosmetic=reserved.COSMETIC,
    )


def _with_parts(kind: Kind) -> Kind:
    """The kind with `parts:`, for models that are made of several; where a recipe writes none, the family decides."""
    return replace(kind, blocks={**kind.blocks, "parts": Owner("ft.families.image_text:PartOptions")})


def _rl_kind(
    about: str,
    module: str,
    train: Owner,
    memory: str,
    unsupported: Mapping[str, Refused],
    reference: Reference,
    inputs: Mapping[str, Artifact] | None = None,
    reward_keys: Mapping[str, str] | None = None,
) -> Kind:
    """A kind that samples answers to prompts and learns from what they are worth."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "reward", "greater_is_better": True}
    blocks = {
        "rows": Owner("ft.rl.prompts:PromptOptions"),
        "reward": Owner("ft.rl.reward:RewardedOptions", reward_keys or {}),
        "guard": Owner("ft.rl.guard:GuardOptions"),
    }
    return Kind(
        about=about,
        make=f"{module}:make",
        blocks={"train": train, **blocks, "lora": _LORA, "quantization": _QUANTIZATION},
        leaves=_MODEL,
        memory=memory,
        display=Display(headline="reward", summary=("reward", "kl", "length")),
        trainer=f"{module}:trainer_of",
        unsupported=unsupported,
        check_row=_PROMPT,
        families=_ONE_SEQUENCE,
        inputs={**_REWARD_MODELS, **(inputs or {})},
        objectives=AXES,
        reads_eval_data=True,
        reference=reference,
        required=("train.max_completion_length",),
        defaults={
            "train": {"eval_strategy": "steps", "eval_on_start": True, "disable_dropout": True, **best},
            **{name: {} for name in blocks},
        },
        cosmetic=(*_BY_BATCH, *(f"guard.{key}" for key in ("cut", "empty", "longer", "repetition", "shown", "kept"))),
    )


def _options(kind: str, options: str, files: tuple[str, ...] = ()) -> dict[str, Owner]:
    """The blocks of a kind that asks a model and trains none: its own, and how the model is quantised."""
    return {kind: Owner(f"ft.stages.{kind}:{options}", files=files), "quantization": _QUANTIZATION}


# Architectures that `scratch` makes; Llama where `model_type` is not written.
_CONFIGS = {
    **{
        name: f"transformers.models.{name}:{name.capitalize()}Config"
        for name in ("llama", "mistral", "mixtral", "bloom")
    },
    **{name: f"transformers.models.{name}:{name.upper()}Config" for name in ("gpt2", "opt", "t5")},
}
_DECODING = {"decoding": Owner("ft.models.generation.decoding:DecodingOptions")}
"""Of a kind whose answers are chosen as a recipe says; replies of judges are greedy."""


_ROWS = Owner("ft.encode.prepare:RowOptions")


def _trainer_block(
    path: str, keys: Mapping[str, str], refused: Mapping[tuple[str, str | bool], str] = reserved.TRAINER_VALUES
) -> Owner:
    """The `train:` block of a class that inherits from TrainingArguments."""
    return Owner(
        path,
        keys,
        refused=refused,
        minimum=reserved.MINIMUM,
        maximum=reserved.MAXIMUM,
        signed=("f_alpha_divergence_coef",),
        trial=reserved.TRIAL,
    )


_SFT = _trainer_block("trl:SFTConfig", reserved.SFT_KEYS, reserved.SFT_VALUES)

_PICTURES = _trainer_block("trl:SFTConfig", reserved.PICTURE_KEYS, reserved.SFT_VALUES)

_BACKEND = Owner("ft.models.generation.backends:BackendOptions")

# Where a server is and how it is asked: the model's name decides what comes, not its address.
_SERVER_KEYS = tuple(
    f"backend.{key}"
    for key in (
        *("base_url", "key_env", "concurrency", "timeout", "retries", "wait"),
        *("max_requests", "max_tokens", "price", "gpu_memory"),
    )
)

_KINDS: dict[str, Kind] = {
    "scratch": Kind(
        about="makes an untrained model, and a tokenizer trained on the rows",
        make="ft.stages.scratch:make",
        blocks={
            "architecture": Owner("transformers.models.llama:LlamaConfig", chosen_by="model_type", classes=_CONFIGS),
            "tokenizer": Owner("ft.stages.scratch:TokenizerOptions"),
        },
        leaves=_MODEL,
        memory="ft.fit.kinds:in_main_memory",
        display=Display(),
        init=None,
        required=("architecture", "tokenizer"),
    ),
    "tokenizer": Kind(
        about="gives a model more tokens: special ones, and words of the rows; measures loss and fertility",
        make="ft.stages.tokenizer:make",
        blocks={"tokenizer": Owner("ft.stages.tokenizer:NewTokenOptions")},
        leaves=_MODEL,
        memory="ft.fit.kinds:in_main_memory",
        display=Display(headline="vocabulary", summary=("vocabulary", "new_tokens")),
        required=("tokenizer",),
    ),
    "pretrain": _training_kind(
        "trains the model on every token of plain documents",
        "ft.stages.pretrain",
        train=_SFT,
        rows="documents",
        memory="ft.fit.kinds:sft",
        unsupported={},
        front_curves=2,
        row_defaults={"train_on": "all"},
        families=(),
    ),
    "sft": _with_parts(
        _training_kind(
            "fine-tunes the model on conversations",
            "ft.stages.sft",
            train=_SFT,
            rows="conversations",
            memory="ft.fit.kinds:sft",
            unsupported={},
            front_curves=2,
            families=(),
            reads_pictures=True,
        )
    ),
    "dpo": _training_kind(
        "trains the model to prefer the chosen answer of each pair (DPO)",
        "ft.stages.dpo",
        train=_trainer_block("trl:DPOConfig", reserved.DPO_KEYS),
        rows="pairs",
        memory="ft.fit.kinds:pairs",
        unsupported=_in_slices(_PAIRS_REFUSED),
        reference=Reference(model_unless={"precompute_ref_log_probs": True}),
        inputs={"reference": "model"},
        summary=("accuracies", "margins"),
    ),
    "kto": replace(
        _training_kind(
            "trains the model on answers labelled one by one, to give those that are wanted and not the others (KTO)",
            "ft.stages.kto",
            train=replace(_trainer_block("trl:KTOConfig", reserved.KTO_KEYS), trial=reserved.KTO_TRIAL),
            rows="labelled answers",
            memory="ft.fit.kinds:sft",
            unsupported=_in_slices(_PAIRS_REFUSED),
            summary=("accuracies", "margins"),
            reference=Reference(model_unless={"precompute_ref_log_probs": True}),
            inputs={"reference": "model"},
        ),
        cosmetic=_BY_BATCH,
        loss_over_batch=True,
    ),
    "orpo": _training_kind(
        "trains the model on the chosen answer of each pair, and to prefer it, without a reference (ORPO)",
        "ft.stages.orpo",
        train=_trainer_block("trl.experimental.orpo:ORPOConfig", reserved.ORPO_KEYS),
        rows="pairs",
        memory="ft.fit.kinds:pairs",
        unsupported=_in_slices(_PAIRS_APART),
        summary=("accuracies", "margins"),
    ),
    "simpo": _training_kind(
        "trains the model to prefer the chosen answer of each pair by its likelihood per token (SimPO)",
        "ft.stages.simpo",
        train=_trainer_block("trl.experimental.cpo:CPOConfig", reserved.SIMPO_KEYS),
        rows="pairs",
        memory="ft.fit.kinds:pairs",
        unsupported=_in_slices(_PAIRS_APART),
        summary=("accuracies", "margins"),
        train_defaults={"cpo_alpha": 0.0},  # of the class's losses CPO alone has it by default
    ),
    "reward": _training_kind(
        "trains a reward model to score the chosen answer of each pair above the rejected one",
        "ft.stages.reward",
        train=_trainer_block("trl:RewardConfig", reserved.REWARD_KEYS),
        rows="pairs",
        memory="ft.fit.kinds:pairs",
        unsupported=_REWARD_UNSUPPORTED,
        leaves=frozenset({"reward_model"}),
        blocks={"reward": Owner("ft.stages.reward:RewardOptions")},
        front_curves=4,
        summary=("accuracy", "steps"),
    ),
    "rloo": _rl_kind(
        "trains the model on rewards by RLOO: several answers per prompt, each against the mean of the others",
        "ft.stages.rloo",
        train=_trainer_block("trl:RLOOConfig", reserved.RL_KEYS),
        memory="ft.fit.answering:reinforcing",
        unsupported=_in_slices(_SAMPLES_REFUSED),
        reference=Reference(model_unless={"beta": 0}),
    ),
    "grpo": _rl_kind(
        "trains the model on rewards by GRPO: several answers per prompt, each against their mean and spread",
        "ft.stages.grpo",
        train=_trainer_block("trl:GRPOConfig", reserved.RL_KEYS),
        memory="ft.fit.answering:reinforcing",
        unsupported=_in_slices(_SAMPLES_REFUSED),
        reference=Reference(model_unless={"beta": 0}, adapter_unless={"beta": 0}),
    ),
    "ppo": _rl_kind(
        "trains the model on rewards by PPO, with a critic",
        "ft.stages.ppo",
        train=replace(
            _trainer_block("ft.rl.ppo_config:PPOConfig", reserved.PPO_KEYS),
            minimum=reserved.MINIMUM | {"missing_eos_penalty": 0},
            inherits="trl",
        ),
        memory="ft.fit.answering:ppo",
        unsupported=_in_slices(_ADAPTERS_REFUSED),
        reference=Reference(),
        inputs={"critic": "reward_model"},
        reward_keys=reserved.PPO_REWARD_KEYS,
    ),
    "image-encoder": Kind(
        about="makes a small image encoder, taught to see by the words of captions",
        make="ft.stages.image_encoder:make",
        blocks={"architecture": Owner("transformers.models.blip_2:Blip2VisionConfig"), "train": _PICTURES},
        leaves=frozenset({"image_encoder"}),
        memory="ft.fit.kinds:not_estimated",
        display=Display(summary=(r"(eval|training) loss", "steps")),
        trainer="ft.stages.image_encoder:trainer_of",
        unsupported=dict.fromkeys(("ddp", "zero2", "fsdp", "zero3"), _ONE_PROCESS),
        init=None,
        check_row="ft.training.captioned:check_caption",
        reads_eval_data=True,
        reads_pictures=True,
        required=("architecture",),
        defaults={"architecture": {"initializer_range": 0.02}, "train": {}},
        cosmetic=_BY_BATCH,
    ),
    "qformer": Kind(
        about="trains a Q-Former to look at pictures by contrast, matching and captions (BLIP-2's first stage)",
        make="ft.stages.qformer:make",
        blocks={
            "architecture": Owner("transformers.models.blip_2:Blip2QFormerConfig"),
            "qformer": Owner("ft.stages.qformer:QFormerOptions"),
            "tokenizer": Owner("ft.stages.scratch:TokenizerOptions"),
            "train": _PICTURES,
        },
        leaves=frozenset({"qformer"}),
        memory="ft.fit.kinds:not_estimated",
        display=Display(summary=("contrast", "matching", "generation")),
        trainer="ft.stages.qformer:trainer_of",
        unsupported=dict.fromkeys(("ddp", "zero2", "fsdp", "zero3"), _ONE_PROCESS),
        init=None,
        inputs={"image_encoder": "image_encoder"},
        check_row="ft.training.captioned:check_caption",
        reads_eval_data=True,
        reads_pictures=True,
        required=("architecture", "tokenizer"),
        defaults={"qformer": {}, "train": {}},
        cosmetic=_BY_BATCH,
        loss_over_batch=True,
    ),
    "retrieval": Kind(
        about="finds captions of held-out pictures and pictures of captions, by a Q-Former, among all of them",
        make="ft.stages.retrieval:make",
        blocks={"retrieval": Owner("ft.stages.retrieval:RetrievalOptions")},
        leaves=_METRICS,
        memory="ft.fit.kinds:not_estimated",
        display=Display(headline="text_r1", summary=("text_r1", "image_r1", "chance")),
        init="qformer",
        check_row="ft.training.captioned:check_caption",
        reads_pictures=True,
        defaults={"retrieval": {}},
    ),
    "blip2": Kind(
        about="makes one model of an image encoder with its Q-Former and a language model",
        make="ft.stages.blip2:make",
        blocks={},
        leaves=_MODEL,
        memory="ft.fit.kinds:in_main_memory",
        display=Display(),
        init=None,
        inputs={"qformer": "qformer", "language_model": "model"},
        reads_data=False,
    ),
    "evaluate": Kind(
        about="answers held-out prompts, scored by a program or references, and measures eval loss, before and after",
        make="ft.stages.evaluate:make",
        blocks=_options("evaluate", "EvaluateOptions")
        | {"rows": Owner("ft.stages.evaluate:MeasuredRowOptions"), **_DECODING},
        leaves=_METRICS,
        check_row=_PROMPT,
        infers=True,
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
        reads_pictures=True,
        required=("evaluate",),
    ),
    "harness": Kind(
        about="runs tasks of lm-evaluation-harness with the model's own chat template",
        make="ft.stages.harness:make",
        blocks=_options("harness", "HarnessOptions", files=("file",)),
        families=_ONE_SEQUENCE,
        leaves=_METRICS,
        memory="ft.fit.answering:asking",
        display=Display(sections=("ft.report.measured:tasks",)),
        inputs={"baseline": "model"},
        reads_data=False,
        required=("harness",),
        preflight="ft.stages.harness:check_installed",
    ),
    "judge": Kind(
        about="compares the answers of two models: wins, ties and losses by a judge asked in both orders",
        make="ft.stages.judge:make",
        blocks=_options("judge", "JudgeOptions", files=("prompt",)) | {"backend": _BACKEND, **_DECODING},
        leaves=frozenset({"metrics", "rows"}),
        check_row=_PROMPT,
        infers=True,
        memory="ft.fit.answering:judging",
        display=Display(
            verdict="ft.report.measured:preferred_model",
            sections=("ft.report.measured:win_rates", "ft.report.answers:verdicts"),
            headline="win_rate",
            summary=("win_rate", "wins", "losses"),
            shows_answers=True,
            working_files=frozenset({artifacts.ROWS, artifacts.SCORES}),
        ),
        inputs={"other": "model", "scorer": "reward_model", "judge": "model"},
        required=("judge.kind",),
        cosmetic=_SERVER_KEYS,
        preflight="ft.stages.judge:check_prompt",
    ),
    "report-card": Kind(
        about="evaluates a reward model on held-out pairs: accuracy, calibration, and what else its score follows",
        make="ft.stages.report_card:make",
        blocks={"card": Owner("ft.stages.report_card:CardOptions"), "quantization": _QUANTIZATION},
        leaves=_METRICS,
        check_row="ft.stages.report_card:check_pair",
        infers=True,
        memory="ft.fit.answering:scoring",
        display=Display(
            sections=("ft.report.measured:card",),
            headline="accuracy",
            summary=("accuracy", *(f"accuracy_{axis}" for axis in AXES)),
        ),
        init="reward_model",
        inputs={"other": "reward_model"},
    ),
    "gatt": Kind(
        about="makes rows for Ghost Attention: an instruction given once, and a later answer that follows it",
        make="ft.stages.gatt:make",
        blocks=_options("gatt", "GattOptions", files=("bank",)) | _DECODING,
        leaves=frozenset({"rows"}),
        check_row=_DIALOGUE,
        infers=True,
        memory="ft.fit.answering:dialogues",
        display=Display(
            sections=("ft.report.answers:made_rows",),
            headline="rows",
            summary=("rows", "obeying"),
            working_files=frozenset({artifacts.ANSWERS, "scores-scorer.jsonl"}),
        ),
        inputs={"scorer": "reward_model"},
        required=("gatt.bank",),
        preflight="ft.stages.gatt:check_bank",
    ),
    "sample": Kind(
        about="samples K answers per prompt and keeps the best, by reward models or functions, as rows to train on",
        make="ft.stages.sample:make",
        blocks=_options("sample", "SampleOptions") | {"backend": _BACKEND, **_DECODING},
        leaves=frozenset({"rows"}),
        check_row=_PROMPT,
        infers=True,
        memory="ft.fit.answering:sampling",
        display=Display(
            sections=(
                "ft.report.measured:sampling",
                "ft.report.answers:lowest_and_highest",
                "ft.report.answers:made_rows",
            ),
            summary=(r"best_of_\d+", "rows", "answers"),
            working_files=frozenset({artifacts.ANSWERS, artifacts.SCORES}),
        ),
        inputs=_REWARD_MODELS,
        required=("sample",),
        cosmetic=_SERVER_KEYS,
    ),
    "questions": Kind(
        about="writes multiple-choice questions about each article, by a model, a server or a program",
        make="ft.stages.questions:make",
        blocks=_options("questions", "QuestionsOptions", files=("prompt",)) | {"backend": _BACKEND},
        leaves=frozenset({"rows"}),
        infers=True,
        memory="ft.fit.answering:replying",
        display=Display(headline="rows", summary=("rows", "articles", "unreadable")),
        init=None,
        inputs={"generator": "model"},
        required=("questions.kind",),
        cosmetic=_SERVER_KEYS,
        preflight="ft.stages.questions:check_prompt",
    ),
    "quiz": Kind(
        about="scores answers by the questions that a judge can answer from each of them alone",
        make="ft.stages.quiz:make",
        blocks=_options("quiz", "QuizOptions", files=("prompt",)) | {"backend": _BACKEND},
        leaves=frozenset({"rows"}),
        infers=True,
        memory="ft.fit.answering:replying",
        display=Display(headline="right", summary=("right", "unsure", "rows")),
        init=None,
        inputs={"judge": "model"},
        required=("quiz.kind",),
        cosmetic=_SERVER_KEYS,
        preflight="ft.stages.quiz:check_prompt",
    ),
    "preferences": Kind(
        about="makes pairs, chosen and rejected, of scored answers to one prompt, by a preference function",
        make="ft.stages.preferences:make",
        blocks={"preferences": Owner("ft.stages.preferences:PreferenceOptions")},
        leaves=frozenset({"rows"}),
        memory="ft.fit.kinds:in_main_memory",
        display=Display(
            sections=("ft.report.answers:made_rows",), headline="rows", summary=("rows", "prompts", "no_preference")
        ),
        init=None,
        defaults={"preferences": {}},
    ),
    "summaries": Kind(
        about="evaluates summaries of held-out articles, before and after: accuracy by quiz, compression, win rate",
        make="ft.stages.summaries:make",
        blocks=_options("summaries", "SummariesOptions", files=("prompt",))
        | {"backend": _BACKEND, "rows": _ROWS, **_DECODING},
        leaves=_METRICS,
        infers=True,
        memory="ft.fit.answering:summarizing",
        display=Display(
            sections=("ft.report.measured:summaries", "ft.report.answers:before_and_after"),
            headline="win_rate",
            summary=("win_rate", "at_least_3", "compression_mean"),
            shows_answers=True,
        ),
        inputs={"baseline": "model", "other": "model", "judge": "model"},
        required=("summaries.kind",),
        cosmetic=_SERVER_KEYS,
        preflight="ft.stages.quiz:check_prompt",
    ),
    "consistency": Kind(
        about="measures how long an instruction is followed: the share of answers by turn, of one model or several",
        make="ft.stages.consistency:make",
        blocks=_options("consistency", "ConsistencyOptions", files=("bank",)) | _DECODING,
        leaves=_METRICS,
        check_row=_DIALOGUE,
        infers=True,
        memory="ft.fit.answering:dialogues",
        display=Display(
            sections=("ft.report.measured:consistency",), headline=r"turn_\d+", summary=(r"turn_\d+", "correct")
        ),
        inputs={"before": "model", "ablation": "model"},
        required=("consistency.bank",),
        preflight="ft.stages.gatt:check_bank",
    ),
    "attention": Kind(
        about="measures how strongly answers attend to the instruction, by turn",
        make="ft.stages.attention:make",
        blocks=_options("attention", "AttentionOptions", files=("bank",)),
        leaves=_METRICS,
        check_row=_DIALOGUE,
        families=_ONE_SEQUENCE,
        infers=True,
        memory="ft.fit.answering:dialogues",
        display=Display(
            sections=("ft.report.measured:attention",),
            headline=r"attention_turn_\d+",
            summary=(r"attention_turn_\d+",),
            is_card=False,
            working_files=frozenset({artifacts.ANSWERS}),
        ),
        inputs={"before": "model"},
        required=("attention.bank",),
        preflight="ft.stages.gatt:check_bank",
    ),
}

STAGES = {name: replace(kind, stands_in_for=STAND_INS.get(name, {})) for name, kind in _KINDS.items()}

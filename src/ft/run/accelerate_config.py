"""Several processes: an accelerate config read before anything is loaded, and what a stage may ask of it.

`SUPPORT` says what works with what a stage may hold, `Kind.unsupported` what does not work with its kind. To add a row:
what it is about, how a stage is known to have it, and a `Refused` for every way that does not carry it; docs/launch.md
shows the same table, and a test compares them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ft.errors import Problems, fail
from ft.files import digest, read_json
from ft.imports import uncollected
from ft.recipe import Kind, Stage, Verdicts, accumulation
from ft.recipe.check import Owner, check, check_secrets, suggest
from ft.recipe.find import launch_configs
from ft.recipe.kind import LaunchOptions, Refused
from ft.recipe.yaml import Block, Mark, parse_value

CONFIG = Owner("accelerate.commands.config.config_args:ClusterConfig")
WAYS: Mapping[str, str] = {
    "single": "one process",
    "ddp": "a copy of the model on each GPU",
    "zero2": "gradients and optimizer states in slices (DeepSpeed ZeRO-2)",
    "fsdp": "everything in slices (PyTorch FSDP)",
    "zero3": "everything in slices (DeepSpeed ZeRO-3)",
}
_MULTI = ("MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU")


@dataclass(frozen=True)
class Launch:
    """How a stage's processes are started and share its model.

    way        one of WAYS
    processes  on all machines together
    options    fsdp_config's and deepspeed_config's keys with their values as words
    block      the config as written; None when `accelerate launch` itself was told
    """

    file: Path | None = None
    way: str = "single"
    processes: int = 1
    machines: int = 1
    mixed_precision: str = "no"
    options: Mapping[str, str] = field(default_factory=dict)
    block: Block | None = None

    def where(self, key: str) -> str:
        """The place of a key, or of the block it would stand in."""
        if self.block is None:
            return "accelerate launch"
        inner = next((b for b in self.block.values() if isinstance(b, Block) and key in b), self.block)
        return inner.where(key)

    def on_gpus(self, gpus: int | None) -> Launch:
        """The same on another number of GPUs; several without a config each hold a copy. None: as it is."""
        if gpus is None:
            return self
        if gpus < 1:
            raise fail("--gpus", f"{gpus} GPUs", "Say 1 or more.")
        return replace(self, processes=gpus, way="ddp" if self.way == "single" and gpus > 1 else self.way)

    def on(self, option: str) -> bool:
        return self.options.get(option, "").lower() in ("true", "1", "yes", "on")


ONE_PROCESS = Launch()


def read_launch(file: Path, verdicts: Verdicts | None = None) -> Launch:
    """The config. Raises UserError with all that accelerate would refuse, or pass over in silence."""
    if not file.is_file():
        beside = sorted(one.name for one in file.parent.glob("*.yaml"))
        fix = f"In that folder: {', '.join(beside)}." if beside else f"There are: {', '.join(launch_configs())}."
        raise fail(str(file), "no such accelerate config", fix)
    problems = Problems()
    block = parse_value(file.read_text(encoding="utf-8"), Mark(str(file), 1), problems)
    if not isinstance(block, Block):
        raise fail(str(file), "this is no accelerate config", "Start from one of recipes/accelerate.")
    _known_keys(block, problems, verdicts)
    launch = _launch(file, block, problems)
    problems.raise_any()
    return launch


def launch_of_environment() -> Launch:
    """What `accelerate launch` (or torchrun) has started this process as."""
    fsdp = {key.lower(): value for key, value in os.environ.items() if key.startswith("FSDP_")}
    prefix = "ACCELERATE_DEEPSPEED_"
    zero = {key[len(prefix) :].lower(): value for key, value in os.environ.items() if key.startswith(prefix)}
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        way = f"zero{zero.get('zero_stage', '2')}"
    elif os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        way = "fsdp"
    else:
        way = "ddp" if processes > 1 else "single"
    machines = processes // int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return Launch(None, way, processes, machines, precision, fsdp | zero)


def _known_keys(block: Block, problems: Problems, verdicts: Verdicts | None) -> None:
    """accelerate refuses an unknown key with a traceback, and passes over one inside fsdp_config in silence."""
    verdicts = None if check_secrets(block, problems, "config") else verdicts
    silent = {"compute_environment": "LOCAL_MACHINE", "mixed_precision": "no", "use_cpu": False, "debug": False}
    marks = dict.fromkeys(silent, block.mark)
    check(CONFIG, Block({**silent, **block}, {**marks, **block.marks}, block.mark), "config", problems, [], verdicts)
    inner = {name: value for name, value in block.items() if name in ("fsdp_config", "deepspeed_config")}
    key = digest(["launch options", CONFIG.version, inner], 24)
    if not inner or (verdicts and verdicts.get(key) is not None):
        return
    before = len(problems)
    known = _options()
    for name, written in inner.items():
        for option in written if isinstance(written, Block) else ():
            if option not in known and f"fsdp_{option}" not in known:
                near = suggest(option, [k for k in known if k.startswith("fsdp") == (name == "fsdp_config")])
                problems.add(written.where(option), f"{name} has no key '{option}'", near)
    if verdicts and len(problems) == before:
        verdicts.put(key, {})


def _options() -> list[str]:
    """Options of `accelerate launch`, which the keys of fsdp_config and deepspeed_config become."""
    with uncollected():
        from accelerate.commands.launch import launch_command_parser

    return [*vars(launch_command_parser().parse_args(["script"]))]


def _launch(file: Path, block: Block, problems: Problems) -> Launch:
    options: dict[str, str] = {}
    for name in ("fsdp_config", "deepspeed_config"):
        options |= {key: str(value) for key, value in (block.get(name) or {}).items()}
    processes, machines = (block.get(name, 1) for name in ("num_processes", "num_machines"))
    for name, value in (("num_processes", processes), ("num_machines", machines)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            problems.add(block.where(name), f"{name} is '{value}'", "Write a whole number, 1 or more.")
            processes = machines = 1
    if processes % machines:
        what = f"{processes} processes do not spread over {machines} machines"
        problems.add(block.where("num_processes"), what, f"Write a multiple of {machines}.")
    precision = str(block.get("mixed_precision") or "no")
    way = _way(block, options, processes, problems)
    return Launch(file, way, processes, machines, "no" if precision == "False" else precision, options, block)


def _way(block: Block, options: Mapping[str, str], processes: int, problems: Problems) -> str:
    written = block.get("distributed_type")
    if written == "DEEPSPEED":
        stage = _zero_stage(options)
        if f"zero{stage}" in WAYS:
            return f"zero{stage}"
        problems.add(block.where("deepspeed_config"), f"ZeRO stage {stage}", "Write `zero_stage: 2` or 3.")
    elif written == "FSDP":
        return "fsdp"
    elif written in _MULTI:
        if processes > 1:
            return "ddp"
        fix = 'Write 2 or more, or `distributed_type: "NO"`.'
        problems.add(block.where("num_processes"), f"{written} with one process, which accelerate refuses", fix)
    elif str(written).upper() in ("NO", "FALSE"):
        if processes > 1:
            fix = "Write MULTI_GPU, or `num_processes: 1`."
            problems.add(block.where("distributed_type"), f"'{written}' starts one process, not {processes}", fix)
    else:
        fix = 'Write MULTI_GPU, FSDP, DEEPSPEED or "NO".'
        problems.add(block.where("distributed_type"), f"distributed_type '{written}' is not supported", fix)
    return "single"


def _zero_stage(options: Mapping[str, str]) -> str:
    """As written, or as the DeepSpeed file it names says."""
    file = options.get("deepspeed_config_file")
    if not file:
        return options.get("zero_stage", "2")
    return str(((read_json(Path(file)) or {}).get("zero_optimization") or {}).get("stage", "absent"))


@dataclass(frozen=True)
class Row:
    """One line of the table: `has` says whether a stage is concerned; ways that are not listed carry it."""

    what: str
    has: Callable[[Stage], bool]
    refused: Mapping[str, Refused] = field(default_factory=dict)


def _weights(held: str) -> Callable[[Stage], bool]:
    return lambda stage: weights(stage) == held


def weights(stage: Stage) -> str:
    """How a stage that trains holds its weights: whole, adapter, 4-bit or 8-bit."""
    quantization = stage.blocks.get("quantization") or {}
    if quantization:
        return "8-bit" if quantization.get("load_in_8bit") else "4-bit"
    return "adapter" if "lora" in stage.blocks else "whole"


def _stored_alike(stage: Stage, launch: LaunchOptions) -> bool:
    """4-bit weights are stored in the dtype the frozen rest has: what FSDP cuts must be of one dtype."""
    storage = stage.blocks["quantization"].get("bnb_4bit_quant_storage", "uint8")
    return str(storage).removeprefix("torch.") == stage.compute_dtype


def _offloads_nothing(stage: Stage, launch: LaunchOptions) -> bool:
    offloads = launch.on("fsdp_offload_params") or launch.options.get("offload_optimizer_device") == "cpu"
    return not offloads


_ZERO3_BITS = Refused("DeepSpeed cannot cut quantised weights", "Use recipes/accelerate/ddp.yaml or fsdp-qlora.yaml.")
_BNB_OPTIMIZER = Refused(
    "bitsandbytes' optimizers keep their states on the GPU",
    "Write `optim: adamw_torch` in the recipe, or offload nothing.",
    _offloads_nothing,
    "nothing is offloaded to the CPU",
)

SUPPORT: Sequence[Row] = (
    Row("whole weights", _weights("whole")),
    Row("`lora:`", _weights("adapter")),
    Row(
        "`lora:` on a 4-bit base",
        _weights("4-bit"),
        {
            "fsdp": Refused(
                "FSDP cuts only weights of one dtype, and 4-bit ones are stored as uint8",
                "Write `quantization: {{bnb_4bit_quant_storage: {dtype}}}`.",
                _stored_alike,
                "`bnb_4bit_quant_storage` is the dtype it computes in",
            ),
            "zero3": _ZERO3_BITS,
        },
    ),
    Row(
        "`lora:` on an 8-bit base",
        _weights("8-bit"),
        {
            "fsdp": Refused("FSDP cannot cut 8-bit weights", "Use recipes/accelerate/ddp.yaml, or `load_in_4bit`."),
            "zero3": _ZERO3_BITS,
        },
    ),
    Row(
        "`packing: true`",
        lambda stage: bool(stage.blocks.get("train", {}).get("packing")),
        {
            "zero3": Refused(
                "ft proves that packed rows do not see each other before the model is cut, and ZeRO-3 cuts it earlier",
                "Use recipes/accelerate/fsdp.yaml, or `packing: false`.",
            )
        },
    ),
    Row(
        "`optim:` of bitsandbytes (`paged_…`, `…_8bit`)",
        lambda stage: any(word in str(stage.blocks.get("train", {}).get("optim")) for word in ("paged", "8bit", "bnb")),
        {"zero2": _BNB_OPTIMIZER, "fsdp": _BNB_OPTIMIZER, "zero3": _BNB_OPTIMIZER},
    ),
)


def support_table(kinds: Mapping[str, Kind]) -> str:
    """What works with what as a Markdown table: what a stage holds, then each kind that trains."""
    rows = {row.what: row.refused for row in SUPPORT}
    rows |= {f"`{name}`": kind.unsupported or {} for name, kind in kinds.items() if kind.trains}
    lines = [f"| | {' | '.join(f'`{way}`' for way in WAYS)} |", f"|---|{'---|' * len(WAYS)}"]
    for what, refused in rows.items():
        lines.append(f"| {what} | {' | '.join(_cell(refused.get(way)) for way in WAYS)} |")
    return "\n".join(lines)


def _cell(refused: Refused | None) -> str:
    if refused is None:
        return "yes"
    return f"if {refused.when}" if refused.when else "no"


def objections(stages: Sequence[Stage], launch: Launch) -> Problems:
    """Everything that would stop these stages on several processes, or change in silence what they learn."""
    problems = Problems()
    training = [stage for stage in stages if stage.kind.trains]
    if training:
        _folder_is_left(launch, problems)
    for stage in training:
        for what_it_has, refused in _refusals(stage, launch.way):
            if not refused.unless(stage, launch):
                place = launch.where("distributed_type")
                what = f"'{stage.name}' ({what_it_has}) cannot run under {launch.way} ({place}): {refused.why}"
                where = launch.where(refused.key) if refused.key else stage.where
                problems.add(where, what, refused.fix.format(dtype=stage.compute_dtype))
        _same_precision(stage, launch, problems)
        _batch_divides(stage, launch, problems)
    return problems


def _refusals(stage: Stage, way: str) -> Iterator[tuple[str, Refused]]:
    """What of the stage does not go with this way to launch, unless its condition holds."""
    rows = {row.what: row.refused for row in SUPPORT if row.has(stage)}
    rows[f"`{stage.kind_name}`"] = stage.kind.unsupported or {}
    yield from ((what, refused[way]) for what, refused in rows.items() if way in refused)


def _folder_is_left(launch: Launch, problems: Problems) -> None:
    """A result is one folder that `from_pretrained` opens, so slices are gathered at the end."""
    state = launch.options.get("fsdp_state_dict_type", "SHARDED_STATE_DICT")
    if launch.way == "fsdp" and state != "FULL_STATE_DICT":
        what = f"fsdp_state_dict_type is {state}, and the result would hold no weights"
        problems.add(launch.where("fsdp_state_dict_type"), what, "Write FULL_STATE_DICT.")
    if launch.way == "zero3" and not launch.on("zero3_save_16bit_model"):
        what = "zero3_save_16bit_model is off, and the result would hold no weights"
        problems.add(launch.where("zero3_save_16bit_model"), what, "Write `zero3_save_16bit_model: true`.")
    for key in ("gradient_accumulation_steps", "gradient_clipping"):
        if launch.options.get(key, "auto") != "auto":
            fix = "Write `auto`: the recipe decides."
            problems.add(launch.where(key), f"{key} is {launch.options[key]} for every stage", fix)


def _same_precision(stage: Stage, launch: Launch, problems: Problems) -> None:
    """A config's mixed_precision wins where the recipe writes none, and no folder's name would say so."""
    if launch.mixed_precision == "no":
        return
    if launch.mixed_precision != {"bfloat16": "bf16", "float16": "fp16", "float32": "no"}[stage.compute_dtype]:
        what = f"mixed_precision is {launch.mixed_precision}, and '{stage.name}' ({stage.where}) computes in"
        fix = 'Write `mixed_precision: "no"`: the recipe decides.'
        problems.add(launch.where("mixed_precision"), f"{what} {stage.compute_dtype}", fix)


def _batch_divides(stage: Stage, launch: Launch, problems: Problems) -> None:
    if stage.global_batch:
        a_device = stage.blocks["train"]["per_device_train_batch_size"]
        try:
            accumulation(stage.global_batch, a_device, launch.processes)
        except ValueError as error:
            problems.add(stage.where, f"'{stage.name}': {error}")

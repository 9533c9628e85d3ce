"""A recipe as checked values: the model, a seed, and the stages in the order they run.

`read` reports every problem at once. References (`$stage`) may only point up, so there is no cycle to find.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ft import artifacts
from ft.errors import Problems, UserError
from ft.hub import local_path
from ft.recipe.batch import global_batch
from ft.recipe.check import Owner, Verdicts, check, choose, current_names, nearest, said
from ft.recipe.gates import ungated
from ft.recipe.kind import ARTIFACTS, Artifact, Kind
from ft.recipe.merge import read_tree, recipe_name, stage_name
from ft.recipe.precision import Dtype, dtype_of_stage, dtype_to_advise
from ft.recipe.shares import shares_fit
from ft.recipe.yaml import Block, Items, in_file_order

TEMPLATES = Path(__file__).parent.parent / "templates"
SOURCE = Owner("ft.data.sources.read:Source")


@dataclass(frozen=True)
class ModelSource:
    """Which weights to start from, and how they are held in memory.

    path                 a folder, or a Hub id such as meta-llama/Llama-2-7b-hf
    revision             a Hub commit, tag or branch
    dtype                float32, bfloat16, float16; None: what is trained in float32, what is frozen as it computes
    attn_implementation  eager, sdpa, flash_attention_2, …; None: the library's choice
    """

    path: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    attn_implementation: str | None = None

    @property
    def folder(self) -> Path | None:
        """Where the weights are on this machine; None: the Hub has them."""
        path = local_path(self.path)
        return path if path and path.is_dir() else None


@dataclass(frozen=True)
class Stage:
    """One stage as written: checked values, and where they stand for later complaints."""

    name: str
    kind_name: str
    kind: Kind
    where: str
    init: str | None = None  # name of the stage it starts from; None: the recipe's model
    inputs: Mapping[str, str] = field(default_factory=dict)  # input → stage name
    data: tuple[Mapping[str, Any], ...] = ()
    eval_data: tuple[Mapping[str, Any], ...] = ()
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    require: Mapping[str, float] = field(default_factory=dict)
    global_batch: int | None = None  # rows per optimizer step over all processes; None: the train block says them

    def complete(self, block: str) -> Mapping[str, Any]:
        """A block's values, where none is written its class's own defaults; {} for a kind without such a block."""
        owner = self.kind.blocks.get(block)
        return {**owner.schema().defaults, **self.blocks.get(block, {})} if owner else {}

    @property
    def compute_dtype(self) -> Dtype:
        """What it computes in on a GPU."""
        return dtype_of_stage(self.kind, self.blocks)

    @property
    def parents(self) -> list[str]:
        """Names of the stages whose results this one reads, each once."""
        from_data = [reference(s["path"]) for s in (*self.data, *self.eval_data)]
        return list(dict.fromkeys(n for n in (self.init, *self.inputs.values(), *from_data) if n))


@dataclass(frozen=True)
class Recipe:
    name: str
    file: Path
    model: ModelSource | None
    chat_template: str | None
    seed: int
    stages: tuple[Stage, ...]
    notices: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # stages of a parent that `skip: true` leaves out

    def stage(self, name: str) -> Stage:
        return next(s for s in self.stages if s.name == name)


@dataclass(frozen=True)
class _RecipeKeys:
    stages: list[Any]
    model: str | dict[str, Any] | None = None
    chat_template: str | None = None
    seed: int = 1
    name: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must be from 0 to {2**32 - 1}")
        if self.name and not re.fullmatch(FOLDER, self.name):
            raise ValueError(f"name '{self.name}' cannot name a folder. Use letters, digits, - and _")


FOLDER = r"[A-Za-z0-9][\w-]*"
_STAGE_KEYS = ("kind", "name", "init", "inputs", "data", "eval_data", "require", "skip", "global_batch")


def reference(value: Any) -> str | None:
    """The stage that "$name" points to; None for anything else."""
    return value[1:] if isinstance(value, str) and value.startswith("$") else None


def read(path: Path, kinds: Mapping[str, Kind], sets: Sequence[str] = (), verdicts: Verdicts | None = None) -> Recipe:
    """The checked recipe. Raises UserError with every problem of it, each `file:line: what. fix`."""
    problems = Problems()
    try:
        tree = read_tree(path, sets, problems)
        recipe = _Reader(path, kinds, problems, verdicts).recipe(tree)
    except UserError as error:  # nothing more can be read
        problems += error.problems
    in_file_order(problems, path).raise_any()
    return recipe


def _without_stages(tree: Block) -> Block:
    """The recipe's own keys; its stages are checked one by one, and change too often to be remembered with them."""
    written = tree.get("stages")
    own = Block(dict(tree), dict(tree.marks), tree.mark)
    if isinstance(written, Items):
        own["stages"] = Items([], [], written.mark)
    return own


class _Reader:
    """Carries what every check needs: the kinds there are, and where problems and notices are collected."""

    def __init__(self, path: Path, kinds: Mapping[str, Kind], problems: Problems, verdicts: Verdicts | None):
        self.path, self.kinds, self.problems, self.verdicts = path, kinds, problems, verdicts
        self.notices: list[str] = []
        self.names: list[str] = []  # of all stages, right or wrong
        self.passed: list[str] = []  # of those above the one that is read

    def check(self, owner: Owner, block: Block, name: str) -> dict[str, Any]:
        return check(owner, block, name, self.problems, self.notices, self.verdicts)

    def recipe(self, tree: Block) -> Recipe:
        values = self.check(Owner("ft.recipe.reader:_RecipeKeys"), _without_stages(tree), "recipe")
        tree = current_names(tree, "recipe", Problems(), [])  # said by the check above
        model = self.model(tree)
        stages: list[Stage] = []
        written = tree.get("stages")
        if isinstance(written, Items):
            there = [s for s in written if not (isinstance(s, Block) and s.get("skip") is True)]
            self.names = [stage_name(stage) for stage in there]
            for place, stage in enumerate(written):
                if isinstance(stage, Block):
                    stages += [] if self.skipped(stage) else self.stage(stage, stages)
                    self.passed.append(stage_name(stage))
                else:
                    self.problems.add(written.where(place), "a stage is a mapping", "Write `- kind: sft` and its keys.")
            if not written:
                self.problems.add(tree.where("stages"), "the recipe has no stages", "Write `- kind: sft` and its keys.")
        if tree.get("model") is None and any(s.kind.init and s.init is None for s in stages):
            self.problems.add(str(tree.mark), "no model to start from", "Write `model: path-or-hub-id` at the top.")
        name = recipe_name(self.path, values.get("name"))
        template = self.template(tree, values.get("chat_template"))
        seed, skipped = values.get("seed", 1), tuple(name for name in self.passed if name not in self.names)
        return Recipe(name, self.path, model, template, seed, tuple(stages), (*self.notices, *ungated(stages)), skipped)

    def model(self, tree: Block) -> ModelSource | None:
        written = tree.get("model")
        if isinstance(written, str):
            written = Block({"path": written}, {"path": tree.marks.get("model", tree.mark)}, tree.mark)
        if not isinstance(written, Block):
            return None
        values = self.check(Owner("ft.recipe.reader:ModelSource"), written, "model")
        if not isinstance(values.get("path"), str):
            return None
        path = self.local(written, "path", values["path"])
        if path and not (path / artifacts.CONFIG).exists():
            self.problems.add(written.where("path"), f"no model in {path}", self.relative(written, "path"))
        values["path"] = str(path) if path else values["path"]
        return ModelSource(**values)

    def template(self, tree: Block, written: str | None) -> str | None:
        """A template's file, made absolute; a shipped name or Jinja text stays as written."""
        if not written or "{{" in written or "{%" in written:
            return written
        if written.endswith((".jinja", ".j2")):
            path = (tree.folder("chat_template") / Path(written).expanduser()).resolve()
            if not path.exists():
                self.problems.add(
                    tree.where("chat_template"), f"no template {path}", self.relative(tree, "chat_template")
                )
            return str(path)
        shipped = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
        if written not in shipped:
            hint = f"Did you mean '{near[0]}'?" if (near := difflib.get_close_matches(written, shipped, n=1)) else ""
            fix = hint or f"There are: {', '.join(shipped)}; or name a .jinja file."
            self.problems.add(tree.where("chat_template"), f"no template '{written}'", fix)
        return written

    def local(self, block: Block, key: str, written: str) -> Path | None:
        """The file or folder meant, relative to the recipe that wrote it; None for a Hub id."""
        path = local_path(written, block.folder(key))
        return path.resolve() if path else None

    def relative(self, block: Block, key: str) -> str:
        """What a path that leads nowhere is relative to."""
        from_file = block.marks.get(key, block.mark).line
        return "The path is relative to " + ("the recipe's file." if from_file else "the folder you are in.")

    def stage(self, block: Block, above: list[Stage]) -> list[Stage]:
        """The stage, or nothing when its kind is unknown (what else is wrong with it is still reported)."""
        block = current_names(block, "stage", self.problems, self.notices)
        where, name = block.where("kind"), stage_name(block)
        kind = None
        if "kind" in block:
            kind = choose(self.kinds, block["kind"], "stage kind", where, self.problems)
        else:
            fix = f"Write `kind:`, one of {', '.join(self.kinds)}."
            self.problems.add(block.where(), "this stage has no kind", fix)
        if name and not re.fullmatch(FOLDER, name) and "name" in block:
            self.problems.add(block.where("name"), f"'{name}' cannot name a folder", "Use letters, digits, - and _.")
        if any(s.name == name for s in above):
            self.problems.add(block.where("name"), f"two stages are called '{name}'", "Give one a `name:` of its own.")
        read: dict[str, Any] = {
            "init": self.init(block, above, kind),
            "inputs": self.inputs(block, above, kind),
            "data": self.sources(block, "data", above),
            "eval_data": self.sources(block, "eval_data", above),
            "require": self.require(block),
            "global_batch": global_batch(block, kind is None or kind.trains, self.problems),
        }
        if kind is None:
            return []
        self.keys(block, kind)
        blocks = self.blocks(block, kind)
        if dtype := dtype_to_advise(kind, blocks):
            what = "quantization names no bnb_4bit_compute_dtype, and the library takes float32: slower, and larger"
            self.notices.append(f"{block.where('quantization')}: {what}. Write `bnb_4bit_compute_dtype: {dtype}`.")
        return [Stage(name, block["kind"], kind, where, blocks=blocks, **read)]

    def skipped(self, block: Block) -> bool:
        """Whether `skip: true` leaves the stage out: how a recipe that extends another drops one of its stages."""
        skip = block.get("skip", False)
        if not isinstance(skip, bool):
            self.problems.add(block.where("skip"), f"skip is '{skip}'", "Write true or false.")
        elif skip and "kind" not in block:
            what = f"no stage '{stage_name(block)}' to leave out"
            self.problems.add(block.where("skip"), what, "Name one of the recipe this one extends.")
        return skip is True

    def keys(self, block: Block, kind: Kind) -> None:
        known = [*_STAGE_KEYS, *kind.blocks]
        for key in block:
            if key not in known:
                owner = next((name for name, owner in kind.blocks.items() if owner.has(key)), None)
                hint = f"Write it in `{owner}:`." if owner else nearest(key, known)
                self.problems.add(block.where(key), f"a stage of kind '{block['kind']}' has no key '{key}'", hint)
        for key in kind.required:
            self.needs(block, key)
        if kind.reads_data and not block.get("data"):
            self.problems.add(block.where("kind"), f"kind '{block['kind']}' needs data", "Write `data: [{path: …}]`.")
        for key, reads in (
            ("data", kind.reads_data),
            ("eval_data", kind.reads_eval_data),
            ("init", kind.init is not None),
        ):
            if block.get(key) and not reads:
                self.problems.add(block.where(key), f"kind '{block['kind']}' reads no {key}", "Remove the key.")
        given = block.get("inputs")
        if isinstance(given, Block):
            for key in [k for k in given if k not in kind.inputs]:
                hint = nearest(key, [*kind.inputs]) if kind.inputs else "It reads none."
                self.problems.add(given.where(key), f"kind '{block['kind']}' reads no input '{key}'", hint)

    def needs(self, block: Block, required: str) -> None:
        """A block, or a key "block.key" under its present name, that a kind cannot do without."""
        outer, _, inner = required.partition(".")
        written = block.get(outer)
        if isinstance(written, Block) and inner:
            present = current_names(written, outer, Problems(), [])
            if present.get(inner) is None:
                where = written.where(inner) if inner in written else written.where()
                self.problems.add(where, f"{outer} lacks the key '{inner}'", f"Write `{inner}: …`.")
        elif written is None:
            example = f"{outer}: {{{inner}: …}}" if inner else f"{outer}:"
            what = f"kind '{block['kind']}' needs the block '{outer}'"
            self.problems.add(block.where("kind"), what, f"Write `{example}`.")

    def init(self, block: Block, above: list[Stage], kind: Kind | None) -> str | None:
        wanted = kind.init if kind else None
        return None if block.get("init") is None else self.model_of(block["init"], block.where("init"), above, wanted)

    def inputs(self, block: Block, above: list[Stage], kind: Kind | None) -> dict[str, str]:
        written = block.get("inputs")
        if written is None:
            return {}
        if not isinstance(written, Block):
            self.problems.add(block.where("inputs"), "inputs is a mapping", "Write `inputs: {name: $stage}`.")
            return {}
        expected = kind.inputs if kind else {}
        found = {key: self.model_of(v, written.where(key), above, expected.get(key)) for key, v in written.items()}
        return {key: name for key, name in found.items() if name}

    def model_of(self, value: Any, where: str, above: list[Stage], expected: Artifact | None) -> str | None:
        """The stage above that `value` refers to, which must leave what is `expected`."""
        name = self.referred(value, where, above)
        stage = next((s for s in above if s.name == name), None)
        if stage and expected and expected not in stage.kind.leaves:
            scores = "reward_model" in stage.kind.leaves
            fix = "It scores and does not answer; name another." if scores else "Name another."
            self.problems.add(where, f"'{name}' leaves {stage.kind.leaves_words}, not {ARTIFACTS[expected]}", fix)
        return name

    def referred(self, value: Any, where: str, above: list[Stage]) -> str | None:
        name, names = reference(value), [s.name for s in above]
        there = f"Above are: {', '.join('$' + n for n in names)}." if names else "There is no stage above."
        if name is None:
            fix = f"Write `${value}`." if value in names else f"Write `$name` of a stage above. {there}"
            self.problems.add(where, f"{said(value)} is not a stage", fix)
        elif name in names:
            return name
        elif name not in self.names:
            self.problems.add(where, f"no stage '${name}' above this one", there)
        elif name not in self.passed:  # a stage above that is wrong itself is not reported twice
            self.problems.add(where, f"'${name}' is not above this stage", f"References point up. {there}")
        return None

    def sources(self, block: Block, key: str, above: list[Stage]) -> tuple[dict[str, Any], ...]:
        written = block.get(key)
        if written is None:
            return ()
        entries = written if isinstance(written, Items) else Items([written], [block.marks[key]], block.marks[key])
        found = []
        for place, entry in enumerate(entries):
            if isinstance(entry, str):
                entry = Block({"path": entry}, {"path": entries.marks[place]}, entries.marks[place])
            if not isinstance(entry, Block):
                self.problems.add(entries.where(place), "a source is a path or a mapping", "Write `{path: …}`.")
                continue
            values = self.check(SOURCE, entry, "data")
            if isinstance(values.get("path"), str):
                found.append(values | {"path": self.data_path(entry, values["path"], above)})
        shares_fit(entries, block.where(key), self.problems)
        return tuple(found)

    def data_path(self, entry: Block, written: str, above: list[Stage]) -> str:
        """A path that opens from here, a Hub id or `$stage`; a stage must leave rows, a file must be there."""
        if written.startswith("$"):
            name = self.referred(written, entry.where("path"), above)
            stage = next((s for s in above if s.name == name), None)
            if stage and "rows" not in stage.kind.leaves:
                what = f"'{name}' leaves {stage.kind.leaves_words}, not rows"
                self.problems.add(entry.where("path"), what, "Name another.")
            return written
        path = self.local(entry, "path", written)
        return written if path is None else self.file(entry, "path", path)

    def file(self, block: Block, key: str, path: Path) -> str:
        """A path that opens from here; where nothing is, a problem that names what is near."""
        here = Path.cwd()
        shown = str(path.relative_to(here) if path.is_relative_to(here) else path)
        if not path.exists():
            there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            near = difflib.get_close_matches(path.name, there, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else self.relative(block, key)
            self.problems.add(block.where(key), f"no file {shown}", hint)
        return shown

    def block_files(self, block: Block, owner: Owner, values: Mapping[str, Any]) -> dict[str, str]:
        """The keys of a block that name files, relative to the recipe that wrote them."""
        named = {key: values[key] for key in owner.files if isinstance(values.get(key), str)}
        paths = {key: (block.folder(key) / Path(written).expanduser()).resolve() for key, written in named.items()}
        return {key: self.file(block, key, path) for key, path in paths.items()}

    def blocks(self, block: Block, kind: Kind) -> dict[str, dict[str, Any]]:
        checked: dict[str, dict[str, Any]] = {}
        for name, owner in kind.blocks.items():
            written = block.get(name)
            if written is not None and not isinstance(written, Block):
                self.problems.add(block.where(name), f"{name} is a mapping", f"Write `{name}: {{key: value}}`.")
            elif written is not None or name in kind.defaults:
                defaults = dict(kind.defaults.get(name, {}))
                marks = dict.fromkeys(defaults, block.mark)
                given = written if written is not None else Block({}, {}, block.mark)
                whole = Block({**defaults, **given}, {**marks, **given.marks}, given.mark)
                values = self.check(owner, whole, name)
                checked[name] = {**values, **self.block_files(whole, owner, values)}
        return checked

    def require(self, block: Block) -> dict[str, float]:
        written = block.get("require")
        if written is None:
            return {}
        if not isinstance(written, Block):
            self.problems.add(block.where("require"), "require is a mapping", "Write `require: {metric: least}`.")
            return {}
        for key, value in written.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                self.problems.add(
                    written.where(key), f"require.{key} is {said(value)}", "Write the least number allowed."
                )
        return dict(written)

"""One stage while it is read from a config: what is placed, what is left out and why, what differs.

A peer's module takes the keys that need more than a place (`take`); `place_remaining` places the others by the table
that plans use. Everything remembers the line of the config it came from, so that what is wrong is reported there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from ft.data.formats import ANSWERED, UNPAIRED
from ft.errors import Problems
from ft.hub import local_path
from ft.recipe import Kind
from ft.recipe.check import suggest, value_text
from ft.recipe.kind import StandIn, find_stand_in
from ft.recipe.place import MODEL_BLOCK, TOP, Place, place_of
from ft.recipe.yaml import Block, Items, Mark
from ft.secrets import look
from ft.stages import STAGES
from ft.tools.importing.config import TrainingConfig

UNKNOWN = "Nothing is known of this key."

PARENTS = 4
"""How many folders above a config its paths may be relative to: trainers are started where their repository is."""

NOT_IMPORTED: Mapping[str, str] = {
    "push_to_hub": "Nothing is uploaded by itself: `ft export RECIPE STAGE --to DIR` has an option for it.",
    "hub_model_id": "Nothing is uploaded by itself: `ft export RECIPE STAGE --to DIR` has an option for it.",
    "hub_strategy": "Nothing is uploaded by itself.",
    "hub_private_repo": "Nothing is uploaded by itself.",
    "deepspeed": "Several GPUs are used by `ft run --launch recipes/accelerate/zero2.yaml`, or zero3.yaml.",
    "fsdp": "Several GPUs are used by `ft run --launch recipes/accelerate/fsdp.yaml`.",
    "fsdp_config": "Several GPUs are used by `ft run --launch recipes/accelerate/fsdp.yaml`.",
    "torch_dtype": "What is trained is held in float32 and computed as bf16 or fp16 say; write `model: {dtype: …}` to "
    "hold weights otherwise, which needs half the memory and loses small steps to rounding.",
    "dtype": "What is trained is held in float32 and computed as bf16 or fp16 say; write `model: {dtype: …}` to hold "
    "weights otherwise, which needs half the memory and loses small steps to rounding.",
}
"""Keys that a recipe may hold, and that mean something else where a config is only moved."""


@dataclass(frozen=True)
class Omission:
    """A key of the config that the recipe has not."""

    where: str
    key: str
    value: Any
    why: str

    @property
    def matters(self) -> bool:
        """Whether it was written to do something: it is not empty, and not switched off."""
        return self.value not in (None, False, "", 0) and self.value != []

    @property
    def is_unknown(self) -> bool:
        return self.why.startswith(UNKNOWN)

    @property
    def reason(self) -> str:
        """Without what a recipe's own error says first: there is nothing to remove here."""
        why = self.why.removeprefix("Remove it: ").removeprefix("Remove it; ")
        return why[:1].upper() + why[1:] if not why.startswith("ft ") else why

    @property
    def key_and_value(self) -> str:
        """The key and its value, no secret."""
        return f"{self.key}: {'a secret' if any(look(self.value, self.key)) else value_text(self.value)}"

    def __str__(self) -> str:
        return f"{self.where}: {self.key_and_value}. {self.reason}"


@dataclass
class StageDraft:
    """`remaining` holds the keys of the config that nothing has taken yet."""

    config: TrainingConfig
    peer: str
    differences_of_peer: Mapping[str, str]
    problems: Problems
    remaining: Block
    kind_name: str = ""
    nearest: str = ""  # why it is the nearest kind, where ft has none for the method
    model: Block = field(default_factory=lambda: Block({}, {}, Mark("", 0)))
    template: tuple[str, Mark] | None = None
    seed: tuple[Any, Mark] | None = None
    blocks: dict[str, Block] = field(default_factory=dict)
    stage: Block = field(default_factory=lambda: Block({}, {}, Mark("", 0)))
    comments: dict[tuple[str, str], str] = field(default_factory=dict)
    sources: list[Block] = field(default_factory=list)
    eval_sources: list[Block] = field(default_factory=list)
    omissions: list[Omission] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    trains_adapter: bool = False
    evaluation: str = "no"  # when the peer evaluates, where rows are held out and nothing is written

    @property
    def kind(self) -> Kind:
        return STAGES[self.kind_name]

    @property
    def mark(self) -> Mark:
        return self.config.values.mark

    def mark_of(self, key: str) -> Mark:
        return self.config.values.marks.get(key, self.mark)

    def where(self, key: str) -> str:
        return str(self.mark_of(key))

    def block(self, name: str) -> Block:
        """A block of the stage, empty at first."""
        return self.blocks.setdefault(name, Block({}, {}, self.mark))

    # What a peer's module does

    def choose_kind(self, word: Any, key: str) -> None:
        """The kind of the stage by the peer's word for its method; where ft has none, the nearest by meaning."""
        found = find_stand_in(STAGES, str(word))
        if found is None:
            hint = suggest(str(word), [*STAGES])
            self.problems.add(self.where(key), f"'{word}' is a method that ft has no kind for", hint)
            found = next(iter(STAGES)), StandIn()
        self.kind_name, stand_in = found
        if stand_in.why:
            self.nearest = f"ft has no kind '{word}'. {stand_in.fix(self.kind_name)}"
        for dropped in stand_in.without:
            self.omit(dropped, f"It belongs to {word}.")
        for train_key, value in stand_in.train.items():
            self.put("train", train_key, value, f"in place of {word}" if stand_in.why else f"from {key}")

    def take(self, *keys: str) -> Any:
        """The value of the first of `keys` that is written and not empty; all of them are done with."""
        values = [self.remaining.pop(key) for key in keys if key in self.remaining]
        return next((value for value in values if value is not None), None)

    def put(self, block: str, key: str, value: Any, comment: str = "", mark: Mark | None = None) -> None:
        """A key of a block, unless it stands there already."""
        target = self.model if block == MODEL_BLOCK else self.block(block)
        if key not in target:
            target.put(key, value, mark or self.mark)
            if comment:
                self.comments[block, key] = comment

    def defaults(self, block: str, values: Mapping[str, Any]) -> None:
        """What the peer takes where its config has no such key, and a recipe would not."""
        owner = self.kind.blocks.get(block)
        for key, value in values.items():
            if owner and owner.has(key):
                self.put(block, key, value, f"{self.peer}'s default")

    def take_prompt_length(self, key: str) -> None:
        """The limit of a row is that of a prompt where the answers are yet to be made."""
        if not self.kind.rows and (length := self.take(key)) is not None:
            self.put("rows", "max_prompt_length", length, f"from {key}", self.mark_of(key))

    def has(self, key: str) -> bool:
        """Whether the `train:` block of the kind takes the key."""
        return self.kind.blocks["train"].has(key)

    def hold_out(self, size: Any, mark: Mark, key: str) -> None:
        """A share of the rows, or a number of them, that the peer splits off at random."""
        if isinstance(size, (int, float)) and size and not self.eval_sources:
            self.differ("test_split")
            comment = f"{size:,} rows there; a share here" if size >= 1 else f"from {key}"
            self.put("rows", "eval_fraction", 0.01 if size >= 1 else size, comment, mark)

    def omit(self, key: str, why: str) -> None:
        """A key that the recipe has not, if the config has it."""
        if key in self.remaining:
            self.omissions.append(Omission(self.where(key), key, self.remaining.pop(key), why))

    def differ(self, name: str) -> None:
        """Something that the peer does otherwise than ft, said at the stage; `name` is a key of its DIFFERENCES."""
        if (text := self.differences_of_peer[name]) not in self.differences:
            self.differences.append(text)

    def refuse(self, key: str, what: str, fix: str = "") -> None:
        self.problems.add(self.where(key), what, fix)

    def unread(self, entry: Block, read: Sequence[str], name: str) -> None:
        """The keys of an inner mapping that nothing reads."""
        for key in [key for key in entry if key not in read]:
            self.omissions.append(Omission(entry.where(key), f"{name}.{key}", entry[key], UNKNOWN))

    def path(self, text: str, mark: Mark) -> str:
        """A file or folder that is there, made absolute, wherever the trainer was started; else as written."""
        folder = Path(mark.file).resolve().parent
        for start in (Path.cwd(), folder, *list(folder.parents)[:PARENTS]):
            path = local_path(text, start)
            if path and path.exists():
                return str(path.resolve())
        return text

    def source(self, values: Mapping[str, Any], mark: Mark, *, held_out: bool = False) -> None:
        """A source of rows; keys without a value are left out."""
        block = Block({}, {}, mark)
        if self.kind.rows == "labelled answers" and values.get("format") in ANSWERED:
            values = {**values, "format": next(iter(UNPAIRED))}  # the answers are those rows', and labels stand beside
        for key, value in values.items():
            if value not in (None, "", {}, []):
                block.put(key, self.path(value, mark) if key == "path" else value, mark)
        (self.eval_sources if held_out else self.sources).append(block)

    def place_remaining(self) -> None:
        """Place what is left by the table of names; keys under their present name first, as they decide."""
        for key in [*self.remaining]:
            if key in NOT_IMPORTED:
                self.omit(key, NOT_IMPORTED[key])
        places = {key: place_of(key, self.kind) for key in self.remaining}
        present = [key for key, place in places.items() if isinstance(place, Place) and place.key == key]
        for key in [*present, *(key for key in places if key not in present)]:
            self._place(key, places[key])

    def _place(self, key: str, place: Place | str | None) -> None:
        if not isinstance(place, Place):
            self.omit(key, place or f"{UNKNOWN} {self._suggestion(key)}".rstrip())
            return
        value, mark = _switched(self.remaining[key], place, self.kind), self.mark_of(key)
        value_here = None if value is None else place.value(value)
        if value_here is None:
            self.omit(key, "It is empty, or off.")
        elif place.block == TOP:
            self._place_at_top(place.key, value_here, mark, key)
        elif place.key in self._target(place.block):
            self.omit(key, f"{place.block}.{place.key} is decided by another key.")
        else:
            self.put(place.block, place.key, value_here, f"from {key}" if place.key != key else "", mark)
            del self.remaining[key]

    def _target(self, block: str) -> Mapping[str, Any]:
        return self.model if block == MODEL_BLOCK else self.blocks.get(block, {})

    def _place_at_top(self, key: str, value: Any, mark: Mark, text: str) -> None:
        if key == "model" and isinstance(value, str):
            self.model.put("path", self.path(value, mark), mark)
        elif key == "chat_template":
            self.template = self.template or (value, mark)
        elif key == "seed":
            self.seed = (value, mark)
        else:
            return self.omit(text, "The recipe has a name and stages of its own.")
        del self.remaining[text]
        return None

    def _suggestion(self, key: str) -> str:
        """What it may be a slip of."""
        words = [word for owner in self.kind.blocks.values() for word in owner.schema().annotations]
        hint = suggest(key, words)
        return hint if hint.startswith("Did") else ""


def _switched(value: Any, place: Place, kind: Kind) -> Any:
    """`yes` and `no` are true and false for the YAML that other trainers read, and words for ours."""
    owner = kind.blocks.get(place.block)
    annotation = owner.schema().annotations.get(place.key) if owner else None
    takes_switch = annotation is bool or bool in get_args(annotation)
    return SWITCHES.get(value.lower(), value) if takes_switch and isinstance(value, str) else value


SWITCHES = {"yes": True, "on": True, "no": False, "off": False}


def items_of(value: Any, mark: Mark) -> list[tuple[Any, Mark]]:
    """A list's items with their lines; one value is a list of it, and commas part a string."""
    if isinstance(value, Items):
        return [*zip(value, value.marks, strict=True)]
    if isinstance(value, str):
        return [(part.strip(), mark) for part in value.split(",") if part.strip()]
    return [] if value is None else [(value, mark)]


def is_on(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "yes", "on", "1")


def sequence(values: Sequence[Any], mark: Mark) -> Items:
    return Items([*values], [mark] * len(values), mark)

"""Instructions meant for a whole dialogue: the bank they are drawn from, their wordings, and who obeyed them.

A bank is a YAML file (`kinds:`, and what else `Bank` holds) or a JSONL file with a kind a line. No code stands in it:
a kind names its checker, one of `ft.gatt.checkers`. docs/gatt.md tells how to write one.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ft.errors import Problems, fail
from ft.files import digest
from ft.gatt.checkers import CHECKERS, Checker, contains_phrase, words

Side = Literal["train", "values", "kinds"]

MAX_KINDS = 3  # kinds in one instruction (arXiv:2307.09288, section 3.3 combines its constraints at random)
COUNT_SHARES = (0.5, 0.35, 0.15)  # shares of instructions of one, two and three kinds; the paper does not say
TERSE = 0.5  # share of training rows whose instruction is cut down to "Figure: Napoleon." (the same section)
TRIES = 100  # draws for another instruction, after which there is none
STOP = "No more {kind}, please."  # takes a kind back that has no `stop:` of its own
QUOTED = 6  # so many words of an instruction in a row are a quotation, whatever sentence they are of


@dataclass(frozen=True)
class InstructionKind:
    """One kind of instruction.

    full      wordings at length, in which {value} stands for the value
    terse     the short form, "Figure: {value}."
    values    what may be asked for; a kind without values ("Be brief.") has the one value ""
    held_out  values that no training row asks for, or true: the whole kind is for evaluation only
    check     tells whether an answer obeys; None: nobody can tell by code
    weight    how often the kind is drawn beside the others
    stop      wordings that take this kind back and leave what else was asked for, in which {value} stands for the value
    """

    name: str
    full: tuple[str, ...]
    terse: str
    values: tuple[str, ...] = ("",)
    held_out: tuple[str, ...] | bool = ()
    check: Checker | None = None
    weight: float = 1.0
    stop: tuple[str, ...] = ()

    def values_of(self, side: Side) -> tuple[str, ...]:
        """The values of one side; empty where the kind has none there."""
        if isinstance(self.held_out, bool) and self.held_out:
            return self.values if side == "kinds" else ()
        held_out = self.held_out if isinstance(self.held_out, tuple) else ()
        by_side = {"train": [v for v in self.values if v not in held_out], "values": list(held_out), "kinds": []}
        return tuple(by_side[side])


@dataclass(frozen=True)
class Instruction:
    """What a dialogue is to obey: a value of each kind, in words at length and in the terse form.

    `is_terse` says which of the two a training row shows; the answers are sampled under the long one.
    """

    values: Mapping[str, str]
    full: str
    terse: str
    is_terse: bool = False

    @property
    def text(self) -> str:
        return self.terse if self.is_terse else self.full


@dataclass(frozen=True)
class Bank:
    """Kinds to draw instructions from.

    excludes  pairs of kinds that contradict each other, as brief and twice do
    normal    wordings that take an instruction back
    name      hash of what the file says; a comment or another file name leaves it as it is
    """

    kinds: Mapping[str, InstructionKind]
    excludes: tuple[frozenset[str], ...] = ()
    normal: tuple[str, ...] = ("Back to normal, please.", "Forget my earlier instructions.", "Stop that now.")
    name: str = ""

    @staticmethod
    def read(path: Path) -> Bank:
        """The bank in a file. Raises UserError with everything that is wrong with it."""
        tree = _tree(path)
        return replace(_Reader(str(path), _lines(path)).bank(tree), name=digest(tree))

    def draw(self, rng: random.Random, side: Side = "train", most: int = MAX_KINDS, fewest: int = 1) -> Instruction:
        """One to three kinds, never one twice and never two that exclude each other; half of the time terse."""
        pools = {name: values for name, kind in self.kinds.items() if (values := kind.values_of(side))}
        count = max(fewest, min(most, rng.choices(range(1, MAX_KINDS + 1), COUNT_SHARES)[0]))
        # By weight and without repeats (Efraimidis and Spirakis 2006).
        names = sorted(pools, key=lambda name: rng.random() ** (1 / self.kinds[name].weight), reverse=True)
        chosen: dict[str, str] = {}
        for name in names:
            if len(chosen) < count and not any(self.contradict(name, other) for other in chosen):
                chosen[name] = rng.choice(pools[name])
        return self.compose(chosen, rng)

    def draw_another(
        self,
        first: Instruction,
        rng: random.Random,
        where: str,
        side: Side = "train",
        most: int = MAX_KINDS,
        same_kinds: float = 0.0,
    ) -> Instruction:
        """An instruction that asks for something else than `first`, a share of them for other values of its kinds.

        Raises UserError where the bank has none.
        """
        for _ in range(TRIES):
            same = rng.random() < same_kinds
            other = self.draw_values(first, rng, side) if same else self.draw(rng, side, most)
            if other.values != first.values:
                return other
        what = f"has no other instruction than '{first.full}', so none can change"
        raise fail(where, what, "Give it another value, or let none change (`switch: 0`, `change_turn: null`).")

    def draw_values(self, first: Instruction, rng: random.Random, side: Side) -> Instruction:
        """The kinds of `first` with values drawn anew."""
        return self.compose({name: rng.choice(self.kinds[name].values_of(side)) for name in first.values}, rng)

    def revoke_one(self, held: Instruction, rng: random.Random) -> tuple[str, Instruction]:
        """Of an instruction of several kinds, a text that takes one of them back, and the instruction that is left."""
        name = rng.choice(sorted(held.values))
        wordings = self.kinds[name].stop or (STOP.replace("{kind}", name),)
        text = rng.choice(wordings).replace("{value}", held.values[name])
        return text, self.compose({kind: value for kind, value in held.values.items() if kind != name}, rng)

    def contradict(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self.excludes

    def compose(self, values: Mapping[str, str], rng: random.Random) -> Instruction:
        """The instruction in words, a wording of each kind by chance, the kinds in the order given."""
        full = [rng.choice(self.kinds[name].full).replace("{value}", value) for name, value in values.items()]
        terse = [self.kinds[name].terse.replace("{value}", value) for name, value in values.items()]
        return Instruction(dict(values), " ".join(full), " ".join(terse), rng.random() < TERSE)

    def obeyed_kinds(self, answer: str, values: Mapping[str, str]) -> dict[str, bool]:
        """Kind → whether the answer obeys it, for the kinds that have a checker."""
        obeyed = {}
        for name, value in values.items():
            kind = self.kinds[name]
            if kind.check is not None:
                obeyed[name] = kind.check(answer, value, kind.values)
        return obeyed

    def has(self, side: Side) -> bool:
        return self.values(side) > 0

    def combines(self, side: Side) -> bool:
        """Whether an instruction of two kinds can be drawn on one side."""
        names = [name for name, kind in self.kinds.items() if kind.values_of(side)]
        return any(not self.contradict(one, other) for one in names for other in names if one != other)

    def values(self, side: Side) -> int:
        """How many values its kinds have on one side; with one there is one instruction."""
        return sum(len(kind.values_of(side)) for kind in self.kinds.values())


def quotes_instruction(answer: str, instruction: str) -> bool:
    """Whether an answer repeats the instruction: a whole sentence of two words or more, or six words in a row.

    A row with such an answer would show the instruction in every later turn, and teach to copy it from there.
    """
    answer_words = words(answer)
    for sentence in re.split(r"[.!?;\n]+", instruction):
        sentence_words = words(sentence)
        runs = (
            [sentence_words]
            if len(sentence_words) <= QUOTED
            else [sentence_words[i : i + QUOTED] for i in range(len(sentence_words) - QUOTED + 1)]
        )
        if len(sentence_words) >= 2 and any(contains_phrase(answer_words, " ".join(run)) for run in runs):
            return True
    return False


# Reading


def _tree(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return {"kinds": _kinds(path, [json.loads(line) for line in text.splitlines() if line.strip()])}
        return yaml.safe_load(text)
    except OSError as error:
        raise fail(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise fail(str(path), "is not UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:
        raise fail(str(path), f"cannot be read: {' '.join(str(error).split())}") from error


def _lines(path: Path) -> dict[str, int]:
    """Kind → the line of the file it begins on, counted from 1; of a file that `_tree` has read."""
    import yaml

    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return {json.loads(line)["kind"]: n for n, line in enumerate(text.splitlines(), 1) if line.strip()}
    root: Any = yaml.compose(text, yaml.SafeLoader)
    blocks = [node for key, node in root.value if key.value == "kinds"] if isinstance(root, yaml.MappingNode) else []
    inside = [node for node in blocks if isinstance(node, yaml.MappingNode)]
    return {key.value: key.start_mark.line + 1 for node in inside for key, _ in node.value}


def _kinds(path: Path, lines: Sequence[Any]) -> dict[str, Any]:
    """Name → the rest of its line."""
    kinds: dict[str, Any] = {}
    for line in lines:
        if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
            fix = 'Write {"kind": …, "full": […], "terse": …, "values": […]}.'
            raise fail(str(path), "a line is not a kind", fix)
        if line["kind"] in kinds:
            raise fail(str(path), f"two lines are of the kind '{line['kind']}'", "Write all its values in one.")
        kinds[line["kind"]] = {key: value for key, value in line.items() if key != "kind"}
    return kinds


@dataclass
class _Reader:
    """Turns a tree into a bank and collects what is wrong with it; `lines` says where each kind begins."""

    file: str
    lines: Mapping[str, int] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)

    def bank(self, tree: object) -> Bank:
        if not isinstance(tree, dict) or not isinstance(tree.get("kinds"), dict) or not tree["kinds"]:
            raise fail(self.file, "holds no kinds", "Write `kinds: {hobby: {full: […], terse: …, values: […]}}`.")
        self.check_keys(self.file, tree, ("kinds", "excludes", "normal"))
        kinds = {str(name): self.kind(str(name), entry) for name, entry in tree["kinds"].items()}
        optional: dict[str, Any] = {}
        if "excludes" in tree:
            optional["excludes"] = self.pairs(tree["excludes"], kinds)
        if "normal" in tree:
            optional["normal"] = self.texts(f"{self.file}: normal", tree["normal"])
        self.problems.raise_any()
        return Bank({name: kind for name, kind in kinds.items() if kind}, **optional)

    def kind(self, name: str, entry: object) -> InstructionKind | None:
        line = f":{self.lines[name]}" if name in self.lines else ""
        where, before = f"{self.file}{line}: kind '{name}'", len(self.problems)
        if not isinstance(entry, dict):
            self.problems.add(where, "is not a mapping", "Write `{full: […], terse: …, values: […]}`.")
            return None
        self.check_keys(where, entry, ("full", "terse", "values", "held_out", "check", "weight", "stop"))
        full = self.texts(f"{where}: full", entry.get("full"))
        values = self.texts(f"{where}: values", entry["values"]) if "values" in entry else ("",)
        terse = self.terse(where, entry.get("terse"), name, values)
        if values != ("",):
            for wording in [w for w in (*full, terse) if "{value}" not in w]:
                self.problems.add(where, f"'{wording}' leaves out the value", "Write {value} in it.")
        held_out = self.held_out(where, entry.get("held_out", False), values)
        check = self.check(where, entry.get("check"), values)
        weight = entry.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            self.problems.add(where, f"weight is {weight!r}; it is a number above 0", "Write `weight: 2`.")
        stop = self.texts(f"{where}: stop", entry["stop"]) if "stop" in entry else ()
        return (
            InstructionKind(name, full, terse, values, held_out, check, weight, stop)
            if len(self.problems) == before
            else None
        )

    def held_out(self, where: str, value: object, values: Sequence[str]) -> tuple[str, ...] | bool:
        if isinstance(value, bool):
            return value
        held_out = self.texts(f"{where}: held_out", value)
        for value in [v for v in held_out if v not in values]:
            self.problems.add(where, f"held_out '{value}' is none of its values", "Add it to values.")
        if set(held_out) == set(values):
            self.problems.add(where, "all of its values are held out", "Write `held_out: true`.")
        return held_out

    def terse(self, where: str, value: object, name: str, values: Sequence[str]) -> str:
        if value is None:
            return f"{name.capitalize()}." if values == ("",) else f"{name.capitalize()}: {{value}}."
        if not isinstance(value, str) or not value.strip():
            self.problems.add(where, "terse is not a text", f'Write "{name.capitalize()}: {{value}}."')
            return "{value}"
        return value

    def check(self, where: str, value: object, values: Sequence[str]) -> Checker | None:
        """`check: ends`, or `check: {ends: {text: …}}`; tried on every value."""
        if value is None:
            return None
        entry = {value: None} if isinstance(value, str) else value
        if not isinstance(entry, dict) or len(entry) != 1:
            self.problems.add(where, "check is not one checker", "Write `check: contains`, or `check: {ends: {…}}`.")
            return None
        name, parameters = next(iter(entry.items()))
        if name not in CHECKERS:
            self.problems.add(where, f"no checker '{name}'", f"There are: {', '.join(CHECKERS)}.")
            return None
        try:
            check = CHECKERS[name](**(parameters or {}))
            for value in values:
                check("yes", value, values)
        except (TypeError, ValueError) as error:
            self.problems.add(where, f"check {name}: {str(error).rpartition('__init__() ')[2]}")
            return None
        return check

    def texts(self, where: str, value: object) -> tuple[str, ...]:
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not listed or not all(isinstance(t, str) and t.strip() for t in listed):
            self.problems.add(where, "is not a list of texts", "Put quotes around words that YAML reads otherwise.")
            return ()
        return tuple(listed)

    def pairs(self, value: Any, kinds: Mapping[str, Any]) -> tuple[frozenset[str], ...]:
        good = isinstance(value, list) and all(
            isinstance(pair, list) and len(set(map(str, pair))) == 2 and all(isinstance(name, str) for name in pair)
            for pair in value
        )
        if not good or not all(name in kinds for pair in value for name in pair):
            self.problems.add(f"{self.file}: excludes", "is not a list of pairs of kinds", "Write [[brief, twice]].")
            return ()
        return tuple(frozenset(pair) for pair in value)

    def check_keys(self, where: str, entry: Mapping[str, Any], keys: Sequence[str]) -> None:
        for key in [k for k in entry if k not in keys]:
            self.problems.add(where, f"no key '{key}'", f"There are: {', '.join(keys)}.")


def with_values(path: Path, kind: str, values: Sequence[str], held_out: Sequence[str]) -> str:
    """The bank's text with other values of one kind, as YAML. Raises UserError where the bank has no such kind."""
    import yaml

    tree = _tree(path)
    bank = _Reader(str(path), _lines(path)).bank(tree)
    if kind not in bank.kinds:
        raise fail(str(path), f"no kind '{kind}'", f"There are: {', '.join(bank.kinds)}.")
    entry = tree["kinds"][kind]
    entry |= {"values": list(values)} | ({"held_out": list(held_out)} if held_out else {})
    if not held_out and not isinstance(entry.get("held_out"), bool):
        entry.pop("held_out", None)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=118)

"""Rows for Ghost Attention, made with the newest policy: see ft.data.gatt for what a row is, docs/gatt.md for use."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ft.data.chat import Renderer
from ft.data.dialogue import BadRow, Message
from ft.data.gatt import Place, Script, changed, cuts, is_right, leaks, obeyed, row, score, script, taken_back
from ft.data.instructions import Bank
from ft.data.mixture import BadRows, mixed
from ft.data.read import Source
from ft.errors import UserError, fail
from ft.files import read_json
from ft.models.generate import Sampling
from ft.models.rollout import Dialogue, Turn
from ft.models.speak import Speaker
from ft.stages.job import Job
from ft.stages.rolled import answered

ROWS = "rows.jsonl"


@dataclass(frozen=True)
class GattOptions:
    """How rows are made: a recipe's `gatt:` block.

    bank            the instruction bank, a YAML or JSONL file
    turns           longest dialogue, in turns; what follows is left out
    rows_each       rows made of one dialogue: all of it, and beginnings of it drawn by chance
    sample          all: the policy answers every turn. last: only those rows end with, after the dialogue's own answers
    window          turns the policy sees at most, the one it answers included; null: all of the dialogue. Answers are
                    sampled in stretches of window - 1 turns, each after a turn with the dialogue's own answer
    plain           share of rows whose earlier answers are the dialogue's own, which know nothing of the instruction
    samples         times each dialogue is answered; the best answer by score is kept
    filter          drop answers of which a checker, or the row's `answers`, says that they are not as they should be
    place           where the instruction stands; auto: in the system message if the chat template takes one
    loss            last: one answer of a row is trained. all_turns: all of them, the ablation
    switch          share of dialogues in which the instruction changes
    normal          share of these in which it is taken back
    """

    bank: str
    turns: int = 20
    rows_each: int = 1
    sample: Literal["all", "last"] = "all"
    window: int | None = None
    plain: float = 0.5
    samples: int = 1
    filter: bool = True
    place: Literal["auto", "system", "first_user"] = "auto"
    loss: Literal["last", "all_turns"] = "last"
    switch: float = 0.0
    normal: float = 0.25
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 64
    batch_size: int = 64
    on_bad_row: Literal["error", "reject"] = "error"

    def __post_init__(self) -> None:
        for name in ("turns", "rows_each", "samples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("plain", "switch", "normal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if self.window is not None and self.window < 2:
            raise ValueError(f"window is {self.window}; it must be at least 2")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 need a temperature above 0: greedy answers are all the same")


def make(job: Job) -> dict[str, Any]:
    """Write rows.jsonl, and return what became of the dialogues."""
    options = GattOptions(**job.block("gatt"))
    bank = Bank.read(Path(options.bank))
    scripts, bad = _scripts(job, options, bank)
    speaker = Speaker(job.model, job.init, job.template, job.blocks.get("quantization"))
    maker = _Maker(job, options, bank, place_of(options.place, speaker.renderer))
    sampling = Sampling(options.max_new_tokens, options.temperature, options.top_p, job.seed)
    dialogues = [d for one in scripts for sample in range(options.samples) for d in maker.dialogues(one, sample)]
    answers = answered(speaker, dialogues, sampling, options.batch_size, job.folder / "answers.jsonl", job.name)
    beside = job.folder / f".{ROWS}"
    with beside.open("w", encoding="utf-8") as out:
        for one in scripts:
            for made in maker.rows(one, [maker.said(one, sample, answers) for sample in range(options.samples)]):
                out.write(json.dumps(made, ensure_ascii=False) + "\n")
    if not maker.counts["rows"]:
        raise fail(
            job.where, f"no row is left of {len(scripts)} dialogues: {dict(maker.counts)}", "Look at answers.jsonl."
        )
    os.replace(beside, job.folder / ROWS)
    return {"dialogues": len(scripts), "rejected": bad, **maker.numbers()}


def place_of(written: str, renderer: Renderer) -> Place:
    """Where the instruction stands: in the system message, or in the first user message where there can be none."""
    if written == "first_user":
        return "first_user"
    try:
        renderer.prompt([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is it?"}])
    except (BadRow, UserError) as error:
        if written == "auto":
            return "first_user"
        raise fail("chat template", f"takes no system message: {error}", "Write `place: first_user`.") from error
    return "system"


def _scripts(job: Job, options: GattOptions, bank: Bank) -> tuple[list[Script], int]:
    """A script a dialogue, each drawn with a seed of its own; and how many rows were bad."""
    bad = BadRows(options.on_bad_row, job.folder / "rejects.jsonl")
    found = []
    for number, located in enumerate(mixed([Source(**source) for source in job.data], seed=job.seed, bad=bad)):
        chance = random.Random(f"{job.seed} gatt {number}")
        try:
            one = script(located.row, str(number), located.where, bank.draw(chance), options.turns)
            _can_be_made(one, options)
        except BadRow as error:
            bad.add(located.where, located.row, error)
        else:
            found.append(_switched(one, options, bank, chance))
    bad.finish()
    return found, bad.count


def _switched(one: Script, options: GattOptions, bank: Bank, chance: random.Random) -> Script:
    """Now and then with an instruction that changes, or is taken back, at a later turn."""
    if chance.random() >= options.switch or len(one.questions) < 2:
        return one
    turn = chance.randrange(1, len(one.questions))
    if chance.random() < options.normal:
        return taken_back(one, turn, chance.choice(bank.normal))
    return changed(one, turn, bank.draw(chance))


def _can_be_made(one: Script, options: GattOptions) -> None:
    """The dialogue's own answers are there where the options need them: of every turn before the last."""
    needed = options.plain or options.window or options.sample == "last"
    if needed and None in one.answers[:-1]:
        raise BadRow("a turn has no answer", "Set plain: 0, sample: all and window: null, or complete the dialogue.")


def _key(one: Script, sample: int, first: int = 0) -> str:
    return f"{one.key}/{sample}/{first}"


@dataclass
class _Maker:
    """Rows of scripts and answers, and the count of what became of them."""

    job: Job
    options: GattOptions
    bank: Bank
    place: Place
    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    def dialogues(self, one: Script, sample: int) -> list[Dialogue]:
        """What the policy is asked, in stretches: the newest instruction stands before every user message."""
        last, ends, count = self.options.sample == "last", self.ends(one), len(one.questions)
        turns = [
            Turn(one.asked(t), given=one.answers[t] if last and t != ends[-1] else None, ask=not last or t in ends)
            for t in range(count)
        ]
        start = [{"role": "system", "content": one.system}] if one.system else []
        if self.options.window is None:
            return [Dialogue(_key(one, sample), turns, start)]
        stretch = self.options.window - 1
        return [
            Dialogue(_key(one, sample, first), turns[first : first + stretch], [*start, *self.before(one, first)])
            for first in range(0, count, stretch)
        ]

    def before(self, one: Script, turn: int) -> list[Message]:
        """The turn before, as the dialogue has it."""
        if turn == 0:
            return []
        said = one.answers[turn - 1]
        assert said is not None  # _can_be_made
        return [{"role": "user", "content": one.questions[turn - 1]}, {"role": "assistant", "content": said}]

    def said(self, one: Script, sample: int, answers: Mapping[str, list[str | None]]) -> list[str | None]:
        """The answers of all stretches in a row, as far as none is missing."""
        found: list[str | None] = []
        for dialogue in self.dialogues(one, sample):
            found += answers[dialogue.key]
            if len(answers[dialogue.key]) < len(dialogue.turns):
                break
        return found

    def ends(self, one: Script) -> list[int]:
        return cuts(one, self.options.rows_each, self.chance(one))

    def chance(self, one: Script) -> random.Random:
        return random.Random(f"{self.job.seed} rows {one.key}")

    def rows(self, one: Script, answers: Sequence[Sequence[str | None]]) -> Iterator[dict[str, Any]]:
        """The rows of one dialogue that pass; `answers` are those of each of its samples."""
        chance = self.chance(one)
        for turn in cuts(one, self.options.rows_each, chance):
            plain = self.options.sample == "last" or chance.random() < self.options.plain
            found = [self.candidate(one, turn, said, plain) for said in answers]
            good = [candidate for candidate in found if isinstance(candidate, dict)]
            if good:
                yield self.taken(one, max(good, key=lambda made: made["score"] or 0.0))  # the first of the best
            else:
                self.counts[str(found[0])] += 1

    def candidate(self, one: Script, turn: int, said: Sequence[str | None], plain: bool) -> dict[str, Any] | str:
        """The row that ends with this answer, or why there is none."""
        if len(said) <= turn:
            return "too_long"
        used = {turn: said[turn]} if plain else dict(enumerate(said[: turn + 1]))
        texts = [text for text in used.values() if text is not None]
        if len(texts) < len(used) or not all(text.strip() for text in texts):
            return "unfinished"
        self.counts["answers"] += 1
        if leaks(one, texts):
            return "leaks"
        answer = texts[-1]
        told, right = obeyed(self.bank, one, turn, answer), is_right(one, turn, answer)
        self.counts["judged"] += bool(told)
        self.counts["obeying"] += bool(told) and all(told.values())
        if self.options.filter and not all(told.values()):
            return "disobeying"
        if self.options.filter and right is False:
            return "wrong"
        made = row(one, turn, [text or "" for text in said], plain=plain, place=self.place, loss=self.options.loss)
        return made | self.provenance(one, turn, plain) | {"obeyed": told, "right": right, "score": score(told, right)}

    def provenance(self, one: Script, turn: int, plain: bool) -> dict[str, Any]:
        """Where the row is from: enough to make it again, and to ask which rows taught what."""
        holding, options = one.holding(turn), self.options
        return {
            "policy": policy_of(self.job),
            "source": one.where.rpartition("/")[2],
            "instruction": dict(holding.values) if holding else {},
            "terse": one.first.is_terse,
            "changed": bool(one.change and turn >= one.change.turn),
            "turn": turn + 1,
            "context": "plain" if plain else "own",
            "sampling": {key: getattr(options, key) for key in ("temperature", "top_p", "samples", "sample")},
        }

    def taken(self, one: Script, made: dict[str, Any]) -> dict[str, Any]:
        self.counts["rows"] += 1
        self.counts["terse_rows"] += made["terse"]
        self.counts["changed_rows"] += made["changed"]
        self.kinds.update(made["instruction"].keys())
        return made

    def numbers(self) -> Mapping[str, Any]:
        """Rows, what was dropped and why, and the share of sampled answers that obey."""
        shown = ("rows", "answers", "terse_rows", "changed_rows")
        dropped = ("too_long", "unfinished", "leaks", "disobeying", "wrong")
        numbers: dict[str, Any] = {name: self.counts[name] for name in shown}
        numbers |= {f"dropped_{name}": self.counts[name] for name in dropped}
        if self.counts["judged"]:
            numbers["obeying"] = self.counts["obeying"] / self.counts["judged"]
        return numbers | {"kinds": dict(self.kinds), "place": self.place, "options": asdict(self.options)}


def policy_of(job: Job) -> str:
    """What the answers were sampled from: the fingerprint of the stage, or the model's name."""
    if job.init:
        return str((read_json(job.init / "done.json") or {}).get("fingerprint", job.init.name))
    return job.model.path if job.model else ""

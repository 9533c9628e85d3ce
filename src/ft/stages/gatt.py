"""Rows for Ghost Attention, made with the newest policy.

ft.gatt.dialogues says what a row is, docs/gatt.md how to use it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ft import artifacts
from ft.data.formats.fields import CONVERSATION_COLUMNS
from ft.data.formats.messages import BadRow, Message
from ft.data.mix import BadRows, mix_rows
from ft.data.prompts import Prompt, Sample
from ft.data.sources.read import Source
from ft.encode.conversation import Renderer
from ft.errors import UserError, fail
from ft.files import append_lines, atomic
from ft.gatt.dialogues import (
    Place,
    Script,
    change_instruction,
    check_answers,
    is_right,
    leaks_instruction,
    obeyed_kinds,
    revoke_instruction,
    row,
    row_ends,
    score,
    script,
)
from ft.gatt.instructions import Bank
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.decoding import decoding_of, with_decoding
from ft.models.generation.dialogue import Dialogue, Turn
from ft.models.generation.executor import Loader
from ft.models.generation.resumable import dialogue_answers
from ft.models.identity import hashes, model_identity, policy_identity
from ft.models.processor import tokenizer_of
from ft.recipe import Stage
from ft.recipe.job import Job
from ft.rl.scoring import AnswerScorer

RECENT = 4  # turns between a change and the end of its row, at most; half of the rows end in the turn of the change
SAMPLED = ("temperature", "top_p", "samples", "sample", "window")  # the options that a row's provenance names


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
    samples         times each dialogue is answered; the best answer is kept, by the reward model `scorer` of the
                    stage's inputs, or without one by checkers and the row's `answers`
    filter          drop answers of which a checker, or the row's `answers`, says that they are not as they should be
    place           where the instruction stands; auto: in the system message if the chat template takes one
    loss            last: one answer of a row is trained. all_turns: all of them, the ablation
    switch          share of dialogues in which the instruction changes
    normal          share of these changes that take it back
    partly          share of these that take back one of several kinds, and leave the others
    same_kinds      share of new instructions that ask for other values of the old one's kinds: there the two collide
    changes         how often it changes at most; the number is drawn evenly
    late            share of the dialogues that change in which no instruction holds before the first change
    recent_switch   share of the dialogues that change in which the last change comes in the turn where the row ends, or
                    up to RECENT turns before, behind answers that obey what held until then. There the newest
                    instruction and the nearest answers collide: a policy that learns to copy the nearest answer, which
                    is right in every other row, fails in the turn of the change and repeats that
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
    partly: float = 0.0
    changes: int = 1
    same_kinds: float = 0.5
    late: float = 0.0
    recent_switch: float = 0.0
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 64
    batch_size: int = 64
    on_bad_row: Literal["error", "reject"] = "error"

    def __post_init__(self) -> None:
        for name in ("turns", "rows_each", "samples", "max_new_tokens", "batch_size", "changes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("plain", "switch", "normal", "partly", "same_kinds", "late", "recent_switch"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if self.window is not None and self.window < 2:
            raise ValueError(f"window is {self.window}; it must be at least 2")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it is 0 (greedy) or above")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 need a temperature above 0: greedy answers are all the same")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it is a share, above 0 and up to 1")


def check_bank(stage: Stage) -> None:
    """UserError with everything that is wrong in an instruction bank, the `bank` of any of the stage's blocks."""
    for bank in [block["bank"] for block in stage.blocks.values() if "bank" in block]:
        Bank.read(Path(bank))


def make(job: Job) -> dict[str, Any]:
    """Write rows.jsonl, and return what became of the dialogues."""
    options = with_decoding(GattOptions(**job.block("gatt")), job)
    bank = Bank.read(Path(options.bank))
    if not bank.has("train"):
        raise fail(options.bank, "all of its kinds are held out, so no row can ask for one", "Give it another kind.")
    scripts, bad = _scripts(job, options, bank)
    model = Loader(ChatModel, job.model, job.init, job.template, job.blocks.get("quantization"))
    renderer = Renderer(tokenizer_of(job.model, job.init, job.template))
    maker = GattRowMaker(job, options, bank, place_of(options.place, renderer))
    sampling = decoding_of(job).sampling(options.max_new_tokens, options.temperature, options.top_p, job.seed)
    dialogues = [d for one in scripts for sample in range(options.samples) for d in maker.dialogues(one, sample)]
    answers = dialogue_answers(model, dialogues, sampling, options.batch_size, job.folder / artifacts.ANSWERS, job.name)
    model.unload()  # a reward model may need the memory next
    candidates = [group for one in scripts for group in maker.candidates(one, answers)]
    scores = maker.scores([one for group in candidates for one in group])
    with atomic(job.folder / artifacts.ROWS) as beside:
        append_lines(beside, maker.rows(candidates, scores))
        if not maker.counts["rows"]:
            what = f"no row is left of {len(scripts)} dialogues: {dict(maker.counts)}"
            raise fail(job.where, what, "Look at answers.jsonl.")
    shortened = sum(one.left_out > 0 for one in scripts)
    return {"dialogues": len(scripts), "rejected": bad, "shortened": shortened, **maker.numbers()}


def place_of(place_option: str, renderer: Renderer) -> Place:
    """Where the instruction stands: in the system message, or in the first user message where there can be none."""
    if place_option == "first_user":
        return "first_user"
    try:
        renderer.prompt([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is it?"}])
    except (BadRow, UserError) as error:
        if place_option == "auto":
            return "first_user"
        raise fail("chat template", f"takes no system message: {error}", "Write `place: first_user`.") from error
    return "system"


def _scripts(job: Job, options: GattOptions, bank: Bank) -> tuple[list[Script], int]:
    """A script a dialogue, each drawn with a seed of its own; and how many rows were bad."""
    bad = BadRows(options.on_bad_row, job.folder / artifacts.REJECTS)
    scripts = []
    sources = [Source(**source) for source in job.data]
    rows = mix_rows(sources, seed=job.seed, bad=bad, reads=CONVERSATION_COLUMNS)
    for number, source_row in enumerate(rows):
        chance = random.Random(f"{job.seed} gatt {number}")
        try:
            one = script(source_row.row, str(number), source_row.where, bank.draw(chance), options.turns)
            _check_own_answers(one, options)
        except BadRow as error:
            bad.add(source_row.where, source_row.row, error)
        else:
            scripts.append(_maybe_change(one, options, bank, chance))
    bad.finish()
    return scripts, bad.count


def _maybe_change(one: Script, options: GattOptions, bank: Bank, chance: random.Random) -> Script:
    """Now and then with an instruction that changes, or is taken back, at later turns."""
    if chance.random() >= options.switch or len(one.questions) < 2:
        return one
    if _draw(options.late, chance):
        one = replace(one, first=None)
    for turn in _change_turns(len(one.questions), options, chance):
        one = _change(one, turn, options, bank, chance)
    return one


def _draw(share: float, chance: random.Random) -> bool:
    """Whether a share falls on this draw. A share of 0 draws nothing: rows made without it stay as they were."""
    return share > 0 and chance.random() < share


def _change_turns(turns: int, options: GattOptions, chance: random.Random) -> list[int]:
    """The turns in which the instruction changes, in their order; never the first."""
    if _draw(options.recent_switch, chance):
        last = max(1, turns - 1 - chance.choice([0, chance.randint(1, RECENT)]))
    else:
        last = chance.randrange(1, turns)
    count = min(last, chance.randint(1, options.changes) if options.changes > 1 else 1)
    return [*sorted(chance.sample(range(1, last), count - 1)), last]


def _change(one: Script, turn: int, options: GattOptions, bank: Bank, chance: random.Random) -> Script:
    """The script with another instruction from `turn` on, with a part of the one before, or with none."""
    held = one.instruction_at(turn - 1)
    if held is None:
        return change_instruction(one, turn, bank.draw(chance))
    if chance.random() >= options.normal:
        other = bank.draw_another(held, chance, options.bank, same_kinds=options.same_kinds)
        return change_instruction(one, turn, other)
    if len(held.values) > 1 and _draw(options.partly, chance):
        return revoke_instruction(one, turn, *bank.revoke_one(held, chance))
    return revoke_instruction(one, turn, chance.choice(bank.normal))


def _check_own_answers(one: Script, options: GattOptions) -> None:
    """The dialogue's own answers are there where the options need them: of every turn before the last."""
    needs = {"plain: 0": options.plain, "sample: all": options.sample == "last", "window: null": options.window}
    fixes = [fix for fix, needed in needs.items() if needed]
    if fixes:
        check_answers(one.answers, f"Write `gatt: {{{', '.join(fixes)}}}`, so that none is read.")


def _sampled_turns(turn: int, plain: bool) -> range:
    """The turns whose sampled answers stand in a row that ends with `turn`."""
    return range(turn if plain else 0, turn + 1)


def _key(one: Script, sample: int, first: int = 0) -> str:
    return f"{one.key}/{sample}/{first}"


@dataclass(frozen=True)
class Candidate:
    """An answer a row may end with: that of `turn` when the dialogue was answered for the `sample`th time."""

    script: Script
    turn: int
    sample: int
    answers_by_turn: Sequence[str | None]
    plain: bool
    obeyed: Mapping[str, bool]
    right: bool | None

    @property
    def answer(self) -> str:
        return self.answers_by_turn[self.turn] or ""

    @property
    def key(self) -> str:
        return f"{_key(self.script, self.sample)}/{self.turn}"


@dataclass
class GattRowMaker:
    """Rows of scripts and answers, and the count of what became of them."""

    job: Job
    options: GattOptions
    bank: Bank
    place: Place
    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    @cached_property
    def policy(self) -> str:
        return policy_identity(self.job)

    def dialogues(self, one: Script, sample: int) -> list[Dialogue]:
        """What the policy is asked, in stretches: the newest instruction stands before every user message.

        Only what rows use is asked: stretches end with the last answer that a row of this dialogue reads or trains.
        """
        last, ends = self.options.sample == "last", [turn for turn, _ in self.ends(one)]
        turns = [
            Turn(
                one.user_for_policy(t),
                given=one.answers[t] if last and t != ends[-1] else None,
                ask=not last or t in ends,
            )
            for t in range(len(one.questions))
        ]
        start, stretch = [{"role": "system", "content": one.system}] if one.system else [], self.stretch(one)
        until = {
            turn - turn % stretch: turn + 1 for turn in self.sampled_turns(one)
        }  # the first turn of a stretch → where it ends
        return [
            Dialogue(_key(one, sample, first), turns[first:end], [*start, *self.before(one, first)])
            for first, end in until.items()
        ]

    def stretch(self, one: Script) -> int:
        """How many turns the policy answers in a row."""
        return self.options.window - 1 if self.options.window else len(one.questions)

    def before(self, one: Script, turn: int) -> list[Message]:
        """The turn before, as the dialogue has it."""
        if turn == 0:
            return []
        answer = one.answers[turn - 1]
        assert answer is not None  # _check_own_answers
        return [{"role": "user", "content": one.questions[turn - 1]}, {"role": "assistant", "content": answer}]

    def answers_by_turn(
        self, one: Script, sample: int, answers: Mapping[str, list[str | None]]
    ) -> dict[int, str | None]:
        """Turn → its answer, None where it was cut; a turn that was not asked or did not fit has none."""
        return {
            int(dialogue.key.rpartition("/")[2]) + place: text
            for dialogue in self.dialogues(one, sample)
            for place, text in enumerate(answers[dialogue.key])
        }

    def ends(self, one: Script) -> list[tuple[int, bool]]:
        """The turns that rows of this dialogue end at, and whether the answers before are the dialogue's own."""
        chance, last = random.Random(f"{self.job.seed} rows {one.key}"), self.options.sample == "last"
        turns = row_ends(one, self.options.rows_each, chance)
        return [(turn, last or self.is_plain(one, turn, chance)) for turn in turns]

    def is_plain(self, one: Script, turn: int, chance: random.Random) -> bool:
        """Whether the answers before this turn are the dialogue's own."""
        newest = one.newest_change(turn) if self.options.recent_switch else None
        return not (newest and turn - newest.turn <= RECENT) and chance.random() < self.options.plain

    def sampled_turns(self, one: Script) -> list[int]:
        """The turns whose sampled answers stand in rows of this dialogue."""
        return sorted({t for turn, plain in self.ends(one) for t in _sampled_turns(turn, plain)})

    def candidates(self, one: Script, answers: Mapping[str, list[str | None]]) -> Iterator[list[Candidate]]:
        """For each turn that rows of this dialogue end at, the answers that pass; the others are counted."""
        samples = [self.answers_by_turn(one, sample, answers) for sample in range(self.options.samples)]
        for turn, plain in self.ends(one):
            found = [self.candidate(one, turn, number, sample, plain) for number, sample in enumerate(samples)]
            good = [candidate for candidate in found if isinstance(candidate, Candidate)]
            if good:
                yield good
            else:
                self.counts[str(found[0])] += 1

    def candidate(
        self, one: Script, turn: int, sample: int, answers_by_turn: Mapping[int, str | None], plain: bool
    ) -> Candidate | str:
        """The answer to this turn, or why no row ends with it."""
        sampled_turns = _sampled_turns(turn, plain)
        if not all(t in answers_by_turn for t in sampled_turns):
            return "too_long"
        texts = [text for t in sampled_turns if (text := answers_by_turn[t]) and text.strip()]
        if len(texts) < len(sampled_turns):
            return "unfinished"
        self.counts["answers"] += 1
        if leaks_instruction(one, texts):
            return "leaks"
        answer = texts[-1]
        obeyed, right = obeyed_kinds(self.bank, one, turn, answer), is_right(one, turn, answer)
        self.counts["judged"] += bool(obeyed)
        self.counts["obeying"] += bool(obeyed) and all(obeyed.values())
        if self.options.filter and not all(obeyed.values()):
            return "disobeying"
        if self.options.filter and right is False:
            return "wrong"
        return Candidate(one, turn, sample, [answers_by_turn.get(t) for t in range(turn + 1)], plain, obeyed, right)

    def scores(self, candidates: Sequence[Candidate]) -> dict[str, float | None]:
        """Key → what each answer is worth: by the reward model, which cannot read some, or else by checkers."""
        scorer = self.job.inputs.get("scorer")
        if scorer is None:
            return {one.key: score(one.obeyed, one.right) for one in candidates}
        reward_model = AnswerScorer(
            {"scorer": scorer}, {}, 0, None, self.options.batch_size, self.job.folder, self.job.name
        )
        samples = {one.key: sample for one in candidates if (sample := self.sample(one))}
        scored = reward_model.scores(list(samples.values()), "scores")
        return {key: one.parts["scorer"] for key, one in zip(samples, scored, strict=True) if one.is_readable}

    def sample(self, one: Candidate) -> Sample | None:
        """The answer behind what the policy had read; None where an earlier answer of its own was cut."""
        place = one.turn % self.stretch(one.script)
        dialogues = {dialogue.key: dialogue for dialogue in self.dialogues(one.script, one.sample)}
        dialogue = dialogues[_key(one.script, one.sample, one.turn - place)]
        messages = list(dialogue.start)
        for turn, sampled in zip(dialogue.turns[:place], one.answers_by_turn[one.turn - place :], strict=False):
            answer = turn.given if turn.given is not None else sampled
            if answer is None:
                return None
            messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": answer}]
        messages.append({"role": "user", "content": dialogue.turns[place].user})
        origin = {"policy": self.policy, "round": 1, "temperature": self.options.temperature, "k": one.sample}
        return Sample(Prompt(f"{one.script.key}/{one.turn}", one.script.where, messages, {}), one.answer, origin)

    def rows(
        self, candidates: Sequence[Sequence[Candidate]], scores: Mapping[str, float | None]
    ) -> Iterator[dict[str, Any]]:
        """A row with the best of each group of candidates; the first of them, where several are."""
        for group in candidates:
            good = [one for one in group if one.key in scores]
            if good:
                best = max(good, key=lambda one: scores[one.key] or 0.0)
                yield self.count_row(self.row(best, scores[best.key]))
            else:
                self.counts["unscored"] += 1

    def row(self, one: Candidate, worth: float | None) -> dict[str, Any]:
        answers = [text or "" for text in one.answers_by_turn]
        line = row(one.script, one.turn, answers, plain=one.plain, place=self.place, loss=self.options.loss)
        line |= self.provenance(one.script, one.turn, one.plain)
        line |= {"obeyed": one.obeyed, "right": one.right, "score": worth}
        scorer = self.job.inputs.get("scorer")
        return line | ({"scorer": model_identity(scorer, hashes(self.job))} if scorer else {})

    def provenance(self, one: Script, turn: int, plain: bool) -> dict[str, Any]:
        """Where the row is from: enough to make it again, and to ask which rows taught what."""
        instruction, options = one.instruction_at(turn), self.options
        return {
            "policy": self.policy,
            "source": one.where.rpartition("/")[2],
            "instruction": dict(instruction.values) if instruction else {},
            "terse": bool(one.first and one.first.is_terse),
            "changed": one.newest_change(turn) is not None,
            "turn": turn + 1,
            "context": "plain" if plain else "own",
            "bank": self.bank.name,
            "sampling": {key: getattr(options, key) for key in SAMPLED} | {"seed": self.job.seed},
        }

    def count_row(self, line: dict[str, Any]) -> dict[str, Any]:
        self.counts["rows"] += 1
        self.counts["terse_rows"] += line["terse"]
        self.counts["changed_rows"] += line["changed"]
        self.kinds.update(line["instruction"].keys())
        return line

    def numbers(self) -> Mapping[str, Any]:
        """Rows, what was dropped and why, and the share of sampled answers that obey."""
        numbers_shown = ("rows", "answers", "terse_rows", "changed_rows")
        dropped = ["too_long", "unfinished", "leaks", "disobeying", "wrong"]
        dropped += ["unscored"] if "scorer" in self.job.inputs else []
        numbers: dict[str, Any] = {name: self.counts[name] for name in numbers_shown}
        numbers |= {f"dropped_{name}": self.counts[name] for name in dropped}
        if self.counts["judged"]:
            numbers["obeying"] = self.counts["obeying"] / self.counts["judged"]
        return numbers | {"kinds": dict(self.kinds), "place": self.place, "options": asdict(self.options)}

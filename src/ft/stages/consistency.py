"""How long an instruction is obeyed: recall by turn, for values, kinds and questions that no training row has shown."""

from __future__ import annotations

import csv
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from ft import artifacts
from ft.console import Terminal
from ft.data.formats.fields import CONVERSATION_COLUMNS
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source
from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.evaluation.statistics import wilson
from ft.figures import by_turn
from ft.figures.write import write_figures
from ft.files import write_json, write_lines
from ft.gatt.dialogues import (
    Place,
    Script,
    change_instruction,
    check_answers,
    is_right,
    obeyed_kinds,
    obeys_earlier,
    revoke_instruction,
    row_answers,
    script,
)
from ft.gatt.instructions import MAX_KINDS, Bank, Side
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.decoding import decoding_of, with_decoding
from ft.models.generation.dialogue import Dialogue, Turn
from ft.models.generation.executor import Loader
from ft.models.generation.resumable import dialogue_answers
from ft.models.processor import tokenizer_of
from ft.recipe.job import Job
from ft.stages.gatt import place_of

AFTER = "after"
MORE_CHANGES = ("changed_often", "partly_taken_back", "said_late")  # cells that a recipe asks for by name
CHANGE_EVERY = 3  # turns between the changes of `changed_often`
CHANGES = 3  # changes there
Change = Literal["", "new", "normal", "often", "part", "late"]
Outcome = Literal["newest", "part", "mixed", "earlier", "neither"]
SIDES: dict[str, Side] = {"seen": "train", "held_out_values": "values", "held_out_kinds": "kinds"}


@dataclass(frozen=True)
class ConsistencyOptions:
    """What is asked and how it is judged: a recipe's `consistency:` block.

    bank         the instruction bank; kinds without a checker are not asked for
    turns        longest dialogue, in turns
    shown        turns whose recall stands among the numbers, as `turn_4`; metrics.json and by_turn.csv have all
    given        also with the dialogue's own answers as context, which ignore the instruction
    compared     cells in which the models of `inputs:` are asked too: main (held-out values), all, or their names
    change_turn  turn in which a second instruction comes, or the first is taken back; null: not asked
    cells        what is asked, by name; null: all but MORE_CHANGES
    """

    bank: str
    turns: int = 24
    shown: list[int] = field(default_factory=lambda: [1, 2, 4, 6, 10, 15, 20, 24])
    given: bool = True
    compared: list[str] | Literal["main", "all"] = "main"
    change_turn: int | None = 5
    cells: list[str] | None = None
    place: Literal["auto", "system", "first_user"] = "auto"
    temperature: float = 0.0
    max_new_tokens: int = 64
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.change_turn is not None and not 2 <= self.change_turn <= self.turns:
            raise ValueError(f"change_turn is {self.change_turn}; it lies between 2 and turns ({self.turns})")


@dataclass(frozen=True)
class Cell:
    """One way to ask: which instructions, which context, and whether they change on the way."""

    name: str
    side: Side
    given: bool = False
    change: Change = ""


@dataclass(frozen=True)
class CheckedAnswer:
    """One answer of one model.

    instruction    the newest instruction, as it was said; "" for none
    question       the user message
    asked          the kinds that the newest instruction asks for
    obeyed         kind → whether the answer does as it should: obeys what is asked for, leaves what was taken back
    new_question   whether no training row asks this question; None where the row does not say
    changes        how often the instruction had changed up to this turn
    since_change   turns since the newest change, 0 in its own turn; None before the first
    obeys_earlier  whether it obeys anything of an instruction that holds no longer
    """

    model: str
    cell: str
    dialogue: str
    turn: int
    instruction: str
    question: str
    answer: str
    asked: Sequence[str]
    obeyed: Mapping[str, bool]
    right: bool | None
    new_question: bool | None
    changes: int = 0
    since_change: int | None = None
    obeys_earlier: bool = False

    @property
    def obeys(self) -> bool:
        return all(self.obeyed.values())

    @property
    def outcome(self) -> Outcome:
        """What an answer behind a change obeys."""
        if self.obeys and not self.obeys_earlier:
            return "newest"
        some_asked = any(self.obeyed[kind] for kind in self.asked)
        if self.obeys_earlier:
            return "mixed" if some_asked else "earlier"
        return "part" if some_asked else "neither"


def make(job: Job) -> dict[str, Any]:
    """Write answers.jsonl, by_turn.csv, metrics.json and consistency.svg; return the numbers."""
    options = with_decoding(ConsistencyOptions(**job.block("consistency")), job)
    bank = kinds_with_checker(Bank.read(Path(options.bank)), job.where)
    rows = read_dialogues(job, answered_by_row=options.given)
    models = {"before": job.inputs.get("before"), "ablation": job.inputs.get("ablation"), AFTER: job.init}
    answers: list[CheckedAnswer] = []
    for name, folder in models.items():
        if folder or name == AFTER:
            model = Loader(ChatModel, job.model, folder, job.template, job.blocks.get("quantization"))
            place = place_of(options.place, Renderer(tokenizer_of(job.model, folder, job.template)))
            cells = cells_of(options, bank) if name == AFTER else compared_in(options, bank, job.where)
            answers += _ModelAnswers(job, options, bank, rows, model, place, name).checked(cells)
            model.unload()
    write_lines(job.folder / artifacts.ANSWERS, map(asdict, answers))
    table = Recall(answers, main_cell(bank).name)
    table.write_csv(job.folder / artifacts.RECALL_TABLE)
    write_figures(job, by_turn.consistency)
    table.show(options.shown)
    numbers = table.numbers(options.shown)
    write_json(job.folder / artifacts.NUMBERS, numbers | {"cells": table.cells()})
    return numbers


def kinds_with_checker(bank: Bank, where: str) -> Bank:
    """The bank's kinds whose answers code can judge."""
    kinds = {name: kind for name, kind in bank.kinds.items() if kind.check}
    if not kinds:
        raise fail(where, "no kind of the bank has a checker, so nothing can be judged", "Write `check:` at a kind.")
    return replace(bank, kinds=kinds)


def read_dialogues(job: Job, answered_by_row: bool) -> list[dict[str, Any]]:
    """The rows, each a dialogue; `answered_by_row`: with an answer of its own to each turn but the last.

    UserError names those that are not.
    """
    bad = BadRows("error", None)
    rows = []
    for source_row in mix_rows([Source(**s) for s in job.data], seed=job.seed, bad=bad, reads=CONVERSATION_COLUMNS):
        rows.append(source_row.row)
        try:
            answers = row_answers(source_row.row)
            if answered_by_row:
                check_answers(answers, "Write `consistency: {given: false}`, or answer it.")
        except BadRow as problem:
            bad.add(source_row.where, source_row.row, problem)
    bad.finish()
    return rows


def main_cell(bank: Bank) -> Cell:
    """What the numbers speak of: values no training row has shown, or where none is held out, those it has."""
    held_out = bank.has("values")
    return Cell("held_out_values", "values") if held_out else Cell("seen", "train")


def cells_of(options: ConsistencyOptions, bank: Bank) -> list[Cell]:
    main = main_cell(bank)
    cells = [Cell(name, side) for name, side in SIDES.items() if bank.has(side)]
    if options.given:
        cells.append(Cell("given_answers", main.side, given=True))
    if options.change_turn:
        several = bank.values(main.side) > 1
        changes: dict[str, Change] = {"new_instruction": "new", "changed_often": "often", "said_late": "late"}
        cells += [Cell(name, main.side, change=change) for name, change in changes.items() if several]
        cells.append(Cell("taken_back", main.side, change="normal"))
        if bank.combines(main.side):
            cells.append(Cell("partly_taken_back", main.side, change="part"))
    return [cell for cell in cells if cell.name in wanted_cells(options, [cell.name for cell in cells], main.name)]


def wanted_cells(options: ConsistencyOptions, there: Sequence[str], main: str) -> set[str]:
    """The names of the cells to ask; the main one is always there."""
    wanted = [name for name in there if name not in MORE_CHANGES] if options.cells is None else options.cells
    if unknown := [name for name in wanted if name not in there]:
        what = f"consistency.cells names {', '.join(unknown)}, which this bank cannot ask"
        raise fail(options.bank, what, f"There are: {', '.join(there)}.")
    return {main, *wanted}


def compared_in(options: ConsistencyOptions, bank: Bank, where: str) -> list[Cell]:
    """The cells in which the models of `inputs:` are asked."""
    if options.compared == "main":
        return [main_cell(bank)]
    cells = {cell.name: cell for cell in cells_of(options, bank)}
    names = list(cells) if options.compared == "all" else options.compared
    if unknown := [name for name in names if name not in cells]:
        raise fail(where, f"consistency.compared has no cell {', '.join(unknown)}", f"There are: {', '.join(cells)}.")
    return [cell for name, cell in cells.items() if name in names]


def most(side: Side) -> int:
    """Kinds asked for at once. Held-out kinds come one at a time: a combination is obeyed only when every part is."""
    return 1 if side == "kinds" else MAX_KINDS


@dataclass
class _ModelAnswers:
    """Asks one model every dialogue in every cell."""

    job: Job
    options: ConsistencyOptions
    bank: Bank
    rows: Sequence[Mapping[str, Any]]
    model: Loader[ChatModel]
    place: Place
    name: str

    def checked(self, cells: Sequence[Cell]) -> list[CheckedAnswer]:
        scripts = [(cell, self.script(cell, n)) for cell in cells for n in range(len(self.rows))]
        dialogues = [self.dialogue(cell, one) for cell, one in scripts]
        sampling = decoding_of(self.job).sampling(
            self.options.max_new_tokens, self.options.temperature, seed=self.job.seed
        )
        file = self.job.folder / f"answers-{self.name}.jsonl"
        title = f"{self.job.name}: {self.name}"
        answers = dialogue_answers(self.model, dialogues, sampling, self.options.batch_size, file, title)
        file.unlink()  # all of it stands in answers.jsonl
        return [
            self.check(cell, one, turn, answer)
            for cell, one in scripts
            for turn, answer in enumerate(answers[f"{cell.name}/{one.key}"])
        ]

    def script(self, cell: Cell, number: int) -> Script:
        """The same dialogue and the same instruction for every model."""
        chance = random.Random(f"{self.job.seed} {cell.side} {number}")
        fewest = 2 if cell.change == "part" else 1  # one of several is taken back
        first = self.bank.draw(chance, cell.side, most(cell.side), fewest)
        one = script(dict(self.rows[number]), str(number), str(number), first, self.options.turns)
        turn = (self.options.change_turn or 0) - 1
        if turn < 0 or not cell.change or turn >= len(one.questions):
            return one
        if cell.change == "normal":
            return revoke_instruction(one, turn, chance.choice(self.bank.normal))
        if cell.change == "part" and len(first.values) > 1:
            return revoke_instruction(one, turn, *self.bank.revoke_one(first, chance))
        times = CHANGES if cell.change == "often" else 1
        held, changed = first, replace(one, first=None) if cell.change == "late" else one
        for change_turn in range(turn, len(one.questions), CHANGE_EVERY)[:times]:
            held = self.bank.draw_another(held, chance, self.options.bank, cell.side, most(cell.side))
            changed = change_instruction(changed, change_turn, held)
        return changed

    def dialogue(self, cell: Cell, one: Script) -> Dialogue:
        turns = [
            Turn(one.user_in_row(turn, self.place), given=one.answers[turn] if cell.given else None)
            for turn in range(len(one.questions))
        ]
        return Dialogue(f"{cell.name}/{one.key}", turns, one.opening(self.place))

    def check(self, cell: Cell, one: Script, turn: int, answer: str | None) -> CheckedAnswer:
        """An answer cut off at max_new_tokens counts as written: nothing."""
        marks = self.rows[int(one.key)].get("held_out") or []
        new = bool(marks[turn]) if turn < len(marks) else None
        verdicts, right = obeyed_kinds(self.bank, one, turn, answer or ""), is_right(one, turn, answer or "")
        if answer is None:
            verdicts = dict.fromkeys(verdicts, False)
        instruction, newest = one.instruction_at(turn), one.newest_change(turn)
        return CheckedAnswer(
            self.name,
            cell.name,
            one.key,
            turn + 1,
            instruction.text if instruction else "",
            one.questions[turn],
            answer or "",
            list(instruction.values) if instruction else [],
            verdicts,
            right,
            new,
            changes=sum(change.turn <= turn for change in one.changes),
            since_change=turn - newest.turn if newest else None,
            obeys_earlier=obeys_earlier(self.bank, one, turn, answer or ""),
        )


class Recall:
    """Shares of answers that obey, told apart in every way asked for."""

    def __init__(self, checked: Sequence[CheckedAnswer], main: str):
        self.checked, self.main = checked, main
        self.models = list(dict.fromkeys(one.model for one in checked))
        self.scripts = {(one.model, one.cell) for one in checked}
        self.names = list(dict.fromkeys(one.cell for one in checked))
        self.turns = sorted({one.turn for one in checked})

    def of(
        self, model: str, cell: str, when: Callable[[CheckedAnswer], bool] = lambda one: True
    ) -> list[CheckedAnswer]:
        return [one for one in self.checked if one.model == model and one.cell == cell and when(one)]

    def by_turn(self, model: str, cell: str) -> list[dict[str, Any]]:
        lines = []
        for turn in self.turns:
            if answers := self.of(model, cell, lambda one, turn=turn: one.turn == turn):  # type: ignore[misc]
                right = [one.right for one in answers if one.right is not None]
                lines.append({"turn": turn, **share([one.obeys for one in answers]), "correct": mean(right)})
        return lines

    def cells(self) -> dict[str, Any]:
        """Cell → model → recall by turn, kind and question, with intervals, and correctness."""
        return {
            cell: {
                model: {
                    "by_turn": self.by_turn(model, cell),
                    "by_kind": self.by_kind(model, cell),
                    "by_count": self.by_count(model, cell),
                    "new_questions": share(
                        [one.obeys for one in self.of(model, cell, lambda one: one.new_question is True)]
                    ),
                    "known_questions": share(
                        [one.obeys for one in self.of(model, cell, lambda one: one.new_question is False)]
                    ),
                    "correct": mean([one.right for one in self.of(model, cell) if one.right is not None]),
                    **self.after_changes(model, cell),
                }
                for model in self.models
                if (model, cell) in self.scripts
            }
            for cell in self.names
        }

    def after_changes(self, model: str, cell: str) -> dict[str, Any]:
        """Recall by turns since the newest change and by how many there were; and what was obeyed instead, by turns."""
        answers = [one for one in self.of(model, cell) if one.since_change is not None]
        if not answers:
            return {}
        by_distance, by_changes = defaultdict(list), defaultdict(list)
        for one in answers:
            by_distance[one.since_change].append(one)
            by_changes[one.changes].append(one)
        return {
            "by_turns_since_change": {turns: share([a.obeys for a in of]) for turns, of in sorted(by_distance.items())},
            "by_changes": {count: share([a.obeys for a in of]) for count, of in sorted(by_changes.items())},
            "outcomes": {turns: Counter(a.outcome for a in of) for turns, of in sorted(by_distance.items())},
        }

    def by_kind(self, model: str, cell: str) -> dict[str, Any]:
        """From the second turn on, where the instruction no longer stands in the turn itself."""
        obeyed: dict[str, list[bool]] = {}
        for one in self.of(model, cell, lambda one: one.turn > 1):
            for kind, does in one.obeyed.items():
                obeyed.setdefault(kind, []).append(does)
        return {kind: share(does) for kind, does in sorted(obeyed.items())}

    def by_count(self, model: str, cell: str) -> dict[int, Any]:
        """By how many kinds are asked for at once, from the second turn on: combinations are the hard part."""
        obeyed: dict[int, list[bool]] = {}
        for one in self.of(model, cell, lambda one: one.turn > 1):
            obeyed.setdefault(len(one.obeyed), []).append(one.obeys)
        return {count: share(does) for count, does in sorted(obeyed.items())}

    def numbers(self, shown: Sequence[int]) -> dict[str, Any]:
        """`turn_4` with its interval, `baseline_turn_4` before, `ablation_turn_4`, `turn_4_gain`; and correctness."""
        numbers: dict[str, Any] = {}
        recalls = {model: {line["turn"]: line for line in self.by_turn(model, self.main)} for model in self.models}
        for turn in [turn for turn in shown if turn in recalls[AFTER]]:
            line = recalls[AFTER][turn]
            numbers |= {
                f"turn_{turn}": line["recall"],
                f"turn_{turn}_low": line["low"],
                f"turn_{turn}_high": line["high"],
            }
            for name, model in (("baseline", "before"), ("ablation", "ablation")):
                if turn in recalls.get(model, {}):
                    numbers[f"{name}_turn_{turn}"] = recalls[model][turn]["recall"]
            if "before" in recalls and turn in recalls["before"]:
                numbers[f"turn_{turn}_gain"] = line["recall"] - recalls["before"][turn]["recall"]
        return numbers | self.correctness() | self.elsewhere()

    def correctness(self) -> dict[str, Any]:
        names = {AFTER: "correct", "before": "baseline_correct", "ablation": "ablation_correct"}
        right = {
            model: [one.right for one in self.of(model, self.main) if one.right is not None] for model in self.models
        }
        if not right[AFTER]:
            return {}
        verdicts = share([bool(one) for one in right[AFTER]])
        return {names[model]: mean(marks) for model, marks in right.items()} | {
            "correct_low": verdicts["low"],
            "correct_high": verdicts["high"],
        }

    def elsewhere(self) -> dict[str, Any]:
        """One number a cell, and of the other models where they were asked: recall from the second turn on."""
        names = {AFTER: "{}", "before": "baseline_{}", "ablation": "ablation_{}"}
        return {
            names[model].format(cell): mean([one.obeys for one in self.of(model, cell, lambda one: one.turn > 1)])
            for cell in self.names
            for model in self.models
            if (model, cell) in self.scripts
        }

    def write_csv(self, path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file)
            out.writerow(["model", "cell", "turn", "answers", "recall", "low", "high", "correct"])
            for cell in self.names:
                for model in self.models:
                    for line in self.by_turn(model, cell):
                        out.writerow(
                            [model, cell, *(line[k] for k in ("turn", "answers", "recall", "low", "high", "correct"))]
                        )

    def show(self, shown: Sequence[int]) -> None:
        """The table, on stderr: a line each model and cell."""
        turns = [turn for turn in shown if turn in self.turns]
        table = Table("cell", "model", *(f"t{turn}" for turn in turns), "correct", box=None, pad_edge=False)
        for cell in self.names:
            for model in [model for model in self.models if (model, cell) in self.scripts]:
                lines = {line["turn"]: line["recall"] for line in self.by_turn(model, cell)}
                right = mean([one.right for one in self.of(model, cell) if one.right is not None])
                percents = [f"{lines[turn]:.0%}" if turn in lines else "·" for turn in turns]
                table.add_row(cell, model, *percents, "·" if right is None else f"{right:.1%}")
        Terminal(file=sys.stderr, width=140, soft_wrap=False).print(table)


def share(verdicts: Sequence[bool]) -> dict[str, Any]:
    """How many, which share of them is true, and its 95 % interval."""
    if not verdicts:
        return {"answers": 0, "recall": None, "low": None, "high": None}
    low, high = wilson(sum(verdicts), len(verdicts))
    return {"answers": len(verdicts), "recall": sum(verdicts) / len(verdicts), "low": low, "high": high}


def mean(verdicts: Sequence[bool]) -> float | None:
    return sum(verdicts) / len(verdicts) if verdicts else None

"""What the kinds that measure have found, as sections: the charts of `ft.figures` with the rows behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft import artifacts
from ft.figures import by_turn, evaluation, reward_report
from ft.figures import sampling as sampling_figures
from ft.figures import win_rates as win_rate_figures
from ft.figures.charts import Chart
from ft.figures.numbers import format_number
from ft.figures.result_files import ResultFiles, text_of
from ft.figures.reward_report import RATINGS
from ft.figures.write import Figures
from ft.report.answers import cut, prompt_of
from ft.report.parts import Answers, Charts, JudgedAnswer, Message, PromptAnswers, Section, Table

Row = Mapping[str, Any]


def _section(title: str, files: ResultFiles, figures: Figures, folded: bool = False) -> list[Section]:
    """The figures' charts under one heading; the files that show the same are then not shown again."""
    charts = [chart for charts in figures.values() for chart in charts]
    files.replace_pictures(*(name for name, charts in figures.items() if charts))
    return [Section(title, (Charts(tuple(charts)),), folded)] if charts else []


def by_topic(files: ResultFiles) -> list[Section]:
    """Scores of an `evaluate` stage by the column it is split by, every measure, and losses of rows."""
    figures, column = evaluation.evaluation(files), files.blocks.get("evaluate", {}).get("by")
    titles = {"scores": f"By {column}", "metrics": "Measures", "losses": "Losses"}
    return [section for name, title in titles.items() for section in _section(title, files, {name: figures[name]})]


def tasks(files: ResultFiles) -> list[Section]:
    """Scores of the harness's tasks."""
    return _section("Tasks", files, evaluation.tasks(files))


def consistency(files: ResultFiles) -> list[Section]:
    """Recall by turn, and a dialogue to see what it is counted from."""
    sections = _section("How long an instruction is followed", files, by_turn.consistency(files))
    return [Section(one.title, (*one.parts, *_obedience(files))) for one in sections]


def _obedience(files: ResultFiles) -> Iterator[Answers]:
    """One dialogue of the first cell: what each model said in some turns."""
    rows = files.lines(artifacts.ANSWERS)
    first = next(iter(rows), None)
    if first is None or "turn" not in first:
        return
    dialogue_rows = [
        row for row in rows if (row.get("cell"), row.get("dialogue")) == (first.get("cell"), first.get("dialogue"))
    ]
    turns = []
    for turn in sorted({row["turn"] for row in dialogue_rows if row.get("turn") in (1, 4, 10, 20)}):
        in_turn = [row for row in dialogue_rows if row["turn"] == turn]
        turns.append(
            PromptAnswers(
                _question_messages(in_turn[0]),
                tuple(map(_obeys, in_turn)),
                "" if "question" in in_turn[0] else f"turn {turn}",
            )
        )
    instruction = ", ".join(first["obeyed"]) if isinstance(first.get("obeyed"), Mapping) else "an instruction"
    cell = text_of(first.get("cell")).replace("_", " ")
    yield Answers(tuple(turns), f"The first dialogue of “{cell}”; asked for, once at its start: {instruction}.")


def _question_messages(row: Row) -> tuple[Message, ...]:
    """What the user says in a turn, behind the instruction in the first one; nothing of results that do not hold it."""
    if "question" not in row:
        return ()
    opening = (Message("system", text_of(row.get("instruction"))),) if row["turn"] == 1 else ()
    return (*opening, Message("user", f"(turn {row['turn']}) {text_of(row['question'])}"))


def _obeys(row: Row) -> JudgedAnswer:
    obeyed = row.get("obeyed") or {}
    good = all(obeyed.values()) if isinstance(obeyed, Mapping) else None
    right = {True: ", answer right", False: ", answer wrong"}.get(row.get("right"), "")  # type: ignore[arg-type]
    return JudgedAnswer(
        text_of(row.get("model")), text_of(row.get("answer")), ("followed" if good else "not followed") + right, good
    )


def attention(files: ResultFiles) -> list[Section]:
    return _section("Attention to the instruction", files, by_turn.attention(files))


def sampling(files: ResultFiles) -> list[Section]:
    """What sampling N answers is worth, and the temperatures that were tried."""
    return _section("What sampling is worth", files, sampling_figures.sampling(files))


def preferred_model(files: ResultFiles) -> str:
    """'dpo is preferred to sft: it wins 96.0% of 234 pairs, ties counted half (95 % interval 93.2% to 97.7%).'"""
    metrics = files.mapping(artifacts.NUMBERS)
    rate, low, high = (metrics.get(name) for name in ("win_rate", "win_rate_low", "win_rate_high"))
    models = metrics.get("models")
    if rate is None or low is None or high is None or not isinstance(models, list) or len(models) != 2:
        return ""
    model, other = models if models[0] != models[1] else ("A", "B")
    if low > 0.5:
        verdict = f"{model} is preferred to {other}"
    elif high < 0.5:
        verdict = f"{other} is preferred to {model}"
    else:
        verdict = f"Neither {model} nor {other} is clearly preferred"
    ends = f"95 % interval {_share(low)} to {_share(high)}"
    return f"{verdict}: {model} wins {_share(rate)} of {metrics.get('pairs', 0):,} pairs, ties counted half ({ends})."


def win_rates(files: ResultFiles) -> list[Section]:
    """How often a judge prefers the model, of all pairs, by what they are about, and by which answer is longer."""
    groups = win_rate_figures.groups(files.mapping(artifacts.NUMBERS))
    rows = [
        (name, *(format_number(group.get(key), key == "win_rate") for key in OUTCOMES), _ends(group))
        for name, group in groups.items()
        if group.get("win_rate") is not None
    ]
    names = ("", *(key.replace("_", " ") for key in OUTCOMES), "95 % interval")
    sections = _section("Win rate", files, win_rate_figures.win_rates(files))
    return [Section(one.title, (Table(names, tuple(rows)), *one.parts)) for one in sections]


OUTCOMES = ("pairs", "wins", "ties", "losses", "win_rate")


def _ends(group: Row) -> str:
    ends = group.get("win_rate_low"), group.get("win_rate_high")
    return "·" if None in ends else f"{_share(ends[0])} to {_share(ends[1])}"


def summaries(files: ResultFiles) -> list[Section]:
    """A line a model: accuracy by quiz, compression, and how often its summary is preferred to the baseline's."""
    metrics = files.mapping(artifacts.NUMBERS)
    shares = ["compression_median", "compression_mean", "invalid_characters", "too_long"]
    levels = [name for name in metrics if re.fullmatch(r"at_least_\d+", name)]
    rows = []
    for side in ("", "baseline_", "other_"):
        if f"{side}compression_mean" in metrics:
            cells = [_share(metrics.get(f"{side}{name}")) for name in (*levels, *shares, *RATES)]
            rows.append((side.rstrip("_") or "model", *cells))
    names = ("model", *(name.replace("_", " ") for name in (*levels, *shares, *RATES)))
    return [Section("Summaries", (Table(names, tuple(rows)),))] if rows else []


def _share(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, (int, float)) else "·"


RATES = ("win_rate", "win_rate_low", "win_rate_high", "length_controlled_win_rate")


# The report card of a reward model


def card(files: ResultFiles) -> list[Section]:
    """Accuracy by rating, calibration, scores, length, and where two reward models disagree."""
    metrics = files.mapping(artifacts.NUMBERS)
    if not isinstance(metrics.get("grid"), Mapping):
        return []
    files.replace_pictures("card", "card-other", "two-models")
    models, rows = reward_report.judged_models(metrics), files.table(artifacts.SCORE_TABLE)
    charts: list[Chart] = [
        *reward_report.accuracies(metrics, models),
        *reward_report.calibrations(metrics, models),
        *reward_report.histograms(metrics, models[:1]),
    ]
    sections = [Section("Report card", (Charts(tuple(charts)), _grid(metrics)))]
    if isinstance(metrics.get("disagreement"), Mapping):
        charts_of_both = (*reward_report.disagreement(metrics), *reward_report.by_both(rows, models))
        sections.append(Section("Where the two disagree", (Charts(charts_of_both),)))
    details = tuple(chart for model in models for chart in reward_report.details(metrics, rows, model))
    if details:
        sections.append(Section("Quality, length and safety", (Charts(details),), folded=True))
    return [*sections, *_hardest(files, models[:1])]


def _grid(metrics: Row) -> Table:
    columns = list(dict.fromkeys(c for axes in metrics["grid"].values() for cells in axes.values() for c in cells))
    rows = []
    for model, axes in metrics["grid"].items():
        for axis, cells in axes.items():
            shares = [_percent(cells.get(column)) for column in columns]
            rows.append((f"{model}, {axis}", *shares, f"{cells['average']['pairs']:,}" if "average" in cells else "·"))
    head = ("pair accuracy", *(RATINGS.get(column, column) for column in columns), "pairs")
    return Table(head, tuple(rows), "Accuracy by rating, with 95 % intervals")


def _percent(cell: Row | None) -> str:
    return f"{cell['accuracy']:.1%} ({cell['low']:.0%}–{cell['high']:.0%})" if cell else "·"


def _hardest(files: ResultFiles, models: Sequence[str]) -> list[Section]:
    """The pairs the model is most wrong about: what it does not know."""
    rows = [row for row in files.lines(artifacts.SCORES) if isinstance(row.get("scores"), Mapping)]
    if not rows or not models:
        return []
    differences = {id(row): _difference(row, models[0]) for row in rows}
    worst = sorted((row for row in rows if differences[id(row)] < 0), key=lambda row: differences[id(row)])[:3]
    pairs = tuple(_pair(row, models[0]) for row in worst)
    note = f"The three of {len(rows):,} pairs whose rejected answer scores highest above the chosen one."
    return [Section("Pairs it gets most wrong", (Answers(pairs, note),), folded=True)] if pairs else []


def _difference(row: Row, model: str) -> float:
    chosen, rejected = ((row["scores"].get(side) or {}).get(model) for side in ("chosen", "rejected"))
    return 0.0 if chosen is None or rejected is None else float(chosen - rejected)


def _pair(row: Row, model: str) -> PromptAnswers:
    sides = tuple(
        JudgedAnswer(side, cut(text_of(row.get(side))), f"score {format_number(row['scores'][side][model])}")
        for side in ("chosen", "rejected")
    )
    return PromptAnswers(prompt_of(row), sides)

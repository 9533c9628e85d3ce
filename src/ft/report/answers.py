"""Answers of models beside each other, from whatever file of lines a stage left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ft import artifacts
from ft.figures.numbers import format_number
from ft.figures.result_files import ResultFiles, text_of
from ft.report.parts import Answers, DialogueText, JudgedAnswer, Message, PromptAnswers, Section, Table
from ft.report.thumbnails import pictures_of_message

ANSWERS_SHOWN = 6
LONGEST = 1200  # characters of an answer


def spread(rows: Sequence[Any], count: int = ANSWERS_SHOWN) -> list[Any]:
    """`count` of the rows, evenly from first to last: nobody has picked them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (count - 1))] for place in range(count)]


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)"


def prompt_of(row: Mapping[str, Any], pictures: bool = True) -> tuple[Message, ...]:
    value = row.get("prompt", row.get("question", _before_last_answer(row.get("messages"))))
    if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        return tuple(
            Message(str(one.get("role", "user")), cut(text_of(one)), pictures_of_message(one) if pictures else ())
            for one in value
        )
    return (Message("user", cut(text_of(value))),)


def _before_last_answer(messages: object) -> list[Mapping[str, Any]] | str:
    """What was asked in a row of whole dialogues; its last answer is the reference."""
    if not isinstance(messages, list) or not all(isinstance(one, Mapping) for one in messages):
        return ""
    answers = [place for place, one in enumerate(messages) if one.get("role") == "assistant"]
    return messages[: answers[-1]] if answers else messages


def before_and_after(files: ResultFiles) -> list[Section]:
    """answers.jsonl of an `evaluate` stage."""
    rows = [row for row in files.lines(artifacts.ANSWERS) if "completion" in row]
    if not rows:
        return []
    return [Section("Before and after" if _has_baseline(rows) else "Answers", (_answers(rows, _evaluation_row),))]


def _has_baseline(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any("baseline_completion" in row for row in rows)


def _answers(rows: Sequence[Mapping[str, Any]], show: Callable[[Mapping[str, Any]], PromptAnswers]) -> Answers:
    selection = spread(rows)
    note = (
        f"{len(selection)} of {len(rows):,} prompts, evenly from the first to the last."
        if len(selection) < len(rows)
        else ""
    )
    return Answers(tuple(show(row) for row in selection), note)


def _evaluation_row(row: Mapping[str, Any]) -> PromptAnswers:
    after = judged_answer("after" if "baseline_completion" in row else "answer", row["completion"], row.get("score"))
    if "baseline_completion" not in row:
        return PromptAnswers(prompt_of(row), (after,))
    return PromptAnswers(
        prompt_of(row), (judged_answer("before", row["baseline_completion"], row.get("baseline_score")), after)
    )


def judged_answer(name: str, text: object, score: object) -> JudgedAnswer:
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return JudgedAnswer(name, cut(text_of(text)))
    if score in (0, 1):
        return JudgedAnswer(name, cut(text_of(text)), "right" if score else "wrong", bool(score))
    return JudgedAnswer(name, cut(text_of(text)), f"score {format_number(score)}")


def dialogue(files: ResultFiles) -> list[Section]:
    messages_json = files.json(artifacts.DIALOGUE)
    if not isinstance(messages_json, list) or not messages_json:
        return []
    messages = tuple(Message(str(m.get("role")), cut(text_of(m))) for m in messages_json if isinstance(m, Mapping))
    return [Section("A dialogue", (DialogueText(messages),))]


def rollouts(files: ResultFiles) -> list[Section]:
    """rollouts.jsonl of a reinforcement stage: the same held-out prompts at its start and its end, where there are
    any; and sampled answers from first to last."""
    rows = files.lines(artifacts.ROLLOUTS)
    if not rows:
        return []
    ends = _ends([row for row in rows if row.get("set") == "eval"])
    trained = [row for row in rows if row.get("set") != "eval"]
    note = "The same held-out prompts, answered at the start and at the end."
    sections = [Section("Before and after", (Answers(tuple(ends), note),))] if ends else []
    selection = spread(trained)
    note = f"{len(selection)} of {len(trained):,} answers kept, evenly from the first to the last."
    return (
        [*sections, Section("Rollouts", (Answers(tuple(map(_rollout, selection)), note),))] if selection else sections
    )


def _ends(rows: Sequence[Mapping[str, Any]]) -> list[PromptAnswers]:
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(json.dumps(row.get("prompt")), []).append(row)
    several = [group for group in by_prompt.values() if len(group) > 1]
    return [PromptAnswers(prompt_of(f[0]), (*_rollout(f[0]).sides, *_rollout(f[-1]).sides)) for f in spread(several)]


def _rollout(row: Mapping[str, Any]) -> PromptAnswers:
    text = row.get("answer", row.get("completion", ""))
    numbers = list(_numbers_of(row))
    rewards = row.get("rewards")
    if isinstance(rewards, Mapping):
        numbers = [*_numbers_of(rewards), *numbers]
    name = f"step {row['step']}" if "step" in row else "answer"
    return PromptAnswers(prompt_of(row), (JudgedAnswer(name, cut(text_of(text)), ", ".join(numbers)),))


def _numbers_of(row: Mapping[str, Any]) -> Iterator[str]:
    """'reward 0.500' for every number of the row but its step."""
    for name, value in row.items():
        if type(value) in (int, float) and name != "step":
            yield f"{name} {format_number(value)}"


def verdicts(files: ResultFiles) -> list[Section]:
    """verdicts.jsonl of a judge: both answers, who won, and what the judge said."""
    rows = files.lines(artifacts.VERDICTS)
    if not rows:
        return []
    models = files.mapping(artifacts.NUMBERS).get("models")
    names = tuple(map(str, models)) if isinstance(models, list) and len(models) == 2 else SIDES
    return [Section("Judged pairs", (_answers(rows, lambda row: _verdict(row, names)),))]


SIDES = ("answer", "other_answer")
ENDS = {"win": (True, False), "loss": (False, True), "tie": (None, None)}


def _verdict(row: Mapping[str, Any], names: Sequence[str]) -> PromptAnswers:
    outcome = text_of(row.get("outcome")) or "no outcome"
    ends = ENDS.get(outcome, (None, None))
    sides = tuple(
        JudgedAnswer(
            name.replace("_", " "),
            cut(text_of(row.get(key))),
            outcome if good is None else "won" if good else "lost",
            good,
        )
        for key, name, good in zip(SIDES, names, ends, strict=True)
    )
    replies = [text_of(one.get("reply")) for one in _list(row.get("asked")) if isinstance(one, Mapping)]
    why = [f"why: {row['why']}"] if row.get("why") else []
    return PromptAnswers(prompt_of(row), sides, cut("; ".join([*why, *(f"the judge: {reply}" for reply in replies)])))


def lowest_and_highest(files: ResultFiles) -> list[Section]:
    """samples.jsonl of a `sample` stage: the worst and the best answer of a prompt."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in files.lines(artifacts.SAMPLES):
        if type(row.get("score")) in (int, float):
            groups.setdefault(text_of(row.get("prompt")), []).append(row)
    pairs = [sorted(rows, key=lambda row: row["score"]) for rows in groups.values() if len(rows) > 1]
    if not pairs:
        return []

    def show(rows: Sequence[Mapping[str, Any]]) -> PromptAnswers:
        ends = (("lowest", rows[0]), ("highest", rows[-1]))
        return PromptAnswers(
            prompt_of(rows[0]),
            tuple(
                JudgedAnswer(name, cut(text_of(r["completion"])), f"score {format_number(r['score'])}")
                for name, r in ends
            ),
        )

    selection = spread(pairs)
    note = f"{len(selection)} of {len(pairs):,} prompts, evenly from the first to the last."
    return [Section("Lowest and highest of the sampled answers", (Answers(tuple(map(show, selection)), note),))]


def made_rows(files: ResultFiles) -> list[Section]:
    """rows.jsonl of a stage that makes rows: a few of them, whatever their columns."""
    rows = files.lines(artifacts.ROWS)
    dialogues = []
    for row in spread(rows, 3):
        messages = row.get("messages") or [*_list(row.get("prompt")), *_list(row.get("completion"))]
        if messages:
            dialogues.append(DialogueText(tuple(_message(m) for m in messages if isinstance(m, Mapping))))
    return (
        [Section(f"Rows made: {len(dialogues)} of {len(rows):,}", tuple(dialogues), folded=True)] if dialogues else []
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _message(message: Mapping[str, Any]) -> Message:
    read = message.get("role") == "assistant" and message.get("train") is False
    return Message(str(message.get("role")) + (", only read" if read else ""), cut(text_of(message)))


def plain(name: str, rows: Sequence[Mapping[str, Any]]) -> Section:
    """Lines of a file nobody knows, as a table of their columns."""
    head = tuple(dict.fromkeys(key for row in rows[:3] for key in row))[:6]
    cells = tuple(tuple(cut(text_of(row.get(key)))[:300] for key in head) for row in spread(rows, 4))
    return Section(
        name, (Table(head, cells, numeric=False, note=f"{len(cells)} of {len(rows):,} lines."),), folded=True
    )

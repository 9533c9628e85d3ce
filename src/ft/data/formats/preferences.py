"""Preference rows: one prompt, a chosen and a rejected answer, and where known how clear and how safe the choice was.

Optional columns, checked and put into one form here:

rating                          1 to 4, or the words of `RATINGS`: how much better the chosen answer is
axis                            helpful or safety: what the answers were compared by
safety_chosen, safety_rejected  whether the answer is safe
score_chosen, score_rejected    what a source with scores gave; kept as they are, and never made into a rating

To add a public shape: one function that ends in `_pair`, one line in `FORMATS` and one in `detect` (formats.py).
"""

from __future__ import annotations

import math
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from ft.data.axes import AXES
from ft.data.formats.columns import TURN, Row, extras, first_of, messages_of, prompt_of, sharegpt_message, transcript
from ft.data.formats.messages import (
    BadRow,
    Message,
    Tie,
    dialogue,
    either,
    kind_of,
    make_message,
    require_answer,
    require_question,
    role_of,
    words,
)

RATINGS = ("significantly better", "better", "slightly better", "negligibly better / unsure")
"""The grades of the Llama 2 paper (arXiv:2307.09288, 3.2.1); a row holds 1 for the first and 4 for the last."""

_RATING_WORDS = {
    "significantly": 1,
    "significantly better": 1,
    "better": 2,
    "slightly": 3,
    "slightly better": 3,
    "negligibly": 4,
    "negligibly better": 4,
    "unsure": 4,
    "negligibly/unsure": 4,
    "negligibly better/unsure": 4,
    "negligibly better/ unsure": 4,
    "negligibly better / unsure": 4,
} | {str(number): number for number in range(1, 5)}
_SAFETY_WORDS = {"safe": True, "true": True, "unsafe": False, "false": False}


# Grades


def check_grades(row: Row) -> Row:
    """The pair with its rating as a number, its axis checked and its safety as truth values; what is null is left out.

    A chosen answer that is unsafe beside a safe one is refused: the paper never trains on such a pair (3.2.1).
    """
    if _GRADES.keys().isdisjoint(row):
        return row
    found = {name: value for name, value in row.items() if value is not None or name not in _GRADES}
    for name, grade in _GRADES.items():
        if name in found:
            found[name] = grade(found[name], name)
    if found.get("safety_chosen") is False and found.get("safety_rejected") is True:
        raise BadRow("the chosen answer is unsafe and the rejected one is safe", "Drop the row, or swap its answers.")
    return found


def _rating(value: object, name: str) -> int:
    if isinstance(value, str):
        grade = _RATING_WORDS.get(value.strip().lower())
    else:
        grade = int(value) if type(value) in (int, float) and value in (1, 2, 3, 4) else None
    if grade is None:
        fix = "It is 1 to 4, or: significantly, better, slightly, negligibly, unsure. "
        raise BadRow(f"{name} is {value!r}", f"{fix}Another column of that name: columns: {{their_{name}: {name}}}.")
    return grade


def _axis(value: object, name: str) -> str:
    if value not in AXES:
        raise BadRow(f"{name} is {value!r}", f"It is {either(AXES)}.")
    return str(value)


def _safety(value: object, name: str) -> bool:
    grade = _SAFETY_WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(grade, bool):
        raise BadRow(f"{name} is {value!r}", "It is true (safe) or false (unsafe), or one of these words.")
    return grade


_GRADES = {"rating": _rating, "axis": _axis, "safety_chosen": _safety, "safety_rejected": _safety}


# Rows of two answers

_SIDES = {"chosen_messages": "chosen", "rejected_messages": "rejected"}


def preference(row: Row) -> Row:
    """`chosen` and `rejected` as strings or messages, with a `prompt` or as two dialogues that begin with it;
    `chosen_messages` and `rejected_messages` are the same (LLaMA-Factory's v1)."""
    if row.get("chosen") is None and row.get("rejected") is None:
        row = {_SIDES.get(name, name): value for name, value in row.items() if name not in _SIDES.values()}
    chosen, rejected = row[first_of(row, "chosen")], row[first_of(row, "rejected")]
    if type(chosen) is not type(rejected):
        raise BadRow(f"chosen is {kind_of(chosen)} but rejected is {kind_of(rejected)}", "Write both alike.")
    if isinstance(chosen, list) and not _starts_with_answer(chosen):
        pair = _split_at_answer(row, chosen, rejected)
        _check_prompt(row.get("prompt"), pair["prompt"])
        return check_grades({**extras(row, "system"), **pair})
    if isinstance(chosen, str) and row.get("prompt") is None and TURN.match(chosen):
        raise BadRow("no column 'prompt', and chosen is a transcript", "Read it with format: hh_pairs.")
    return _pair(prompt_of(row), row["chosen"], row["rejected"], extras(row, "system"))


def hh_pairs(row: Row) -> Row:
    """`chosen` and `rejected` as whole transcripts; what they share is the prompt."""
    chosen, rejected = (transcript(row[first_of(row, name)], name) for name in ("chosen", "rejected"))
    return check_grades({**extras(row, "system"), **_split_at_answer(row, chosen, rejected)})


def sharegpt_pairs(row: Row) -> Row:
    """`conversations` of from and value, then `chosen` and `rejected` as such a message each (or a list of them)."""
    column = first_of(row, "conversations", "messages")
    prompt = require_question(messages_of(row, _from_sharegpt(row[column], column), column), f"{column} ends")
    chosen, rejected = (_from_sharegpt(row[first_of(row, name)], name) for name in ("chosen", "rejected"))
    return _pair(prompt, chosen, rejected, extras(row, "conversations", "system"))


def _from_sharegpt(value: object, column: str) -> Any:
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list):
        return value
    return [sharegpt_message(message, f"{column}: message {number}") for number, message in enumerate(turns, 1)]


def _pair(prompt: list[Message], chosen: object, rejected: object, extra_columns: Row) -> Row:
    """The checked pair of a prompt and two answers, each a string or messages."""
    sides = {}
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        wrapped = [make_message("assistant", value)] if isinstance(value, str) else value
        sides[name] = require_answer(dialogue(wrapped, name, prompt[-1]["role"]), name)
    _check_different(sides["chosen"], sides["rejected"])
    return check_grades({**extra_columns, "prompt": prompt, **sides})


def _starts_with_answer(turns: list[Any]) -> bool:
    return bool(turns) and role_of(turns[0]) == "assistant"


def _split_at_answer(row: Row, chosen: object, rejected: object) -> Row:
    """Two whole dialogues as prompt, chosen and rejected: the prompt is what they share."""
    chosen = require_answer(messages_of(row, chosen, "chosen"), "chosen")
    rejected = require_answer(messages_of(row, rejected, "rejected"), "rejected")
    _check_different(chosen, rejected)
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if words([one]) != words([other]):
            break
        shared += 1
    if not shared:
        raise BadRow("chosen and rejected share no first message", "Both begin with the same prompt.")
    for name, longer, turns in (("chosen", "rejected", chosen), ("rejected", "chosen", rejected)):
        if len(turns) == shared:
            raise BadRow(f"{name} is only the beginning of {longer}, so it has no answer of its own", "Drop the row.")
    prompt = require_question(chosen[:shared], "what chosen and rejected share ends")
    return {"prompt": prompt, "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _check_different(chosen: list[Message], rejected: list[Message]) -> None:
    if words(chosen) == words(rejected):
        raise Tie("chosen and rejected are the same", "A pair needs two answers; drop the row.")


def _check_prompt(candidates: object, shared: list[Message]) -> None:
    """A prompt written beside two whole dialogues is one of the user messages they share, or all they share."""
    if candidates is None:
        return
    if isinstance(candidates, str):
        same = ("user", candidates.strip()) in words(shared)
    else:
        same = words(dialogue(candidates, "prompt")) == words(shared)
    if not same:
        raise BadRow("prompt is not what chosen and rejected begin with", "Drop the column prompt or fix it.")


# Public data sets with answers that have scores


def ultrafeedback(row: Row) -> Row:
    """`instruction` and `completions`, each with `response`, `overall_score` and `model` (openbmb/UltraFeedback).

    Chosen is the best answer, the first of several; rejected is one of those below it, by a hash of the instruction, so
    that the choice is always the same and its gap varies. The binarized form is format: preference.
    """
    return _best_and_another(row, "instruction", "completions", text="response", score="overall_score", source="model")


def stack_exchange(row: Row) -> Row:
    """`question` with `response_j` before `response_k`, or with `answers` that have `text` and `pm_score`.

    The second is the form of HuggingFaceH4/stack-exchange-preferences; its pair is chosen as that of `ultrafeedback`.
    The text stays as it is, HTML included.
    """
    if row.get("answers") is not None:
        return _best_and_another(row, "question", "answers", text="text", score="pm_score")
    question, better, worse = (row[first_of(row, name)] for name in ("question", "response_j", "response_k"))
    extra_columns = extras(row, "question", "response_j", "response_k", "system")
    return _pair(_prompt_messages(row, question, "question"), better, worse, extra_columns)


def shp(row: Row) -> Row:
    """`history`, `human_ref_A`, `human_ref_B` and `labels`, 1 where A is preferred (Stanford Human Preferences)."""
    history, *answers = (row[first_of(row, name)] for name in ("history", "human_ref_A", "human_ref_B"))
    label = row[first_of(row, "labels")]
    if label not in (0, 1, "0", "1"):
        raise BadRow(f"labels is {label!r}", "It is 1 where A is preferred, 0 where B is.")
    best = 1 - int(label)
    extra_columns = extras(row, "history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B", "system")
    extra_columns |= _scores([row.get("score_A"), row.get("score_B")], best)
    return _pair(_prompt_messages(row, history, "history"), answers[best], answers[1 - best], extra_columns)


def webgpt(row: Row) -> Row:
    """`question.full_text`, `answer_0`, `answer_1`, and `score_0`, `score_1` (openai/webgpt_comparisons)."""
    question = row[first_of(row, "question")]
    question = question.get("full_text") if isinstance(question, dict) else question
    answers = [row[first_of(row, f"answer_{side}")] for side in (0, 1)]
    scores = [_number(row[first_of(row, f"score_{side}")], f"score_{side}") for side in (0, 1)]
    if scores[0] == scores[1]:
        raise _tie(scores[0])
    best = int(scores[1] > scores[0])
    used = [f"{name}_{side}" for name in ("answer", "score", "quotes", "tokens") for side in (0, 1)]
    extra_columns = extras(row, "question", "system", *used) | _scores(scores, best)
    return _pair(_prompt_messages(row, question, "question.full_text"), answers[best], answers[1 - best], extra_columns)


def summaries(row: Row) -> Row:
    """`info.post` (or `info.article`), two `summaries` and the `choice` of one (openai/summarize_from_feedback).

    The prompt is the post behind its title, and "TL;DR:" on a line of its own.
    """
    info, pair = row[first_of(row, "info")], row[first_of(row, "summaries")]
    choice = row[first_of(row, "choice")]
    if not isinstance(info, dict):
        raise BadRow(f"info is {kind_of(info)}, not an object with post")
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(summary, dict) for summary in pair):
        raise BadRow("summaries is not a list of two objects with text")
    if choice not in (0, 1):
        raise BadRow(f"choice is {choice!r}", "It is 0 or 1, the place of the better summary.")
    post = info[first_of(info, "post", "article")]
    if not isinstance(post, str) or not post.strip():
        raise BadRow("info.post is empty", "Drop the row.")
    title = f"TITLE: {info['title']}\n\n" if info.get("title") else ""
    best, worst = pair[int(choice)], pair[1 - int(choice)]
    extra_columns = extras(row, "info", "summaries", "choice", "system") | _sources(
        best.get("policy"), worst.get("policy")
    )
    prompt = _prompt_messages(row, f"{title}{post.strip()}\n\nTL;DR:", "info.post")
    return _pair(prompt, best.get("text"), worst.get("text"), extra_columns)


def _best_and_another(row: Row, question: str, answers: str, *, text: str, score: str, source: str = "") -> Row:
    """The answer with the highest score, and one with a lower, told by a hash of the question."""
    question_text, candidates = row[first_of(row, question)], row[first_of(row, answers)]
    if not isinstance(candidates, list) or not all(isinstance(answer, dict) for answer in candidates):
        raise BadRow(f"{answers} is not a list of objects with {text} and {score}")
    if len(candidates) < 2:
        raise BadRow(f"{answers} holds {len(candidates)} of the two answers a pair needs", "Drop the row.")
    scores = [_number(answer.get(score), f"{answers}: {score} of answer {n}") for n, answer in enumerate(candidates, 1)]
    best = scores.index(max(scores))
    lower = [place for place, value in enumerate(scores) if value < scores[best]]
    if not lower:
        raise _tie(scores[best])
    other = lower[
        int.from_bytes(blake2b(str(question_text).encode(errors="replace"), digest_size=8).digest()) % len(lower)
    ]
    extra_columns = extras(row, question, answers, "system") | _sources(
        candidates[best].get(source), candidates[other].get(source)
    )
    extra_columns |= {"score_chosen": scores[best], "score_rejected": scores[other]}
    return _pair(
        _prompt_messages(row, question_text, question),
        candidates[best].get(text),
        candidates[other].get(text),
        extra_columns,
    )


def _prompt_messages(row: Row, text: object, name: str) -> list[Message]:
    return messages_of(row, [make_message("user", text)], name)


def _tie(score: float) -> Tie:
    return Tie(f"it is a tie: no answer scores above another (all {score:g})", "Drop the row.")


def _number(value: object, name: str) -> float:
    try:
        is_truth = isinstance(value, bool)
        # Parquet has decimals too
        number = float(value) if isinstance(value, str | int | float | Decimal) and not is_truth else math.nan
    except (OverflowError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"{name} is {value!r}, not a number")
    return number


def _scores(scores: list[Any], best: int) -> Row:
    present = {"score_chosen": scores[best], "score_rejected": scores[1 - best]}
    return {name: score for name, score in present.items() if score is not None}


def _sources(chosen: object, rejected: object) -> Row:
    present = {"source_chosen": chosen, "source_rejected": rejected}
    return {name: source for name, source in present.items() if source is not None}

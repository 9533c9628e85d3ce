"""Ghost Attention's rows (arXiv:2307.09288, section 3.3): an instruction said once and obeyed in a later turn.

A dialogue gets an instruction meant for all of it. The policy answers with the instruction before every user message;
the row shows it at the start only, so that the answer must be traced to it from afar. The earlier answers of a row
were given under other prompts than the row shows, so they are read and not trained.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ft.data.formats.messages import BadRow, Message
from ft.gatt.checkers import holds, words
from ft.gatt.instructions import Bank, Instruction, quotes

Row = dict[str, Any]
Place = Literal["system", "first_user"]
Loss = Literal["last", "all_turns"]


@dataclass(frozen=True)
class Change:
    """From `turn` (0 is the first) another instruction holds, or none when it is None: `text` says so to the model."""

    turn: int
    instruction: Instruction | None
    text: str


@dataclass(frozen=True)
class Script:
    """A dialogue's user messages with the instructions that hold in it, before the policy answers.

    key        names it among the scripts of a stage
    where      the row it is from
    system     the dialogue's own system message, "" for none
    questions  the user messages
    answers    the dialogue's own answers, None where it has none
    right      for each turn the words of which one stands in a right answer; empty where the row does not tell
    left_out   how many turns the dialogue had beyond these
    """

    key: str
    where: str
    system: str
    questions: tuple[str, ...]
    answers: tuple[str | None, ...]
    right: tuple[tuple[str, ...], ...]
    first: Instruction
    change: Change | None = None
    left_out: int = 0

    def holding(self, turn: int) -> Instruction | None:
        """The newest instruction in a turn; None when the last one was taken back."""
        if self.change and turn >= self.change.turn:
            return self.change.instruction
        return self.first

    def asked(self, turn: int) -> str:
        """The user message as the policy reads it: the instruction stands before every one."""
        holding = self.holding(turn)
        return f"{holding.full} {self.questions[turn]}" if holding else self.questions[turn]

    def shown(self, turn: int) -> str:
        """The user message as a row shows it: bare, but where the instruction changes."""
        if self.change and turn == self.change.turn:
            return f"{self.change.text} {self.questions[turn]}"
        return self.questions[turn]

    def opening(self, place: Place) -> list[Message]:
        """The messages before the first user message, the instruction in the system message or still to come."""
        told = [self.system, self.first.shown if place == "system" else ""]
        text = " ".join(part for part in told if part)
        return [{"role": "system", "content": text}] if text else []

    def user(self, turn: int, place: Place) -> str:
        shown = self.shown(turn)
        return f"{self.first.shown} {shown}" if turn == 0 and place == "first_user" else shown

    def told(self) -> list[str]:
        """Every text of an instruction in this dialogue, which no answer may quote."""
        texts = [self.first.full, self.first.terse]
        if self.change:
            texts.append(self.change.text)
            texts += [self.change.instruction.full] if self.change.instruction else []
        return texts


def script(row: Row, key: str, where: str, first: Instruction, turns: int) -> Script:
    """The row's dialogue, at most `turns` long, under an instruction. Raises BadRow."""
    system, questions, answers = _turns(row.get("messages") or row.get("prompt") or [])
    left_out = max(0, len(questions) - turns)
    return Script(key, where, system, questions[:turns], answers[:turns], _right(row)[:turns], first, left_out=left_out)


def own_answers(row: Row) -> tuple[str | None, ...]:
    """The row's own answer to each user message, None where it has none. Raises BadRow where it holds no dialogue."""
    return _turns(row.get("messages") or row.get("prompt") or [])[2]


def check_answers(answers: Sequence[str | None], fix: str) -> None:
    """BadRow, with this fix, where a turn has no answer and another follows it, which would be read without one."""
    if None in answers[:-1]:
        raise BadRow(f"turn {answers.index(None) + 1} has no answer of the dialogue's own", fix)


def changed(script: Script, turn: int, other: Instruction) -> Script:
    """The script with another instruction from `turn` on."""
    return replace(script, change=Change(turn, other, other.shown))


def taken_back(script: Script, turn: int, text: str) -> Script:
    """The script with no instruction from `turn` on, where `text` takes the first one back."""
    return replace(script, change=Change(turn, None, text))


def _turns(messages: Sequence[Message]) -> tuple[str, tuple[str, ...], tuple[str | None, ...]]:
    """System message, user messages and the answer of each, None where the assistant's turn is missing."""
    if any(message["role"] == "tool" for message in messages):
        raise BadRow("the dialogue has tool messages", "Ghost Attention takes turns of a user and an assistant.")
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
    asked = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if not asked:
        raise BadRow("the row holds no dialogue", "Write format: messages, prompt or user_turns.")
    after = [messages[number + 1] if number + 1 < len(messages) else None for number in asked]
    answers = [said["content"] if said and said["role"] == "assistant" else None for said in after]
    return system, tuple(messages[number]["content"] for number in asked), tuple(answers)


def _right(row: Row) -> tuple[tuple[str, ...], ...]:
    """For each turn the words of which one stands in a right answer: the row's `answers`."""
    told = row.get("answers") or []
    good = isinstance(told, list) and all(isinstance(one, list) for one in told)
    if not good or not all(isinstance(word, str) for one in told for word in one):
        raise BadRow("answers is not a list with a list of texts for each turn", 'Write [["4", "four"], …].')
    return tuple(tuple(one) for one in told)


def cuts(script: Script, count: int, chance: random.Random) -> list[int]:
    """The turns at which rows of this dialogue end: the last one, and others drawn by chance.

    Where the instruction changes they are drawn from there on, as far as there are enough: a row that ends before
    shows no change.
    """
    last = len(script.questions) - 1
    first = min(script.change.turn if script.change else 0, max(0, last - (count - 1)))
    return sorted([*chance.sample(range(first, last), min(count - 1, last)), last])


def row(script: Script, turn: int, said: Sequence[str], *, plain: bool, place: Place, loss: Loss) -> Row:
    """The dialogue up to `turn`, with the instruction at its start only; the last answer is said[turn].

    plain  the earlier answers are the dialogue's own, which know nothing of the instruction, else those in `said`
    loss   last: the earlier answers are read and not trained. all_turns: they are trained too (an ablation)
    """
    messages = script.opening(place)
    for t in range(turn + 1):
        own = script.answers[t] if plain and t < turn else said[t]
        if own is None:
            raise ValueError(f"{script.where}: turn {t + 1} has no answer of its own")
        answer: Message = {"role": "assistant", "content": own}
        if loss == "last":
            answer["train"] = t == turn
        messages += [{"role": "user", "content": script.user(t, place)}, answer]
    return {"messages": messages}


def obeyed(bank: Bank, script: Script, turn: int, answer: str) -> dict[str, bool]:
    """Kind → whether the answer does what is asked for in this turn; an instruction taken back is to be left alone.

    A kind that the dialogue's own answer obeys too, which knows of no instruction, tells nothing there and is left out.
    """
    holding = script.holding(turn)
    if holding is not None:
        return bank.obeyed(answer, holding.values)
    own = bank.obeyed(script.answers[turn] or "", script.first.values)
    return {kind: not found for kind, found in bank.obeyed(answer, script.first.values).items() if not own[kind]}


def is_right(script: Script, turn: int, answer: str) -> bool | None:
    """Whether the answer holds a right one; None where the row does not say what is right."""
    if turn >= len(script.right):
        return None
    return any(holds(words(answer), right) for right in script.right[turn])


def score(obeyed: Mapping[str, bool], right: bool | None) -> float | None:
    """The share of what can be told that is as it should be: each kind, and the answer; None when nothing can."""
    told = [*obeyed.values(), *([] if right is None else [right])]
    return sum(told) / len(told) if told else None


def leaks(script: Script, said: Sequence[str]) -> bool:
    """Whether one of the answers quotes an instruction."""
    return any(quotes(answer, text) for answer in said for text in script.told())

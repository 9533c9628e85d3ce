"""Ghost Attention's rows (arXiv:2307.09288, section 3.3): an instruction said once and obeyed in a later turn.

A dialogue gets an instruction meant for all of it. The policy answers with the instruction before every user message;
the row shows it at the start only, so that the answer must be traced to it from afar. The earlier answers of a row
were given under other prompts than the row shows, so they are read and not trained.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ft.data.formats.fields import CALLS, BadRow, Message, Row
from ft.gatt.checkers import contains_phrase, words
from ft.gatt.instructions import Bank, Instruction, quotes_instruction

Place = Literal["system", "first_user"]
Loss = Literal["last", "all_turns"]


@dataclass(frozen=True)
class Change:
    """From `turn` (0 is the first) another instruction holds, or none when it is None: `text` says so to the model.

    revoked  kind → value that was taken back, by this change or by one before it, and is to be left alone
    """

    turn: int
    instruction: Instruction | None
    text: str
    revoked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Script:
    """A dialogue's user messages with the instructions that hold in it, before the policy answers.

    key        names it among the scripts of a stage
    where      the row it is from
    system     the dialogue's own system message, "" for none
    questions  the user messages
    answers    the dialogue's own answers, None where it has none
    right      for each turn the words of which one stands in a right answer; empty where the row does not tell
    first      the instruction it begins with; None where none holds before the first change
    changes    what is said of it later, in the order of turns
    left_out   how many turns the dialogue had beyond these
    """

    key: str
    where: str
    system: str
    questions: tuple[str, ...]
    answers: tuple[str | None, ...]
    right: tuple[tuple[str, ...], ...]
    first: Instruction | None
    changes: tuple[Change, ...] = ()
    left_out: int = 0

    def instruction_at(self, turn: int) -> Instruction | None:
        """The newest instruction in a turn; None when there is none yet, or the last one was taken back."""
        newest = self.newest_change(turn)
        return newest.instruction if newest else self.first

    def newest_change(self, turn: int) -> Change | None:
        """The last change that was said up to a turn, that turn included."""
        return next((change for change in reversed(self.changes) if change.turn <= turn), None)

    def instruction_before(self, change: Change) -> Instruction | None:
        """The instruction that a change replaces."""
        return self.instruction_at(change.turn - 1)

    def user_for_policy(self, turn: int) -> str:
        """The user message as the policy reads it: the instruction stands before every one."""
        instruction = self.instruction_at(turn)
        return f"{instruction.full} {self.questions[turn]}" if instruction else self.questions[turn]

    def _without_opening(self, turn: int) -> str:
        """The user message as a row has it after the opening: bare, but where the instruction changes."""
        newest = self.newest_change(turn)
        return f"{newest.text} {self.questions[turn]}" if newest and newest.turn == turn else self.questions[turn]

    def opening(self, place: Place) -> list[Message]:
        """The messages before the first user message, the instruction in the system message or still to come."""
        parts = [self.system, self.first.text if self.first and place == "system" else ""]
        text = " ".join(part for part in parts if part)
        return [{"role": "system", "content": text}] if text else []

    def user_in_row(self, turn: int, place: Place) -> str:
        """The user message as a row shows it: only the first may hold the instruction that the dialogue begins with."""
        text = self._without_opening(turn)
        return f"{self.first.text} {text}" if self.first and turn == 0 and place == "first_user" else text

    def instruction_texts(self) -> list[str]:
        """Every text of an instruction in this dialogue, which no answer may quote."""
        texts = [self.first.full, self.first.terse] if self.first else []
        for change in self.changes:
            texts += [change.text, *([change.instruction.full] if change.instruction else [])]
        return texts


def script(row: Row, key: str, where: str, first: Instruction | None, turns: int) -> Script:
    """The row's dialogue, at most `turns` long, under an instruction. Raises BadRow."""
    system, questions, answers = _turns(row.get("messages") or row.get("prompt") or [])
    left_out = max(0, len(questions) - turns)
    return Script(key, where, system, questions[:turns], answers[:turns], _right(row)[:turns], first, left_out=left_out)


def row_answers(row: Row) -> tuple[str | None, ...]:
    """The row's own answer to each user message, None where it has none. Raises BadRow where it holds no dialogue."""
    return _turns(row.get("messages") or row.get("prompt") or [])[2]


def check_answers(answers: Sequence[str | None], fix: str) -> None:
    """BadRow, with this fix, where a turn has no answer and another follows it, which would be read without one."""
    if None in answers[:-1]:
        raise BadRow(f"turn {answers.index(None) + 1} has no answer of the dialogue's own", fix)


def change_instruction(script: Script, turn: int, other: Instruction) -> Script:
    """The script with another instruction from `turn` on, which replaces the one before whole.

    Changes are added in the order of turns.
    """
    return _with_change(script, Change(turn, other, other.text))


def revoke_instruction(script: Script, turn: int, text: str, left: Instruction | None = None) -> Script:
    """The script with the instruction taken back from `turn` on, as `text` says, but for the kinds in `left`."""
    before, newest = script.instruction_at(turn - 1), script.newest_change(turn - 1)
    if before is None:
        raise ValueError(f"{script.where}: no instruction holds before turn {turn + 1}")
    kept = left.values if left else {}
    revoked = {kind: value for kind, value in before.values.items() if kind not in kept}
    return _with_change(script, Change(turn, left, text, {**(newest.revoked if newest else {}), **revoked}))


def _with_change(script: Script, change: Change) -> Script:
    return replace(script, changes=(*script.changes, change))


def _turns(messages: Sequence[Message]) -> tuple[str, tuple[str, ...], tuple[str | None, ...]]:
    """System message, user messages and the answer of each, None where the assistant's turn is missing."""
    if any(message["role"] == "tool" or CALLS in message for message in messages):
        raise BadRow("the dialogue has calls of tools", "Ghost Attention takes turns of a user and an assistant.")
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
    user_places = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if not user_places:
        raise BadRow("the row holds no dialogue", "Write format: messages, prompt or user_turns.")
    after = [messages[number + 1] if number + 1 < len(messages) else None for number in user_places]
    answers = [reply["content"] if reply and reply["role"] == "assistant" else None for reply in after]
    return system, tuple(messages[number]["content"] for number in user_places), tuple(answers)


def _right(row: Row) -> tuple[tuple[str, ...], ...]:
    """For each turn the words of which one stands in a right answer: the row's `answers`."""
    right = row.get("answers") or []
    good = isinstance(right, list) and all(isinstance(words, list) for words in right)
    if not good or not all(isinstance(word, str) for words in right for word in words):
        raise BadRow("answers is not a list with a list of texts for each turn", 'Write [["4", "four"], …].')
    return tuple(tuple(words) for words in right)


def row_ends(script: Script, count: int, chance: random.Random) -> list[int]:
    """The turns at which rows of this dialogue end: the last one, and others drawn by chance.

    Where the instruction changes they are drawn from its last change on, as far as there are enough: a row that ends
    before does not show it.
    """
    last = len(script.questions) - 1
    first = min(script.changes[-1].turn if script.changes else 0, max(0, last - (count - 1)))
    return sorted([*chance.sample(range(first, last), min(count - 1, last)), last])


def row(script: Script, turn: int, answers: Sequence[str], *, plain: bool, place: Place, loss: Loss) -> Row:
    """The dialogue up to `turn`, with the instruction at its start only; the last answer is answers[turn].

    plain  the earlier answers are the dialogue's own, which know nothing of the instruction, else those in `answers`
    loss   last: the earlier answers are read and not trained. all_turns: they are trained too (an ablation)
    """
    messages = script.opening(place)
    for t in range(turn + 1):
        answer_text = script.answers[t] if plain and t < turn else answers[t]
        if answer_text is None:
            raise ValueError(f"{script.where}: turn {t + 1} has no answer of its own")
        answer: Message = {"role": "assistant", "content": answer_text}
        if loss == "last":
            answer["train"] = t == turn
        messages += [{"role": "user", "content": script.user_in_row(t, place)}, answer]
    return {"messages": messages}


def obeyed_kinds(bank: Bank, script: Script, turn: int, answer: str) -> dict[str, bool]:
    """Kind → whether the answer does what is asked for in this turn; what was taken back is to be left alone.

    A kind taken back that the dialogue's own answer obeys too, which knows of no instruction, tells nothing there and
    is left out.
    """
    instruction, newest = script.instruction_at(turn), script.newest_change(turn)
    asked = bank.obeyed_kinds(answer, instruction.values) if instruction else {}
    revoked = newest.revoked if newest else {}
    by_chance = bank.obeyed_kinds(script.answers[turn] or "", revoked)
    still_obeyed = bank.obeyed_kinds(answer, revoked)
    return {kind: not obeys for kind, obeys in still_obeyed.items() if not by_chance[kind]} | asked


def obeys_earlier(bank: Bank, script: Script, turn: int, answer: str) -> bool:
    """Whether the answer obeys anything of an instruction that held before and holds no longer in this turn.

    What the dialogue's own answer obeys by chance does not count, nor what the newest instruction asks for as well.
    """
    changes = [change for change in script.changes if change.turn <= turn]
    earlier = [held for change in changes if (held := script.instruction_before(change))]
    newest = script.instruction_at(turn)
    asked = newest.values.items() if newest else ()
    own_answer = script.answers[turn] or ""
    values = [{kind: value} for held in earlier for kind, value in held.values.items() if (kind, value) not in asked]
    return any(
        obeys and not bank.obeyed_kinds(own_answer, value)[kind]
        for value in values
        for kind, obeys in bank.obeyed_kinds(answer, value).items()
    )


def is_right(script: Script, turn: int, answer: str) -> bool | None:
    """Whether the answer holds a right one; None where the row does not say what is right."""
    if turn >= len(script.right):
        return None
    return any(contains_phrase(words(answer), right) for right in script.right[turn])


def score(obeyed: Mapping[str, bool], right: bool | None) -> float | None:
    """The share of what can be told that is as it should be: each kind, and the answer; None when nothing can."""
    verdicts = [*obeyed.values(), *([] if right is None else [right])]
    return sum(verdicts) / len(verdicts) if verdicts else None


def leaks_instruction(script: Script, answers: Sequence[str]) -> bool:
    """Whether one of the answers quotes an instruction."""
    return any(quotes_instruction(answer, text) for answer in answers for text in script.instruction_texts())

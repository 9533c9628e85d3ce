"""A judge's question and its reply: prompt files rendered for two answers, verdicts read strictly.

Beside what every prompt file has (ft.evaluation.prompt_file), one has `verdicts`: the marks that mean first, second and
tie. Its template sees `messages`, the conversation up to the answers, `first`, `second`, and `row`, the other columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ft.data.formats.messages import Message, make_message
from ft.errors import Problems
from ft.evaluation.prompt_file import PromptFile

Verdict = Literal["first", "second", "tie"]
VERDICTS: tuple[Verdict, ...] = ("first", "second", "tie")


class _AnyColumn(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return key


@dataclass(frozen=True)
class JudgePrompt(PromptFile):
    """`marks` are the verdicts as a judge is to write them."""

    marks: Mapping[Verdict, str] = field(default_factory=dict)

    about = "a judge's prompt"
    extra_keys = ("verdicts",)
    shown: ClassVar[Mapping[str, str]] = {"first": "qZxFIRST", "second": "qZxSECOND", "question": "qZxASKED"}
    trial: ClassVar[Mapping[str, Any]] = {
        "messages": [make_message("user", shown["question"])],
        "row": _AnyColumn(),
        "first": shown["first"],
        "second": shown["second"],
    }

    @classmethod
    def fields_of(cls, tree: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().fields_of(tree), "marks": tree["verdicts"]}

    @classmethod
    def check(cls, tree: Any, where: str) -> Problems:
        problems = super().check(tree, where)
        marks = tree.get("verdicts")
        if (
            not isinstance(marks, dict)
            or {*marks} != {*VERDICTS}
            or not all(isinstance(m, str) and m for m in marks.values())
        ):
            fix = "Write {first: '[[A]]', second: …, tie: …}."
            problems.add(where, "verdicts does not say how each is written", fix)
        elif any(one in other for one in marks.values() for other in marks.values() if one is not other):
            fix = "Write marks that cannot be confused."
            problems.add(where, "a mark of verdicts stands inside another one", fix)
        return problems

    def messages(
        self, conversation: Sequence[Message], row: Mapping[str, Any], first: str, second: str
    ) -> list[Message]:
        """What the judge is told of two answers. Raises BadRow where the row lacks a column the prompt names."""
        return self.render({"messages": list(conversation), "row": dict(row), "first": first, "second": second})

    def verdict(self, reply: str) -> Verdict | None:
        """The one verdict whose mark stands in the reply; None where there is none, or more than one of them."""
        verdicts = [verdict for verdict, mark in self.marks.items() if mark in reply]
        return verdicts[0] if len(verdicts) == 1 else None

"""What a page is made of. A part says what is shown; `templates/parts.html.jinja` has a macro of the name `shape` each.

To add one: a dataclass with a `shape`, and a macro of that name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ft.figures.charts import Chart

HALF_PAGE = 64  # characters, the space between columns not counted


class HintedText(str):
    """Text of a table with what is said of it where a pointer rests: a hash."""

    hint: str

    def __new__(cls, text: str, hint: str) -> HintedText:
        cell = super().__new__(cls, text)
        cell.hint = hint
        return cell


@dataclass(frozen=True)
class Table:
    """Sentences and numbers; all columns but the first are right-aligned where `numeric`."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    numeric: bool = True
    note: str = ""
    shape: ClassVar[str] = "table"

    @property
    def wide(self) -> bool:
        """Whether half a page is too narrow for its rows."""
        return len(self.head) > 5 or sum(max(map(len, column)) for column in zip(*self.rows, strict=False)) > HALF_PAGE


@dataclass(frozen=True)
class Picture:
    """A picture file of a stage, as a data URI."""

    title: str
    uri: str
    width: int
    height: int
    shape: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Message:
    role: str
    text: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class JudgedAnswer:
    """One answer: whose it is, what it says, and how it was judged; `good` None where nobody judged."""

    name: str
    text: str
    verdict: str = ""
    good: bool | None = None


@dataclass(frozen=True)
class PromptAnswers:
    """A prompt and its answers side by side."""

    prompt: tuple[Message, ...]
    sides: tuple[JudgedAnswer, ...]
    note: str = ""


@dataclass(frozen=True)
class Answers:
    rows: tuple[PromptAnswers, ...]
    note: str = ""
    shape: ClassVar[str] = "answers"


@dataclass(frozen=True)
class DialogueText:
    messages: tuple[Message, ...]
    title: str = ""
    shape: ClassVar[str] = "dialogue"


@dataclass(frozen=True)
class MaskedRows:
    """Rows as the trainer gets them: runs of text with the same role, trained or only read."""

    rows: tuple[Any, ...]
    roles: tuple[str, ...]
    shape: ClassVar[str] = "masked"


@dataclass(frozen=True)
class Charts:
    """Several charts side by side."""

    charts: tuple[Chart, ...]
    shape: ClassVar[str] = "charts"


@dataclass(frozen=True)
class Sentences:
    """Sentences; `warns` when a reader should see them first."""

    lines: tuple[str, ...]
    warns: bool = False
    shape: ClassVar[str] = "sentences"


Part = Chart | Charts | Table | Picture | Answers | DialogueText | MaskedRows | Sentences


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; `folded` when a reader opens it on demand."""

    title: str
    parts: tuple[Part, ...] = field(default=())
    folded: bool = False

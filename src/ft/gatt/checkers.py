"""Whether an answer obeys one instruction, told by code: the `check:` of a kind in an instruction bank.

A checker is a frozen dataclass: its fields are the parameters a bank may write, its call is a pure function of the
answer, the value asked for, and all values of the kind. To add one: a class and one line in CHECKERS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Checker = Callable[[str, str, Sequence[str]], bool]

# Frequent words of each language that are words of none of the others.
COMMON_WORDS = {
    "english": [
        "the",
        "and",
        "is",
        "are",
        "was",
        "were",
        "of",
        "to",
        "that",
        "it",
        "you",
        "with",
        "for",
        "this",
        "have",
        "not",
        "they",
        "be",
        "which",
        "what",
        "from",
    ],
    "french": [
        "le",
        "les",
        "et",
        "est",
        "sont",
        "des",
        "une",
        "dans",
        "pour",
        "qui",
        "avec",
        "ce",
        "cette",
        "vous",
        "nous",
        "je",
        "ne",
        "pas",
        "sur",
        "aux",
        "être",
    ],
    "spanish": [
        "el",
        "los",
        "las",
        "y",
        "está",
        "son",
        "del",
        "para",
        "con",
        "por",
        "este",
        "esta",
        "usted",
        "nosotros",
        "yo",
        "pero",
        "muy",
        "hay",
    ],
    "german": [
        "der",
        "die",
        "das",
        "ist",
        "sind",
        "und",
        "ein",
        "eine",
        "nicht",
        "mit",
        "für",
        "auf",
        "ich",
        "sie",
        "wir",
        "zu",
        "den",
        "dem",
        "von",
        "auch",
        "wenn",
    ],
    "italian": [
        "il",
        "gli",
        "è",
        "sono",
        "della",
        "che",
        "di",
        "questo",
        "questa",
        "anche",
        "nel",
        "nella",
        "alla",
        "dei",
        "perché",
        "più",
        "noi",
        "ma",
    ],
    "portuguese": [
        "os",
        "são",
        "uma",
        "com",
        "não",
        "isso",
        "você",
        "nós",
        "eu",
        "muito",
        "mais",
        "do",
        "da",
        "dos",
        "em",
        "ao",
        "também",
    ],
}


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; a hyphen does not part them."""
    return re.findall(r"[\w-]+", text.lower())


def contains_phrase(answer_words: Sequence[str], phrase: str) -> bool:
    """Whether the words of `phrase` stand in `answer_words` one after another."""
    return f" {' '.join(words(phrase))} " in f" {' '.join(answer_words)} "


@dataclass(frozen=True)
class Contains:
    """The answer holds one of the phrases; {value} in them is the value.

    alone  and no other value of the kind, so that an answer that names them all obeys none
    """

    phrases: list[str] = field(default_factory=lambda: ["{value}"])
    alone: bool = False

    def __call__(self, answer: str, value: str, values: Sequence[str]) -> bool:
        answer_words = words(answer)
        if not any(contains_phrase(answer_words, phrase.replace("{value}", value)) for phrase in self.phrases):
            return False
        return not self.alone or not any(contains_phrase(answer_words, other) for other in values if other != value)


@dataclass(frozen=True)
class Starts:
    """The answer begins with the words of `text`; {value} in it is the value."""

    text: str = "{value}"

    def __call__(self, answer: str, value: str, values: Sequence[str]) -> bool:
        expected = words(self.text.replace("{value}", value))
        return words(answer)[: len(expected)] == expected


@dataclass(frozen=True)
class Ends:
    """The answer ends with the words of `text`; {value} in it is the value."""

    text: str = "{value}"

    def __call__(self, answer: str, value: str, values: Sequence[str]) -> bool:
        expected = words(self.text.replace("{value}", value))
        return words(answer)[-len(expected) :] == expected


@dataclass(frozen=True)
class Language:
    """The answer is in the language that the value names: it has more words of it than of any other.

    telling  language → words that only it has; absent: frequent words of six languages

    Raises ValueError for a language without words, which no answer could be in.
    """

    telling: dict[str, list[str]] = field(default_factory=lambda: COMMON_WORDS)

    def __call__(self, answer: str, value: str, values: Sequence[str]) -> bool:
        if not any(own_words for name, own_words in self.telling.items() if name.lower() == value.lower()):
            names = ", ".join(self.telling)
            raise ValueError(f"it has no words of '{value}' to tell it by. There are words of {names}")
        answer_words = words(answer)
        counts = {
            name.lower(): sum(word in own_words for word in answer_words) for name, own_words in self.telling.items()
        }
        own_words = counts.pop(value.lower())
        return own_words > max(counts.values(), default=0)


@dataclass(frozen=True)
class MaxWords:
    """The answer has at most `most` words; absent, the value is the number."""

    most: int | None = None

    def __call__(self, answer: str, value: str, values: Sequence[str]) -> bool:
        most = int(value) if self.most is None else self.most
        return 0 < len(words(answer)) <= most


@dataclass(frozen=True)
class Repeats:
    """`least` or more words stand twice in immediate succession."""

    least: int = 2

    def __call__(self, answer: str, value: str, values: Sequence[str]) -> bool:
        answer_words = words(answer)
        spans = range(self.least, len(answer_words) // 2 + 1)
        return any(
            answer_words[i : i + n] == answer_words[i + n : i + 2 * n]
            for n in spans
            for i in range(len(answer_words) - 2 * n + 1)
        )


@dataclass(frozen=True)
class Lines:
    """`least` or more lines, each of which begins with `start`: a list."""

    start: str = "- "
    least: int = 2

    def __call__(self, answer: str, value: str, values: Sequence[str]) -> bool:
        lines = [line.strip() for line in answer.splitlines() if line.strip()]
        return len(lines) >= self.least and all(line.startswith(self.start.strip()) for line in lines)


@dataclass(frozen=True)
class Case:
    """Every letter is small (lower) or capital (upper)."""

    letters: str = "lower"

    def __post_init__(self) -> None:
        if self.letters not in ("lower", "upper"):
            raise ValueError(f"letters is '{self.letters}'; it is lower or upper")

    def __call__(self, answer: str, value: str, values: Sequence[str]) -> bool:
        return answer.islower() if self.letters == "lower" else answer.isupper()


CHECKERS: dict[str, Callable[..., Checker]] = {
    "contains": Contains,
    "starts": Starts,
    "ends": Ends,
    "language": Language,
    "max_words": MaxWords,
    "repeats": Repeats,
    "lines": Lines,
    "case": Case,
}

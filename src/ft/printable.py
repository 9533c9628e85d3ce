"""What others wrote (rows, models, servers, recipes, names of files) as it may be printed, logged or put on a page.

Nothing else in ft escapes, shortens or masks: `Problem` does it for errors, `Terminal` for what commands print,
`report.page` for pages.
"""

from __future__ import annotations

import re

from ft.secrets import hide

# What moves a terminal's cursor, turns its text round, or cannot be written as UTF-8. Line ends and tabs stay.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MOST = 1_000  # characters of one part of an error
BOUND = 1 << 16  # of a longer text the middle is left out before anything is looked for in it


def escape(text: str) -> str:
    """The text with ⟨U+001B⟩ for each character that has no place on a terminal or in a file."""
    return UNPRINTABLE.sub(lambda character: f"⟨U+{ord(character[0]):04X}⟩", text)


def shorten(text: str, most: int) -> str:
    """The text, or its beginning and end with how much is left out between them."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} … ({len(text) - most:,} more characters) … {text[-end:]}"


def printable(text: str) -> str:
    """The whole text, escaped, and secrets in it masked."""
    return escape(hide(text))


def printable_line(text: str, most: int = MOST) -> str:
    """The text on one line of `most` characters, escaped, and secrets in it masked."""
    return " ".join(shorten(printable(shorten(text, BOUND)), most).split())

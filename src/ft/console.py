"""The terminal, as every command prints to it: plain text, with nothing in it that the terminal would obey."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ft.printable import escape, printable
from ft.secrets import hide


class Terminal(Console):
    """Rich's console without its markup (`[x]` in a folder's name is no style) and without its emoji (`:x:`).

    Lines are never cut; what is no terminal, as a pipe, is taken to be `width` wide. Styles are given by `style=` or a
    `Text`.
    """

    def __init__(self, file: TextIO | None = None, width: int | None = None, **options: Any):
        options = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True, **options}
        super().__init__(file=file, width=width, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(_without_secrets(one) if isinstance(one, Text) else one for one in objects), **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich has made of it, cell by cell: a Text is not made by `render_str`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escape(segment.text))


def _without_secrets(text: Text) -> Text:
    hidden = hide(text.plain)
    return text if hidden == text.plain else Text(hidden, style=text.style)


out = Terminal(width=None if sys.stdout.isatty() else 200)
"""stdout, which carries a command's answer."""
talk = Terminal(stderr=True)
"""stderr, which carries everything else."""

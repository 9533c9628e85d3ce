"""What tests say of an error: its place and its key words. All wording stands in tests/golden/messages.txt alone."""

from __future__ import annotations

import re


class Like(str):
    """Equal to every text that has these parts in this order; `…` stands for any words of one line.

    assert str(error.value) == Like("x.yaml:9: … 'learning_rat' … 'learning_rate' …")
    """

    def __eq__(self, other: object) -> bool:
        pattern = r"[^\n]*".join(re.escape(part.strip(" ")) for part in self.split("…"))
        return isinstance(other, str) and re.fullmatch(pattern, str(other)) is not None

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

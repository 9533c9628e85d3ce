"""How progress is shown: as a bar that moves on a terminal; as lines elsewhere, and where several stages speak."""

import os
import sys

LINES = "FT_PROGRESS_IN_LINES"


def moving() -> bool:
    """Whether stderr is this process's own terminal."""
    return sys.stderr.isatty() and LINES not in os.environ

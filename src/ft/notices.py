"""What libraries say by themselves and a user can do nothing about: kept quiet here and nowhere else.

To add a notice: a line in LOGGED or WARNED with a part of its text, and why nobody can heed it. What is not listed is
shown, since it may matter.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from ft.imports import import_when_used

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # no library reports home; TRL does at every trainer
    "DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",  # a fork after its threads have begun is warned of
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",  # TRL is pinned, and tests compare with the experimental parts that are used
}
LOGGED = {
    # On CPUs with AVX512-BF16, at every import. ft switches the kernel it would speed up off (models/load.py).
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}
WARNED = (
    # TRL 1.16 and PEFT 0.21 use these names of transformers 5 themselves.
    (r"`(is_)?gradient_checkpointing(_enable|_disable)?` is deprecated", FutureWarning),
)


class _Without(logging.Filter):
    """Lets pass what does not hold the text."""

    def __init__(self, text: str):
        super().__init__()
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return self.text not in record.getMessage()


def quiet_libraries() -> None:
    """For this process and those it starts; and no code from the Hub. Call it before the first of the libraries is
    imported; it imports none."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # What the package `kernels` loads is code from the Hub, by which bitsandbytes and transformers replace their own
    # where it is installed. None makes Python say that it is not.
    sys.modules["kernels"] = None  # type: ignore[assignment]
    import_when_used()
    for logger, text in LOGGED.items():
        logging.getLogger(logger).addFilter(_Without(text))
    for text, category in WARNED:
        warnings.filterwarnings("ignore", text, category)


def quiet_bars() -> None:
    """No bar of transformers for weights that are read or written in a second. Downloads keep theirs."""
    from transformers.utils import logging as bars

    def make_hidden(make: Callable[..., object], arguments: tuple[Any, ...], options: dict[str, Any]) -> object:
        return make(*arguments, **{**options, "disable": True})

    bars.set_tqdm_hook(make_hidden)

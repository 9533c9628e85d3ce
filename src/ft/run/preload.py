"""Imports what FT_PRELOAD names, once for all stages of a run: see ft.run.fork_server."""

import importlib
import os

from ft.imports import uncollected

with uncollected():
    for name in os.environ["FT_PRELOAD"].split():
        importlib.import_module(name)

"""Imports what FT_PRELOAD names, once for all stages of a run: see ft.warm, whose fork server imports this module."""

import importlib
import os

from ft.imports import uncollected

with uncollected():
    for name in os.environ["FT_PRELOAD"].split():
        importlib.import_module(name)

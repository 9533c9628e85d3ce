"""Imports what FT_PRELOAD names, once for all stages of a run: see ft.run.fork_server."""

import importlib
import os

from ft.imports import uncollected
from ft.notices import quiet_libraries

quiet_libraries()

with uncollected():
    for name in os.environ["FT_PRELOAD"].split():
        importlib.import_module(name)

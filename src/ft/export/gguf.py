"""GGUF, by the converter that everybody uses: `convert_hf_to_gguf.py` of a llama.cpp checkout.

PyPI has the writer it builds on (`gguf`) and not the converter, so a checkout is asked for. None is written here: what
a converter must know of each architecture is llama.cpp's to know.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ft.errors import fail

SCRIPT = "convert_hf_to_gguf.py"
TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
FIX = "Get one (git clone https://github.com/ggml-org/llama.cpp) and say --llama-cpp DIR; it needs `pip install gguf`."


def converter(checkout: Path | None) -> Path:
    """The converter's file, in the checkout or on the path. Raises UserError."""
    if checkout is None:
        script = shutil.which(SCRIPT)
        if script is None:
            raise fail("--gguf", f"there is no {SCRIPT} on the path", FIX)
        return Path(script)
    if not (checkout / SCRIPT).exists():
        raise fail("--llama-cpp", f"{checkout} holds no {SCRIPT}", FIX)
    return checkout / SCRIPT


def convert(script: Path, folder: Path, dtype: str, log: Callable[[str], None]) -> Path:
    """folder/model.gguf, made by llama.cpp's converter. Raises UserError with the end of what it said."""
    file = folder / "model.gguf"
    command = [sys.executable, str(script), str(folder), "--outfile", str(file), "--outtype", TYPES[dtype]]
    log(f"converting to GGUF: {script.name} --outtype {TYPES[dtype]}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.exists():
        lines = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise fail("--gguf", f"the converter failed: {lines}", "It may not know this architecture or tokenizer.")
    return file

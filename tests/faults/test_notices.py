"""Nothing that a library says by itself, and a user can do nothing about, is shown by a command or a stage.

On a CPU with AVX512-BF16 bitsandbytes says at its import that a kernel of the Hub is missing; here every CPU has it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiny

FLAG = tiny.ROOT / "tests" / "with_avx512bf16"
NOTICE = re.compile(r"gemm_4bit|pip install|[Ww]arning|deprecated|site-packages|Loading weights|Writing model|it/s")


def shown(*command: str, given: str = "") -> str:
    """What the command says beside its answer; it has ended well."""
    path = os.pathsep.join((str(FLAG), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, *command],
        env={**tiny.environment(), "PYTHONPATH": path},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def notices(text: str) -> list[str]:
    return [line for line in text.splitlines() if NOTICE.search(line)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> tuple[Path, str]:
    """A folder of results, and what was said while a chain of QLoRA stages was made."""
    folder = tmp_path_factory.mktemp("chain")
    quantised = {"lora": tiny.LORA, "quantization": {**tiny.NF4, "bnb_4bit_compute_dtype": "float32"}}
    train = {"gradient_checkpointing": True, "max_steps": 1}
    first = tiny.sft(data, {**train, "eval_on_start": True}, rows={"eval_fraction": 0.2}, **quantised)
    second = tiny.sft(data, train, name="second", init="$sft", **quantised)
    file = tiny.recipe(folder, [first, second], model=str(base))
    said = shown("-m", "ft", "run", str(file), "--runs", str(folder / "runs"))
    return folder / "runs", said


def test_bitsandbytes_by_itself_says_what_looks_like_a_broken_installation():
    assert notices(shown("-c", "import bitsandbytes"))


def test_a_run_shows_none(runs: tuple[Path, str]):
    said = runs[1]
    assert "second: step 1/1" in said
    assert notices(said) == []


def test_commands_that_load_the_result_show_none(runs: tuple[Path, str], tmp_path: Path):
    """Both in one process, which imports the libraries once."""
    [result] = map(str, runs[0].glob("*/second-*"))
    script = "import contextlib, sys\nfrom ft.__main__ import main\n"
    for command in (["chat", result], ["export", result, "--to", str(tmp_path / "exported")]):
        script += f"sys.argv = {['ft', *command]}\n"
        script += "with contextlib.suppress(SystemExit):  # 1 where an answer is empty\n    main()\n"
    assert notices(shown("-c", script, given="3 sky?\n")) == []
    assert (tmp_path / "exported" / "config.json").exists()


def test_no_library_loads_kernels_from_the_hub(tmp_path: Path):
    """bitsandbytes asks for one at its import on such a CPU, transformers for an attention with a slash in its name."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("raise SystemExit('code from the Hub')\n", encoding="utf-8")
    (tmp_path / "kernels-0.18.2.dist-info").mkdir()
    about = "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n"
    (tmp_path / "kernels-0.18.2.dist-info" / "METADATA").write_text(about, encoding="utf-8")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "{quiet}\n"
        "import bitsandbytes, transformers.integrations.hub_kernels"
    )
    quiet = "from ft.notices import quiet_libraries; quiet_libraries()"
    assert notices(shown("-c", script.format(quiet=quiet))) == []
    path = os.pathsep.join((str(FLAG), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-c", script.format(quiet="")]
    without = subprocess.run(command, env={**tiny.environment(), "PYTHONPATH": path}, capture_output=True, check=False)
    assert b"code from the Hub" in without.stderr

"""What every test shares: no network, one thread, and an untrained model made once."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
import signal
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "TRL_EXPERIMENTAL_SILENCE": "1"}

import pytest

import tiny

# accelerate asks whether PEFT is installed at every step, and reads its description anew each time: 10 ms.
importlib.metadata.metadata = functools.lru_cache(importlib.metadata.metadata)

gc.disable()  # while tests are collected: imports of the libraries take a third less

# A shell that starts the tests in the background lets them and their children ignore Ctrl-C; tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--properties", type=int, default=1, help="random cases of each property (tests/properties)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `case`, the seed of a random case, runs for as many as `--properties` says; one that names
    its cases itself has those."""
    own = any("case" in str(marker.args[0]) for marker in metafunc.definition.iter_markers("parametrize"))
    if "case" in metafunc.fixturenames and not own:
        metafunc.parametrize("case", range(metafunc.config.getoption("--properties")))


def pytest_configure(config: pytest.Config) -> None:
    """Without `-m gpu` nothing sees a GPU: not this process, not xdist's workers, not the commands that tests start.
    On a GPU a stage trains in bfloat16, and what these tests compare is float32."""
    selection = config.option.markexpr
    if "gpu" not in selection or "not gpu" in selection:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """What is imported stays: it is not looked through again whenever a test has made garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt nothing, with its tokenizer."""
    return tiny.base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 rows: a thing is asked for, its colour is the answer."""
    return tiny.rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture(scope="session")
def ending(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    """A model that has learnt to end its answers, and some colours."""
    train = {"max_steps": 60, "learning_rate": 0.005}
    return tiny.trained(tmp_path_factory.mktemp("ending"), base, data, train).folder

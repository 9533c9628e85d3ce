"""A class made from its source is the imported one, as far as it decides; whatever version is installed."""

from __future__ import annotations

import copy
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.unit.recipe.conftest import GOOD

import tiny
from ft.recipe import Owner, Recipe, Verdicts, source
from ft.recipe.check import device_free, nothing_leaks
from ft.recipe.schema import coerce, schema_of
from ft.recipe.source import MODULE_PREFIX, construct, is_symbolic, read_class
from ft.recipe.symbolic import Undecided
from ft.run.accelerate_config import CONFIG, ONE_PROCESS, objections
from ft.stages import STAGES
from wording import Like

ROOT = tiny.ROOT
OWNERS = {owner.path: owner for kind in STAGES.values() for owner in kind.blocks.values() if owner.source()}
OWNERS[CONFIG.path] = CONFIG

WORDS = "no steps epoch best cosine greedy reduce_lr_on_plateau adamw_torch paged_adamw_8bit all none wandb loss"
VALUES: list[Any] = [
    *(True, False, None, -1, 0, 1, 2, 3, 4, 7, 8, 16, 64, 500, 0.03, 0.5, 1.5, 2.5, float("inf"), float("nan")),
    *WORDS.split(),
    *("all-linear", "nf4", "fp4", "bfloat16", "float32", "uint8", "auto", "sigmoid", "group", "gaussian", "", "{"),
    *("bf16", "cuda", "gloo", "inductor", "loftq", "eva", "pissa", '{"a": 1}'),
    *([], ["none"], ["all"], ["q_proj", "v_proj"], [1, 2], [0.5, 0.5], {}, {"a": 1}, {"rope_type": "default"}),
    *({"rope_type": "default", "rope_theta": 1e4}, {"rope_type": "llama3", "factor": 8.0}, {"split_batches": True}),
]

REQUIRED = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "mixed_precision": "no"}
REQUIRED |= {"use_cpu": False, "debug": False}


def test_every_class_of_a_library_can_be_made_from_its_source():
    owners = {owner.path for kind in STAGES.values() for owner in kind.blocks.values()}
    assert sorted(path for path in owners if not path.startswith("ft.") and path not in OWNERS) == []
    assert "ft.rl.ppo_config:PPOConfig" in OWNERS


def test_classes_of_ft_that_import_no_library_are_imported():
    assert Owner("ft.encode.prepare:RowOptions").source() is None


@pytest.mark.parametrize("path", OWNERS)
def test_a_class_from_its_source_has_the_keys_and_defaults_of_the_imported_one(path: str):
    ours, theirs = OWNERS[path].schema(), schema_of(OWNERS[path].load())
    assert list(ours.annotations) == list(theirs.annotations)
    assert ours.required == theirs.required
    assert ours.defaults == theirs.defaults


@pytest.mark.parametrize("path", OWNERS)
def test_a_class_from_its_source_takes_the_values_that_the_imported_one_takes(path: str):
    ours, theirs = OWNERS[path].schema(), schema_of(OWNERS[path].load())
    different = {(repr(annotation), repr(ours.annotations[key])): key for key, annotation in theirs.annotations.items()}
    for key in different.values():
        annotation = theirs.annotations[key]
        assert not is_symbolic(annotation), key
        for value in VALUES if not is_symbolic(ours.annotations[key]) else ():
            assert read_as(ours.annotations[key], value) == read_as(annotation, value), (key, value)


def read_as(annotation: Any, value: Any) -> str:
    try:
        return repr(coerce(annotation, value))
    except ValueError as error:
        # typing remembers a union in the order of whoever made it first, so the words count and not their order
        return f"refused: {sorted(re.findall(r'[^ .,]+', str(error)))}"


@pytest.mark.parametrize("path", OWNERS)
def test_what_the_source_decides_is_what_the_imported_class_does(path: str):
    """Blocks at random, usual and odd: never right where the class refuses, never refused where it does not."""
    owner, chosen = OWNERS[path], random.Random(path)
    read, loaded = owner.source(), owner.load()
    assert read
    pool = {key: values for key in schema_of(loaded).annotations if (values := taken(owner, key))}
    required = {key: REQUIRED[key] for key in schema_of(loaded).required}
    counts = Counter[str]()
    for _ in range(200):
        keys = chosen.sample(sorted(pool), min(len(pool), chosen.choice([1, 2, 3, 5, 8])))
        values = required | {key: chosen.choice(pool[key]) for key in keys}
        forced = device_free(schema_of(loaded), values)
        theirs = outcome(lambda values=values, forced=forced: loaded(**copy.deepcopy({**values, **forced})))
        ours = outcome(lambda values=values, forced=forced: construct(read, values, forced))
        counts[ours if ours in ("right", "undecided") else "refused"] += 1
        assert ours in ("undecided", theirs), values
    assert counts["undecided"] < 60, counts
    assert counts["right"] > 60, counts


def taken(owner: Owner, key: str) -> list[Any]:
    """Values that the key's annotation takes, as the class gets them."""
    values = []
    for value in VALUES if key not in owner.reserved else ():
        with suppress(ValueError):
            values.append(coerce(schema_of(owner.load()).annotations[key], value))
    return values


def outcome(call: Callable[[], object]) -> str:
    try:
        with nothing_leaks():
            call()
    except Undecided:
        return "undecided"
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace(MODULE_PREFIX, "")
    return "right"


# Recipes


def python(program: str, **environment: str) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


READ_ALL = """
import sys; from pathlib import Path; from ft.recipe import read; from ft.stages import STAGES
from ft.run.accelerate_config import read_launch
for file in sorted(Path('recipes').glob('*/*.yaml')):
    if file.parent.name != 'accelerate': read(file, STAGES)
print([name for name in ('torch', 'transformers', 'trl', 'peft', 'datasets', 'accelerate') if name in sys.modules])
"""


def test_every_shipped_recipe_is_decided_without_importing_a_library():
    assert python(READ_ALL) == "[]\n"


def test_what_the_source_does_not_decide_is_asked_of_the_class_once(
    recipe: Callable[..., Recipe], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    imported: list[str] = []
    load = Owner.load

    def watched(owner: Owner) -> type:
        imported.append(owner.path)
        return load(owner)

    monkeypatch.setattr(Owner, "load", watched)

    def undecided(*arguments: Any) -> None:
        raise Undecided

    monkeypatch.setattr("ft.recipe.check.construct", undecided)
    first = recipe(GOOD, (), Verdicts(folder / "checked.json"))
    assert "trl:SFTConfig" in imported
    imported.clear()
    again = recipe(GOOD, (), Verdicts(folder / "checked.json"))
    assert "trl:SFTConfig" not in imported
    assert again.stage("sft").blocks == first.stage("sft").blocks


def test_a_remembered_recipe_is_planned_without_reading_a_source(
    recipe: Callable[..., Recipe], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    first = recipe(GOOD, (), Verdicts(folder / "checked.json"))
    monkeypatch.setattr(Owner, "schema", lambda owner: pytest.fail(f"{owner.path} was read"))
    again = recipe(GOOD, (), Verdicts(folder / "checked.json"))
    assert again.stages == first.stages
    assert objections(again.stages, ONE_PROCESS) == []


def test_a_class_whose_source_cannot_be_run_is_imported_and_says_the_same(
    recipe: Callable[..., Recipe], messages_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    right = GOOD.replace("64}", "64, logging_steps: 2, lr_scheduler_type: cosine, eval_steps: '10', bf16: yes}")
    wrong = GOOD.replace("64}", "64, evl_steps: 3, logging_steps: often, packing: 2}\n    lora: {r: 0}")
    refused = GOOD.replace("64}", "64, load_best_model_at_end: true, eval_strategy: epoch}")
    first = recipe(right).stage("sft").blocks, messages_of(wrong), messages_of(refused)
    monkeypatch.setattr(Owner, "source", lambda owner: None)
    assert (recipe(right).stage("sft").blocks, messages_of(wrong), messages_of(refused)) == first
    assert first[1].count("x.yaml:") == 4


def test_another_version_of_a_library_is_read_as_it_is(folder: Path):
    """A copy of TRL with a field renamed and a check added: nothing of a version stands in ft."""
    spec = find_spec("trl")
    assert spec
    assert spec.submodule_search_locations
    shutil.copytree(spec.submodule_search_locations[0], folder / "path" / "trl")
    file = folder / "path" / "trl" / "trainer" / "sft_config.py"
    text = file.read_text(encoding="utf-8").replace("packing_strategy", "packing_strategies")
    check = "        if self.max_length == 13:\n            raise ValueError('max_length 13 is not for this version')\n"
    file.write_text(
        text.replace("        super().__post_init__()\n", check + "        super().__post_init__()\n"), encoding="utf-8"
    )
    (folder / "renamed.yaml").write_text(GOOD.replace("64}", "64, packing_strategy: bfd}"), encoding="utf-8")
    (folder / "checked.yaml").write_text(GOOD.replace("64}", "13, packing_strategies: bfd}"), encoding="utf-8")
    program = f"""
import sys; from pathlib import Path; from ft.errors import UserError
from ft.recipe import read; from ft.stages import STAGES
for name in ("renamed", "checked"):
    try: read(Path({str(folder)!r}) / (name + ".yaml"), STAGES)
    except UserError as error: print(str(error).replace({str(folder)!r} + "/", ""))
print([name for name in ("torch", "transformers", "trl") if name in sys.modules])
"""
    assert python(program, PYTHONPATH=f"{folder / 'path'}:{ROOT / 'src'}").splitlines() == [
        "renamed.yaml:5: SFTConfig has no field 'packing_strategy'. Did you mean 'packing_strategies'?",
        Like("checked.yaml:5: SFTConfig … max_length 13 …"),
        "[]",
    ]


# Symbols

NUMBERS = itertools.count()  # a module is read once, so each has a name of its own


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., type]:
    """The class Odd of a library whose source is the text, which may use torch."""

    def made(body: str, head: str = "") -> type:
        name = f"odd{next(NUMBERS)}"
        (tmp_path / name).mkdir()
        monkeypatch.setattr(source, "EXECUTED", (*source.EXECUTED, name))
        text = f"import torch\nfrom dataclasses import dataclass\n{head}\n@dataclass\nclass Odd:\n    size: int = 1\n"
        text += "    word: str = ''\n    def __post_init__(self):\n"
        (tmp_path / name / "__init__.py").write_text(
            text + "".join(f"        {x}\n" for x in body.split("\n")), encoding="utf-8"
        )
        found = read_class(f"{name}:Odd")
        assert found
        return found

    monkeypatch.syspath_prepend(tmp_path)
    return made


def test_a_refusal_that_depends_on_the_machine_is_undecided(odd: Callable[..., type]):
    read = odd("if self.size > 1 and torch.cuda.get_device_name() == 'A100':\n    raise ValueError('too large')")
    construct(read, {"size": 1}, {})
    with pytest.raises(Undecided):
        construct(read, {"size": 2}, {})


def test_a_refusal_on_every_machine_is_one(odd: Callable[..., type]):
    name, check = (
        "self.name = 'a' if torch.version.cuda else 'b'",
        "if self.size > 1:\n    raise ValueError('2 is large')",
    )
    read = odd(f"{name}\n{check}")
    with pytest.raises(ValueError, match="2 is large"):
        construct(read, {"size": 2}, {})


def test_a_machine_without_an_accelerator_is_assumed(odd: Callable[..., type]):
    construct(odd("if torch.cuda.is_available():\n    raise ValueError('no GPUs, please')"), {}, {})


def test_values_given_to_what_is_not_known_are_undecided(odd: Callable[..., type]):
    construct(odd("torch.manual_seed(1)"), {"size": 2}, {})
    with pytest.raises(Undecided):
        construct(odd("torch.manual_seed(self.size)"), {"size": 2}, {})
    with pytest.raises(Undecided):
        construct(odd("getattr(torch, self.word or 'float32')"), {"word": "float33"}, {})
    construct(odd("assert isinstance(getattr(torch, self.word or 'float32'), torch.dtype)"), {"word": "bfloat16"}, {})


@pytest.mark.parametrize("body", ["int(torch.version.cuda)", "list(torch.ones)", "{}[torch]", "undefined"])
def test_an_error_that_no_raise_made_is_undecided(odd: Callable[..., type], body: str):
    with pytest.raises(Undecided):
        construct(odd(body), {}, {})


def test_a_message_that_holds_what_is_not_known_is_undecided(odd: Callable[..., type]):
    with pytest.raises(Undecided):
        construct(odd("raise ValueError(f'not with {torch.__version__ if 0 else torch.version.cuda}')"), {}, {})


def test_conditions_without_end_are_undecided(odd: Callable[..., type]):
    with pytest.raises(Undecided):
        construct(odd("number = 0\nwhile torch.get_num_threads() != number:\n    number += 1"), {}, {})


def test_definitions_are_found_where_libraries_put_them(odd: Callable[..., type]):
    head = (
        "import sys\n"
        "if sys.version_info >= (3,):\n    LIMIT = 3\nelse:\n    LIMIT = 0\n"
        "try:\n    from not_there import TABLE\nexcept ImportError:\n    TABLE = {}\n"
        "TABLE.update(a=1)\nTABLE['b'] = LIMIT\n"
        "def later():\n    return NAME\n"
        "NAME: str = 'there'\n"
        "raise SystemExit('a statement nobody asks for does not run')"
    )
    read = odd("if (TABLE, later()) != ({'a': 1, 'b': 3}, 'there'):\n    raise ValueError((TABLE, later()))", head)
    construct(read, {}, {})

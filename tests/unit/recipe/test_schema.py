"""What ft ships of the libraries' classes is what they say, and a usual block is one that they take."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.unit.recipe.conftest import GOOD

from ft.recipe import Recipe, schema
from ft.recipe.check import _coerced, _device_free, _nothing_leaks
from ft.recipe.schema import FILE, Opaque, schema_of, shipped
from ft.recipe.usual import Usual
from ft.stages.schemas import owners, schemas

ROOT = Path(__file__).parents[3]
OWNERS = owners()

WORDS = "no steps epoch best cosine greedy reduce_lr_on_plateau adamw_torch paged_adamw_8bit all none wandb loss"
VALUES: list[Any] = [
    *(True, False, None, -1, 0, 1, 2, 3, 4, 7, 8, 16, 64, 500, 0.03, 0.5, 1.5, 2.5, float("inf"), float("nan")),
    *WORDS.split(),
    *("all-linear", "nf4", "fp4", "bfloat16", "float32", "uint8", "auto", "sigmoid", "group", "gaussian", "", "{"),
    *([], ["none"], ["all"], ["q_proj", "v_proj"], [1, 2], [0.5, 0.5], {}, {"a": 1}, {"rope_type": "default"}),
    {"rope_type": "default", "rope_theta": 1e4},
]


def test_the_shipped_schemas_are_those_of_the_installed_classes():
    written, now = ordered(json.loads(FILE.read_text(encoding="utf-8"))), ordered(schemas())
    for path, one in now["classes"].items():
        assert written["classes"][path] == one, f"{path}: run `python -m ft.stages.schemas`"
    assert written == now
    assert all(told for one in written["classes"].values() for told in one["sources"].values())


def ordered(held: Any) -> Any:
    """Without the order in unions: typing remembers the first one it made of the same types, whoever made it."""
    if isinstance(held, dict):
        found = {key: ordered(value) for key, value in held.items()}
        return found | {key: sorted(value, key=str) for key, value in found.items() if key == "union"}
    return [ordered(one) for one in held] if isinstance(held, list) else held


@pytest.mark.parametrize("path", OWNERS)
def test_a_shipped_annotation_takes_what_the_class_takes(path: str):
    ours, theirs = shipped(path), schema_of(OWNERS[path].load())
    assert ours is not None
    seen = set()
    for key in theirs.keys:
        written = (repr(theirs.annotation(key)), key in ("rope_parameters",))
        if written in seen or written[1]:  # a TypedDict, which pydantic knows from Python 3.12 on
            continue
        seen.add(written)
        try:
            annotation = ours.annotation(key)
        except Opaque:
            continue
        for value in VALUES:
            assert read_as(annotation, value) == read_as(theirs.annotation(key), value), (key, value)


def read_as(annotation: Any, value: Any) -> str:
    try:
        return repr(_coerced(annotation, value))
    except ValueError as error:
        return f"refused: {sorted(re.findall(r'[^ .]+', str(error)))}"  # see `ordered`


def passing(known: schema.Schema, usual: Usual, key: str) -> list[Any]:
    """Values that the annotation takes, and the key's rule if it has one."""
    try:
        annotation = known.annotation(key)
    except Opaque:
        return []
    taken = []
    for value in VALUES:
        with suppress(ValueError):
            taken.append(_coerced(annotation, value))
    alone = Usual(usual.keys)
    return [value for value in taken if alone.surely(known, {key: value})]


@pytest.mark.parametrize("path", OWNERS)
def test_a_class_takes_every_usual_block_and_looks_at_no_other_key(path: str):
    owner, chosen = OWNERS[path], random.Random(path)
    loaded, known = owner.load(), shipped(path)
    assert known is not None
    assert owner.usual is not None
    keys = [key for key in known.keys if key not in owner.ours]
    few = [key for key in keys if key in owner.usual.keys] + chosen.sample(keys, min(len(keys), 12))
    pool = {key: values for key in few if (values := passing(known, owner.usual, key))}
    looked: set[str] = set()

    def watched(self: Any, name: str) -> Any:
        looked.add(name)
        return object.__getattribute__(self, name)

    seen = type(loaded.__name__, (loaded,), {"__getattribute__": watched})
    built = 0
    for _ in range(150):
        found = {key: chosen.choice(pool[key]) for key in chosen.sample(sorted(pool), min(len(pool), 7))}
        low = any(found[key] is not None and found[key] < owner.least[key] for key in owner.least.keys() & found.keys())
        if low or not owner.usual.surely(known, found):
            continue
        built += 1
        with _nothing_leaks():
            seen(**{**found, **_device_free(loaded, found)})  # raises where the class refuses
        assert looked & set(known.keys) <= known.looked_at
    assert built >= 15


UNSURE = {
    "best without evaluation": ("trl:SFTConfig", {"load_best_model_at_end": True}),
    "saved between evaluations": (
        "trl:SFTConfig",
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3.0, "save_steps": 100.0},
    ),
    "two precisions": ("trl:DPOConfig", {"fp16": True, "bf16": True}),
    "no such schedule": ("trl:SFTConfig", {"lr_scheduler_type": "cosinus"}),
    "no such optimizer": ("trl:RewardConfig", {"optim": "adam"}),
    "a schedule that judges": ("trl:SFTConfig", {"lr_scheduler_type": "reduce_lr_on_plateau"}),
    "half a step": ("trl:SFTConfig", {"logging_steps": 2.5}),
    "warmed up backwards": ("trl:SFTConfig", {"warmup_steps": -0.1}),
    "a torn group": ("trl:GRPOConfig", {"num_generations": 3, "per_device_train_batch_size": 8}),
    "one answer a prompt": ("trl:RLOOConfig", {"num_generations": 1}),
    "an odd batch": ("ft.rl.ppo_config:PPOConfig", {"generation_batch_size": 7}),
    "other answers": ("ft.rl.ppo_config:PPOConfig", {"top_k": 5}),
    "no discount": ("ft.rl.ppo_config:PPOConfig", {"gamma": 0.0}),
    "layers of a pattern": ("peft:LoraConfig", {"target_modules": "all-linear", "layers_to_transform": [1]}),
    "no type": ("transformers:BitsAndBytesConfig", {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bf16"}),
    "two widths": ("transformers:BitsAndBytesConfig", {"load_in_4bit": True, "load_in_8bit": True}),
    "heads that do not share": ("transformers:LlamaConfig", {"hidden_size": 100, "num_attention_heads": 8}),
}


@pytest.mark.parametrize("case", UNSURE)
def test_what_a_class_might_refuse_is_left_to_it(case: str):
    path, values = UNSURE[case]
    usual, known = OWNERS[path].usual, shipped(path)
    assert usual
    assert known
    assert usual.surely(known, {"load_in_4bit": True} if "load_in_4bit" in values else {})
    assert not usual.surely(known, values)


def test_planning_any_shipped_recipe_for_the_first_time_imports_no_library_that_takes_seconds():
    program = (
        "import sys; from pathlib import Path; from ft.recipe import read; from ft.stages import STAGES\n"
        "for file in sorted(Path('recipes').glob('*/*.yaml')):\n"
        "    if file.parent.name != 'accelerate': read(file, STAGES)\n"
        "print([name for name in ('torch', 'transformers', 'trl', 'peft', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch):
    """Nothing is remembered of versions and sources, before and after."""
    held = (schema._same_versions, schema.source)
    for one in held:
        one.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for one in held:
        one.cache_clear()


def test_a_schema_of_another_version_or_another_source_is_not_used(forgetful: pytest.MonkeyPatch):
    assert shipped("trl:SFTConfig")
    forgetful.setattr(schema, "versions", lambda: {"trl": "0.0"})
    schema._same_versions.cache_clear()
    assert shipped("trl:SFTConfig") is None
    forgetful.undo()
    schema._same_versions.cache_clear()
    forgetful.setattr(schema, "source", lambda module: "another" if module == "transformers.training_args" else "")
    assert shipped("trl:SFTConfig") is None


def test_where_no_schema_is_shipped_the_class_is_asked_and_says_the_same(
    recipe: Callable[..., Recipe], said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    right = GOOD.replace("64}", "64, logging_steps: 2, lr_scheduler_type: cosine, eval_steps: '10', bf16: yes}")
    wrong = GOOD.replace("64}", "64, evl_steps: 3, logging_steps: often, packing: 2}\n    lora: {r: 0}")
    first = recipe(right).stage("sft").blocks, said(wrong)
    monkeypatch.setattr("ft.recipe.check.shipped", lambda path: None)
    assert (recipe(right).stage("sft").blocks, said(wrong)) == first
    assert first[1].count("x.yaml:") == 4

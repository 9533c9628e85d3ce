"""A 4-bit base that would compute in float32 beside a stage in half precision is said, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.recipe.conftest import HEAD

from ft.recipe import Recipe

SAID = (
    "x.yaml:7: quantization names no bnb_4bit_compute_dtype, and the library takes float32: slower, and larger. "
    "Write `bnb_4bit_compute_dtype: {}`."
)


def stage(train: str = "", quantization: str = "") -> str:
    return (
        f"{HEAD}  - kind: sft\n    data: [rows.jsonl]\n    train: {{max_length: 64{train}}}\n    lora: {{r: 8}}\n"
        f"    quantization: {{load_in_4bit: true{quantization}}}\n"
    )


@pytest.mark.parametrize(
    ("train", "dtype"), [("", "bfloat16"), (", bf16: true", "bfloat16"), (", fp16: true", "float16")]
)
def test_a_stage_in_half_precision_is_told_which_dtype_to_write(recipe: Callable[..., Recipe], train: str, dtype: str):
    found = recipe(stage(train))
    assert found.notices == (SAID.format(dtype),)
    assert "bnb_4bit_compute_dtype" not in found.stage("sft").blocks["quantization"]


@pytest.mark.parametrize(
    ("train", "quantization"),
    [
        ("", ", bnb_4bit_compute_dtype: bfloat16"),
        ("", ", bnb_4bit_compute_dtype: float32"),  # written, so meant
        (", bf16: false", ""),
        (", use_cpu: true", ""),
    ],
)
def test_nothing_is_said_where_the_dtype_is_written_or_the_stage_computes_in_float32(
    recipe: Callable[..., Recipe], train: str, quantization: str
):
    assert recipe(stage(train, quantization)).notices == ()


def test_a_stage_that_only_answers_is_told_nothing(recipe: Callable[..., Recipe]):
    answers = "{kind: sample, data: [rows.jsonl], sample: {samples: 2}, quantization: {load_in_4bit: true}}"
    assert recipe(f"{HEAD}  - {answers}\n").notices == ()

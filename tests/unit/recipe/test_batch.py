"""`global_batch`: rows a step over all processes, checked where the recipe is read and where processes are known."""

from __future__ import annotations

import pytest
from tests.unit.recipe.conftest import HEAD

from ft.recipe import accumulation
from wording import Like

BATCH = "  - kind: sft\n    data: [rows.jsonl]\n    {}\n    train: {{max_length: 64, {}}}\n"


def stage(key: str, train: str = "per_device_train_batch_size: 4") -> str:
    return HEAD + BATCH.format(key, train)


@pytest.mark.parametrize(("processes", "per_device", "accumulated"), [(1, 4, 16), (8, 4, 2), (16, 4, 1), (1, 64, 1)])
def test_accumulation_follows_from_the_batch(processes, per_device, accumulated):
    assert accumulation(64, per_device, processes) == accumulated


@pytest.mark.parametrize(
    ("batch", "per_device", "processes", "fits"),
    [
        (64, 4, 6, "4 x 6 processes. What fits: global_batch 48 or 72; or 4 or 8 processes."),
        (64, 3, 1, "3. What fits: global_batch 63 or 66; or per_device_train_batch_size 2 or 4."),
        (64, 16, 8, "16 x 8 processes. What fits: global_batch 128; or per_device_train_batch_size 8; or 4 processes."),
        (2, 1, 4, "1 x 4 processes. What fits: global_batch 4; or 2 processes."),
    ],
)
def test_numbers_that_do_not_divide_come_with_numbers_that_do(batch, per_device, processes, fits):
    with pytest.raises(ValueError, match="no multiple") as refused:
        accumulation(batch, per_device, processes)
    assert str(refused.value) == f"global_batch {batch} is no multiple of per_device_train_batch_size {fits}"


def test_a_stage_has_the_batch_beside_its_train_block(recipe):
    assert recipe(stage("global_batch: 64")).stages[0].global_batch == 64
    assert recipe(stage("name: sft")).stages[0].global_batch is None


def test_an_older_name_is_read_with_a_notice(recipe):
    found = recipe(stage("total_batch_size: 64"))
    assert found.stages[0].global_batch == 64
    assert found.notices == ("x.yaml:5: 'total_batch_size' is now 'global_batch'; read as such.",)


@pytest.mark.parametrize(
    ("key", "train", "problem"),
    [
        ("global_batch: 0", "per_device_train_batch_size: 4", "5: global_batch is '0'. Write rows per optimizer step"),
        ("global_batch: 6", "per_device_train_batch_size: 4", "5: global_batch 6 is no multiple of per_device_train_b"),
        ("global_batch: 8", "bf16: false", "5: global_batch needs train.per_device_train_batch_size."),
        ("global_batch: 6", "micro_batch_size: 4", "5: global_batch 6 is no multiple of per_device_train_batch_size 4"),
        (
            "global_batch: 8",
            "per_device_train_batch_size: 4, gradient_accumulation_steps: 2",
            Like("6: global_batch … train.gradient_accumulation_steps …"),
        ),
        ("name: x", "global_batch: 8", "6: train has no key 'global_batch'. Write `global_batch: …` in the stage, bes"),
    ],
)
def test_what_cannot_be_a_batch_is_told_by_line(key, train, problem, messages_of):
    assert messages_of(stage(key, train)) == Like(f"x.yaml:{problem} …")


def test_a_kind_that_does_not_train_reads_none(messages_of):
    text = HEAD + "  - {kind: evaluate, data: [rows.jsonl], evaluate: {}, global_batch: 8}\n"
    assert messages_of(text) == Like("x.yaml:3: … 'evaluate' … global_batch …")


def test_null_takes_the_accumulation_of_a_recipe_below_away(recipe):
    text = stage("name: sft", "per_device_train_batch_size: 4, gradient_accumulation_steps: 2")
    found = recipe(text, ["sft.global_batch=32", "sft.train.gradient_accumulation_steps=null"])
    assert found.stages[0].global_batch == 32
    assert "gradient_accumulation_steps" not in found.stages[0].blocks["train"]

"""The dtype a stage computes in: what TRL makes of `bf16` and `fp16`, and the same wherever ft asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainingArguments
from trl import SFTConfig

import tiny
from ft.export.trained_model import TrainedModel
from ft.files import write_json
from ft.fit.gpus import gpu
from ft.fit.setting import Setting
from ft.fit.sharding import Sharding
from ft.models.device import compute_dtype
from ft.recipe import Recipe, Stage
from ft.recipe.precision import dtype_of_arguments
from ft.run.accelerate_config import Launch, objections
from ft.stages import STAGES

WRITTEN = [({}, "bfloat16"), ({"bf16": None}, "bfloat16"), ({"bf16": True}, "bfloat16"), ({"bf16": False}, "float32")]
WRITTEN += [({"fp16": True}, "float16"), ({"fp16": True, "bf16": None}, "float16"), ({"use_cpu": True}, "float32")]
WRITTEN += [({"fp16": False, "bf16": None}, "bfloat16"), ({"fp16": True, "bf16": False}, "float16")]


@pytest.mark.parametrize(
    ("config", "train"),
    [
        (config, train)
        for config in (SFTConfig, TrainingArguments)
        for train, _ in WRITTEN
        if "use_cpu" not in train and (config is SFTConfig or train.get("bf16", True) is not None)  # takes no null
    ],
    ids=str,
)
def test_it_is_the_dtype_of_the_class_whatever_is_written(config, train, tmp_path):
    built = config(**train, use_cpu=True, output_dir=str(tmp_path))  # without a GPU it refuses half precision else
    default = config.__dataclass_fields__["bf16"].default
    assert dtype_of_arguments(train, default) == compute_dtype(built)


@pytest.fixture
def stage(tmp_path: Path, base: Path, data: Path):
    """A recipe's QLoRA stage with these keys in its `train:` block."""

    def read(train) -> tuple[Recipe, Stage]:
        quantised = {"lora": tiny.LORA, "quantization": {"load_in_4bit": True}}
        recipe = tiny.checked(tiny.recipe(tmp_path, [tiny.sft(data, train, **quantised)], model=str(base)))
        return recipe, recipe.stage("sft")

    return read


@pytest.mark.parametrize(("train", "dtype"), WRITTEN, ids=str)
def test_memory_is_planned_for_it(train, dtype, stage):
    assert Setting(*stage(train), gpu("24"), Sharding()).compute == dtype


@pytest.mark.parametrize(("train", "dtype"), WRITTEN, ids=str)
def test_a_launcher_of_another_precision_is_refused(train, dtype, stage):
    _, sft = stage(train)
    for written in ("bf16", "fp16"):
        problems = [str(problem) for problem in objections([sft], Launch(mixed_precision=written))]
        same = {"bf16": "bfloat16", "fp16": "float16"}[written] == dtype
        assert [dtype in problem for problem in problems] == ([] if same else [True])


@pytest.mark.parametrize(("train", "dtype"), WRITTEN, ids=str)
def test_a_base_of_4_bits_is_advised_to_compute_in_it(train, dtype, stage):
    recipe, _ = stage(train)
    advice = [] if dtype == "float32" else [f"Write `bnb_4bit_compute_dtype: {dtype}`."]
    assert [notice.partition("larger. ")[2] for notice in recipe.notices] == advice


@pytest.mark.parametrize(("train", "dtype"), WRITTEN, ids=str)
def test_an_export_holds_the_base_as_the_run_on_a_gpu_held_it(train, dtype, stage, tmp_path):
    _, sft = stage(train)
    folder = tmp_path / "result"
    folder.mkdir()
    for name in ("adapter_config", "key"):
        write_json(folder / f"{name}.json", {})
    write_json(folder / "lineage.json", {"base": {"path": "hub/name"}, "quantization": None})
    write_json(folder / "job.json", {"name": "sft", "blocks": dict(sft.blocks)})
    for device, held in {"NVIDIA H100": dtype, "CPU, 2 threads": "float32"}.items():
        write_json(folder / "done.json", {"kind": "sft", "numbers": {}, "device": device})
        assert TrainedModel.read(folder).held == held


def test_a_stage_that_only_answers_computes_in_bfloat16(stage, tmp_path, base, data):
    answers = {"kind": "sample", "data": [{"path": str(data), "format": "messages"}], "sample": {"samples": 2}}
    recipe = tiny.checked(tiny.recipe(tmp_path, [answers], model=str(base)))
    assert Setting(recipe, recipe.stage("sample"), gpu("24"), Sharding()).compute == "bfloat16"


def test_every_kind_that_trains_has_a_class_whose_default_ft_can_ask():
    for kind in STAGES.values():
        if kind.trains:
            assert kind.blocks["train"].default("bf16") is None  # TRL's way to say: unless fp16

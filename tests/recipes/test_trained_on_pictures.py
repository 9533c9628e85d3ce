"""Recipes for BLIP-2 run end to end on a tiny one, on a decoder and on an encoder-decoder."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

import tiny
from ft.recipe import read
from ft.results.store import plan
from ft.stages import STAGES

COLOURS = ("red", "green", "blue", "black")


def rows(file: Path, asks: bool) -> Path:
    with file.open("w", encoding="utf-8") as out:
        for number in range(48):
            data, colour = io.BytesIO(), COLOURS[number % 4]
            Image.new("RGB", (16, 16 + number), colour).save(data, "PNG")
            row = {"image": f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"}
            answers = [{"answer": colour}, {"answer": "none"}, {"answer": colour}]
            row |= {"question": "what colour?", "answers": answers} if asks else {"caption": f"all {colour}"}
            out.write(json.dumps(row) + "\n")
    return file


@pytest.mark.parametrize(
    "name",
    [
        "blip2-opt-2.7b/caption-qlora",
        "blip2-opt-2.7b/caption-lora",
        "blip2-opt-2.7b/stage2",
        "blip2-flan-t5-xl/vqa-qlora",
    ],
)
def test_a_recipe_for_blip2_runs_on_a_tiny_one(name: str, tmp_path: Path):
    model = tiny.blip2(tmp_path / "model", "t5" if "t5" in name else "opt")
    data = rows(tmp_path / "rows.jsonl", asks="vqa" in name)
    sets = [f"model.path={model}", f"sft.data.0.path={data}", "sft.data.0.split=train", "sft.data.0.rows=null"]
    sets += ["sft.rows.eval_fraction=0.2", "sft.train.bf16=false", "sft.train.max_steps=2"]
    sets += ["sft.train.gradient_accumulation_steps=1", "sft.train.per_device_train_batch_size=4"]
    sets += [f"sft.train.{key}=1" for key in ("logging_steps", "eval_steps", "save_steps")]
    made = tiny.make(plan(read(tiny.ROOT / "recipes" / f"{name}.yaml", STAGES, sets), tmp_path / "runs"), "sft")
    assert made.done["numbers"]["steps"] == 2
    names = tiny.weights(made.folder)
    if "stage2" not in name:
        assert {part for part in ("language_model", "qformer", "vision_model") if part in str([*names])} == (
            {"language_model", "qformer"} if "caption-lora" in name else {"language_model"}
        )

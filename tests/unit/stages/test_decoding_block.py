"""`decoding:` decides how the answers of a stage are chosen, and what a recipe does not write decides nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.errors import UserError
from ft.files import read_lines
from ft.stages import STAGES
from wording import Like

ANSWER = {"sample", "evaluate", "judge", "gatt", "consistency", "summaries"}


def stage(folder: Path, kind: str, options: dict[str, Any], **blocks: Any) -> dict[str, Any]:
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"0 {thing}?"}) + "\n" for thing in tiny.THINGS), encoding="utf-8")
    return {"kind": kind, "data": [{"path": str(prompts), "format": "prompt"}], kind: options, **blocks}


def test_every_kind_whose_answers_are_chosen_takes_the_block():
    assert {name for name, kind in STAGES.items() if "decoding" in kind.blocks} == ANSWER


def test_a_text_ends_the_answers_of_a_stage_and_beams_are_its_rows(tmp_path, ending):
    options = {"samples": 1, "temperature": 0.0, "write": "all", "max_new_tokens": 8}
    plain = stage(tmp_path, "sample", options, name="plain")
    del options["temperature"]
    cut = stage(tmp_path, "sample", options, name="cut", decoding={"preset": "beams", "beams": 2, "stop": ["e"]})
    there = tiny.planned(tiny.recipe(tmp_path, [plain, cut], model=str(ending)), tmp_path / "runs")
    texts = {}
    for name in ("plain", "cut"):
        rows = read_lines(tiny.make(there, name).result.folder / "samples.jsonl")
        texts[name] = [row["completion"] for row in rows]
    assert any("e" in text for text in texts["plain"])
    assert not any("e" in text for text in texts["cut"])
    assert all((row["beams"], row["stop"], row["temperature"]) == (2, ["e"], 0.0) for row in rows)


def test_the_block_enters_the_fingerprint_where_it_is_written(tmp_path, base):
    def fingerprint(**blocks: Any) -> str:
        file = tiny.recipe(tmp_path, [stage(tmp_path, "evaluate", {}, **blocks)], model=str(base))
        return tiny.planned(file, tmp_path / "runs").stage("evaluate").fingerprint

    two_beams = {"preset": "beams", "beams": 2}
    assert len({fingerprint(), fingerprint(decoding={"preset": "beams"}), fingerprint(decoding=two_beams)}) == 3


def test_two_words_on_the_temperature_are_refused_by_line(tmp_path, base):
    file = tiny.recipe(
        tmp_path,
        [stage(tmp_path, "evaluate", {"temperature": 0.5}, decoding={"preset": "creative"})],
        model=str(base),
    )
    with pytest.raises(UserError) as refused:
        tiny.checked(file)
    assert str(refused.value) == Like("… evaluate.temperature and decoding.preset both say how answers are chosen …")


def test_several_samples_of_a_greedy_answer_are_refused(tmp_path, base):
    asked = stage(tmp_path, "sample", {"samples": 2, "write": "all"}, decoding={"preset": "greedy"})
    there = tiny.planned(tiny.recipe(tmp_path, [asked], model=str(base)), tmp_path / "runs")
    with pytest.raises(UserError) as refused:
        tiny.make(there, "sample")
    assert str(refused.value) == Like("… decoding does not go with the stage: temperature is 0.0; several answers …")

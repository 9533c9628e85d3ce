"""Answers that are labelled one by one: what their rows may look like, and what a trainer gets of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.data.formats import BadRow, detect, format_row
from ft.data.sources.files import SourceRow
from ft.encode.pairs import UnpairedOptions, take_apart
from ft.encode.prepare import rows_folder, train_rows
from ft.errors import UserError
from ft.families import CAUSAL
from ft.run.rows import prepare_rows
from wording import Like

USER, BLUE = {"role": "user", "content": "sky?"}, {"role": "assistant", "content": "blue"}
WANTED = {"prompt": [USER], "completion": [BLUE], "label": True}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "sky?", "completion": "blue", "label": True},
        {"messages": [USER, BLUE], "label": "true"},
        {"conversations": [{"from": "human", "value": "sky?"}, {"from": "gpt", "value": "blue"}], "kto_tag": True},
        {"instruction": "sky?", "input": "", "output": "blue", "label": True},
    ],
    ids=["prompt and completion", "messages", "sharegpt", "alpaca"],
)
def test_what_ends_with_an_answer_may_have_a_label(row: dict[str, Any]):
    assert detect(row) == "unpaired_preference"
    assert format_row("unpaired_preference", row, {}) == WANTED


def test_a_label_that_says_neither_yes_nor_no_is_refused():
    with pytest.raises(BadRow, match="label is 3"):
        format_row("unpaired_preference", {**WANTED, "label": 3}, {})
    assert detect({**WANTED, "label": 3}) == "prompt_completion"


def test_a_pair_is_one_wanted_answer_and_one_that_is_not():
    pair = {"prompt": [USER], "chosen": [BLUE], "rejected": [{**BLUE, "content": "red"}]}
    wanted, other = take_apart([SourceRow("x:1", pair)])
    assert wanted == SourceRow("x:1", WANTED)
    assert (other.row["completion"][0]["content"], other.row["label"]) == ("red", False)


def encoded(row: dict[str, Any]) -> Any:
    return CAUSAL.encoder(tiny.tokenizer(), UnpairedOptions(), 64).encode_batch([row])[0]


def test_only_the_answer_is_trained_through_its_end_token():
    row, words = encoded(WANTED), tiny.tokenizer()
    assert words.decode(row["prompt_ids"]) == "<|im_start|>user\nsky?<|im_end|>\n<|im_start|>assistant\n"
    assert words.decode(row["completion_ids"]) == "blue<|im_end|>"
    assert [label != -100 for label in row["labels"]].index(True) == len(row["prompt_ids"])
    assert row["label"] is True


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": [USER], "completion": [BLUE]}, "the row has no label"),
        ({**WANTED, "completion": [BLUE, USER, BLUE]}, "completion goes on after its first answer"),
    ],
)
def test_what_cannot_be_learnt_from_is_named(row: dict[str, Any], what: str):
    found = encoded(row)
    assert isinstance(found, BadRow)
    assert what in found.what


def stage(kind: str, data: Path, **train: Any) -> dict[str, Any]:
    return {**tiny.sft(data, train), "kind": kind}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"{n}?", "completion": "yes", "label": n % 2 == 0} for n in range(4)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def test_rows_with_labels_train_kto_and_no_sft(tmp_path: Path, base: Path, rows: Path):
    there = tiny.planned(tiny.recipe(tmp_path / "kto", [stage("kto", rows)], model=str(base)), tmp_path / "runs")
    planned = there.stage("kto")
    prepare_rows(there, planned)
    assert planned.rows_key is not None
    assert train_rows(rows_folder(there.runs, planned.rows_key))["label"][:] == [True, False, True, False]
    there = tiny.planned(tiny.recipe(tmp_path / "sft", [stage("sft", rows)], model=str(base)), tmp_path / "runs")
    with pytest.raises(UserError) as refused:
        prepare_rows(there, there.stage("sft"))
    assert str(refused.value).splitlines()[0] == Like(f"{rows}:1: … label … wanted …")


def test_a_batch_of_one_row_has_no_kl_term_and_is_refused_with_the_reason(tmp_path: Path, base: Path, rows: Path):
    one = {"per_device_train_batch_size": 1}
    with pytest.raises(UserError) as refused:
        tiny.checked(tiny.recipe(tmp_path, [stage("kto", rows, **one)], model=str(base)))
    assert str(refused.value) == Like("… per_device_train_batch_size is 1 … KL term … 2 or more …")
    tiny.checked(tiny.recipe(tmp_path, [stage("kto", rows, **one, loss_type="apo_zero_unpaired")], model=str(base)))


def test_rows_at_once_on_a_gpu_name_a_result_of_kto_beside_a_global_batch_too(tmp_path: Path, base: Path, rows: Path):
    """And none of DPO's, for which they are a matter of memory."""
    names: dict[str, set[str]] = {"kto": set(), "dpo": set()}
    for kind, found in names.items():
        for size in (2, 4):
            one = {**stage(kind, rows, per_device_train_batch_size=size), "global_batch": 8}
            there = tiny.planned(tiny.recipe(tmp_path, [one], model=str(base)), tmp_path / "runs")
            found.add(there.stage(kind).fingerprint)
    assert {kind: len(found) for kind, found in names.items()} == {"kto": 2, "dpo": 1}

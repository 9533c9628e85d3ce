"""A reference computed elsewhere, and one kept in a file: the losses of the one that stands beside the policy."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

import tiny
from ft.errors import UserError
from ft.models.generation.executor import OnDemand
from ft.recipe.engine import EngineOptions
from ft.stages import dpo
from ft.training.dpo.reference import with_reference

TRAIN = {**tiny.TRAIN, "per_device_train_batch_size": 4, "max_steps": 3, "beta": 0.5, "learning_rate": 0.01}
OVERLAPPED = EngineOptions("ray", overlap_reference=True)


def job(folder, base, **train: Any):
    rows = [
        {"prompt": f"{n} {tiny.THINGS[n % 8]}?", "chosen": f"oh, {tiny.COLOURS[n % 8]}", "rejected": "no"}
        for n in range(12)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stage = {"kind": "dpo", "data": [{"path": "pairs.jsonl"}], "train": {**TRAIN, **train}}
    return tiny.job(tiny.planned(tiny.recipe(folder, [stage], model=str(base)), folder / "runs"), "dpo")


def losses(given) -> list[float]:
    trainer = dpo.trainer_of(given)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_an_overlapped_reference_gives_the_losses_of_a_live_and_of_a_kept_one(tmp_path, base, monkeypatch):
    ahead: list[str] = []  # keys of batches in the order they are handed on
    asked: list[tuple[str, int]] = []  # of those waited for, and how many were handed on by then
    result = OnDemand.result

    def noted(self: OnDemand, item: Any) -> Any:
        asked.append((item.key, len(ahead)))
        return result(self, item)

    monkeypatch.setattr(OnDemand, "submit", lambda self, item: ahead.append(item.key))
    monkeypatch.setattr(OnDemand, "result", noted)
    live = losses(job(tmp_path, base))
    assert not ahead
    overlapped = losses(replace(job(tmp_path, base), engine=OVERLAPPED))
    assert len(overlapped) == 3
    assert overlapped == pytest.approx(live, abs=1e-6)
    assert losses(job(tmp_path, base, precompute_ref_log_probs=True)) == pytest.approx(live, abs=1e-6)
    steps = [(ahead.index(key), count) for key, count in asked[-3:-1]]
    assert all(count > place + 1 for place, count in steps), "the next batch is handed on before one is waited for"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ([-1.0, None, -3.0], "ref_chosen_logps of row 2 is nan, of 1 such rows"),
        ([-1.0, -2.0, float("nan")], "row 3 is nan"),
        ([0.0, -2.0, -3.0], "row 1 is 0, of 1 such rows"),
        ([-1.0, -2.0], "it has 2 rows of 3"),
    ],
)
def test_a_kept_reference_that_lacks_a_row_is_refused(tmp_path, base, values, complaint):
    trainer = dpo.trainer_of(job(tmp_path, base))
    rows = trainer.train_dataset.select(range(3))
    file = tmp_path / "reference-three.arrow"
    table = pa.table({name: pa.array(values, pa.float32()) for name in ("ref_chosen_logps", "ref_rejected_logps")})
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    trainer.args.output_dir = str(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=complaint):
        with_reference(trainer, rows, "three", 4)

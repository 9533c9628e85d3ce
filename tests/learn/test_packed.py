"""Packed rows train as they would apart."""

from __future__ import annotations

import torch

import tiny

PACKED = {"packing": True, "max_length": 128}


def trainers(tmp_path, base, data, **keys):
    """A trainer of packed rows and one of the same rows apart."""
    for name, packing in (("packed", True), ("apart", False)):
        file = tiny.recipe(tmp_path / name, [tiny.sft(data, {**PACKED, "packing": packing}, **keys)], model=str(base))
        yield tiny.trainer(tiny.planned(file, tmp_path / name / "runs"), "sft")[0]


def gradient(trainer):
    """Sum of the token losses over all rows, and its gradient: one step's worth of work, in whatever batches."""
    trainer.model.train()
    trainer.model.zero_grad()
    total = 0.0
    for batch in trainer.get_train_dataloader():
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(1))
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_packed_rows_hold_every_row_once(tmp_path, base, data):
    packed, apart = trainers(tmp_path, base, data)
    rows = []
    for row in packed.train_dataset:
        ends = torch.tensor(row["seq_lengths"]).cumsum(0).tolist()
        starts = [0, *ends]
        rows += [(row["input_ids"][a:b], row["labels"][a:b]) for a, b in zip(starts, ends, strict=False)]
    assert len(packed.train_dataset) < len(apart.train_dataset) / 3
    assert sorted(rows) == sorted((row["input_ids"], row["labels"]) for row in apart.train_dataset)


def test_a_step_on_packed_rows_is_the_step_on_the_rows_apart(tmp_path, base, data):
    (loss, packed), (loss_apart, apart) = map(gradient, trainers(tmp_path, base, data))
    assert abs(loss - loss_apart) / loss_apart < 1e-5
    assert (packed - apart).norm() / apart.norm() < 1e-5


def test_logits_of_packed_rows_are_those_of_the_rows_apart(tmp_path, base, data):
    packed, _ = trainers(tmp_path, base, data)
    row = packed.train_dataset[0]
    batch = packed.data_collator([row])
    batch.pop("labels")
    with torch.no_grad():
        together = packed.model(**batch, use_cache=False).logits[0]
        apart = [
            packed.model(ids[None], use_cache=False).logits[0]
            for ids in batch["input_ids"][0].split(row["seq_lengths"])
        ]
    assert (together - torch.cat(apart)).abs().max() < 1e-5


def test_packing_learns(tmp_path, base, data):
    train = {**PACKED, "max_steps": 30, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    numbers = tiny.trained(tmp_path, base, data, train).done["numbers"]
    assert numbers["loss_last"] < numbers["loss_first"] / 3

"""KTO computes what TRL's own trainer computes on the same rows, and starts where its policy is its reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer

import tiny
from ft.errors import UserError
from ft.recipe.job import Job
from ft.stages import kto
from ft.training.dpo.unpaired import check_labels, other_answers
from ft.training.trl_compat import measure_rows

TRAIN = {**tiny.TRAIN, "max_length": 96, "per_device_train_batch_size": 4, "beta": 0.5, "max_steps": 3}
SGD = {"optim": "sgd", "learning_rate": 0.02}
WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.5}


def row(number: int) -> dict[str, Any]:
    thing, colour = tiny.THINGS[number % 8], tiny.COLOURS[number % 8]
    return {"prompt": f"{number} {thing}?", "completion": f"oh, {colour}" * (1 + number % 3), "label": number % 3 != 0}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("labels") / "rows.jsonl"
    file.write_text("".join(json.dumps(row(number)) + "\n" for number in range(13)), encoding="utf-8")
    return file


def job(folder: Path, base: Path, data: Path, train: dict[str, Any] | None = None, **keys: Any) -> Job:
    stage = {"kind": "kto", "data": [{"path": str(data)}], "train": {**TRAIN, **(train or {})}, **keys}
    return tiny.job(tiny.planned(tiny.recipe(folder, [stage], model=str(base)), folder / "runs"), "kto")


def theirs(base: Path, folder: Path, ours: Any, train: dict[str, Any]) -> Any:
    """TRL's own trainer on the ids of our trainer, which it takes as they are once they are ids."""
    places = {"output_dir": str(folder / "trl"), "seed": 1, "use_cpu": True, "bf16": False, "report_to": "none"}

    class OnIds(KTOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    columns = ["prompt_ids", "completion_ids", "KL_completion_ids", "label"]
    return OnIds(
        model=AutoModelForCausalLM.from_pretrained(str(base)),
        ref_model=AutoModelForCausalLM.from_pretrained(str(base)),
        args=KTOConfig(**{**TRAIN, **train, **places}, disable_tqdm=True),
        train_dataset=ours.train_dataset.select_columns(
            [name for name in columns if name in ours.train_dataset.column_names]
        ),
        processing_class=AutoTokenizer.from_pretrained(str(base)),
    )


@pytest.mark.parametrize("train", [WEIGHTS, {"loss_type": "apo_zero_unpaired"}], ids=str)
def test_losses_metrics_and_weights_are_trls(train, tmp_path, base, labelled):
    ours = kto.trainer_of(job(tmp_path, base, labelled, {**SGD, **train}))
    other = theirs(base, tmp_path, ours, {**SGD, **train})
    for trainer in (ours, other):
        trainer.train()
    keys = (
        "loss",
        "grad_norm",
        "kl",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "logps/chosen",
        "entropy",
    )
    for one, their in zip(ours.state.log_history[:3], other.state.log_history[:3], strict=True):
        assert [one[key] for key in keys] == pytest.approx([their[key] for key in keys], rel=1e-5, abs=1e-6)
    for (_, one), (_, their) in zip(ours.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert (one - their).abs().max() < 1e-6


@pytest.mark.parametrize("blocks", [{}, {"lora": tiny.LORA}, {"lora": tiny.LORA, "quantization": tiny.NF4}], ids=len)
def test_before_the_first_step_the_loss_is_half_the_weight_of_a_row(blocks, tmp_path, base, labelled):
    trainer = kto.trainer_of(job(tmp_path, base, labelled, WEIGHTS, **blocks))
    rows = [trainer.train_dataset[place] for place in range(12)]
    metrics = measure_rows(trainer, rows)
    weights = [1.5 if row["label"] else 0.5 for row in rows]
    assert metrics["loss"] == pytest.approx(sum(weights) / len(weights) / 2, abs=1e-6)
    assert [metrics[name] for name in ("kl", "rewards/chosen", "rewards/rejected")] == pytest.approx([0] * 3, abs=1e-6)


@pytest.mark.parametrize("blocks", [{}, {"lora": tiny.LORA}], ids=len)
def test_a_reference_computed_once_changes_nothing(blocks, tmp_path, base, labelled):
    live = kto.trainer_of(job(tmp_path / "live", base, labelled, SGD, **blocks))
    kept = kto.trainer_of(job(tmp_path / "kept", base, labelled, {**SGD, "precompute_ref_log_probs": True}, **blocks))
    assert {"ref_logps", "ref_KL_logps"} <= {*kept.train_dataset.column_names}
    for trainer in (live, kept):
        trainer.train()
    assert [line["loss"] for line in kept.state.log_history[:3]] == pytest.approx(
        [line["loss"] for line in live.state.log_history[:3]], abs=1e-6
    )


def test_a_reference_that_is_not_the_policy_stops_the_run(tmp_path, base, labelled):
    from ft.training.dpo.reference import check_start

    trainer = kto.trainer_of(job(tmp_path, base, labelled))
    for value in trainer.ref_model.parameters():
        value.data *= 1.5
    with pytest.raises(UserError, match=r"policy and reference differ .*rows\.jsonl:\d+: log-p"):
        check_start(trainer, tmp_path, "kto", exact=True)


def test_each_prompt_is_also_read_with_the_answer_before_it_in_its_batch():
    assert other_answers(8, 4) == [3, 0, 1, 2, 7, 4, 5, 6]
    assert other_answers(6, 4) == [3, 0, 1, 2, 5, 4]
    assert other_answers(5, 4) == [3, 0, 1, 2, 3]  # a batch of one row has no other


def test_answers_of_other_prompts_fit_within_max_length(tmp_path, base):
    file = tmp_path / "long.jsonl"
    rows = [
        {"prompt": "a" * 60, "completion": "b", "label": True},
        {"prompt": "c", "completion": "d" * 60, "label": False},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arranged = kto.trainer_of(job(tmp_path, base, file)).train_dataset
    lengths = [len(row["prompt_ids"]) + len(row["KL_completion_ids"]) for row in arranged]
    assert max(lengths) == TRAIN["max_length"]
    assert max(len(row["prompt_ids"]) + len(row["completion_ids"]) for row in arranged) < TRAIN["max_length"]


def config(desirable: float = 1.0, undesirable: float = 1.0) -> KTOConfig:
    return KTOConfig(desirable_weight=desirable, undesirable_weight=undesirable, use_cpu=True, bf16=False)


def test_labels_that_are_all_the_same_are_refused_with_their_count():
    with pytest.raises(UserError, match=r"x\.yaml:3: all 1,200 answers are labelled as wanted"):
        check_labels([True] * 1200, config(), "x.yaml:3")


def test_labels_out_of_balance_are_told_of_with_weights_that_balance_them():
    assert check_labels([True, False], config(), "x") == ""
    assert "Write desirable_weight: 3 to 4, or" in check_labels([True, False, False, False], config(), "x")
    assert check_labels([True, False, False, False], config(desirable=3.5), "x") == ""


def test_held_out_numbers_are_means_over_rows_of_each_label(tmp_path, base, labelled):
    """Batches of two: some hold no wanted answer, and some no other."""
    trainer = kto.trainer_of(
        job(tmp_path, base, labelled, {"per_device_eval_batch_size": 2}, rows={"eval_fraction": 0.5})
    )
    for parameter in trainer.model.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    measured = trainer.evaluate()
    rows = [trainer.eval_dataset[place] for place in range(len(trainer.eval_dataset))]
    one_by_one = [(row["label"], measure_rows(trainer, [row])) for row in rows]
    for label, side in ((True, "chosen"), (False, "rejected")):
        of_side = [metrics[f"rewards/{side}"] for wanted, metrics in one_by_one if wanted is label]
        assert len(of_side) > 1
        assert measured[f"eval_rewards/{side}"] == pytest.approx(sum(of_side) / len(of_side), rel=1e-4)
    for wanted, metrics in one_by_one:
        reward = metrics["rewards/chosen" if wanted else "rewards/rejected"] / TRAIN["beta"]
        assert reward != metrics["kl"]
        assert metrics["labels/accuracies"] == ((reward > metrics["kl"]) is wanted)
    margin = measured["eval_rewards/chosen"] - measured["eval_rewards/rejected"]
    assert measured["eval_rewards/margins"] == pytest.approx(margin)

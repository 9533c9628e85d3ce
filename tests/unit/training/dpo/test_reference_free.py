"""ORPO and SimPO compute what TRL's trainers compute from the same ids, and what their papers say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

import tiny
from ft.models.logprobs import completion_logprobs
from ft.stages import orpo, simpo

STAGES = {"orpo": orpo, "simpo": simpo}
TRAIN = {**tiny.TRAIN, "max_length": 96, "per_device_train_batch_size": 4, "max_steps": 3}
SGD = {"optim": "sgd", "learning_rate": 0.02}
SIMPO = {"beta": 2.0, "simpo_gamma": 0.5}


def pair(number: int) -> dict[str, str]:
    thing, colour = tiny.THINGS[number % 8], tiny.COLOURS[number % 8]
    return {"prompt": f"{number} {thing}?", "chosen": f"oh, {colour}", "rejected": colour * (1 + number % 3)}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair(number)) + "\n" for number in range(12)), encoding="utf-8")
    return file


def trainer(kind: str, folder: Path, base: Path, data: Path, train: dict[str, Any], **keys: Any) -> Any:
    stage = {"kind": kind, "data": [{"path": str(data)}], "train": {**TRAIN, **train}, **keys}
    there = tiny.planned(tiny.recipe(folder, [stage], model=str(base)), folder / "runs")
    return STAGES[kind].trainer_of(tiny.job(there, kind))


def on_ids(trainer_class: type, config_class: type, folder: Path, base: Path, ours: Any, train: dict[str, Any]) -> Any:
    """TRL's own trainer on the ids of ours, in the order ours has them."""

    class OnIds(trainer_class):
        def tokenize_row(self, feature: Any, model: Any = None) -> Any:
            columns: dict[str, list[int]] = {"prompt_input_ids": feature["prompt_ids"]}
            for side in ("chosen", "rejected"):
                ids = [*feature["prompt_ids"], *feature[f"{side}_ids"]]
                labels = [*[-100] * len(feature["prompt_ids"]), *feature[f"{side}_ids"]]
                columns |= {
                    f"{side}_input_ids": ids,
                    f"{side}_labels": labels,
                    f"{side}_attention_mask": [1] * len(ids),
                }
            return columns

    places = {"output_dir": str(folder / "trl"), "seed": 1, "use_cpu": True, "bf16": False, "report_to": "none"}
    rows = ours.train_dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    return OnIds(
        model=AutoModelForCausalLM.from_pretrained(str(base)),
        args=config_class(**{**TRAIN, **train, **places}, disable_tqdm=True, remove_unused_columns=False),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(str(base)),
    )


@pytest.mark.parametrize("more", [{}, {"label_smoothing": 0.1}, {"alpha": 0.25}], ids=str)
def test_simpo_trains_as_trls_trainer_does(more, tmp_path, base, pairs):
    train = {**SGD, **SIMPO, **more}
    ours = trainer("simpo", tmp_path, base, pairs, train)
    other = on_ids(CPOTrainer, CPOConfig, tmp_path, base, ours, {**train, "loss_type": "simpo", "cpo_alpha": 0.0})
    for one in (ours, other):
        one.train()
    keys = ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", *(() if more else ("rewards/chosen",)))
    keys = keys if "alpha" not in more else keys[:2]  # the rewards that are logged are then of another form there
    for line, their in zip(ours.state.log_history[:3], other.state.log_history[:3], strict=True):
        assert [line[key] for key in keys] == pytest.approx([their[key] for key in keys], rel=1e-5, abs=1e-6)
    for (_, one), (_, their) in zip(ours.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert (one - their).abs().max() < 1e-6


def first_loss(trainer: Any) -> tuple[float, list[dict[str, Any]]]:
    """The loss of the first rows before any step, and these rows."""
    rows = [trainer.train_dataset[place] for place in range(4)]
    trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    return loss, rows


def means(base: Path, rows: list[dict[str, Any]], side: str) -> list[float]:
    """Mean log-probability a token of one side's answers, by a plain model."""
    model = AutoModelForCausalLM.from_pretrained(str(base)).eval()
    answers = [row[f"{side}_ids"] for row in rows]
    sums = completion_logprobs(model, [row["prompt_ids"] for row in rows], answers)
    return [total / len(ids) for total, ids in zip(sums, answers, strict=True)]


def test_orpo_starts_at_the_papers_loss(tmp_path, base, pairs):
    """The likelihood of the chosen answer, and the log-sigmoid of the log of the odds' ratio (eq. 3, 6 and 7)."""
    ours = trainer("orpo", tmp_path, base, pairs, {"beta": 0.25})
    loss, rows = first_loss(ours)
    plain = 0.0
    for chosen, rejected in zip(means(base, rows, "chosen"), means(base, rows, "rejected"), strict=True):
        odds = [math.exp(one) / (1 - math.exp(one)) for one in (chosen, rejected)]
        plain += -chosen - 0.25 * math.log(1 / (1 + odds[1] / odds[0]))
    assert loss == pytest.approx(plain / len(rows), abs=1e-5)


def test_orpos_odds_are_trls(tmp_path, base, pairs):
    ours = trainer("orpo", tmp_path, base, pairs, {"beta": 0.25})
    loss, _ = first_loss(ours)
    other = on_ids(ORPOTrainer, ORPOConfig, tmp_path, base, ours, {"beta": 0.25})
    batch = other.data_collator([other.train_dataset[place] for place in range(4)])
    other.model.eval()
    _, metrics = other.get_batch_loss_metrics(other.model, batch)
    assert loss == pytest.approx(-metrics["logps/chosen"] - 0.25 * metrics["log_odds_ratio"], abs=1e-6)


def test_simpo_starts_at_the_papers_loss(tmp_path, base, pairs):
    """The margin of rewards a token over the target (eq. 6)."""
    loss, rows = first_loss(trainer("simpo", tmp_path, base, pairs, SIMPO))
    sides = zip(means(base, rows, "chosen"), means(base, rows, "rejected"), strict=True)
    plain = [math.log1p(math.exp(-(2.0 * (chosen - rejected) - 0.5))) for chosen, rejected in sides]
    assert loss == pytest.approx(sum(plain) / len(plain), abs=1e-5)


@pytest.mark.parametrize("kind", STAGES)
def test_sharing_the_prompt_changes_nothing(kind, tmp_path, base, pairs):
    shared = trainer(kind, tmp_path, base, pairs, {})
    assert shared.shares
    loss, _ = first_loss(shared)
    shared.shares = False
    assert first_loss(shared)[0] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("kind", STAGES)
def test_held_out_numbers_are_the_same_in_batches_of_any_size(kind, tmp_path, base, pairs):
    measured = []
    for size in (1, 3):
        train = {"per_device_eval_batch_size": size}
        measured.append(trainer(kind, tmp_path / str(size), base, pairs, train, rows={"eval_fraction": 0.5}).evaluate())
    names = [name for name in measured[0] if name.startswith(("eval_loss", "eval_rewards", "eval_logps", "eval_mean"))]
    assert len(names) > 7
    assert [measured[1][name] for name in names] == pytest.approx([measured[0][name] for name in names], rel=1e-4)


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("blocks", [{"lora": tiny.LORA}, {"lora": tiny.LORA, "quantization": tiny.NF4}], ids=len)
def test_adapters_learn_with_gradient_checkpointing(kind, blocks, tmp_path, base, pairs):
    ours = trainer(kind, tmp_path, base, pairs, {"gradient_checkpointing": True}, **blocks)
    ours.train()
    first, *_, last = [line["rewards/margins"] for line in ours.state.log_history if "rewards/margins" in line]
    assert last > first

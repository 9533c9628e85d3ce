"""Random rows on tiny models of seven architectures: what ft computes is what plain transformers and torch compute.

pytest tests/properties --properties 20     # twenty random cases of each instead of one
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import tiny
from ft.models.merge import merged
from ft.stages import dpo, kto, orpo, reward, sft, simpo
from properties import plain

ONE_STEP = {  # of plain gradient descent at rate 1, so that the weights change by the gradient itself
    **{"optim": "sgd", "learning_rate": 1.0, "max_steps": 1, "max_grad_norm": 1e9, "max_length": 512},
    **{"lr_scheduler_type": "constant", "save_strategy": "no", "logging_steps": 1, "gradient_checkpointing": False},
}
TWO_STEPS = {"per_device_train_batch_size": 4, "learning_rate": 0.01, "max_steps": 2}
Models = Callable[[str], Path]
Near = Callable[[str, float, float], None]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The folder of an architecture, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("architectures"), {}

    def model(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = plain.save_model(folder / architecture, architecture, tiny.tokenizer())
        return made[architecture]

    return model


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def stage_of(folder: Path, model: Path, kind: str, data: Path, train: dict[str, Any], **blocks: Any) -> Any:
    stage = {"kind": kind, "data": [{"path": str(data)}], "train": {**ONE_STEP, **train}, **blocks}
    return tiny.job(tiny.planned(tiny.recipe(folder, [stage], model=str(model)), folder / "runs"), kind)


def step_of(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of the one step, and its gradient: by how much the weights went down."""
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    return trainer.state.log_history[0]["loss"], {name: before[name] - after[name].detach() for name in before}


def plain_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)


def random_pairs(draw: random.Random, count: int = 4) -> list[dict[str, Any]]:
    """A prompt of one to three messages and two answers."""
    rows = []
    for _ in range(count):
        *prompt, chosen = plain.random_dialogue(draw, draw.randint(1, 2))
        rejected = {**chosen, "content": plain.random_text(draw) + " no"}
        rows.append({"prompt": prompt, "chosen": [chosen], "rejected": [rejected]})
    return rows


def trained_pairs(rows: list[dict[str, Any]]) -> list[tuple[plain.Trained, plain.Trained]]:
    """Both conversations of each pair, their last answers trained."""
    words = tiny.tokenizer()

    def side(row: dict[str, Any], name: str) -> plain.Trained:
        prompt, _ = plain.chatml(words, row["prompt"])
        ids, trained = plain.chatml(words, [*row["prompt"], *row[name]])
        return ids, [counts and place >= len(prompt) for place, counts in enumerate(trained)]

    return [(side(row, "chosen"), side(row, "rejected")) for row in rows]


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("architecture", plain.ARCHITECTURES)
def test_sft_has_the_ids_labels_loss_and_gradient_of_rows_one_by_one(
    architecture, packing, case, models, near, tmp_path
):
    draw, words = random.Random(case), tiny.tokenizer()
    dialogues = [plain.random_dialogue(draw, draw.randint(1, 3)) for _ in range(4)]
    data = written(tmp_path / "rows.jsonl", [{"messages": messages} for messages in dialogues])
    train = {"per_device_train_batch_size": 4, "packing": packing}
    trainer = sft.trainer_of(stage_of(tmp_path, models(architecture), "sft", data, train))
    rows = [plain.chatml(words, messages) for messages in dialogues]
    if not packing:
        ours = sorted((row["input_ids"], row["labels"]) for row in trainer.train_dataset)
        assert ours == sorted((ids, plain.labels(ids, trained)) for ids, trained in rows)
    loss, gradient = step_of(trainer)
    model = plain_model(models(architecture))
    expected = plain.mean_loss(model, rows)
    near("SFT loss, share of it", abs(loss / expected.item() - 1), 2e-6)
    found = padded(plain.gradients(model, expected), gradient)
    near("SFT gradient, share of its length", plain.distance(gradient, found), 2e-5)


def padded(found: dict[str, torch.Tensor], like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Zeros where nothing flowed, as for an expert that no token chose."""
    return {name: found.get(name, torch.zeros_like(value)) for name, value in like.items()}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_held_out_loss_is_nats_a_trained_token_of_all_rows(architecture, case, models, near, tmp_path):
    draw = random.Random(case)
    held_out = [plain.random_dialogue(draw, draw.randint(1, 3)) for _ in range(7)]
    rows = written(tmp_path / "rows.jsonl", [{"messages": plain.random_dialogue(draw, 1)} for _ in range(4)])
    others = written(tmp_path / "held.jsonl", [{"messages": messages} for messages in held_out])
    train = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": draw.randint(1, 4)}
    keys = {"eval_data": [{"path": str(others)}]}
    job = stage_of(tmp_path, models(architecture), "sft", rows, {**train, "learning_rate": 0.1}, **keys)
    numbers = sft.make(job)
    with torch.no_grad():
        expected = plain.mean_loss(plain_model(job.folder), [plain.chatml(tiny.tokenizer(), row) for row in held_out])
    near("held-out loss, share of it", abs(numbers["eval_loss"] / expected.item() - 1), 2e-6)


def assert_two_steps(name: str, trainer: Any, model: Any, loss: Callable[[Any], torch.Tensor], near: Near) -> None:
    """Two steps of gradient descent have the losses of this one, and end with its weights."""
    expected = []
    for _ in range(2):
        value = loss(model)
        found = plain.gradients(model, value)
        expected.append(value.item())
        for key, weight in model.named_parameters():
            weight.data -= TWO_STEPS["learning_rate"] * found.get(key, torch.zeros_like(weight))
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history[:2]]
    near(f"{name} losses of two steps, nats", max(abs(a - b) for a, b in zip(losses, expected, strict=True)), 2e-5)
    ours, theirs = (dict(one.named_parameters()) for one in (trainer.model, model))
    apart = max((ours[key] - theirs[key]).abs().max().item() for key in theirs)
    near(f"weights after two steps of {name}", apart, 2e-5)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3_text", "mixtral"])
def test_dpo_has_the_losses_and_the_gradient_of_the_papers_equation(architecture, case, models, near, tmp_path):
    rows = random_pairs(random.Random(case))
    data = written(tmp_path / "pairs.jsonl", rows)
    trainer = dpo.trainer_of(stage_of(tmp_path, models(architecture), "dpo", data, {**TWO_STEPS, "beta": 0.5}))
    reference, pairs = plain_model(models(architecture)), trained_pairs(rows)
    model = plain_model(models(architecture))
    assert_two_steps("DPO", trainer, model, lambda model: plain.dpo_loss(model, reference, pairs, 0.5), near)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_simpo_and_orpo_have_those_of_theirs(architecture, case, models, near, tmp_path):
    draw = random.Random(case)
    rows, beta, gamma = random_pairs(draw), draw.uniform(0.5, 3), draw.uniform(0, 2)
    data, pairs = written(tmp_path / "pairs.jsonl", rows), trained_pairs(rows)
    train = {**TWO_STEPS, "beta": beta}
    trainer = simpo.trainer_of(stage_of(tmp_path, models(architecture), "simpo", data, {**train, "simpo_gamma": gamma}))
    model = plain_model(models(architecture))
    assert_two_steps("SimPO", trainer, model, lambda model: plain.simpo_loss(model, pairs, beta, gamma), near)
    trainer = orpo.trainer_of(stage_of(tmp_path, models(architecture), "orpo", data, train))
    model = plain_model(models(architecture))
    assert_two_steps("ORPO", trainer, model, lambda model: plain.orpo_loss(model, pairs, beta), near)


@pytest.mark.parametrize("architecture", ["qwen3", "phi3"])
def test_kto_has_those_of_its_paper(architecture, case, models, near, tmp_path):
    draw = random.Random(case)
    beta, wanted = draw.uniform(0.1, 1), draw.uniform(0.5, 2)
    pairs = random_pairs(draw)
    data = written(tmp_path / "pairs.jsonl", pairs)
    train = {**TWO_STEPS, "per_device_train_batch_size": 8, "beta": beta, "desirable_weight": wanted}
    trainer = kto.trainer_of(stage_of(tmp_path, models(architecture), "kto", data, train))
    sides = [(side, label) for pair in trained_pairs(pairs) for side, label in zip(pair, (True, False), strict=True)]
    batch = list(trainer.train_dataset)
    ours = [(row["prompt_ids"] + row["completion_ids"], row["label"]) for row in batch]
    assert sorted(ours) == sorted((until_end(side), label) for side, label in sides)
    rows = [
        (answered(row, row["completion_ids"]), answered(row, before["completion_ids"]), row["label"])
        for row, before in zip(batch, [batch[-1], *batch], strict=False)
    ]
    model, reference = plain_model(models(architecture)), plain_model(models(architecture))
    weights = {True: wanted, False: 1.0}
    assert_two_steps("KTO", trainer, model, lambda model: plain.kto_loss(model, reference, rows, beta, weights), near)


def until_end(side: plain.Trained) -> list[int]:
    """The ids through the last trained one."""
    ids, trained = side
    return ids[: max(place for place, counts in enumerate(trained) if counts) + 1]


def answered(row: dict[str, Any], answer: list[int]) -> plain.Trained:
    prompt = row["prompt_ids"]
    return prompt + answer, [False] * len(prompt) + [True] * len(answer)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_reward_model_has_the_loss_and_the_gradient_of_pairs_one_by_one(architecture, case, models, near, tmp_path):
    rows = random_pairs(random.Random(case))
    train, options = {"per_device_train_batch_size": 4}, {"margin": "none"}
    data = written(tmp_path / "pairs.jsonl", rows)
    trainer = reward.trainer_of(stage_of(tmp_path, models(architecture), "reward", data, train, reward=options))
    model = type(trainer.model)(trainer.model.config)
    model.load_state_dict(trainer.model.state_dict())
    expected = plain.reward_loss(model, trained_pairs(rows))
    loss, gradient = step_of(trainer)
    near("reward model's loss, share of it", abs(loss / expected.item() - 1), 2e-6)
    apart = plain.distance(gradient, plain.gradients(model, expected))
    near("reward model's gradient, share of its length", apart, 2e-5)


@pytest.mark.parametrize("architecture", plain.ARCHITECTURES)
def test_a_merged_adapter_has_the_logits_of_peft(architecture, case, models, near, tmp_path):
    draw = random.Random(case)
    data = written(tmp_path / "rows.jsonl", [{"messages": plain.random_dialogue(draw, 1)} for _ in range(4)])
    job = stage_of(tmp_path, models(architecture), "sft", data, {"learning_rate": 0.5}, lora=tiny.LORA)
    sft.make(job)
    ids = torch.tensor([plain.chatml(tiny.tokenizer(), plain.random_dialogue(draw, 2))[0]])
    with torch.no_grad():
        ours = merged(job.folder, "float32", use_cpu=True)(input_ids=ids).logits
        trained = PeftModel.from_pretrained(plain_model(models(architecture)), str(job.folder)).eval()
        theirs = trained(input_ids=ids).logits
        base = plain_model(models(architecture))(input_ids=ids).logits
    near("logits of a merged adapter", (ours - theirs).abs().max().item(), 1e-5)
    assert (ours - base).abs().max() > 1e-3

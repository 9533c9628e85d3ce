"""A DPO stage learns against the policy it started from, and computes what TRL's own trainer computes."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

import tiny
from ft.errors import UserError
from ft.figures.result_files import ResultFiles
from ft.figures.training import curves
from ft.files import read_json, read_lines, write_json
from ft.models.load import load
from ft.models.logprobs import completion_logprobs
from ft.results.store import Plan, PlannedStage
from ft.stages import dpo
from ft.training.dpo import against_reference
from ft.training.dpo.reference import check_start
from ft.training.loop import train_and_save
from ft.training.trl_compat import measure_rows
from wording import Like

# Nothing stands behind the end token, so that TRL's rows are ours token for token.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LORA, QLORA = {"lora": tiny.LORA}, {"lora": tiny.LORA, "quantization": tiny.NF4}
STARTS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {  # method → its blocks, those of its SFT parent
    "full": ({}, None),
    "full on sft": ({}, {}),
    "lora": (LORA, None),
    "lora on sft": (LORA, LORA),
    "qlora": (QLORA, None),
    "qlora on sft": (QLORA, QLORA),
}
TRAIN = {**tiny.TRAIN, "max_length": 128, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "beta": 0.5}
SGD = {"optim": "sgd", "learning_rate": 0.02, "max_steps": 3}
IDS = ("prompt_ids", "chosen_ids", "rejected_ids")


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pair(number: int) -> dict[str, Any]:
    """Every other prompt has a turn before the question; the answer with a word of joy is preferred."""
    thing, colour = tiny.THINGS[number % 8], tiny.COLOURS[number % 8]
    earlier = [said("user", f"{number}!"), said("assistant", "yes?")] if number % 2 else []
    chosen, rejected = [said("assistant", f"oh, {colour}")], [said("assistant", colour)]
    return {"prompt": [*earlier, said("user", f"{number} {thing}?")], "chosen": chosen, "rejected": rejected}


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", [pair(number) for number in range(16)])


@pytest.fixture(scope="module")
def parents(tmp_path_factory, base, data) -> Path:
    """Runs in which every SFT parent of STARTS is made."""
    folder = tmp_path_factory.mktemp("parents")
    for blocks, top in (({}, {}), (LORA, {}), (QLORA, {}), (LORA, {"chat_template": TEMPLATE})):
        file = tiny.recipe(folder, [parent(data, blocks)], model=str(base), **top)
        tiny.make(tiny.planned(file, folder / "runs"), "sft")
    return folder / "runs"


def parent(data: Path, blocks: dict[str, Any]) -> dict[str, Any]:
    return tiny.sft(data, {"max_steps": 8}, **blocks)


@pytest.fixture
def house(tmp_path, base, data, pairs, parents) -> House:
    return House(tmp_path, base, data, pairs, parents)


class House:
    """Recipes with one dpo stage, started as STARTS says."""

    def __init__(self, folder: Path, base: Path, data: Path, pairs: Path, parents: Path):
        self.folder, self.base, self.data, self.pairs = folder, base, data, pairs
        shutil.copytree(parents, folder / "runs")

    def file(
        self, start: str, train: dict[str, Any] | None = None, rows: dict[str, Any] | None = None, **top: Any
    ) -> Path:
        blocks, sft_blocks = STARTS[start]
        first = [] if sft_blocks is None else [parent(self.data, sft_blocks)]
        stage = {
            **{"kind": "dpo", "data": [{"path": str(self.pairs)}], "rows": rows or {}},
            **{"train": {**TRAIN, **(train or {})}, **blocks, **({"init": "$sft"} if first else {})},
        }
        return tiny.recipe(self.folder, [*first, stage], model=str(self.base), **top)

    def plan(self, start: str, train: dict[str, Any] | None = None, runs: str = "runs", **keys: Any) -> Plan:
        return tiny.planned(self.file(start, train, **keys), self.folder / runs)

    def trainer(self, start: str, train: dict[str, Any] | None = None, **keys: Any) -> Any:
        there = self.plan(start, train, **keys)
        if there.stages[0].name == "sft" and not there.stage("sft").done:  # another template makes another parent
            tiny.make(there, "sft")
            there = self.plan(start, train, **keys)
        return dpo.trainer_of(tiny.job(there, "dpo"))

    def made(self, start: str, train: dict[str, Any] | None = None, **keys: Any) -> PlannedStage:
        return tiny.make(self.plan(start, train, **keys), "dpo")

    def sft(self, start: str, **top: Any) -> Path:
        return self.plan(start, **top).stage("sft").folder


def first_rows(trainer: Any, count: int = 8) -> list[dict[str, Any]]:
    return [trainer.train_dataset[place] for place in range(count)]


def chosen_logps(model: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    columns = [[row[name] for row in rows] for name in IDS[:2]]
    return torch.tensor(completion_logprobs(model.eval(), *columns))


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


def trained_weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}


def logged(trainer: Any) -> list[dict[str, Any]]:
    return untimed(trainer.state.log_history)


def untimed(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Without how fast it went and what it took."""
    timed = ("runtime", "per_second", "total_flos", "peak_memory")
    return [{key: line[key] for key in line if not any(word in key for word in timed)} for line in lines]


def assert_alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], most: float = 1e-5) -> None:
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        tied = abs(one.get("rewards/margins", 1)) < 1e-5  # which of two equal rewards is larger is rounding
        for key in one.keys() - ({"rewards/accuracies"} if tied else set()):
            assert one[key] == pytest.approx(other[key], rel=most, abs=most), key


# ---- the reference ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("start", STARTS)
def test_before_the_first_step_the_loss_is_ln_2_and_every_log_ratio_0(start, house):
    trainer = house.trainer(start)
    metrics = measure_rows(trainer, first_rows(trainer))
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [metrics[f"rewards/{side}"] for side in ("chosen", "rejected")] == pytest.approx([0, 0], abs=1e-6)


def test_a_mixture_of_experts_trains_with_its_routers_loss(tmp_path, pairs):
    """The router's loss is no part of the comparison with the reference, and the row's log-ratios are 0."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    words = tiny.tokenizer()
    more = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "router_aux_loss_coef": 0.01}
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**tiny.config(words).to_dict(), **more, "model_type": "qwen3_moe"}))
    model.save_pretrained(str(tmp_path / "base"))
    words.save_pretrained(str(tmp_path / "base"))
    stage = {**tiny.sft(pairs, {"max_steps": 1, "max_length": 96}), "kind": "dpo"}
    made = tiny.make(
        tiny.planned(tiny.recipe(tmp_path, [stage], model=str(tmp_path / "base")), tmp_path / "runs"), "dpo"
    )
    first = read_lines(made.folder / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(math.log(2) + 0.01 * first["aux_loss"], abs=1e-5)
    assert first["aux_loss"] > 0.5


@pytest.mark.parametrize("start", STARTS)
def test_under_autocast_policy_and_reference_compute_alike(start, house, monkeypatch):
    """As on a GPU, where bfloat16 is the default; CPUs have the same autocast."""
    monkeypatch.setattr("ft.training.loop.device_arguments", lambda train, where: {"use_cpu": True, "bf16": True})
    trainer = house.trainer(start)
    metrics = measure_rows(trainer, first_rows(trainer))
    assert [metrics[f"rewards/{side}"] for side in ("chosen", "rejected")] == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("start", ["full on sft", "lora on sft", "qlora on sft"])
def test_the_reference_is_the_policy_of_the_parent_stage_and_not_the_base(start, house):
    trainer = house.trainer(start, {"max_steps": 4, "learning_rate": 1e-2})
    rows = first_rows(trainer)
    trainer.train()  # the reference stays where it was
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    reference, _ = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
    sft = chosen_logps(load(house.sft(start), "float32", use_cpu=True), rows)
    base = chosen_logps(AutoModelForCausalLM.from_pretrained(str(house.base)), rows)
    assert (reference - sft).abs().max() < 1e-3
    assert (reference - base).abs().min() > 1
    assert (chosen_logps(trainer.model, rows) - sft).abs().max() > 0.1


@pytest.mark.parametrize("start", ["full", "lora"])
def test_the_reference_of_a_first_stage_is_the_base(start, house):
    trainer = house.trainer(start, {"max_steps": 2})
    assert "ref" not in getattr(trainer.model, "peft_config", {})  # a copy of a new adapter would add nothing
    rows = first_rows(trainer)
    trainer.train()
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    reference, _ = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
    base = chosen_logps(AutoModelForCausalLM.from_pretrained(str(house.base)), rows)
    assert (reference - base).abs().max() < 1e-4


def test_reference_columns_of_another_model_stop_the_run(house):
    rows = [{**pair(number), "ref_chosen_logps": -40.0, "ref_rejected_logps": -30.0} for number in range(16)]
    house.pairs = written(house.folder / "foreign.jsonl", rows)
    with pytest.raises(UserError) as refused:
        house.trainer("lora on sft")
    assert re.sub(r"by -?[\d.]+ nats", "by N nats", str(refused.value)) == (
        Like(f"{house.folder}/tiny.yaml:21: … {house.pairs}:1 … log-probability …")
    )


@pytest.mark.parametrize("start", ["full on sft", "lora on sft", "qlora on sft"])
def test_a_reference_that_is_not_the_policy_stops_the_run(start, house):
    trainer = house.trainer(start)
    for name, value in (trainer.ref_model or trainer.model).named_parameters():
        if trainer.ref_model or ".ref." in name:
            value.data *= 1.5
    with pytest.raises(UserError, match=r"policy and reference differ before the first step \(.*pairs\.jsonl:1: log-p"):
        check_start(trainer, house.folder, "dpo", exact="qlora" not in start)


def test_a_resumed_run_knows_its_reference_again(house):
    folder = house.made("lora on sft", {"save_strategy": "steps", "save_steps": 2}).folder
    (folder / "done.json").unlink()
    write_json(folder / "reference.json", [value - 5 for value in read_json(folder / "reference.json")])
    with pytest.raises(UserError, match="the reference is not the one of the interrupted run"):
        house.made("lora on sft", {"save_strategy": "steps", "save_steps": 2})


@pytest.mark.parametrize("start", ["full on sft", "lora on sft", "qlora on sft"])
def test_a_named_reference_is_the_model_of_that_stage(start, house):
    """Here a stage before the parent: its log-probabilities by plain loading are those that the loss subtracts."""
    sft = parent(house.data, STARTS[start][1] or {})
    recipe = {"kind": "dpo", "init": "$longer", "inputs": {"reference": "$sft"}, "data": [{"path": str(house.pairs)}]}
    stages = [sft, {**sft, "name": "longer", "init": "$sft"}, {**recipe, "train": TRAIN, **STARTS[start][0]}]
    file = tiny.recipe(house.folder, stages, model=str(house.base))
    there = tiny.planned(file, house.folder / "runs")
    tiny.make(there, "longer")
    trainer = dpo.trainer_of(tiny.job(there, "dpo"))
    rows = first_rows(trainer)
    quantization = STARTS[start][0].get("quantization")
    expected = chosen_logps(load(there.stage("sft").folder, "float32", True, quantization), rows)
    assert torch.tensor([row["ref_chosen_logps"] for row in rows]) == pytest.approx(expected, abs=1e-4)
    own = chosen_logps(trainer.model, rows)
    rewards = torch.tensor([measure_rows(trainer, [row])["rewards/chosen"] for row in rows])
    assert rewards == pytest.approx(TRAIN["beta"] * (own - expected), abs=1e-3)
    assert rewards.abs().max() > 0.01  # and it is not the policy as it begins


def test_rows_of_which_only_some_bring_a_reference_are_refused(house):
    rows = [{**pair(number), "ref_chosen_logps": -40.0, "ref_rejected_logps": -30.0} for number in range(3)]
    house.pairs = written(house.folder / "some.jsonl", [*rows, pair(3)])
    with pytest.raises(UserError) as refused:
        house.trainer("lora")
    assert str(refused.value) == Like(f"{house.pairs}:4: … ref_chosen_logps … ref_rejected_logps …")


# ---- TRL's numbers ------------------------------------------------------------------------------------------------
def theirs(house: House, start: str, train: dict[str, Any]) -> Any:
    """TRL's own trainer on the same conversational rows, from the same model."""
    words = AutoTokenizer.from_pretrained(str(house.base))
    words.chat_template = TEMPLATE
    if "sft" in start:
        model: Any = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(str(house.base)),
            str(house.sft(start, chat_template=TEMPLATE)),
            is_trainable=True,
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(str(house.base))
    places = {"output_dir": str(house.folder / "trl"), "seed": 1, "use_cpu": True, "bf16": False, "report_to": "none"}
    rows = Dataset.from_list([json.loads(line) for line in house.pairs.read_text(encoding="utf-8").splitlines()])
    config = DPOConfig(**{**TRAIN, **train, **places}, disable_tqdm=True)
    trainer = DPOTrainer(model=model, args=config, train_dataset=rows, processing_class=words)
    trainer.train()
    return trainer


def slots(trainer: Any) -> list[tuple[int, ...]]:
    """Shape of the ids of every forward from now on."""
    seen: list[tuple[int, ...]] = []
    embeddings = trainer.model.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    return seen


LOSSES: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "ipo": {"loss_type": ["ipo"]},
    "sigmoid+sft": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    "wpo": {"use_weighting": True},
    "ld": {"ld_alpha": 0.5},
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", ["full", "lora on sft"])
def test_losses_gradients_and_metrics_are_trls(start, loss, house):
    train = {**SGD, **LOSSES[loss]}
    ours, other = house.trainer(start, train, chat_template=TEMPLATE), theirs(house, start, train)
    seen, before = slots(ours), trained_weights(ours)
    ours.train()
    assert len(seen) == (6 if start != "full" else 3)
    assert max(rows * length for rows, length in seen) < 4 * 2 * 43  # each prompt went through the model once
    assert_alike(logged(ours), logged(other))
    assert len(logged(ours)) == 4
    assert farthest(trained_weights(ours), trained_weights(other)) < 1e-5
    assert farthest(trained_weights(ours), before) > 1e-3


@pytest.mark.parametrize("start", ["full", "lora on sft", "qlora on sft"])
def test_sharing_the_prompt_changes_nothing(start, house):
    shared, apart = house.trainer(start, SGD), house.trainer(start, SGD)
    assert shared.shares
    apart.shares = False
    narrow, wide = slots(shared), slots(apart)
    for trainer in (shared, apart):
        trainer.train()
    assert sum(rows * length for rows, length in narrow) < 0.75 * sum(rows * length for rows, length in wide)
    assert_alike(logged(shared), logged(apart))
    assert farthest(trained_weights(shared), trained_weights(apart)) < 1e-5


EVERY_LOSS = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_every_loss_of_trl_trains_through_its_own_key(loss, house):
    smoothing = {"label_smoothing": 0.1} if loss in ("exo_pair", "robust") else {}
    trainer = house.trainer("lora", {"loss_type": [loss], "max_steps": 2, **smoothing})
    before = trained_weights(trainer)
    trainer.train()
    assert all(math.isfinite(line["loss"]) for line in trainer.state.log_history if "loss" in line)
    assert farthest(trained_weights(trainer), before) > 1e-4


# ---- log-probabilities kept ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("start", ["full on sft", "lora on sft"])
def test_a_reference_computed_once_changes_nothing(start, house):
    live, kept = house.trainer(start), house.trainer(start, {"precompute_ref_log_probs": True})
    assert kept.ref_model is None
    seen = {"live": slots(live), "kept": slots(kept)}
    for trainer in (live, kept):
        trainer.train()
    assert len(seen["kept"]) == 4  # one forward a step
    assert len(seen["live"]) == (4 if live.ref_model else 8)
    assert_alike(logged(live), logged(kept))
    assert farthest(trained_weights(live), trained_weights(kept)) < 1e-5


@pytest.mark.parametrize("start", ["full on sft", "lora on sft"])
def test_a_reference_made_elsewhere_is_read_from_the_rows(start, house):
    live = house.trainer(start)
    elsewhere = load(house.sft(start), "float32", use_cpu=True)
    rows = [live.train_dataset[place] for place in range(len(live.train_dataset))]
    prompts = [row["prompt_ids"] for row in rows]
    columns = {
        f"ref_{side}_logps": completion_logprobs(elsewhere, prompts, [row[f"{side}_ids"] for row in rows])
        for side in ("chosen", "rejected")
    }
    by_line = {int(row["where"].rpartition(":")[2]) - 1: place for place, row in enumerate(rows)}
    lines = [{**pair(n), **{name: values[by_line[n]] for name, values in columns.items()}} for n in range(16)]
    house.pairs = written(house.folder / "scored.jsonl", lines)
    read_in = house.trainer(start)
    seen = slots(read_in)
    assert read_in.ref_model is None
    for trainer in (live, read_in):
        trainer.train()
    assert len(seen) == 4
    assert not list(house.folder.glob("runs/tiny/dpo-*/reference-*"))
    assert_alike(logged(live), logged(read_in), 1e-4)
    assert farthest(trained_weights(live), trained_weights(read_in)) < 1e-4


# ---- what is learnt -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("start", ["full", "lora on sft", "qlora on sft"])
def test_held_out_pairs_are_ranked_right_and_the_margin_grows(start, house):
    train = {"max_steps": 16, "learning_rate": 2e-3, "eval_strategy": "steps", "eval_steps": 8, "eval_on_start": True}
    stage = house.made(start, train, rows={"eval_fraction": 0.2})
    numbers = stage.done["numbers"]
    assert numbers["accuracies"] == 1.0
    assert numbers["margins"] > 0.5
    lines = read_lines(stage.folder / "metrics.jsonl")
    assert next(line["eval_loss"] for line in lines if "eval_loss" in line) == pytest.approx(math.log(2), abs=1e-6)
    margins = next(panel for panel in curves(ResultFiles(stage.folder)).panels if "margin" in panel.title)
    held_out = [(line["step"], line["eval_rewards/margins"]) for line in lines if "eval_rewards/margins" in line]
    assert [(point.x, point.y) for point in margins.series[0].points] == held_out
    drawn = tiny.drawn_words(stage.folder / "curves.svg")
    assert {"dpo", "Loss", margins.title, "Reward accuracy", "Log-probability of answers", "nats"} <= set(drawn)


@pytest.mark.parametrize("start", ["full on sft", "lora", "lora on sft", "qlora on sft"])
def test_the_folder_holds_the_policy_alone_and_opens_without_ft(start, house):
    train = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2}
    job = tiny.job(house.plan(start, train), "dpo")
    trainer = dpo.trainer_of(job)
    train_and_save(trainer, job)
    rows = first_rows(trainer)
    after = chosen_logps(trainer.model, rows)
    assert (chosen_logps(load(job.folder, "float32", use_cpu=True), rows) - after).abs().max() < 1e-4
    assert [folder.name for folder in job.folder.rglob("ref")] == []
    if start in ("lora", "lora on sft"):
        opened = AutoPeftModelForCausalLM.from_pretrained(str(job.folder))
        assert (chosen_logps(opened, rows) - after).abs().max() < 1e-4
        assert {name.split(".")[-2] for name in tiny.weights(job.folder)} == {"lora_A", "lora_B"}


def changed(folder: Path, before: Path) -> float:
    """Share of the adapter's numbers that are not what they were."""
    now, then = tiny.weights(folder), tiny.weights(before)
    moved = sum((now[name].float() != then[name].float()).sum().item() for name in now)
    return moved / sum(value.numel() for value in now.values())


def test_adapters_on_a_4_bit_base_are_float32_and_move_at_a_learning_rate_of_1e_6(house):
    stage = house.made("qlora on sft", {"learning_rate": 1e-6, "max_steps": 8})
    assert {value.dtype for value in tiny.weights(stage.folder).values()} == {torch.float32}
    assert changed(stage.folder, house.sft("qlora on sft")) > 0.99


def test_without_our_care_trl_rounds_what_the_parent_has_learnt_and_stalls(house, monkeypatch):
    monkeypatch.setattr(against_reference, "adapters_kept", lambda model: nullcontext())
    stalled = house.made("qlora on sft", {"learning_rate": 1e-6, "max_steps": 8})
    rounded = {name: value.bfloat16() for name, value in tiny.weights(house.sft("qlora on sft")).items()}
    now = tiny.weights(stalled.folder)
    assert {value.dtype for value in now.values()} == {torch.bfloat16}
    moved = sum((now[name] != rounded[name]).sum().item() for name in now)
    assert moved / sum(value.numel() for value in now.values()) < 0.1


@pytest.mark.parametrize("start", ["full", "lora on sft", "qlora on sft"])
def test_gradient_checkpointing_changes_no_weight(start, house):
    left = [tiny.weights(house.made(start, {"gradient_checkpointing": on}).folder) for on in (False, True)]
    # A step of Adam is 1e-3 whatever the gradient's size, so rounding shows: 1.04e-6 on a CPU with AVX2 alone
    assert farthest(*left) < 1e-5


# ---- interrupted, and in two processes ----------------------------------------------------------------------------
@pytest.mark.parametrize(("start", "kept"), [("full on sft", False), ("lora on sft", True), ("qlora on sft", False)])
def test_an_interrupted_run_ends_with_the_bits_of_an_undisturbed_one(start, kept, house, monkeypatch):
    train = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "precompute_ref_log_probs": kept}
    blocks = STARTS[start][0]
    if "lora" in blocks:  # draws random numbers at every step, where dropout is left on
        train["disable_dropout"] = False
    whole = house.made(start, train)
    undisturbed, said_then = tiny.weights(whole.folder), read_lines(whole.folder / "metrics.jsonl")
    (whole.folder / "done.json").unlink()
    shutil.rmtree(whole.folder / "checkpoints" / "checkpoint-4")
    again = house.made(start, train)
    now = tiny.weights(again.folder)
    assert all(torch.equal(now[name], undisturbed[name]) for name in undisturbed)
    steps = [line for line in read_lines(again.folder / "metrics.jsonl") if "rewards/margins" in line]
    assert untimed(steps) == untimed([line for line in said_then if "rewards/margins" in line])
    assert len(list(again.folder.glob("reference-train.arrow"))) == kept

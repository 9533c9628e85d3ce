"""The fit plan of whole recipes: moments, verdicts, advice that holds, several GPUs, and what people read."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tiny
from ft import hub
from ft.cli import app
from ft.cli.app import read_recipe
from ft.errors import UserError
from ft.fit import shapes
from ft.fit.advice import advice
from ft.fit.gpus import GIB, LARGE_WORKSPACE, SMALL_WORKSPACE, Gpu, gpu
from ft.fit.kinds import stage_fit
from ft.fit.probe import compare_bytes, few_steps, probe_stages
from ft.fit.setting import Setting
from ft.fit.sharding import Sharding, sharding
from ft.fit.speed import pace
from ft.fit.table import fit_plan, show, values
from ft.recipe import ModelSource
from ft.results.store import Plan
from ft.run.accelerate_config import ONE_PROCESS, read_launch
from ft.stages import STAGES
from wording import Like

ROOT = tiny.ROOT
LLAMA = "meta-llama/Llama-2-7b-hf"
QLORA = {"lora": {"r": 16, "target_modules": "all-linear"}, "quantization": {**tiny.NF4}}


def planned(folder: Path, *stages: dict[str, Any], model: str = LLAMA) -> Plan:
    return tiny.planned(tiny.recipe(folder, stages, model=model), folder / "runs")


def setting(there: Plan, name: str, gib: float = 24, shared: Sharding | None = None) -> Setting:
    return Setting(there.recipe, there.recipe.stage(name), Gpu(f"{gib:g} GiB", gib), shared or Sharding())


def sft(data: Path, train: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    return tiny.sft(data, {"max_length": 2048, "gradient_checkpointing": True, **(train or {})}, **keys)


def pairs(data: Path, **keys: Any) -> dict[str, Any]:
    return {**sft(data, {"per_device_train_batch_size": 1}), "kind": "dpo", **keys}


def test_a_stage_that_fits_says_what_is_to_spare_and_when_it_is_fullest(tmp_path, data):
    there = planned(tmp_path, sft(data, **QLORA))
    found = values(fit_plan(there, gpu("24"), Sharding()))[0]
    assert (found["fits"], found["when"], found["shape"]) == (True, "training step", "built-in sizes")
    assert (found["trained"], found["parameters"]) == (39_976_960, 6_738_415_616 + 39_976_960)
    assert found["spare"] == 24 * GIB - found["peak"]
    assert "changes" not in found
    assert found["moments"]["training step"]["weights"] == pytest.approx(3.6 * GIB, rel=0.01)


WRITTEN = [
    {"gradient_checkpointing": False},
    {"per_device_train_batch_size": 32},
    {"per_device_eval_batch_size": 512, "eval_strategy": "steps", "per_device_train_batch_size": 1},
    {"max_length": 4096, "per_device_train_batch_size": 64, "gradient_accumulation_steps": 2},
]


@pytest.mark.parametrize("train", WRITTEN)
@pytest.mark.parametrize("gib", [12, 10, 8])
def test_what_is_advised_really_fits_and_keeps_the_global_batch(tmp_path, data, train, gib):
    there = planned(tmp_path, sft(data, train, **QLORA))
    here = setting(there, "sft", gib)
    assert not stage_fit(here).fits(here.gpu)
    found = advice(here)
    stage = here.stage
    for change in found.changes:
        stage = change.on(stage)
    again = stage_fit(replace(here, stage=stage))
    assert found.changes
    assert again.fits(here.gpu)
    assert again.peak == found.fit.peak
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    before, after = ([one.blocks["train"].get(key, 1) for key in keys] for one in (here.stage, stage))
    assert before[0] * before[1] == after[0] * after[1]


@pytest.mark.parametrize("train", WRITTEN)
def test_no_advised_change_can_be_left_out(tmp_path, data, train):
    here = setting(planned(tmp_path, sft(data, train, **QLORA)), "sft", 10)
    changes = advice(here).changes
    for left_out in changes:
        stage = here.stage
        for change in changes:
            stage = stage if change is left_out else change.on(stage)
        assert not stage_fit(replace(here, stage=stage)).fits(here.gpu)


def test_what_costs_only_time_is_advised_before_what_changes_the_result(tmp_path, data):
    there = planned(tmp_path, sft(data, {"gradient_checkpointing": False}, **QLORA))
    assert [str(one) for one in advice(setting(there, "sft", 16)).changes] == ["train: {gradient_checkpointing: true}"]


def test_a_full_fine_tune_on_a_small_gpu_is_advised_an_adapter_on_four_bits(tmp_path, data):
    there = planned(tmp_path, sft(data, {"per_device_train_batch_size": 1}))
    blocks = {change.block for change in advice(setting(there, "sft", 8)).changes}
    assert {"lora", "quantization"} <= blocks


def test_where_nothing_helps_the_gpu_that_would_do_is_named(tmp_path, data):
    found = advice(setting(planned(tmp_path, sft(data, **QLORA)), "sft", 2))
    assert not found.changes
    assert "would do as it is written" in found.instead
    assert "no change" in found.instead


def test_the_reference_of_dpo_costs_an_adapter_or_a_whole_model_or_nothing(tmp_path, data):
    whole, first = pairs(data, name="whole"), pairs(data, name="first")
    first["train"] = {**first["train"], "precompute_ref_log_probs": True}
    stages = [sft(data, **QLORA), pairs(data, init="$sft", **QLORA), pairs(data, name="new", **QLORA), whole, first]
    there = planned(tmp_path, *stages)
    parts = {s.name: stage_fit(setting(there, s.name)).moments[0].parts for s in there.recipe.stages}
    assert parts["dpo"]["adapters"] == 2 * parts["new"]["adapters"] == 2 * 4 * 39_976_960
    assert parts["whole"]["weights"] == 2 * parts["first"]["weights"] == 2 * 4 * 6_738_415_616


def reinforced(there: Plan, kind: str = "ppo", **blocks: Any) -> Setting:
    """A stage of this kind on what the recipe's stages leave; `blocks` as its recipe writes them."""
    train = {"per_device_train_batch_size": 2, "max_completion_length": 512, "rollout_batch_size": 16}
    kept = {"train": train, "rows": {"max_prompt_length": 512}, **blocks}
    start = there.recipe.stage("sft")
    stage = replace(
        start, name=kind, kind_name=kind, kind=STAGES[kind], init="sft", inputs={"helpful": "helpful"}, blocks=kept
    )
    return Setting(there.recipe, stage, gpu("24"), Sharding())


def test_ppo_has_four_roles_on_one_base_or_four_models(tmp_path, data):
    reward = {**sft(data, **QLORA), "kind": "reward", "name": "helpful"}
    whole_reward = {**sft(data), "kind": "reward", "name": "helpful"}
    one = stage_fit(reinforced(planned(tmp_path / "one", sft(data, **QLORA), reward), **QLORA))
    four = stage_fit(reinforced(planned(tmp_path / "four", sft(data), whole_reward)))
    adapter, head, model = 39_976_960, 4096, 6_738_415_616
    step, whole = (next(m for m in fit.moments if m.name == "training step").parts for fit in (one, four))
    assert step["adapters"] == 4 * (4 * adapter + head)  # policy, reference, critic, reward with its head
    assert step["gradients"] == 2 * 4 * adapter
    backbone = model - 32000 * 4096 + head
    assert whole["weights"] == 3 * 4 * model + 2 * backbone  # policy, reference, critic; the reward model in bfloat16
    assert {m.name for m in one.moments} == {"rollout", "training step", "optimizer step"}


def test_a_comparison_holds_one_model_at_a_time_and_the_judge_reads_both_answers(tmp_path, data):
    judge = {"kind": "model", "model": LLAMA, "prompt": "judge.yaml", "max_new_tokens": 32, "reply_tokens": 8}
    (tmp_path / "judge.yaml").write_bytes((ROOT / "data" / "judge" / "pairwise.yaml").read_bytes())
    stages = sft(data, **QLORA), {"kind": "judge", "init": "$sft", "data": [str(data)], "judge": judge}
    fit = stage_fit(setting(planned(tmp_path, *stages), "judge"))
    assert [moment.name for moment in fit.moments] == ["generation"] * 3
    adapters = [moment.parts["adapters"] for moment in fit.moments]
    assert adapters == [4 * 39_976_960, 0, 0]
    caches = [moment.parts["cache"] for moment in fit.moments]
    assert caches[0] == caches[1] < caches[2]


def test_the_harness_holds_the_logits_of_every_position(tmp_path, data):
    harness = {"kind": "harness", "init": "$sft", "harness": {"tasks": ["gsm8k"], "batch_size": 4}}
    fit = stage_fit(setting(planned(tmp_path, sft(data), harness), "harness"))
    assert fit.peak.parts["logits"] == 2 * 2 * 4 * 2048 * 32_000


@pytest.mark.parametrize(
    ("kind", "train", "models"),
    [
        ("grpo", {}, 1),
        ("grpo", {"beta": 0.04}, 2),
        ("rloo", {}, 2),
        ("rloo", {"beta": 0.0}, 1),
        ("ppo", {"beta": 0}, 3),
    ],
)
def test_a_whole_policy_has_a_reference_where_its_trainer_makes_one(tmp_path, data, kind, train, models):
    """GRPO's own beta is 0, which makes none; PPO has a critic too, and its reference at any beta."""
    there = planned(tmp_path, sft(data), {**sft(data), "kind": "reward", "name": "helpful"})
    asked = reinforced(there, kind)
    asked.stage.blocks["train"].update(train)
    step = next(one.parts for one in stage_fit(asked).moments if one.name == "training step")
    model = 6_738_415_616
    reward_model = 2 * (model - 32000 * 4096 + 4096)  # in bfloat16, a head of one number instead of all words
    assert step["weights"] == models * 4 * model + reward_model


@pytest.mark.parametrize(("kind", "train"), [("rloo", {"beta": 0.0}), ("grpo", {"beta": 0.04})])
def test_without_a_critic_there_are_three_roles_on_one_base(tmp_path, data, kind, train):
    reward = {**sft(data, **QLORA), "kind": "reward", "name": "helpful"}
    there = planned(tmp_path, sft(data, **QLORA), reward)
    asked = reinforced(there, kind, **QLORA)
    asked.stage.blocks["train"].update(train)
    parts = {one.name: one.parts for one in stage_fit(asked).moments}
    alone = stage_fit(setting(there, "sft")).moments[0].parts["weights"]
    assert parts["training step"]["adapters"] == 4 * (3 * 39_976_960 + 4096)
    assert parts["training step"]["weights"] == alone
    if kind == "grpo":  # at beta 0, its default, TRL makes no copy of the adapter
        copied = stage_fit(reinforced(there, kind, **QLORA)).moments[1].parts["adapters"]
        assert copied == 4 * (2 * 39_976_960 + 4096)
    by_vllm = reinforced(there, kind, **QLORA)
    by_vllm.stage.blocks["train"]["use_vllm"] = True
    assert stage_fit(by_vllm).moments[1].parts["weights"] > 1.5 * alone  # a base for the reward model


def test_paged_states_are_on_the_gpu_only_when_the_optimizer_steps(tmp_path, data):
    there = planned(tmp_path, sft(data, {"optim": "paged_adamw_32bit"}, **QLORA))
    states = {one.name: one.parts["optimiser"] for one in stage_fit(setting(there, "sft")).moments}
    assert (states["training step"], states["optimizer step"]) == (0, 8 * 39_976_960)


def test_an_evaluation_that_is_fuller_than_training_is_the_peak(tmp_path, data):
    train = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 64, "eval_strategy": "steps"}
    assert stage_fit(setting(planned(tmp_path, sft(data, train, **QLORA)), "sft")).peak.name == "evaluation"


def test_slices_leave_each_gpu_its_part(tmp_path, data):
    there = planned(tmp_path, sft(data, {"per_device_train_batch_size": 1}))
    cut = {kind: stage_fit(setting(there, "sft", 80, Sharding(kind, 8))).moments[1] for kind in ("ddp", "fsdp")}
    parameters = 6_738_415_616
    assert cut["ddp"].parts["optimiser"] == 8 * parameters
    assert cut["ddp"].parts["gradients"] == 2 * 4 * parameters  # and DDP's buckets
    for part, number in (("weights", 4), ("gradients", 4), ("optimiser", 8)):
        assert cut["fsdp"].parts[part] == number * parameters // 8


def test_the_shipped_accelerate_configs_say_how_they_share():
    read = {file.stem: read_launch(file) for file in (ROOT / "recipes" / "accelerate").glob("*.yaml")}
    found = {name: sharding(way) for name, way in read.items()}
    assert (found["ddp"].kind, found["fsdp"].kind, found["zero3"].kind) == ("ddp", "fsdp", "zero3")
    assert sharding(read["fsdp"].on_gpus(4)) == Sharding("fsdp", 4)
    assert (sharding(ONE_PROCESS.on_gpus(2)), sharding(ONE_PROCESS)) == (Sharding("ddp", 2), Sharding())


@pytest.mark.parametrize(("written", "gib"), [("24", 24), ("16gb", 16), ("4090", 24), ("RTX 3060", 12), ("A10G", 22)])
def test_a_gpu_is_named_or_measured(written, gib):
    assert gpu(written).gib == gib


@pytest.mark.parametrize(("offline", "times"), [(False, 1), (True, 0)])
def test_a_hub_out_of_reach_is_asked_once_and_quickly_and_never_offline(monkeypatch, offline, times):
    asked = []

    def refused(address, timeout):
        asked.append((address, timeout))
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "create_connection", refused)
    hub.hub_is_there.cache_clear()
    said = [
        shapes.config_of(ModelSource(name))[1] for name in ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf")
    ]
    hub.hub_is_there.cache_clear()
    assert said == ["built-in sizes"] * 2
    assert asked == [(("huggingface.co", 443), 3.0)] * times


def test_an_unknown_gpu_lists_the_known_ones():
    with pytest.raises(UserError, match=r"no GPU 'a10x'\. Did you mean 'a10g'"):
        gpu("a10x")


def test_a_model_nobody_can_reach_leaves_the_other_stages_their_rows(tmp_path, data, base):
    there = planned(tmp_path, sft(data, **QLORA), model="nobody/nothing-7b")
    found = values(fit_plan(there, gpu("24"), Sharding()))[0]
    assert "nobody/nothing-7b: the config cannot be loaded" in found["problem"]
    assert "HF_TOKEN" in found["problem"]
    known = values(fit_plan(planned(tmp_path, sft(data), model=str(base)), gpu("24"), Sharding()))[0]
    assert known["fits"]
    assert known["shape"] == "its config"


def test_an_earlier_run_tells_how_long_a_stage_takes(tmp_path, data, base):
    there = planned(tmp_path, sft(data), model=str(base))
    stage = there.stage("sft")
    assert pace(there, stage) is None
    there.job(stage).write()
    (stage.folder / "done.json").write_text(
        json.dumps({"numbers": {"tokens": 3000}, "seconds": 2.0, "device": "X"}), encoding="utf-8"
    )
    told = pace(there, stage)
    assert told is not None
    assert (told.tokens_per_second, told.run, told.device) == (1500.0, stage.folder, "X")


def test_the_table_shows_every_stage_and_what_to_write(tmp_path, data, capsys):
    from rich.console import Console

    there = planned(tmp_path, sft(data, {"gradient_checkpointing": False}, **QLORA))
    show(fit_plan(there, gpu("12"), Sharding()), Console(width=220))
    told = capsys.readouterr().out
    assert "does not fit" in told
    assert "train: {gradient_checkpointing: true}" in told
    assert "sft: built-in sizes" in told


REINFORCED = {"max_completion_length": 64, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}


def rloo(data: Path, **train: Any) -> dict[str, Any]:
    keys = {"kind": "rloo", "reward": {"rewards": {"answer": 1.0}}, "rows": {"eval_fraction": 0.0}, **QLORA}
    values = {key: value for key, value in tiny.TRAIN.items() if key not in ("max_length", "save_strategy")}
    values |= {**REINFORCED, "max_steps": 8, "eval_steps": 8, "save_steps": 8, **train}
    return {**keys, "data": [{"path": str(data)}], "train": values}


@pytest.mark.parametrize(("train", "answers"), [({}, 8), ({"generation_batch_size": 16}, 16)])
def test_a_rollout_holds_the_answers_of_a_whole_generation_batch(tmp_path, data, train, answers):
    here = replace(setting(planned(tmp_path, rloo(data, **train)), "rloo"), longest=512)
    rollout = next(one for one in stage_fit(here).moments if one.name == "rollout")
    read = 2 * 2 * 32 * 4096 * 512  # keys and values of Llama 2 7B, in bfloat16
    assert rollout.parts["cache"] == answers * read


def test_a_probe_goes_on_until_the_second_rollout_meets_the_optimizers_states(tmp_path, data, base):
    there = planned(tmp_path, rloo(data, generation_batch_size=16), model=str(base))
    assert few_steps(tiny.job(there, "rloo"), tmp_path).block("train")["max_steps"] == 3
    there = planned(tmp_path, sft(data, **QLORA), model=str(base))
    assert few_steps(tiny.job(there, "sft"), tmp_path).block("train")["max_steps"] == 2


def test_tensors_count_a_workspace_for_each_of_the_two_threads_that_train(tmp_path, data):
    there = planned(tmp_path, sft(data, **QLORA))
    small, large = (stage_fit(replace(setting(there, "sft"), gpu=gpu(name))).peak for name in ("4090", "h100"))
    assert large.tensors - small.tensors == 2 * (LARGE_WORKSPACE - SMALL_WORKSPACE)
    assert large.total == small.total  # the overhead has room for both


def test_rows_of_one_length_need_no_mask(tmp_path, data):
    here = setting(planned(tmp_path, sft(data, {"per_device_train_batch_size": 4}, **QLORA)), "sft")
    padded, even = (stage_fit(replace(here, padded=padded)).peak.parts["activations"] for padded in (True, False))
    assert padded - even == 4 * 2048**2 * (2 + 1)  # a layer's in the dtype of its products, and the batch's own


def test_a_probe_says_by_what_share_the_estimate_is_off():
    assert compare_bytes(105, {"bytes": 100}) == {"estimate": 105, "measured": 100, "error": 0.05}
    assert compare_bytes(105, {"problem": "out of memory"})["problem"] == "out of memory"


def test_a_probe_without_a_gpu_says_so(tmp_path, data, base):
    with pytest.raises(UserError, match="this machine has no GPU"):
        probe_stages(planned(tmp_path, sft(data), model=str(base)), None)


def test_the_command_prints_json_and_options_without_a_gpu_are_refused(tmp_path, data, base):
    file = str(tiny.recipe(tmp_path, [sft(data)], model=str(base)))
    runs = ["--runs", str(tmp_path / "runs")]
    told = CliRunner().invoke(app, ["plan", file, *runs, "--gpu", "24", "--json"])
    assert [one["fits"] for one in json.loads(told.stdout)] == [True]
    refused = CliRunner().invoke(app, ["plan", file, *runs, "--gpus", "2"]).exception
    assert str(refused) == Like("--gpus: … --gpu … Leave …")


def test_a_plan_without_a_gpu_imports_nothing_of_the_fit(tmp_path, data, base):
    file, runs = tiny.recipe(tmp_path, [sft(data)], model=str(base)), tmp_path / "runs"
    read_recipe(file, None, runs)  # remembers that the recipe is right
    script = (
        "import sys; from ft.cli import app\n"
        f"try: app(['plan', {str(file)!r}, '--runs', {str(runs)!r}])\n"
        "except SystemExit: print(sorted(m for m in sys.modules if m in ('torch', 'transformers') or 'ft.fit' in m))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=tiny.environment(), check=False
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr

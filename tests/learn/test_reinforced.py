"""Policies that learn from rewards, on tiny real models: what is learnt, kept, written and refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from ft.errors import UserError
from ft.figures.result_files import ResultFiles
from ft.figures.training import curves
from ft.files import read_lines
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.sampling import Sampling
from ft.models.scorer import Scorer
from ft.results.store import PlannedStage

GREEDY = Sampling(8, 0.0)
NF4 = {**tiny.NF4, "bnb_4bit_compute_dtype": "float32"}
TRAIN = {
    **{"max_completion_length": 10, "max_steps": 2, "per_device_train_batch_size": 8, "num_generations": 2},
    **{"learning_rate": 1e-3, "lr_scheduler_type": "constant", "beta": 0.05, "temperature": 1.5},
    **{"per_device_eval_batch_size": 8, "logging_steps": 1, "eval_steps": 1, "save_steps": 1},
    **{"gradient_checkpointing": False},
}


def prompts(file: Path, count: int = 16, **columns: Any) -> Path:
    """`3 coal?`, and the colour that is the answer."""
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            row = {"prompt": f"{number} {tiny.THINGS[number % 8]}?", "answer": tiny.COLOURS[number % 8], **columns}
            out.write(json.dumps(row) + "\n")
    return file


def stage(kind: str, data: Path, train: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    given = {"rows": {"eval_fraction": 0.25}, "reward": {"rewards": {"answer": 1.0}}, **keys}
    return {"kind": kind, "data": [{"path": str(data)}], "train": {**TRAIN, **(train or {})}, **given}


def made(folder: Path, policy: Path, kind: str, train: dict[str, Any] | None = None, **keys: Any) -> PlannedStage:
    folder.mkdir(exist_ok=True)
    data = keys.pop("data", None) or prompts(folder / "prompts.jsonl")
    file = tiny.recipe(folder, [stage(kind, data, train, **keys)], model=str(policy))
    return tiny.make(tiny.planned(file, folder / "runs"), kind)


def logged(found: PlannedStage, key: str) -> list[tuple[int, float]]:
    return [(line["step"], line[key]) for line in read_lines(found.folder / "metrics.jsonl") if key in line]


# What is left


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, ending) -> PlannedStage:
    """RLOO of a whole model, two steps; one prompt is too long, and one stands there twice."""
    folder = tmp_path_factory.mktemp("learnt")
    data = prompts(folder / "prompts.jsonl")
    again = data.read_text(encoding="utf-8").splitlines()[0]
    with data.open("a", encoding="utf-8") as out:
        out.write(json.dumps({"prompt": "snow " * 30, "answer": "white"}) + "\n" + again)
    rows = {"eval_fraction": 0.25, "on_too_long": "drop"}
    return made(folder, ending, "rloo", rows=rows, data=data, guard={"kept": 0})


def assert_learnt(found: PlannedStage) -> None:
    numbers = found.done["numbers"]
    assert numbers["steps"] == 2
    assert numbers["prompts"] + numbers["held_out"] == 16
    assert [step for step, _ in logged(found, "reward")] == [1, 2]
    assert [step for step, _ in logged(found, "eval_reward")] == [0, 1, 2]
    assert numbers["reward"] == max(value for step, value in logged(found, "eval_reward") if step)  # the best is kept
    assert abs(logged(found, "answers/kl")[0][1]) < 1e-3  # of the first batch: policy and reference are one
    rewards = next(c for c in curves(ResultFiles(found.folder)).panels if c.title == "Reward")
    assert [(point.x, point.y) for point in rewards.series[0].points] == logged(found, "eval_reward")
    assert {"Reward", "Distance to the reference (KL)"} <= set(tiny.drawn_words(found.folder / "curves.svg"))
    assert not list(found.folder.rglob("ref"))  # neither the result nor a checkpoint holds the reference
    assert ChatModel(None, found.folder).answer(
        [[{"role": "user", "content": "0 sky?"}]], batch_size=1, sampling=GREEDY
    )


def test_a_whole_policy_is_trained_and_its_folder_answers(learnt):
    assert_learnt(learnt)


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [("rloo", {"lora": tiny.LORA, "quantization": NF4}), ("grpo", {"lora": tiny.LORA})],
    ids=["rloo-nf4", "grpo-lora"],
)
def test_an_adapter_learns_from_an_adapter_on_its_base_and_its_folder_answers(kind, blocks, tmp_path, ending, caplog):
    found = judged(tmp_path, ending, kind, {}, **blocks)
    assert_learnt(found)
    assert "a model of its own" not in caplog.text
    assert not list(found.folder.rglob("helpful"))  # neither the result nor a checkpoint holds the reward model
    answered = [line for line in read_lines(found.folder / "rollouts.jsonl") if line["answer"].strip()][:4]
    said = [[*line["prompt"], {"role": "assistant", "content": line["answer"]}] for line in answered]
    (judge,) = found.folder.parent.glob("reward-*")
    assert [line["rewards"]["helpful"] for line in answered] == pytest.approx(Scorer(judge).scores(said), abs=1e-4)
    weights = tiny.weights(found.folder)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert min(value.abs().max() for name, value in weights.items() if "lora_B" in name) > 0
    assert (found.folder / "lineage.json").exists()


def test_every_batch_of_answers_stands_in_rollouts_with_its_rewards(learnt):
    lines = read_lines(learnt.folder / "rollouts.jsonl")
    sets = [(line["step"], line["set"]) for line in lines]
    assert sets.count((0, "train")) == sets.count((1, "train")) == 8
    assert {sets.count((step, "eval")) for step in (0, 1, 2)} == {2 * learnt.done["numbers"]["held_out"]}
    right = {f"{n} {tiny.THINGS[n % 8]}?": tiny.COLOURS[n % 8] for n in range(16)}
    for line in lines:
        value = float(right[line["prompt"][0]["content"]] in re.findall(r"\w+", line["answer"].lower()))
        assert line["rewards"] == {"answer": value}
        assert line["reward"] == value - (not line["ended"])  # reward.unfinished is 1
        assert 1 <= line["length"] <= 10
    second = [line["kl"] for line in lines if (line["step"], line["set"]) == (1, "train")]
    assert logged(learnt, "answers/kl")[1][1] == pytest.approx(sum(second) / 8, abs=1e-6)


def test_prompts_too_long_are_dropped_and_counted_where_that_is_asked_for(learnt):
    assert {name: learnt.done["numbers"][name] for name in ("too_long", "repeated")} == {"too_long": 1, "repeated": 1}


def test_when_a_run_evaluates_does_not_change_what_it_learns(tmp_path, ending):
    keep = {"load_best_model_at_end": False}
    often, never = (
        made(tmp_path / name, ending, "rloo", {**keep, **train})
        for name, train in (("often", {}), ("never", {"eval_strategy": "no", "eval_on_start": False}))
    )
    one, other = (tiny.weights(found.folder) for found in (often, never))
    assert all(torch.equal(one[name], other[name]) for name in one)


# PPO

PASSES = {"num_generations": 1, "per_device_train_batch_size": 4, "generation_batch_size": 8}


def pairs(file: Path, count: int = 8) -> Path:
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            sides = {"chosen": tiny.COLOURS[number % 8], "rejected": "perhaps"}
            out.write(json.dumps({"prompt": f"{number} {tiny.THINGS[number % 8]}?", **sides}) + "\n")
    return file


def judged(folder: Path, policy: Path, kind: str, train: dict[str, Any], **blocks: Any) -> PlannedStage:
    """A reward model, and a policy that learns from it by this kind, both made."""
    folder.mkdir(exist_ok=True)
    short = {"max_length": 64, "max_steps": 1, "save_strategy": "no", "gradient_checkpointing": False}
    judge = {"kind": "reward", "data": [{"path": str(pairs(folder / "pairs.jsonl")), "format": "preference"}]}
    judge |= {"reward": {"margin": "none"}, "train": short, **blocks}
    learner = stage(kind, prompts(folder / "prompts.jsonl"), train, inputs={"helpful": "$reward"}, **blocks)
    file = tiny.recipe(folder, [judge, learner], model=str(policy))
    tiny.make(tiny.planned(file, folder / "runs"), "reward")
    return tiny.make(tiny.planned(file, folder / "runs"), kind)


def test_ppo_trains_policy_and_critic_against_reward_model_and_function(tmp_path, ending, caplog):
    """By LoRA; whole and on NF4 it is tried in tests/recipes."""
    found = judged(tmp_path, ending, "ppo", PASSES, lora=tiny.LORA)
    assert found.done["numbers"]["steps"] == 2
    assert [step for step, _ in logged(found, "eval_reward")] == [0, 1, 2]
    line = read_lines(found.folder / "rollouts.jsonl")[-1]
    assert set(line["rewards"]) == {"helpful", "answer"}
    share = 1 / (1 + math.exp(-line["rewards"]["helpful"]))
    assert line["reward"] == pytest.approx(share + line["rewards"]["answer"], abs=1e-5)  # as `sample` chooses
    critic_weights = tiny.weights(found.folder / "critic")
    head = next(value for name, value in critic_weights.items() if "score" in name)
    assert head.abs().max() > 0
    assert "a model of its own" not in caplog.text  # the adapters stand on one
    said = ChatModel(None, found.folder).answer(
        [[{"role": "user", "content": "0 sky?"}]], batch_size=1, sampling=GREEDY
    )
    assert said[0]


# Guards


def test_answers_cut_by_the_length_limit_stop_the_run_at_once(tmp_path, ending):
    with pytest.raises(UserError, match=r"cut at 2 tokens .* Raise train\.max_completion_length"):
        made(tmp_path, ending, "rloo", {"max_completion_length": 2})


def test_beyond_the_bound_training_ends_and_the_best_checkpoint_is_kept(tmp_path, ending, caplog):
    train = {"max_steps": 30, "learning_rate": 0.02, "beta": 0.001}
    found = made(tmp_path, ending, "rloo", train, guard={"kl": 0.5})
    numbers = found.done["numbers"]
    assert 1 < numbers["steps"] < 30
    assert numbers["kept_step"] < numbers["steps"]
    assert f"step {numbers['steps']}: the policy is" in caplog.text
    assert [(step, value) for step, value in logged(found, "eval_reward") if step == numbers["kept_step"]] == [
        (numbers["kept_step"], numbers["reward"])
    ]


# Prompts


def refused(tmp_path: Path, policy: Path, lines: list[dict[str, Any]], train: dict[str, Any], **keys: Any) -> str:
    data = tmp_path / "bad.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    with pytest.raises(UserError) as error:
        made(tmp_path, policy, "rloo", train, data=data, **keys)
    return str(error.value)


def test_bad_prompts_are_refused_by_their_lines_before_anything_is_answered(tmp_path, ending):
    good = {"prompt": "0 sky?", "answer": "blue"}
    rows = [good, {"prompt": "1 grass?"}, {"prompt": "2 " + "snow " * 9 + "?", "answer": "white"}]
    said = refused(tmp_path, ending, rows, {}, rows={"max_prompt_length": 40})
    assert "bad.jsonl:2: the reward 'answer' reads the column 'answer'" in said
    assert "bad.jsonl:3: the prompt is " in said
    assert "Write `rows: {on_too_long: drop}`, or raise max_prompt_length." in said


def test_prompt_and_answer_must_fit_into_what_the_model_sees(tmp_path, ending):
    said = refused(tmp_path, ending, [{"prompt": "sky?", "answer": "blue"}], {"max_completion_length": 128})
    assert "answers of 128 tokens do not fit into the 128 the model sees" in said


def test_a_held_out_prompt_that_is_trained_on_is_refused(tmp_path, ending):
    data, held_out = prompts(tmp_path / "train.jsonl"), prompts(tmp_path / "test.jsonl", count=1)
    with pytest.raises(UserError, match=r"test\.jsonl:1: its prompt is trained on too, at .*train\.jsonl:1"):
        made(tmp_path, ending, "rloo", data=data, eval_data=[{"path": str(held_out)}])


def test_nothing_to_be_rewarded_for_is_refused(tmp_path, ending):
    with pytest.raises(UserError, match="nothing rewards the answers"):
        made(tmp_path, ending, "grpo", reward={"rewards": {"answer": 0.0}})

"""What an answer is worth while a policy learns, and what a recipe may write about it."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tiny
import tiny_rl
from ft.data.prompts import Prompt
from ft.encode.conversation import Renderer
from ft.errors import UserError
from ft.models.load import start
from ft.models.processor import tokenizer_of
from ft.models.scorer import Scorer
from ft.recipe import ModelSource
from ft.rl.actor_setup import load_reward_models, score_while_training, share_base_with_reward_models
from ft.rl.reward import Reward, RewardedOptions, reward_model_share

STOP = 7
PROMPTS = [
    Prompt(str(n), f"rows.jsonl:{n + 1}", [{"role": "user", "content": f"{thing}?"}], {"answer": colour})
    for n, (thing, colour) in enumerate((("sky", "blue"), ("grass", "green")))
]


# Reward models


def raw(share: float) -> float:
    """The score of which the sigmoid is `share`."""
    return math.log(share / (1 - share))


@pytest.mark.parametrize(
    ("for_safety", "safety", "helpful", "counts"),
    [
        (False, 0.14, 0.9, 0.14),
        (False, 0.16, 0.9, 0.9),
        (True, 0.9, 0.2, 0.9),
        (True, 0.1, 0.9, 0.1),
        (False, 0.9, 0.2, 0.2),
    ],
)
def test_safety_counts_for_prompts_marked_for_it_and_for_answers_that_seem_unsafe(for_safety, safety, helpful, counts):
    scores = {"helpful": raw(helpful), "safety": raw(safety)}
    assert reward_model_share(scores, for_safety) == pytest.approx(counts)


def test_the_threshold_of_safety_is_the_recipes():
    scores = {"helpful": raw(0.9), "safety": raw(0.4)}
    assert reward_model_share(scores, for_safety=False, threshold=0.5) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "scores", [{"helpful": None}, {"helpful": None, "safety": 9.0}, {"helpful": 9.0, "safety": None}]
)
def test_an_answer_that_one_reward_model_cannot_read_has_the_lowest_share(scores):
    assert reward_model_share(scores, for_safety=False) == reward_model_share(scores, for_safety=True) == 0.0


def test_an_unreadable_answer_gains_nothing_by_the_others_of_its_batch():
    reward = Reward({"helpful": Path("reward")}, RewardedOptions(), PROMPTS, [STOP])
    reward.score_conversations = lambda conversations: {"helpful": [None, raw(0.9)]}
    said = [[{"role": "assistant", "content": text}] for text in ("", "blue")]
    assert reward([], said, [[STOP]] * 2, [0, 1]) == [0.0, pytest.approx(0.9)]
    assert reward.newest[0].parts == {"helpful": None}


# Functions


def rewarded(answers: list[str], rows: list[int], ids: list[list[int]], **options: Any) -> list[float]:
    reward = Reward({}, RewardedOptions(**options), PROMPTS, [STOP])
    prompts = [list(PROMPTS[row].messages) for row in rows]
    said = [[{"role": "assistant", "content": text}] for text in answers]
    return reward(prompts, said, ids, rows, trainer_state=None)


def test_functions_count_by_their_weights_and_read_the_columns_of_the_prompts_row():
    answers = ["it is green", "it is green"]
    assert rewarded(answers, [0, 1], [[STOP], [STOP]], rewards={"answer": 2.0}) == [0.0, 2.0]


def test_an_answer_that_does_not_end_is_worth_less():
    ids = [[1, STOP], [1, 2], []]
    assert rewarded(["green"] * 3, [1, 1, 1], ids, rewards={"answer": 1.0}, unfinished=0.5) == [1.0, 0.5, 0.5]


def test_a_function_of_weight_0_only_measures():
    reward = Reward({}, RewardedOptions(rewards={"answer": 0.0}), PROMPTS, [STOP])
    assert reward([], [[{"role": "assistant", "content": "blue"}]], [[STOP]], [0]) == [0.0]
    assert (reward.newest[0].parts, reward.newest[0].ended) == ({"answer": 1.0}, True)


@pytest.mark.parametrize("quantization", [None, {**tiny.NF4, "bnb_4bit_compute_dtype": "float32"}], ids=["", "4-bit"])
def test_reward_models_on_the_policys_base_say_what_models_of_their_own_say(tmp_path, base, quantization, caplog):
    folders = {
        name: tiny_rl.save_reward_model(tmp_path / name, base, 2, quantization) for name in ("helpful", "safety")
    }
    source = ModelSource(str(base))
    model = tiny_rl.perturb(start(source, None, tiny.LORA, quantization, "float32", True), 1).train()
    renderer = Renderer(tokenizer_of(source, None, None))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    together = share_base_with_reward_models(
        model, renderer, base=source, quantization=quantization, fresh=True, rewards=folders
    )
    assert not together.standalone
    assert "a model of its own" not in caplog.text
    texts, found = ["it is blue", "<|im_start|>user", "no"], []
    said = [[{"role": "assistant", "content": text}] for text in texts]
    for actors in (together, load_reward_models(model, renderer, folders)):
        reward = Reward(folders, RewardedOptions(rewards={"answer": 1.0}), PROMPTS, [STOP])
        reward.score_conversations = partial(score_while_training, actors, batch_size=2)
        found.append(reward([], said, [[STOP]] * 3, [0, 0, 1]))
        assert reward.newest[1].parts["helpful"] is None
        assert found[-1][1] == 0.0
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert len(set(found[0])) == 3
    assert model.training  # and the policy goes on as it was
    assert {name for name, value in model.named_parameters() if value.requires_grad} == trained


def test_a_policy_that_trains_its_embeddings_whole_lends_them_to_no_reward_model(tmp_path, base):
    folder = tiny_rl.save_reward_model(tmp_path / "helpful", base, 2)
    source = ModelSource(str(base))
    model = start(source, None, {**tiny.LORA, "modules_to_save": ["embed_tokens"]}, None, "float32", True)
    renderer = Renderer(tokenizer_of(source, None, None))
    keys = {"base": source, "quantization": None, "fresh": True, "rewards": {"helpful": folder}}
    actors = share_base_with_reward_models(tiny_rl.perturb(model, 1), renderer, **keys)
    said = [[*PROMPTS[0].messages, {"role": "assistant", "content": "blue"}]]
    assert score_while_training(actors, said, 1)["helpful"] == pytest.approx(Scorer(folder).scores(said), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rewards": {"goodness": 1.0}}, "there is no reward 'goodness'; there are: answer,"),
        ({"unfinished": -1.0}, "unfinished is -1.0; it is taken off"),
        ({"safety_threshold": 2.0}, "safety_threshold is 2.0; it is a share"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        RewardedOptions(**options)


def refused(folder: Path, **stage: Any) -> str:
    rows = tiny.rows(folder / "rows.jsonl", 8)
    learner = {"kind": "ppo", "init": "$sft", "data": [{"path": str(rows)}], **stage}
    file = tiny.recipe(folder, [tiny.sft(rows), learner], model=str(folder))
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError) as error:
        tiny.checked(file)
    return str(error.value)


def test_what_rewards_and_what_a_critic_begins_as_must_be_reward_models(tmp_path):
    train = {"max_completion_length": 8}
    said = refused(tmp_path, inputs={"helpful": "$sft", "critic": "$sft"}, train=train).splitlines()
    assert len(said) == 2
    assert all("tiny.yaml:" in line and "'sft' leaves a model, not a reward model" in line for line in said)


def test_keys_that_are_decided_elsewhere_are_refused_with_the_place(tmp_path):
    train = {"max_completion_length": 8, "reward_weights": [1.0], "safety_threshold": 0.2}
    said = refused(tmp_path, train=train)
    for fix in ("`reward: {rewards: {name: weight}}`", "`reward: {safety_threshold: …}`"):
        assert f"is not set here. Write {fix}" in said


def test_the_penalty_of_unfinished_answers_has_one_unit_a_key(tmp_path):
    """A reward for RLOO and GRPO; PPO's comes after whitening, and has a key of its own."""
    train = {"max_completion_length": 8}
    said = refused(tmp_path, reward={"unfinished": 2.0}, train=train)
    assert re.search(
        r"tiny\.yaml:\d+: reward\.unfinished .*`train: {missing_eos_penalty: …}`, in standard deviations", said
    )
    assert "missing_eos_penalty is -1" in refused(tmp_path, train={**train, "missing_eos_penalty": -1.0})
    allowed = {
        "rloo": {"train": train, "reward": {"unfinished": 2.0}},
        "ppo": {"train": {**train, "missing_eos_penalty": 2.0}},
    }
    for kind, keys in allowed.items():
        (line,) = refused(tmp_path, kind=kind, inputs={"helpful": "$reward"}, **keys).splitlines()
        assert "no stage '$reward' above" in line


def test_the_length_of_answers_must_be_written(tmp_path):
    assert "train: the key 'max_completion_length' is missing" in refused(tmp_path, train={"max_steps": 2})

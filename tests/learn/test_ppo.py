"""PPO learns from what everyone says of sampled answers, moves nobody else, and goes on as if it had not stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
import tiny_rl
from ft.errors import UserError
from ft.models.scorer import Scorer
from ft.rl.reward import is_for_safety, reward_model_share
from ft.rl.rollout_log import RolloutFile
from ft.training.trl_compat import load_weights

NF4 = {**tiny.NF4, "bnb_4bit_compute_dtype": "float32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, base):
    top = tmp_path_factory.mktemp("tiny_rl")
    made = {"policy": tiny_rl.save_adapter(top / "policy", base, 1)}
    return made | {
        name: tiny_rl.save_reward_model(top / name, base, seed) for name, seed in (("helpful", 2), ("safety", 3))
    }


@pytest.fixture
def cast(base, folders):
    """Everyone on one base: a policy that began as an adapter, its critic from a reward model, two reward models."""
    judges = {name: folders[name] for name in ("helpful", "safety")}
    return tiny_rl.shared_base(base, folders["policy"], critic=folders["helpful"], **judges)


def started(trainer, count: int = 8):
    """The trainer with its first batch of answers."""
    trainer.rollouts = trainer.collect(tiny_rl.prompts(count))
    trainer.batches_collected = 1
    return trainer


# ---- the start -----------------------------------------------------------------------------------------------------
def test_at_the_first_mini_batch_the_ratio_is_1_and_kl_0(tmp_path, cast):
    trainer = tiny_rl.ppo_trainer(cast, tmp_path, {"max_steps": 1})
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert first["policy/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert first["policy/clip_fraction"] == 0
    assert first["kl"] == pytest.approx(0, abs=1e-4)


def test_another_temperature_in_the_sampler_is_caught(tmp_path, cast):
    trainer = tiny_rl.ppo_trainer(cast, tmp_path)
    trainer.sampling = replace(trainer.sampling, temperature=0.7)
    with pytest.raises(UserError, match="drawn from another distribution"):
        started(trainer)


def test_a_temperature_that_is_everywhere_the_same_is_right(tmp_path, cast):
    trainer = tiny_rl.ppo_trainer(cast, tmp_path, {"temperature": 0.7, "max_steps": 1})
    trainer.train()
    assert trainer.state.log_history[0]["policy/ratio"] == pytest.approx(1, abs=1e-5)


def test_a_reference_that_is_not_the_start_is_caught(tmp_path, cast):
    trainer = tiny_rl.ppo_trainer(cast, tmp_path)
    for name, value in trainer.model.named_parameters():
        if "lora_B.ref." in name:
            value.data += 0.05
    with pytest.raises(UserError, match="policy and reference differ before the first step"):
        started(trainer)


def test_a_policy_that_moved_since_it_sampled_is_caught(tmp_path, cast):
    trainer = started(tiny_rl.ppo_trainer(cast, tmp_path))
    for name, value in trainer.model.named_parameters():
        if "lora_B.default." in name:
            value.data += 0.05
    with pytest.raises(UserError, match="the ratio is not 1"):
        trainer.loss(trainer.model, trainer.rollouts, 0)


# ---- what is computed ----------------------------------------------------------------------------------------------
def test_scores_are_those_of_the_reward_models_read_apart(tmp_path, cast, folders):
    trainer = started(tiny_rl.ppo_trainer(cast, tmp_path, functions=()))
    judges = {name: Scorer(folders[name]) for name in ("helpful", "safety")}
    for row, kept in zip(tiny_rl.prompts(8), trainer.samples(), strict=True):
        talk = [*row["prompt"], *kept["completion"]]
        scores = {name: judge.scores([talk])[0] if judge.accepts(talk) else None for name, judge in judges.items()}
        assert kept["reward"] == pytest.approx(reward_model_share(scores, is_for_safety(row)), abs=1e-4)


SURE = math.log(0.9 / 0.1)  # a raw score: the reward model gives 0.9


@pytest.fixture
def one_unreadable(tmp_path, base, folders):
    """A trainer whose reward model cannot read the first answer of a batch, and finds all others equally good."""
    actors = tiny_rl.shared_base(base, helpful=folders["helpful"])
    actors.score_conversations = lambda conversations, size: {"helpful": [None, *[SURE] * (len(conversations) - 1)]}
    return tiny_rl.ppo_trainer(actors, tmp_path, {"max_steps": 1}, functions=())


def test_an_answer_that_no_reward_model_can_read_gains_nothing_by_the_others(one_unreadable):
    trainer = started(one_unreadable)
    assert [sample["reward"] for sample in trainer.samples()] == pytest.approx([0.0] + [0.9] * 7, abs=1e-5)
    last = trainer.rollouts.completion_lengths - 1
    returns = (
        trainer.rollouts.returns[torch.arange(8), last] + trainer.args.missing_eos_penalty * ~trainer.rollouts.has_eos
    )
    assert returns.tolist() == pytest.approx([-7 / 8**0.5] + [1 / 8**0.5] * 7, abs=1e-3)  # whitened: it alone is low


def test_what_is_written_of_an_unreadable_answer_is_json_and_the_mean_is_of_the_others(tmp_path, one_unreadable):
    file = RolloutFile(tmp_path / "rollouts.jsonl", per_batch=0, shown_per_log=0)
    one_unreadable.listeners = [file.write]
    one_unreadable.train()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in file.path.read_text(encoding="utf-8").splitlines()]
    assert [line["rewards"]["helpful"] for line in lines] == [None, *[pytest.approx(SURE)] * 7]
    log = one_unreadable.state.log_history[0]
    assert log["rewards/helpful/mean"] == pytest.approx(SURE)
    assert log["answers/unreadable"] == 1 / 8


def test_a_step_is_what_plain_loops_make_of_it(tmp_path, cast):
    """The loss of one mini-batch of all answers, from whole logits and Python numbers."""
    train = {"per_device_train_batch_size": 8, "missing_eos_penalty": 0.5, "gamma": 0.9, "beta": 0.3}
    trainer = tiny_rl.ppo_trainer(tiny_rl.end_early(cast), tmp_path, train)
    trainer.state.global_step = 1  # the policy has moved, and KL is not 0
    tiny_rl.perturb(trainer.model, 6, 0.02)
    found, args = started(trainer).rollouts, trainer.args
    tiny_rl.perturb(trainer.model, 5, 0.003)  # the policy moves on, the critic with it
    raw = torch.tensor([kept["reward"] for kept in trainer.samples()], dtype=torch.float64)
    extra = torch.tensor([tiny_rl.share_of_e([], [kept["completion"]])[0] for kept in trainer.samples()])
    score = torch.logit(raw - extra) + extra
    score = (score - score.mean()) / (score.var() + 1e-8).sqrt()
    steps = []
    for row in range(8):
        length = int(found.completion_lengths[row])
        kl = (found.logprobs[row] - found.ref_logprobs[row]).double().tolist()
        rewards = [-args.beta * kl[t] for t in range(length)]
        rewards[-1] += score[row].item() - (0 if found.has_eos[row] else 0.5)
        values, gain, gains = [*found.values[row].tolist()[:length], 0.0], 0.0, []
        for t in reversed(range(length)):
            gain = rewards[t] + 0.9 * values[t + 1] - values[t] + 0.9 * 0.95 * gain
            gains.insert(0, gain)
        steps += [(row, t, gains[t], gains[t] + values[t]) for t in range(length)]
    gains = torch.tensor([step[2] for step in steps], dtype=torch.float64)
    gains = (gains - gains.mean()) / (gains.var() + 1e-8).sqrt()
    ids, losses = found.input_ids, []
    mask = torch.arange(ids.shape[1]) < (found.prompt_lengths + found.completion_lengths)[:, None]
    with torch.no_grad():
        logprobs = trainer.model(input_ids=ids, attention_mask=mask.long()).logits.log_softmax(-1)
    for (row, t, _, returns), gain in zip(steps, gains.tolist(), strict=True):
        place = int(found.prompt_lengths[row]) + t
        ratio = (logprobs[row, place - 1, ids[row, place]] - found.logprobs[row, t]).exp().item()
        losses.append(max(-gain * ratio, -gain * min(max(ratio, 0.8), 1.2)))
        assert found.returns[row, t].item() == pytest.approx(returns, abs=1e-3)
    trainer.loss(trainer.model, found, 1)  # not the first step, where a moved policy is refused
    trainer.loss(trainer.model, found, 0 + trainer.steps_per_batch)
    logged = trainer._metrics["train"]["policy/loss"][-1]
    assert logged == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_the_end_token_is_trained_where_it_also_pads(tmp_path, base):
    actors = tiny_rl.shared_base(base)
    actors.renderer.tokenizer.pad_token = actors.renderer.tokenizer.eos_token
    found = started(tiny_rl.ppo_trainer(actors, tmp_path, {"max_completion_length": 24})).rollouts
    assert found.has_eos.any()
    targets = found.batch(torch.arange(8)).targets
    assert int((targets == actors.renderer.tokenizer.eos_token_id).sum()) == int(found.has_eos.sum())


def test_an_answer_without_an_end_costs_the_penalty(tmp_path, base):
    gains = []
    for penalty in (0.0, 2.0):
        train = {"missing_eos_penalty": penalty, "normalize_advantages": False, "max_completion_length": 24}
        gains.append(started(tiny_rl.ppo_trainer(tiny_rl.shared_base(base), tmp_path, train)).rollouts)
    cut, last = ~gains[0].has_eos, gains[0].completion_lengths - 1
    difference = (gains[0].returns - gains[1].returns)[torch.arange(8), last]
    assert torch.allclose(difference, 2.0 * cut, atol=1e-5)


# ---- what moves ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("quantization", [None, NF4, {"load_in_8bit": True}], ids=["whole", "4-bit", "8-bit"])
def test_policy_and_critic_learn_and_nobody_else_moves(tmp_path, base, folders, quantization):
    if quantization:
        folders = {"helpful": tiny_rl.save_reward_model(tmp_path / "helpful", base, 2, quantization)}
        folders["policy"] = tiny_rl.save_adapter(tmp_path / "policy", base, 1, quantization)
    actors = tiny_rl.shared_base(base, folders["policy"], quantization, helpful=folders["helpful"])
    trainer = tiny_rl.ppo_trainer(actors, tmp_path / "out", {"max_steps": 3})
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == tiny_rl.trained_parameters(trainer).keys()
    assert {value.dtype for value in tiny_rl.trained_parameters(trainer).values()} == {torch.float32}


def test_a_batch_is_sampled_once_for_all_its_steps(tmp_path, base):
    trainer = tiny_rl.ppo_trainer(tiny_rl.shared_base(base), tmp_path, {"max_steps": 8, "num_iterations": 2})
    trainer.train()
    assert trainer.batches_collected == 2  # two mini-batches of four, twice each
    assert [line["step"] for line in trainer.state.log_history if "reward" in line] == [1, 5]


def test_checkpointing_changes_no_weight(tmp_path, base, folders):
    found = []
    for checkpointing in (False, True):
        actors = tiny_rl.shared_base(base, folders["policy"], critic=folders["helpful"])
        trainer = tiny_rl.ppo_trainer(actors, tmp_path, {"gradient_checkpointing": checkpointing})
        trainer.train()
        assert trainer.model.is_gradient_checkpointing == checkpointing
        found.append(tiny_rl.trained_parameters(trainer))
    assert tiny_rl.max_difference(*found) < 1e-6


def test_accumulation_changes_no_weight(tmp_path, base):
    found = []
    for size, accumulation in ((4, 1), (1, 4)):
        train = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "max_steps": 3}
        trainer = tiny_rl.ppo_trainer(
            tiny_rl.end_early(tiny_rl.shared_base(base)), tmp_path, train, [tiny_rl.sum_of_ids]
        )
        trainer.train()
        found.append(tiny_rl.trained_parameters(trainer))
        assert len(set(trainer.rollouts.completion_lengths.tolist())) > 2
    assert tiny_rl.max_difference(*found) < 1e-4


# ---- interruptions, evaluation, processes --------------------------------------------------------------------------
KEPT = {"save_strategy": "steps", "save_steps": 3, "num_iterations": 2, "kl_target": 1.0, "max_steps": 7}


@pytest.mark.parametrize("made", ["shared_base", "separate"])
def test_a_resumed_run_ends_as_one_that_never_stopped(tmp_path, base, folders, made):
    """At step 3 a batch of answers is half learnt from."""

    def trainer():
        actors = getattr(tiny_rl, made)(base, **({"critic": folders["helpful"]} if made == "shared_base" else {}))
        return tiny_rl.ppo_trainer(actors, tmp_path, {**KEPT, "eval_strategy": "steps", "eval_steps": 2})

    whole, resumed = trainer(), trainer()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert tiny_rl.log_without_times(resumed) == tiny_rl.log_without_times(whole)
    assert tiny_rl.max_difference(tiny_rl.trained_parameters(resumed), tiny_rl.trained_parameters(whole)) == 0
    assert resumed.beta == whole.beta != 0.05


def test_held_out_answers_are_drawn_alike_each_time_and_do_not_disturb_training(tmp_path, base):
    quiet, watched = (
        tiny_rl.ppo_trainer(tiny_rl.shared_base(base), tmp_path / how, {"eval_strategy": how, "eval_steps": 1})
        for how in ("no", "steps")
    )
    first, second = watched.evaluate(), watched.evaluate()
    assert first["eval_reward"] == second["eval_reward"]
    assert first["eval_kl"] == pytest.approx(0, abs=1e-4)
    quiet.train()
    watched.train()
    assert tiny_rl.max_difference(tiny_rl.trained_parameters(quiet), tiny_rl.trained_parameters(watched)) == 0


def test_the_best_checkpoint_is_by_held_out_reward(tmp_path, base, monkeypatch):
    train = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 4}
    trainer = tiny_rl.ppo_trainer(tiny_rl.shared_base(base), tmp_path, {**train, "load_best_model_at_end": True})
    rewards = iter([0.1, 0.3, 0.2, 0.0])
    monkeypatch.setattr(trainer, "measure", lambda rows: {"reward": next(rewards)})
    trainer.train()
    assert trainer.state.best_metric == 0.3
    other = tiny_rl.ppo_trainer(tiny_rl.shared_base(base), tmp_path / "other")
    load_weights(other, tmp_path / "checkpoint-2")
    assert tiny_rl.max_difference(tiny_rl.trained_parameters(trainer), tiny_rl.trained_parameters(other)) == 0


def test_what_is_saved_opens_as_a_policy_alone(tmp_path, base, folders):
    trainer = tiny_rl.ppo_trainer(tiny_rl.shared_base(base, folders["policy"]), tmp_path / "out", {"save_steps": 2})
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    names = tiny.weights(tmp_path / "saved")
    assert not [name for name in names if "ref" in name or "critic" in name or "score" in name]
    assert (
        sorted(file.name for file in (tmp_path / "saved" / "critic").iterdir())
        == [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "lineage.json",
        ][1:]
    )


def test_whole_models_learn_and_the_policys_folder_holds_no_critic(tmp_path, base):
    trainer = tiny_rl.ppo_trainer(tiny_rl.separate(base), tmp_path / "out", {"max_steps": 3})
    reference = {name: value.clone() for name, value in trainer.actors.reference.named_parameters()}
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    assert all(torch.equal(value, reference[name]) for name, value in trainer.actors.reference.named_parameters())
    still = [name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])]
    assert still == ["critic.model.embed_tokens.weight"] or still == []
    trainer.save_model(str(tmp_path / "saved"))
    assert not [name for name in tiny.weights(tmp_path / "saved") if "critic" in name]
    AutoModelForCausalLM.from_pretrained(str(tmp_path / "saved"))


KEYS = {
    "gradient_accumulation_steps": 2,
    "num_iterations": 2,
    "max_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 3,
}


def learn_together(base: Path, out: Path) -> None:
    keys = {**KEYS, "per_device_train_batch_size": 1, "ddp_backend": "gloo"}
    trainer = tiny_rl.ppo_trainer(tiny_rl.end_early(tiny_rl.shared_base(base)), out, keys, [tiny_rl.sum_of_ids])
    trainer.train()
    if trainer.is_world_process_zero():
        torch.save(tiny_rl.trained_parameters(trainer), out / "learnt.pt")
        (out / "log.json").write_text(json.dumps(tiny_rl.log_without_times(trainer)), encoding="utf-8")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the processes would take GPUs")
def test_two_processes_learn_what_one_learns(tmp_path, base):
    train = {**KEYS, "per_device_train_batch_size": 2}
    alone = tiny_rl.ppo_trainer(tiny_rl.end_early(tiny_rl.shared_base(base)), tmp_path, train, [tiny_rl.sum_of_ids])
    alone.train()
    tiny.by_two(learn_together, base, tmp_path)
    assert tiny_rl.max_difference(tiny_rl.trained_parameters(alone), torch.load(tmp_path / "learnt.pt")) < 1e-4
    for line, theirs in zip(
        tiny_rl.log_without_times(alone), json.loads((tmp_path / "log.json").read_text(encoding="utf-8")), strict=True
    ):
        assert line.keys() == theirs.keys()
        assert all(line[key] == pytest.approx(theirs[key], abs=1e-3) for key in line), line["step"]


# ---- what is learnt ------------------------------------------------------------------------------------------------
def test_a_tiny_policy_learns_to_say_what_is_rewarded(tmp_path, base):
    train = {"per_device_train_batch_size": 16, "generation_batch_size": 32, "max_steps": 24, "beta": 0.05}
    trainer = tiny_rl.ppo_trainer(tiny_rl.shared_base(base), tmp_path, {**train, "max_completion_length": 8}, count=32)
    trainer.train()
    rewards = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    kl = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert len(rewards) == 12
    assert sum(rewards[:3]) / 3 < 0.05
    assert sum(rewards[-3:]) / 3 > 0.5
    assert max(kl) < 34


def test_nothing_is_rewarded_by_nobody(tmp_path, base):
    with pytest.raises(UserError, match="nothing says what an answer is worth"):
        tiny_rl.ppo_trainer(tiny_rl.shared_base(base), tmp_path, functions=())
    with pytest.raises(UserError, match="a batch of answers takes 64 prompts, and there are 16"):
        tiny_rl.ppo_trainer(tiny_rl.shared_base(base), tmp_path, {"generation_batch_size": 64})

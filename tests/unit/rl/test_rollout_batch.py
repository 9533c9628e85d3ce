"""How a batch of answers is counted, dealt out and kept; which settings are refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ft.rl.actors import CompletionBatch
from ft.rl.ppo_config import PPOConfig
from ft.rl.rollout_batch import MinibatchOrder, PromptSampler, Rollouts, rows_per_pass

CPU = {"use_cpu": True, "bf16": False, "output_dir": "unused"}
PAPER = {"generation_batch_size": 512, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4}


def config(**keys):
    return PPOConfig(**{**CPU, **keys})


def rollouts(prompts, answers) -> Rollouts:
    return Rollouts.from_completions(prompts, answers, [[0.0] * len(answer) for answer in answers], [9], "cpu")


# ---- settings ------------------------------------------------------------------------------------------------------
def test_512_answers_in_mini_batches_of_64_are_8_steps():
    args = config(**PAPER)
    order = MinibatchOrder(args.generation_batch_size, 64, args.gradient_accumulation_steps, 1, 0, 1)
    assert args.steps_per_generation == order.steps == 32
    assert order.steps // args.gradient_accumulation_steps == 8


def test_defaults_are_safe():
    args = config()
    assert (args.num_generations, args.lam, args.gamma, args.epsilon) == (1, 0.95, 1.0, 0.2)
    assert args.disable_dropout
    assert args.missing_eos_penalty
    assert args.max_grad_norm == 1.0
    assert args.metric_for_best_model == "reward"
    assert args.greater_is_better


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"top_p": 0.9}, "another distribution"),
        ({"repetition_penalty": 1.1}, "another distribution"),
        ({"use_vllm": True}, "vLLM's probabilities differ. Remove it, and let rollout_batch_size be"),
        ({"disable_dropout": False}, "a policy that differs from itself"),
        ({"temperature": 0.0}, "temperature is above 0"),
        ({"kl_target": 6.0, "beta": 0.0}, "kl_target"),
        ({"steps_per_generation": 6, "gradient_accumulation_steps": 4}, "no multiple of gradient_accumulation_steps 4"),
        ({"per_device_train_batch_size": 3, "steps_per_generation": 1}, "an even number"),
    ],
)
def test_what_ppo_cannot_do_is_refused(keys, said):
    with pytest.raises(ValueError, match=said):
        config(**keys)


# ---- dealing out ---------------------------------------------------------------------------------------------------
def test_each_pass_has_every_answer_once_in_an_order_of_its_own():
    order, lengths = MinibatchOrder(24, 8, 2, 1, 0, seed=3), torch.arange(24) % 5
    passes = [torch.cat([order.rows(4, step, lengths) for step in range(p * 6, p * 6 + 6)]) for p in range(2)]
    assert all(Counter(rows.tolist()) == Counter(range(24)) for rows in passes)
    assert passes[0].tolist() != passes[1].tolist()
    assert not torch.equal(order.minibatch_rows(4, 0), order.minibatch_rows(5, 0))


@pytest.mark.parametrize(("accumulation", "processes"), [(1, 1), (4, 1), (1, 2), (2, 2)])
def test_a_mini_batch_is_the_same_answers_however_it_is_shared(accumulation, processes):
    lengths, alone = torch.arange(24) % 7, MinibatchOrder(24, 8, 1, 1, 0, seed=3)
    shares = [MinibatchOrder(24, 8, accumulation, processes, rank, seed=3) for rank in range(processes)]
    for number in range(3):
        steps = range(number * accumulation, (number + 1) * accumulation)
        found = [row for order in shares for step in steps for row in order.rows(0, step, lengths).tolist()]
        assert sorted(found) == sorted(alone.rows(0, number, lengths).tolist())


def test_prompts_repeat_for_each_pass_and_begin_each_epoch_anew():
    prompts = PromptSampler(7, batch=2, copies=2, repeats=3, shuffle=True, seed=5)
    first = list(prompts)
    assert len(first) == len(prompts) == 36  # the seventh prompt fills no batch
    assert first[:4] == first[4:8] == first[8:12]
    assert first[0] == first[1]
    prompts.set_epoch(1)
    assert list(prompts) != first
    again = PromptSampler(7, batch=2, copies=2, repeats=3, shuffle=True, seed=5)
    again.set_epoch(1)
    assert list(again) == list(prompts)


# ---- places --------------------------------------------------------------------------------------------------------
def test_the_end_token_is_learnt_even_where_it_pads():
    found = rollouts([[1, 2], [3]], [[4, 9], [5, 6, 0, 9]])  # 0 and 9 are real tokens here, whatever pads
    batch = found.batch(torch.tensor([0, 1]))
    assert batch.targets.tolist() == [4, 9, 5, 6, 0, 9]
    assert found.has_eos.tolist() == [True, True]
    assert batch.attention_mask.sum(1).tolist() == [3, 4], "the end token itself predicts nothing and is not read"


def test_an_answer_token_is_predicted_at_the_place_before_it():
    batch = CompletionBatch.from_rows(
        torch.tensor([[1, 2, 4, 9, 0], [3, 5, 6, 7, 9]]), torch.tensor([2, 1]), torch.tensor([2, 4])
    )
    assert batch.logit_positions.tolist() == [1, 2, 4, 5, 6, 7]
    assert batch.targets.tolist() == [4, 9, 5, 6, 7, 9]
    assert batch.scatter(torch.arange(1.0, 7.0)).tolist() == [[1, 2, 0, 0], [3, 4, 5, 6]]


def test_short_rows_are_read_more_at_a_time_than_long_ones():
    lengths = [10] * 12 + [20] * 6 + [40] * 5
    assert rows_per_pass(lengths, 4) == [12, 6, 4, 1]
    assert rows_per_pass([7], 1) == [1]


def test_a_batch_is_no_wider_than_its_rows():
    found = rollouts([[1], [1, 2, 3]], [[4, 9], [5, 6, 7, 8]])
    narrow = found.batch(torch.tensor([0]))
    assert narrow.input_ids.shape == (1, 2)
    assert found.pick("sampling_logprobs", torch.tensor([0]), narrow).shape == (1, 2)


def test_a_batch_kept_in_a_file_is_the_same_batch(tmp_path):
    found = rollouts([[1], [1, 2, 3]], [[4, 9], [5, 6, 7, 8]])
    found.save(tmp_path / "rollouts.safetensors")
    again = Rollouts.load(tmp_path / "rollouts.safetensors", "cpu")
    assert torch.equal(found.input_ids, again.input_ids)
    assert torch.equal(found.has_eos, again.has_eos)

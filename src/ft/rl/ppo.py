"""PPO with a critic, in TRL's manner, on one base (arXiv:1707.06347; the objective of arXiv:2307.09288, section 3.2.3).

    actors = share_base(model, renderer, base=…, quantization=…, fresh=…, critic=…, rewards={"helpful": folder})
    trainer = PPOTrainer(actors, [function, …], PPOConfig(…), rows, held_out, where="recipe.yaml:9")
    trainer.train(resume_from_checkpoint=…)

actors        who takes part (ft.rl.actor_setup: `share_base`, or `separate_models` for whole models)
reward_funcs  TRL's convention: f(prompts, completions, completion_ids, **columns) -> list[float | None]; their values
              by `reward_weights` are added to the share that the reward models give. May be empty where there are
              reward models
train_dataset rows {"prompt": messages, …columns}; a row whose `axis` is "safety" is marked for the safety model. No
              fewer than `generation_batch_size` / `num_generations`
where         what errors name

The logs hold, besides TRL's own: `reward` (what counts, before logit and whitening; the reward models' share is from 0
to 1), `rewards/NAME/mean` (raw, over the answers that NAME can read), `answers/unreadable` (the share of those that a
reward model cannot), `kl` (nats an answer), `beta`, `entropy`, `policy/…`, `value/…`, `completions/…`.
`evaluate()` gives `eval_reward`, `eval_kl` and more; `metric_for_best_model` is `reward`. `samples()` are the answers
of the last batch.

A folder after `save_model`, and each checkpoint: the policy (an adapter, or whole weights) with its tokenizer, and in
`critic/` the critic as a reward model's folder without a tokenizer, which another PPO stage can begin its critic with.
Checkpoints hold besides, next to the Trainer's own: `ppo.json` (place, beta) and `rollouts.safetensors` (a batch that
is being learnt from), so that a run goes on as if it had not stopped. No file holds reference or reward models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ft.bounds import is_at_most
from ft.data.axes import HELPFUL, SAFETY
from ft.data.formats import BadRow
from ft.errors import Problems, fail
from ft.models.adapters import adapters_kept
from ft.models.generation.engine import Request, engine_of
from ft.models.generation.sampling import Sampling
from ft.models.token_budget import positions_of, prompt_budget
from ft.rl import ppo_math as math
from ft.rl.actors import CRITIC, POLICY, REFERENCE, Actors, SeparateModels, SharedBase
from ft.rl.ppo_config import PPOConfig
from ft.rl.reward import is_for_safety, reward_model_share
from ft.rl.rollout_batch import MinibatchOrder, Rollouts, gather_rows, score_table, scores_by_name
from ft.rl.rollout_log import Rollout, RolloutListener, summary
from ft.rl.trainer_base import RolloutTrainer
from ft.training.padding_free import leave_padding_out

__all__ = ["PPOConfig", "PPOTrainer"]

KNOWN_REWARD_MODELS: tuple[set[str], ...] = ({HELPFUL}, {SAFETY}, {HELPFUL, SAFETY}, set())

# Nats a token by which two passes over the same tokens may differ in the mean: rounding, and nothing else.
FLOAT32_TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-3, 0.1


class RewardFunction(Protocol):
    """TRL's convention; columns of the rows come as lists too. None where a function does not apply to an answer."""

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]: ...


@dataclass(frozen=True)
class ScoredAnswers:
    """Everyone's answers, R of them, and what they are scored; `completions` are this process's own texts.

    scores           (R, M) raw, of M reward models; NaN where one cannot read the answer
    function_values  (R, F) of F functions; NaN where one does not apply
    for_safety       (R,) whether the prompt is marked for the safety model
    """

    rollouts: Rollouts
    scores: Tensor
    function_values: Tensor
    for_safety: Tensor
    completions: list[str]

    def first(self, count: int) -> ScoredAnswers:
        scores, values, for_safety = (x[:count] for x in (self.scores, self.function_values, self.for_safety))
        return ScoredAnswers(self.rollouts.first(count), scores, values, for_safety, self.completions)


class PPOTrainer(RolloutTrainer):
    """Samples answers to a batch of prompts, scores them, and learns from them for a few steps."""

    args: PPOConfig
    listeners: Sequence[RolloutListener] = ()  # are shown every batch of answers
    step_sums: Tensor  # of metrics over the parts of a mini-batch

    def __init__(
        self,
        actors: Actors,
        reward_funcs: Sequence[RewardFunction],
        args: PPOConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        callbacks: list[Any] | None = None,
        where: str = "ppo",
    ):
        self.actors, self.where = actors, where
        _check(actors, reward_funcs, args, train_dataset, where)
        beta, args.beta = args.beta, 0.0  # TRL would load a reference by the policy's name
        with adapters_kept(actors.policy) if isinstance(actors, SharedBase) else nullcontext():
            super().__init__(
                model=actors.policy,
                reward_funcs=list(reward_funcs),
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=actors.renderer.tokenizer,
                callbacks=callbacks,
            )
        self.beta = args.beta = beta
        if isinstance(actors, SharedBase) and actors.fresh:
            actors.policy.delete_adapter(REFERENCE)  # which TRL adds; the bare base is the same, at no cost
        if isinstance(actors, SeparateModels):
            actors.reference.to(self.accelerator.device)
        for model in actors.models:
            leave_padding_out(model)
        actors.fuse_heads(args.temperature)
        self.sampling = Sampling(int(self.max_completion_length or 0), args.temperature, 1.0, args.seed)

    # Answers

    def collect(self, rows: list[dict[str, Any]]) -> Rollouts:
        number, rank = self.batches_collected, self.accelerator.process_index
        # A token drawn depends on seed and key alone, so not on who else is in the batch or on how many processes run.
        keys = [f"{number}\n{rank * len(rows) + place}" for place in range(len(rows))]
        answers, args = self._answer_and_score(rows, keys, (POLICY, REFERENCE, CRITIC)), self.args
        rollouts, mask = answers.rollouts, answers.rollouts.mask
        self._check_passes(rollouts)
        reward, score = self._rewards(answers)
        if args.whiten_scores:  # as the paper does with the final linear scores (arXiv:2307.09288, section 3.2.3)
            score = math.whiten(score)
        # Behind whitening: the penalty is in standard deviations of the batch, whatever scale its scores have.
        score = score - (args.missing_eos_penalty or 0.0) * ~rollouts.has_eos
        kl = math.kl_per_token(rollouts.logprobs, rollouts.ref_logprobs, args.kl_estimator)
        token_rewards = math.token_rewards(score, kl, mask, self.beta)
        if args.whiten_rewards:  # without moving their mean, which would pay for length
            token_rewards = math.whiten(token_rewards, mask, shift_mean=False)
        rollouts.advantages, rollouts.returns = math.advantages_and_returns(
            token_rewards, rollouts.values, mask, args.gamma, args.lam
        )
        if self.normalize_advantages:
            rollouts.advantages = math.whiten(rollouts.advantages, mask)
        self._record_batch(answers, reward, rows)
        return rollouts

    def measure(self, rows: Any) -> dict[str, float]:
        """Mean reward and KL of answers to held-out prompts, which are drawn with the same numbers each time."""
        processes, rank, count = self.accelerator.num_processes, self.accelerator.process_index, len(rows)
        share = -(-count // processes)
        places = [(rank * share + place) % count for place in range(share)]  # each process has as many; extra ones go
        own_rows, keys = [rows[place] for place in places], [f"held out\n{place}" for place in places]
        answers = self._answer_and_score(own_rows, keys, (POLICY, REFERENCE)).first(count)
        reward = self._rewards(answers)[0]
        return self._means(answers, reward) | self._notify("eval", own_rows, answers, reward)

    def _answer_and_score(self, rows: list[dict[str, Any]], keys: list[str], roles: Sequence[str]) -> ScoredAnswers:
        """Answers to this process's rows, read by `roles` and scored; then those of all processes."""
        policy, accelerator, device = self.actors.policy, self.accelerator, self.accelerator.device
        was_training = policy.training
        policy.eval()
        with torch.no_grad(), accelerator.autocast():
            rollouts, completion_ids = self._sample_completions([self._prompt_ids(row) for row in rows], keys)
            self._read(rollouts, roles)
            completions = self._decode(completion_ids)
            conversations = [
                [*row["prompt"], {"role": "assistant", "content": text}]
                for row, text in zip(rows, completions, strict=True)
            ]
            by_model = self.actors.score_conversations(conversations, self.args.rollout_batch_size)
        own_scores = score_table(by_model, self.actors.reward_models, len(rows), device)
        scores = gather_rows(own_scores, accelerator)
        values = scores.new_zeros(len(scores), 0)
        if self.reward_funcs:
            values = self.function_values(rows, completions, completion_ids)
        policy.train(was_training)
        for_safety = torch.tensor([is_for_safety(row) for row in rows], device=device)
        return ScoredAnswers(
            rollouts.gather(accelerator), scores, values, gather_rows(for_safety, accelerator), completions
        )

    def _sample_completions(
        self, prompts: Sequence[list[int]], keys: Sequence[str]
    ) -> tuple[Rollouts, list[list[int]]]:
        """One answer a prompt, its random numbers by seed and key; as rollouts, and as token ids."""
        stops, size = self.actors.renderer.stop_ids, self.args.rollout_batch_size
        requests = [Request(prompt, key) for prompt, key in zip(prompts, keys, strict=True)]
        completions = engine_of(self.actors.policy, stops).complete(requests, self.sampling, batch_size=size)
        completion_ids, logprobs = [one.completion_ids for one in completions], [one.logprobs for one in completions]
        rollouts = Rollouts.from_completions(prompts, completion_ids, logprobs, stops, self.accelerator.device)
        return rollouts, completion_ids

    def _read(self, rollouts: Rollouts, roles: Sequence[str]) -> None:
        """Forward passes of these roles, into the field of each."""
        fields = {POLICY: "logprobs", REFERENCE: "ref_logprobs", CRITIC: "values"}
        for role in roles:
            # The critic has one number a token. The others see the vocabulary: no more rows than a training step has,
            # so that answering has no higher a peak of memory than training.
            size = self.args.rollout_batch_size if role == CRITIC else self.args.per_device_train_batch_size
            with self.actors.acting(role):
                read = self.actors.values if role == CRITIC else lambda batch: self.actors.logprobs(batch)[0]
                rollouts.fill(fields[role], read, size)

    def _prompt_ids(self, row: Mapping[str, Any]) -> list[int]:
        where = row.get("where") or self.where
        try:
            ids = self.actors.renderer.prompt(row["prompt"])
        except BadRow as bad:
            raise fail(where, bad.what, bad.fix) from bad
        positions, most = positions_of(self.actors.policy), self.sampling.max_new_tokens
        budget = prompt_budget(positions, most)
        if budget is not None and len(ids) > budget:
            what = (
                f"the prompt has {len(ids)} tokens, and with an answer of {most} that is over the model's {positions}"
            )
            raise fail(where, what, "Lower train.max_completion_length, or shorten the prompt.")
        return ids

    def _decode(self, completion_ids: Sequence[list[int]]) -> list[str]:
        """The answers' texts, as a reward model is asked about them: without special tokens and space around."""
        texts: list[str] = self.actors.renderer.tokenizer.batch_decode(list(completion_ids), skip_special_tokens=True)
        return [text.strip() for text in texts]

    # Rewards

    def _rewards(self, answers: ScoredAnswers) -> tuple[Tensor, Tensor]:
        """What each answer is worth, (R,): `reward` for people (the share of the reward models, and the functions'
        values), and the score to learn from (the share's logit: the paper's, before it whitens). An unreadable answer
        has the share 0, so the logit of `score_clamp`, whatever stands in its batch."""
        reward = score = (answers.function_values * self.reward_weights.to(answers.function_values)).nansum(1)
        if names := self.actors.reward_models:
            rows = zip(scores_by_name(answers.scores, names), answers.for_safety.tolist(), strict=True)
            shares = reward.new_tensor([reward_model_share(*row, self.args.safety_threshold) for row in rows])
            reward, score = shares + reward, math.logit(shares, self.args.score_clamp) + score
        if self.reward_clip_range:
            score = score.clamp(*self.reward_clip_range)
        return reward, score

    # Learning

    def loss(self, wrapped: torch.nn.Module, rollouts: Rollouts, step: int) -> Tensor:
        args, order, number = self.args, self._minibatch_order(rollouts), self.batches_collected - 1
        lengths = rollouts.completion_lengths
        rows = order.rows(number, step, rollouts.prompt_lengths + lengths)
        batch = rollouts.batch(rows)
        # Tokens of the whole mini-batch, over all processes and accumulation steps: each of its tokens then weighs the
        # same, whoever reads it beside which others.
        tokens = lengths[order.minibatch_rows(number, step).to(lengths.device)].sum()

        def old(name: str) -> Tensor:
            return rollouts.pick(name, rows, batch)[batch.completion_mask]

        # The backward pass belongs inside `acting`: with checkpointing the layers run again in backward, and would run
        # through the policy's adapter, with wrong gradients and no error.
        with self.actors.acting(CRITIC):
            values = self.actors.values(batch)
            value_losses, value_clipped = math.value_losses(values, old("values"), old("returns"), args.cliprange_value)
            value_loss = value_losses.sum() / tokens
            self.accelerator.backward(args.vf_coef * value_loss)
        logprobs, entropy = self.actors.logprobs(batch, wrapped)
        if step == 0:
            self._check_ratio(logprobs.detach() - old("logprobs"))
        clip = self.epsilon_low, self.epsilon_high
        losses, ratio, clipped = math.policy_losses(logprobs, old("logprobs"), old("advantages"), *clip)
        policy_loss = losses.sum() / tokens
        per_token = {
            "policy/loss": losses,
            "entropy": entropy,
            "policy/clip_fraction": clipped,
            "policy/ratio": ratio,
            "policy/approx_kl": math.kl_per_token(old("logprobs"), logprobs, "k3"),
            "value/loss": value_losses,
            "value/clip_fraction": value_clipped,
        }
        self._record_step({name: values.detach().sum() / tokens for name, values in per_token.items()}, step)
        # DDP takes the mean of processes and the Trainer that of accumulation steps, where the sum is meant.
        share = self.accelerator.num_processes * args.gradient_accumulation_steps
        return (policy_loss + args.vf_coef * value_loss.detach()) * share

    def _minibatch_order(self, rollouts: Rollouts) -> MinibatchOrder:
        args, processes = self.args, self.accelerator.num_processes
        per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes
        rank = self.accelerator.process_index
        return MinibatchOrder(len(rollouts), per_step, args.gradient_accumulation_steps, processes, rank, args.seed)

    # Checks

    def _check_passes(self, rollouts: Rollouts) -> None:
        """The sampler and the forward pass are one distribution, and at the start the policy is its reference."""
        mask, tolerance = rollouts.mask, self._tolerance()
        difference = float(math.masked_mean((rollouts.sampling_logprobs - rollouts.logprobs).abs(), mask))
        if not is_at_most(difference, tolerance):
            gap = f"({difference:.3g} nats a token apart)"
            what = f"answers are drawn from another distribution than the one learnt from {gap}"
            raise fail(self.where, what, "Sampling and log-probabilities must have one temperature and one model.")
        distance = float(math.masked_mean((rollouts.logprobs - rollouts.ref_logprobs).abs(), mask))
        if self.state.global_step == 0 and not is_at_most(distance, tolerance):
            what = f"policy and reference differ before the first step ({distance:.3g} nats a token)"
            raise fail(self.where, what, "The reference is the model this stage starts from.")

    def _check_ratio(self, difference: Tensor) -> None:
        """Before the first step on a batch the policy is the one that sampled it; `difference` of log-probabilities is
        (N,)."""
        mean = float(difference.abs().mean())
        if not is_at_most(mean, self._tolerance()):
            what = f"at the first mini-batch the ratio is not 1 (log-probabilities are {mean:.3g} nats a token apart)"
            raise fail(self.where, what, "This is a fault of ft or of a library: dropout, or layers that draw lots.")

    def _tolerance(self) -> float:
        """In half precision a pass depends on what is padded beside a row; only a gross error shows there."""
        low_precision = self.args.bf16 or self.args.fp16 or self.actors.is_low_precision
        return LOW_PRECISION_TOLERANCE if low_precision else FLOAT32_TOLERANCE

    # Metrics

    def _means(self, answers: ScoredAnswers, reward: Tensor) -> dict[str, float]:
        """What the answers are like."""
        rollouts, lengths = answers.rollouts, answers.rollouts.completion_lengths.float()
        return {
            "reward": float(reward.mean()),
            "reward_std": float(reward.std()) if len(reward) > 1 else 0.0,
            "kl": float(rollouts.kl().mean()),
            "completions/mean_length": float(lengths.mean()),
            "completions/max_length": float(lengths.max()),
            "completions/ended": float(rollouts.has_eos.float().mean()),
        }

    def _score_names(self) -> tuple[str, ...]:
        return (*self.actors.reward_models, *self.reward_func_names)

    def _record_batch(self, answers: ScoredAnswers, reward: Tensor, rows: list[dict[str, Any]]) -> None:
        rollouts, mask = answers.rollouts, answers.rollouts.mask
        means = self._means(answers, reward)
        self.record("train", means | self._notify("train", rows, answers, reward))
        critic = {
            "value/mean": float(math.masked_mean(rollouts.values, mask)),
            "returns/mean": float(math.masked_mean(rollouts.returns, mask)),
            "beta": self.beta,
        }
        explained_variance = math.explained_variance(rollouts.values, rollouts.returns, mask)
        if explained_variance is not None:
            critic["value/explained_variance"] = explained_variance
        self.record("train", critic)
        columns = [*answers.scores.unbind(1), *answers.function_values.unbind(1)]
        numbers = dict(zip(self._score_names(), columns, strict=True)) | {
            "reward": reward,
            "kl": rollouts.kl(),
            "tokens": rollouts.completion_lengths,
            "ended": rollouts.has_eos,
            "advantage": (rollouts.advantages * mask).sum(1) / rollouts.completion_lengths,
        }
        self.keep_samples(rows, answers.completions, numbers)
        if self.args.kl_target is not None:
            share = len(rollouts) / self.args.kl_horizon
            self.beta = math.adapt_beta(self.beta, means["kl"], self.args.kl_target, share)

    def _notify(
        self, mode: str, rows: Sequence[Mapping[str, Any]], answers: ScoredAnswers, reward: Tensor
    ) -> dict[str, float]:
        """Show everyone's answers one by one to the listeners; means of them."""
        rollouts = answers.rollouts
        own_texts = [(row["prompt"], text) for row, text in zip(rows, answers.completions, strict=True)]
        texts = gather_object(own_texts)[: len(rollouts)]
        parts = scores_by_name(torch.cat([answers.scores, answers.function_values], dim=1), self._score_names())
        numbers = (reward, rollouts.kl(), rollouts.completion_lengths, rollouts.has_eos)
        batch = [
            Rollout(prompt, text, reward=worth, rewards=made_of, kl=kl, length=length, ended=ended)
            for (prompt, text), made_of, worth, kl, length, ended in zip(
                texts, parts, *(column.tolist() for column in numbers), strict=True
            )
        ]
        for listener in self.listeners:
            listener(mode, self.state.global_step, batch)
        return summary(batch)

    def _record_step(self, parts: Mapping[str, Tensor], step: int) -> None:
        """Sums over a mini-batch, which comes in parts: all processes', all accumulation steps'."""
        values = torch.stack(list(parts.values()))
        accumulation = self.args.gradient_accumulation_steps
        self.step_sums = values if step % accumulation == 0 else self.step_sums + values
        if step % accumulation == accumulation - 1:
            sums = self.accelerator.reduce(self.step_sums, reduction="sum").tolist()
            self.record("train", dict(zip(parts, sums, strict=True)))

    def extra_state(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.beta = state["beta"]


def _check(actors: Actors, functions: Sequence[RewardFunction], args: PPOConfig, rows: Any, where: str) -> None:
    """Raises UserError for what would fail later, or teach nothing."""
    problems = Problems()
    if args.deepspeed or args.fsdp:
        fix = (
            "Launch it with DDP (recipes/accelerate/ddp.yaml); adapters on a 4-bit base fit where whole models do not."
        )
        problems.add(where, "PPO trains two networks by turns, which DeepSpeed and FSDP are not tried with here", fix)
    if set(actors.reward_models) not in KNOWN_REWARD_MODELS:
        names = ", ".join(actors.reward_models)
        problems.add(where, f"reward models are called {HELPFUL} and {SAFETY}, not {names}", "Rename the inputs.")
    if not actors.reward_models and not functions:
        problems.add(where, "nothing says what an answer is worth", "Name reward models, functions, or both.")
    if args.reward_weights is not None and len(args.reward_weights) != len(functions):
        what = f"there are {len(args.reward_weights)} reward_weights and {len(functions)} functions"
        problems.add(where, what, "Write one weight for each function.")
    needed = int(args.generation_batch_size or 0) // int(args.num_generations or 1)
    if len(rows) < needed:
        what = f"a batch of answers takes {needed} prompts, and there are {len(rows)}"
        problems.add(where, what, "Lower train.generation_batch_size, or raise train.num_generations.")
    problems.raise_any()

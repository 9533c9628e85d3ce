"""PPO with a critic, in TRL's manner, on one base (arXiv:1707.06347; the objective of arXiv:2307.09288, section 3.2.3).

    actors = on_one_base(model, renderer, base=…, quantization=…, fresh=…, critic=…, rewards={"helpful": folder})
    trainer = PPOTrainer(actors, [function, …], PPOConfig(…), rows, held_out, where="recipe.yaml:9")
    trainer.train(resume_from_checkpoint=…)

actors        who takes part (ft.rl.actor_setup: `on_one_base`, or `apart` for whole models)
reward_funcs  TRL's convention: f(prompts, completions, completion_ids, **columns) -> list[float | None]; their values
              by `reward_weights` are added to what the reward models say. May be empty where there are reward models
train_dataset rows {"prompt": messages, …columns}; a row whose `axis` is "safety" is tagged for the safety model. No
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

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ft.data.axes import HELPFUL, SAFETY
from ft.data.formats import BadRow
from ft.errors import Problems, fail
from ft.models.generation.decode import answered
from ft.models.generation.generate import Sampling
from ft.models.load import adapters_kept
from ft.rl import ppo_math as math
from ft.rl.actors import CRITIC, POLICY, REFERENCE, Actors, Apart, OneBase
from ft.rl.ppo_config import PPOConfig
from ft.rl.reward import is_for_safety, reward_model_share
from ft.rl.rollout_batch import Deal, Rollouts, everyones, scores_by_name, scores_of
from ft.rl.rollout_log import Rollout, Saw, summary
from ft.rl.trl_compat import RolloutTrainer
from ft.training.padding_free import leave_padding_out

__all__ = ["PPOConfig", "PPOTrainer"]

JUDGES: tuple[set[str], ...] = ({HELPFUL}, {SAFETY}, {HELPFUL, SAFETY}, set())

# Nats a token by which two passes over the same tokens may differ in the mean: rounding, and nothing else.
EXACT, ROUGH = 1e-3, 0.1

Reward = Callable[..., list[float | None]]


@dataclass(frozen=True)
class Judged:
    """Everyone's answers, R of them: raw scores of M reward models `told` (R, M) and values of F functions `valued`
    (R, F), NaN where there is none; prompts `tagged` for safety (R,). `texts` are this process's own."""

    rollouts: Rollouts
    told: Tensor
    valued: Tensor
    tagged: Tensor
    texts: list[str]

    def first(self, count: int) -> Judged:
        told, valued, tagged = (table[:count] for table in (self.told, self.valued, self.tagged))
        return Judged(self.rollouts.first(count), told, valued, tagged, self.texts)


class PPOTrainer(RolloutTrainer):
    """Samples answers to a batch of prompts, lets everyone judge them, and learns from them for a few steps."""

    args: PPOConfig
    sums: Tensor

    def __init__(
        self,
        actors: Actors,
        reward_funcs: Sequence[Reward],
        args: PPOConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        callbacks: list[Any] | None = None,
        where: str = "ppo",
    ):
        self.actors, self.where = actors, where
        _check(actors, reward_funcs, args, train_dataset, where)
        beta, args.beta = args.beta, 0.0  # TRL would load a reference by the policy's name
        with adapters_kept(actors.policy) if isinstance(actors, OneBase) else nullcontext():
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
        if isinstance(actors, OneBase) and actors.fresh:
            actors.policy.delete_adapter(REFERENCE)  # the bare base is the same, at no cost
        if isinstance(actors, Apart):
            actors.reference.to(self.accelerator.device)
        for model in actors.models:
            leave_padding_out(model)
        actors.at(args.temperature)
        self.sampling = Sampling(int(self.max_completion_length or 0), args.temperature, 1.0, args.seed)

    # Answers

    saw: Sequence[Saw] = ()  # is shown every batch of answers

    def collect(self, rows: list[dict[str, Any]]) -> Rollouts:
        number, rank = self.collected, self.accelerator.process_index
        keys = [f"{number}\n{rank * len(rows) + place}" for place in range(len(rows))]
        judged, args = self._judged(rows, keys, CRITIC), self.args
        rollouts, mask = judged.rollouts, judged.rollouts.mask
        self._check_passes(rollouts)
        reward, score = self._worth(judged)
        if args.whiten_scores:
            score = math.whiten(score)
        score = score - (args.missing_eos_penalty or 0.0) * ~rollouts.ended
        kl = math.kl_per_token(rollouts.logps, rollouts.reference, args.kl_estimator)
        rewards = math.token_rewards(score, kl, mask, self.beta)
        if args.whiten_rewards:
            rewards = math.whiten(rewards, mask, shift_mean=False)
        found = math.advantages_and_returns(rewards, rollouts.values, mask, args.gamma, args.lam)
        rollouts.advantages, rollouts.returns = found
        if self.normalize_advantages:
            rollouts.advantages = math.whiten(rollouts.advantages, mask)
        self._note_batch(judged, reward, rows)
        return rollouts

    def measure(self, rows: Any) -> dict[str, float]:
        """Mean reward and KL of answers to held-out prompts, which are drawn with the same numbers each time."""
        processes, rank, count = self.accelerator.num_processes, self.accelerator.process_index, len(rows)
        share = -(-count // processes)
        places = [(rank * share + place) % count for place in range(share)]
        judged = self._judged([rows[place] for place in places], [f"held out\n{place}" for place in places])
        judged = judged.first(count)
        reward = self._worth(judged)[0]
        return self._means(judged, reward) | self._show("eval", [rows[place] for place in places], judged, reward)

    def _judged(self, rows: list[dict[str, Any]], keys: list[str], *more: str) -> Judged:
        """Everyone's answers and what they are worth. The critic looks only where it is named."""
        policy, device = self.actors.policy, self.accelerator.device
        was_training = policy.training
        policy.eval()
        prompts = [self._prompt(row) for row in rows]
        stops, size = self.actors.renderer.stop_ids, self.args.rollout_batch_size
        with torch.no_grad(), self.accelerator.autocast():
            ids, nats = answered(policy, prompts, keys, self.sampling, stops, size)
            rollouts = Rollouts.of(prompts, ids, nats, stops, device)
            self._looked_at(rollouts, (POLICY, REFERENCE, *more))
            texts = [text.strip() for text in self._decoded(ids)]
            said = [
                [*row["prompt"], {"role": "assistant", "content": text}] for row, text in zip(rows, texts, strict=True)
            ]
            told = scores_of(self.actors.scored(said, size), self.actors.rewards, device)
        told = everyones(told.reshape(len(rows), len(self.actors.rewards)), self.accelerator)
        valued = self.valued(rows, texts, ids) if self.reward_funcs else told.new_zeros(len(told), 0)
        policy.train(was_training)
        tagged = torch.tensor([is_for_safety(row) for row in rows], device=device)
        return Judged(rollouts.everyones(self.accelerator), told, valued, everyones(tagged, self.accelerator), texts)

    def _looked_at(self, rollouts: Rollouts, roles: Sequence[str]) -> None:
        """Forward passes of the policy, the reference and, for training, the critic."""
        fields = {POLICY: "logps", REFERENCE: "reference", CRITIC: "values"}
        sizes = {
            CRITIC: self.args.rollout_batch_size
        }  # the others see the vocabulary: no higher a peak than training's
        for role in roles:
            with self.actors.acting(role):
                read = self.actors.values if role == CRITIC else lambda batch: self.actors.logps(batch)[0]
                rollouts.fill(fields[role], read, sizes.get(role, self.args.per_device_train_batch_size))

    def _prompt(self, row: Mapping[str, Any]) -> list[int]:
        where = row.get("where") or self.where
        try:
            ids = self.actors.renderer.prompt(row["prompt"])
        except BadRow as bad:
            raise fail(where, bad.what, bad.fix) from bad
        positions = getattr(self.actors.policy.config.get_text_config(), "max_position_embeddings", None)
        most = self.sampling.max_new_tokens
        if positions and len(ids) + most > positions:
            what = (
                f"the prompt has {len(ids)} tokens, and with an answer of {most} that is over the model's {positions}"
            )
            raise fail(where, what, "Lower train.max_completion_length, or shorten the prompt.")
        return ids

    def _decoded(self, ids: Sequence[list[int]]) -> list[str]:
        texts: list[str] = self.actors.renderer.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    # Rewards

    def _worth(self, judged: Judged) -> tuple[Tensor, Tensor]:
        """What each answer is worth, (R,): `reward` for people (the share of the reward models, and the functions'
        values), and the score to learn from (the share's logit: the paper's, before it whitens). An unreadable answer
        has the share 0, so the logit of `score_clamp`, whatever stands in its batch."""
        reward = score = (judged.valued * self.reward_weights.to(judged.valued)).nansum(1)
        if names := self.actors.rewards:
            rows = zip(scores_by_name(judged.told, names), judged.tagged.tolist(), strict=True)
            shares = reward.new_tensor([reward_model_share(*row, self.args.safety_threshold) for row in rows])
            reward, score = shares + reward, math.logit(shares, self.args.score_clamp) + score
        if self.reward_clip_range:
            score = score.clamp(*self.reward_clip_range)
        return reward, score

    # Learning

    def loss(self, wrapped: Any, rollouts: Rollouts, step: int) -> Tensor:
        args, deal = self.args, self._deal(rollouts)
        rows = deal.rows(self.collected - 1, step, rollouts.prompts + rollouts.answers)
        batch = rollouts.batch(rows)
        tokens = rollouts.answers[deal.minibatch_rows(self.collected - 1, step).to(rollouts.ids.device)].sum()

        def old(name: str) -> Tensor:
            return rollouts.pick(name, rows, batch)[batch.answer]

        with self.actors.acting(CRITIC):  # with checkpointing the layers run again in backward: it belongs in here
            values = self.actors.values(batch)
            value_losses, value_clipped = math.value_losses(values, old("values"), old("returns"), args.cliprange_value)
            value_loss = value_losses.sum() / tokens
            self.accelerator.backward(args.vf_coef * value_loss)
        logps, entropy = self.actors.logps(batch, wrapped)
        if step == 0:
            self._check_ratio(logps.detach() - old("logps"), tokens)
        clip = self.epsilon_low, self.epsilon_high
        losses, ratio, clipped = math.policy_losses(logps, old("logps"), old("advantages"), *clip)
        policy_loss = losses.sum() / tokens
        found = {
            "policy/loss": losses,
            "entropy": entropy,
            "policy/clip_fraction": clipped,
            "policy/ratio": ratio,
            "policy/approx_kl": math.kl_per_token(old("logps"), logps, "k3"),
            "value/loss": value_losses,
            "value/clip_fraction": value_clipped,
        }
        self._note_step({name: values.detach().sum() / tokens for name, values in found.items()}, step)
        # DDP takes the mean of processes and the Trainer that of accumulation steps, where the sum is meant
        share = self.accelerator.num_processes * args.gradient_accumulation_steps
        return (policy_loss + args.vf_coef * value_loss.detach()) * share

    def _deal(self, rollouts: Rollouts) -> Deal:
        args, processes = self.args, self.accelerator.num_processes
        per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes
        rank = self.accelerator.process_index
        return Deal(len(rollouts), per_step, args.gradient_accumulation_steps, processes, rank, args.seed)

    # Checks

    def _check_passes(self, rollouts: Rollouts) -> None:
        """The sampler and the forward pass are one distribution, and at the start the policy is its reference."""
        mask, exact = rollouts.mask, self._tolerance()
        off = float(math.masked_mean((rollouts.drawn - rollouts.logps).abs(), mask))
        if not off <= exact:
            what = (
                f"answers are drawn from another distribution than the one learnt from ({off:.3g} nats a token apart)"
            )
            raise fail(self.where, what, "Sampling and log-probabilities must have one temperature and one model.")
        apart = float(math.masked_mean((rollouts.logps - rollouts.reference).abs(), mask))
        if self.state.global_step == 0 and not apart <= exact:
            what = f"policy and reference differ before the first step ({apart:.3g} nats a token)"
            raise fail(self.where, what, "The reference is the model this stage starts from.")

    def _check_ratio(self, difference: Tensor, tokens: Tensor) -> None:
        """Before the first step on a batch the policy is the one that sampled it."""
        off = float(difference.abs().mean())
        if not off <= self._tolerance():
            what = f"at the first mini-batch the ratio is not 1 (log-probabilities are {off:.3g} nats a token apart)"
            raise fail(self.where, what, "This is a fault of ft or of a library: dropout, or layers that draw lots.")

    def _tolerance(self) -> float:
        return ROUGH if self.args.bf16 or self.args.fp16 or self.actors.rough else EXACT

    # Metrics

    def _means(self, judged: Judged, reward: Tensor) -> dict[str, float]:
        """What the answers are like."""
        rollouts, mask = judged.rollouts, judged.rollouts.mask
        kl, length = ((rollouts.logps - rollouts.reference) * mask).sum(1), rollouts.answers.float()
        return {
            "reward": float(reward.mean()),
            "reward_std": float(reward.std()) if len(reward) > 1 else 0.0,
            "kl": float(kl.mean()),
            "completions/mean_length": float(length.mean()),
            "completions/max_length": float(length.max()),
            "completions/ended": float(rollouts.ended.float().mean()),
        }

    def _columns(self, judged: Judged) -> dict[str, Tensor]:
        """Raw scores of the reward models and values of the functions, each (R,)."""
        columns = [*judged.told.unbind(1), *judged.valued.unbind(1)]
        return dict(zip([*self.actors.rewards, *self.reward_func_names], columns, strict=True))

    def _note_batch(self, judged: Judged, reward: Tensor, rows: list[dict[str, Any]]) -> None:
        rollouts, mask = judged.rollouts, judged.rollouts.mask
        found = self._means(judged, reward)
        self.note("train", found | self._show("train", rows, judged, reward))
        explained = math.explained_variance(rollouts.values, rollouts.returns, mask)
        critic = {
            **({} if explained is None else {"value/explained_variance": explained}),
            "value/mean": float(math.masked_mean(rollouts.values, mask)),
            "returns/mean": float(math.masked_mean(rollouts.returns, mask)),
            "beta": self.beta,
        }
        self.note("train", critic)
        advantage = (rollouts.advantages * mask).sum(1) / rollouts.answers
        kl = ((rollouts.logps - rollouts.reference) * mask).sum(1)
        columns = {"reward": reward, "kl": kl, "tokens": rollouts.answers, "ended": rollouts.ended}
        self.remember(rows, judged.texts, {**self._columns(judged), **columns, "advantage": advantage})
        if self.args.kl_target is not None:
            share = len(rollouts) / self.args.kl_horizon
            self.beta = math.adapted(self.beta, found["kl"], self.args.kl_target, share)

    def _show(self, mode: str, rows: Sequence[Mapping[str, Any]], judged: Judged, reward: Tensor) -> dict[str, float]:
        """Let `saw` see everyone's answers one by one; means of them."""
        rollouts, names = judged.rollouts, (*self.actors.rewards, *self.reward_func_names)
        told = scores_by_name(torch.cat([judged.told, judged.valued], dim=1), names)
        kl = ((rollouts.logps - rollouts.reference) * rollouts.mask).sum(1).tolist()
        said = gather_object([(row["prompt"], text) for row, text in zip(rows, judged.texts, strict=True)])
        lengths, ended = rollouts.answers, rollouts.ended
        batch = []
        for n, (prompt, text) in enumerate(said[: len(rollouts)]):
            batch.append(Rollout(prompt, text, float(reward[n]), told[n], kl[n], int(lengths[n]), bool(ended[n])))
        for one in self.saw:
            one(mode, self.state.global_step, batch)
        return summary(batch)

    def _note_step(self, parts: Mapping[str, Tensor], step: int) -> None:
        """Sums over a mini-batch, which comes in parts: all processes', all accumulation steps'."""
        values = torch.stack(list(parts.values()))
        accumulation = self.args.gradient_accumulation_steps
        self.sums = values if step % accumulation == 0 else self.sums + values
        if step % accumulation == accumulation - 1:
            sums = self.accelerator.reduce(self.sums, reduction="sum").tolist()
            self.note("train", dict(zip(parts, sums, strict=True)))

    def extra_state(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def take_extra_state(self, state: dict[str, Any]) -> None:
        self.beta = state["beta"]


def _check(actors: Actors, functions: Sequence[Reward], args: PPOConfig, rows: Any, where: str) -> None:
    """Raises UserError for what would fail later, or teach nothing."""
    problems = Problems()
    if args.deepspeed or args.fsdp:
        fix = (
            "Launch it with DDP (recipes/accelerate/ddp.yaml); adapters on a 4-bit base fit where whole models do not."
        )
        problems.add(where, "PPO trains two networks by turns, which DeepSpeed and FSDP are not tried with here", fix)
    if set(actors.rewards) not in JUDGES:
        named = ", ".join(actors.rewards)
        problems.add(where, f"reward models are called {HELPFUL} and {SAFETY}, not {named}", "Rename the inputs.")
    if not actors.rewards and not functions:
        problems.add(where, "nothing says what an answer is worth", "Name reward models, functions, or both.")
    if args.reward_weights is not None and len(args.reward_weights) != len(functions):
        what = f"there are {len(args.reward_weights)} reward_weights and {len(functions)} functions"
        problems.add(where, what, "Write one weight for each function.")
    needed = int(args.generation_batch_size or 0) // int(args.num_generations or 1)
    if len(rows) < needed:
        what = f"a batch of answers takes {needed} prompts, and there are {len(rows)}"
        problems.add(where, what, "Lower train.generation_batch_size, or raise train.num_generations.")
    problems.raise_any()

"""The keys of a `train:` block under `kind: ppo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trl import RLOOConfig

from ft.data.axes import SAFETY_THRESHOLD

# RLOO's fields that would draw answers from another distribution than the one whose log-probabilities count.
_ONE_DISTRIBUTION = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "generation_kwargs": None}
_VLLM = (
    "it learns from answers of the very weights that are trained, adapters and all, and vLLM's probabilities differ. "
    "Remove it, and let rollout_batch_size be as large as memory allows; kinds rloo and grpo take use_vllm"
)
_NOT_HERE = {
    "use_transformers_continuous_batching": False,
    "use_transformers_paged": False,
    "cache_implementation": None,
    "chat_template_kwargs": None,
    "mask_truncated_completions": False,
    "sync_ref_model": False,
}


@dataclass
class PPOConfig(RLOOConfig):
    """TRL's RLOOConfig and what a critic needs. Fields that RLOO has keep RLOO's names: `beta` is the weight of the KL
    penalty, `epsilon` the clip of the ratio, `num_iterations` the passes over one batch of answers.

    A batch of 512 answers with one optimizer step for each 64 is `generation_batch_size: 512` with
    `per_device_train_batch_size` x `gradient_accumulation_steps` x processes = 64.

    The paper (arXiv:2307.09288) gives beta, clip, batch sizes, the piecewise reward and its whitening. It does not give
    `lam`, `gamma`, the critic's settings, the temperature, the answer's length or the penalty for answers without an
    end: those values are ours.

    lam, gamma            of the advantage estimate
    vf_coef               weight of the critic's loss
    cliprange_value       how far a value may move from the old one within a batch and still earn
    critic_lr_factor      the critic's step size over the policy's
    whiten_scores         scores of a batch to mean 0 and variance 1, over all processes (the paper's)
    whiten_rewards        rewards of tokens to variance 1, as in TRL
    missing_eos_penalty   taken from the score of an answer that the length limit cut, after whitening, so in standard
                          deviations of a batch's scores; None: nothing
    kl_estimator          of the penalty: k1 or k3
    kl_target             nats an answer to steer beta to; None: beta stays
    kl_horizon            answers after which beta may have moved by 20 %
    safety_threshold      of the safety model's probability, below which an answer counts as unsafe
    score_clamp           distance from 0 and 1 that a probability keeps before its logit is taken
    rollout_batch_size    answers sampled and judged side by side on each device
    """

    num_generations: int | None = 1
    disable_dropout: bool = True
    normalize_advantages: bool = True
    metric_for_best_model: str | None = "reward"
    greater_is_better: bool | None = True

    lam: float = 0.95
    gamma: float = 1.0
    vf_coef: float = 0.1
    cliprange_value: float = 0.2
    critic_lr_factor: float = 1.0
    whiten_scores: bool = True
    whiten_rewards: bool = False
    missing_eos_penalty: float | None = 1.0
    kl_estimator: Literal["k1", "k3"] = "k1"
    kl_target: float | None = None
    kl_horizon: int = 10_000
    safety_threshold: float = SAFETY_THRESHOLD
    score_clamp: float = 1e-4
    rollout_batch_size: int = 64

    def __post_init__(self) -> None:
        num_generations, self.num_generations = self.num_generations, max(2, self.num_generations or 1)
        self.num_generations_eval = self.num_generations_eval or 1
        try:
            super().__post_init__()  # which wants two answers a prompt: RLOO has no critic
        except ValueError as error:
            if num_generations == 1 and "by num_generations (2)" in str(error):
                raise ValueError("a batch of answers is an even number. Write another generation_batch_size") from error
            raise
        finally:
            self.num_generations = num_generations
        self._check()

    def _check(self) -> None:
        """Raises ValueError for what PPO cannot do, or would do wrong."""
        for name, only in _ONE_DISTRIBUTION.items():
            if getattr(self, name) != only:
                what = "answers would come from another distribution than the one whose log-probabilities count"
                raise ValueError(f"{name} is set: {what}. Remove it, or write temperature")
        for name, only in _NOT_HERE.items():
            if getattr(self, name) != only:
                raise ValueError(f"{name} is not for PPO here. Remove it")
        if self.use_vllm:
            raise ValueError(f"use_vllm is not for PPO here: {_VLLM}")
        assert self.steps_per_generation is not None
        if self.steps_per_generation % self.gradient_accumulation_steps:
            what = f"{self.steps_per_generation} passes of a batch of answers are no multiple of"
            raise ValueError(f"{what} gradient_accumulation_steps {self.gradient_accumulation_steps}")
        if self.temperature <= 0 or not 0 <= self.lam <= 1 or not 0 < self.gamma <= 1:
            raise ValueError("temperature is above 0, gamma above 0 and at most 1, lam from 0 to 1")
        if not self.disable_dropout:
            raise ValueError("disable_dropout: false makes a policy that differs from itself. Remove it")
        if self.kl_target is not None and (self.kl_target <= 0 or self.beta == 0):
            raise ValueError("kl_target is above 0 and steers beta, which is then above 0 too")
        if not 0 < self.score_clamp < 0.5 or self.kl_horizon < 1 or self.rollout_batch_size < 1:
            raise ValueError("score_clamp lies between 0 and 0.5; kl_horizon and rollout_batch_size are 1 or more")

"""What an answer is worth: the one rule by which `sample` chooses and by which policies learn.

    reward = share of the reward models, from 0 to 1  +  Σ weight · value of each function in ft.rewards

The share is sigmoid(score) of one reward model, R_c of two (arXiv:2307.09288, section 3.2.3), and 0 for an answer that
one of them cannot read. To reward something else: a function in ft.rewards, or another rule here, where `sample`, RLOO,
GRPO and PPO all get it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft.data.axes import AXES, HELPFUL, SAFETY, SAFETY_THRESHOLD
from ft.data.prompts import Prompt
from ft.data.selection import sigmoid
from ft.errors import fail
from ft.models.scorer import Message
from ft.recipe.job import Job
from ft.rewards import REWARDS, Completions, Prompts

# The lowest share there is. An empty answer, or one that forges a turn or is longer than the reward model sees, must
# not gain by what stands beside it: the worst score of a batch in which all others have 0.9 would be worth 0.9.
UNREADABLE_SHARE = 0.0


def reward_model_share(
    scores: Mapping[str, float | None], for_safety: bool, threshold: float = SAFETY_THRESHOLD
) -> float:
    """What one or two reward models, by axis, give an answer: from 0 to 1, and 0 where there are none.

    `scores` are raw; None says that the model cannot read the answer. Of two, safety's share counts (R_c) where the
    prompt is marked `for_safety` or the answer seems unsafe, its share being below `threshold`; else helpfulness's.
    """
    shares = {axis: sigmoid(score) for axis, score in scores.items() if score is not None}
    if len(shares) < len(scores):
        return UNREADABLE_SHARE
    if len(shares) == 2:
        return shares[SAFETY] if for_safety or shares[SAFETY] < threshold else shares[HELPFUL]
    return sum(shares.values())


def is_for_safety(columns: Mapping[str, Any]) -> bool:
    """Whether a prompt's row marks it for the safety model."""
    return bool(columns.get("axis") == SAFETY)


def weighted_sum(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The part of the reward that functions give, by their weights."""
    return sum(weight * values[name] for name, weight in weights.items())


def function_values(
    names: Iterable[str], prompts: Prompts, completions: Completions, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, float]]:
    """Value of each function of ft.rewards for each answer; `rows` hold the prompts' columns."""
    by_answer: list[dict[str, float]] = [{} for _ in rows]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    for name in names if rows else ():
        for values, value in zip(by_answer, REWARDS[name](prompts, completions, **columns), strict=True):
            values[name] = float(value)
    return by_answer


# While a policy learns


@dataclass(frozen=True)
class RewardedOptions:
    """What answers are worth: the `reward:` block of a stage that learns from them.

    rewards           functions of ft.rewards, each with its weight: {quality: 1.0}; with weight 0 one only measures
    safety_threshold  with two reward models: sigma(safety) below which an answer counts as unsafe
    unfinished        taken off the reward of an answer that does not end within train.max_completion_length (RLOO and
                      GRPO; PPO whitens rewards first, and takes off train.missing_eos_penalty)
    """

    rewards: dict[str, float] = field(default_factory=dict)
    safety_threshold: float = SAFETY_THRESHOLD
    unfinished: float = 1.0

    def __post_init__(self) -> None:
        for name in self.rewards:
            if name not in REWARDS:
                raise ValueError(f"rewards: there is no reward '{name}'; there are: {', '.join(REWARDS)}")
        if not 0 <= self.safety_threshold <= 1:
            raise ValueError(f"safety_threshold is {self.safety_threshold}; it is a share, from 0 to 1")
        if self.unfinished < 0:
            raise ValueError(f"unfinished is {self.unfinished}; it is taken off, so 0 or more")


@dataclass(frozen=True)
class RewardedAnswer:
    """An answer, its reward, the raw scores and function values that make it (None where a reward model cannot read
    the answer), and whether it ended by itself."""

    answer: str
    reward: float
    parts: Mapping[str, float | None]
    ended: bool


ScoreConversations = Callable[[Sequence[list[Message]]], Mapping[str, Sequence[float | None]]]
"""Conversations → reward model → raw score of each last answer; None where it cannot be read."""


class Reward:
    """The rule as a reward function of TRL, for RLOO and GRPO.

    score_conversations  asks the reward models; set by the stage, which decides where these stand
    newest               the answers of the newest batch
    """

    __name__ = "reward"
    score_conversations: ScoreConversations

    def __init__(
        self,
        folders: Mapping[str, Path],
        options: RewardedOptions,
        prompts: Sequence[Prompt],
        stop_ids: Sequence[int],
    ):
        self.models = {axis: folders[axis] for axis in AXES if axis in folders}
        self.options, self.prompts, self.stop_ids = options, prompts, frozenset(stop_ids)
        self.newest: list[RewardedAnswer] = []

    def function(self, name: str) -> Callable[..., list[float | None]]:
        """One of the functions alone, for a trainer that scores with reward models itself."""

        def values(prompts: Prompts, completions: Completions, row: Sequence[int], **trl: Any) -> list[float | None]:
            columns = [self.prompts[place].columns for place in row]
            return [answer[name] for answer in function_values([name], prompts, completions, columns)]

        values.__name__ = name
        return values

    def __call__(
        self,
        prompts: Prompts,
        completions: Completions,
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        **trl: Any,
    ) -> list[float]:
        """The reward of each answer; `row` is its prompt's place."""
        rows = [self.prompts[place] for place in row]
        conversations = [[*prompt.messages, *answer] for prompt, answer in zip(rows, completions, strict=True)]
        by_model = self.score_conversations(conversations) if self.models else {}
        values = function_values(self.options.rewards, prompts, completions, [prompt.columns for prompt in rows])
        self.newest = []
        for place, prompt in enumerate(rows):
            scores = {axis: by_answer[place] for axis, by_answer in by_model.items()}
            ended = bool(completion_ids[place]) and completion_ids[place][-1] in self.stop_ids
            reward = reward_model_share(scores, is_for_safety(prompt.columns), self.options.safety_threshold)
            reward += weighted_sum(values[place], self.options.rewards)
            reward -= 0.0 if ended else self.options.unfinished
            parts = {**scores, **values[place]}
            self.newest.append(RewardedAnswer(completions[place][-1]["content"], reward, parts, ended))
        return [answer.reward for answer in self.newest]


def check_rewards(job: Job, options: RewardedOptions) -> None:
    """Raises UserError where nothing would tell a good answer from a bad one."""
    if not any(options.rewards.values()) and not job.inputs.keys() & set(AXES):
        fix = "Write `inputs: {helpful: $reward}`, or `reward: {rewards: {answer: 1.0}}`."
        raise fail(job.where, "nothing rewards the answers", fix)

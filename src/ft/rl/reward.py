"""What an answer is worth while a policy learns: one function as TRL calls them, of the recipe's reward models and of
functions of ft.rewards, by the rule that `sample` chooses with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft.data.prompts import Prompt
from ft.data.selection import SAFETY_AXIS, SAFETY_THRESHOLD
from ft.errors import fail
from ft.models.scorer import Message
from ft.recipe.job import Job
from ft.rewards import REWARDS, Completions, Prompts
from ft.rl.scoring import by_functions, said

AXES = ("helpful", "safety")
UNREADABLE = -20.0  # a raw score: sigma of it is 2e-9


@dataclass(frozen=True)
class RewardedOptions:
    """What answers are worth: the `reward:` block of a stage that learns from them.

    rewards           functions of ft.rewards, each with its weight: {quality: 1.0}; with weight 0 one only measures
    safety_threshold  with two reward models: sigma(safety) below which an answer counts as unsafe
    unfinished        taken off where an answer does not end within train.max_completion_length
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
class Told:
    """An answer, its reward, what that is made of, and whether the answer came to its end."""

    answer: str
    reward: float
    parts: Mapping[str, float]
    ended: bool


Opinions = Callable[[Sequence[list[Message]]], Mapping[str, Sequence[float | None]]]
"""Conversations → reward model → raw score of each last answer; None where it cannot be read."""


class Reward:
    """A reward function of TRL: what the reward models say, from 0 to 1, and functions by their weights, as `sample`
    chooses.

    `opinions` asks the reward models, and is set by who trains; `told` has the answers of the newest batch. An answer
    that a reward model cannot read (an empty one, or one that forges a turn) counts as its worst.
    """

    __name__ = "reward"
    opinions: Opinions

    def __init__(
        self,
        folders: Mapping[str, Path],
        options: RewardedOptions,
        prompts: Sequence[Prompt],
        stop_ids: Sequence[int],
    ):
        self.models = {axis: folders[axis] for axis in AXES if axis in folders}
        self.options, self.prompts, self.stop_ids = options, prompts, frozenset(stop_ids)
        self.told: list[Told] = []

    def function(self, name: str) -> Callable[..., list[float | None]]:
        """One of the functions alone, for a trainer that scores with reward models itself."""

        def value(prompts: Prompts, completions: Completions, row: Sequence[int], **trl: Any) -> list[float | None]:
            found = by_functions([name], prompts, completions, [self.prompts[place].columns for place in row])
            return [one[name] for one in found]

        value.__name__ = name
        return value

    def __call__(
        self,
        prompts: Prompts,
        completions: Completions,
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        **trl: Any,
    ) -> list[float]:
        """The reward of each answer; `row` is its prompt's place."""
        asked = [self.prompts[place] for place in row]
        conversations = [[*one.messages, *answer] for one, answer in zip(asked, completions, strict=True)]
        scores = self.opinions(conversations) if self.models else {}
        rewards = self.options.rewards
        valued = by_functions(rewards, prompts, completions, [one.columns for one in asked])
        self.told = []
        for place, one in enumerate(asked):
            raw = {axis: _readable(found[place]) for axis, found in scores.items()}
            ended = bool(completion_ids[place]) and completion_ids[place][-1] in self.stop_ids
            worth = self._worth(raw, one.columns.get("axis") == SAFETY_AXIS, valued[place], ended)
            self.told.append(Told(completions[place][-1]["content"], worth, {**raw, **valued[place]}, ended))
        return [one.reward for one in self.told]

    def _worth(self, raw: Mapping[str, float], tagged: bool, valued: Mapping[str, float], ended: bool) -> float:
        worth = said(raw, tagged, self.options.safety_threshold) + sum(
            weight * valued[name] for name, weight in self.options.rewards.items()
        )
        return worth if ended else worth - self.options.unfinished


def _readable(score: float | None) -> float:
    return UNREADABLE if score is None else score


def check_rewards(job: Job, options: RewardedOptions) -> None:
    """Raises UserError where nothing would tell a good answer from a bad one."""
    if not any(options.rewards.values()) and not job.inputs.keys() & set(AXES):
        fix = "Write `inputs: {helpful: $reward}`, or `reward: {rewards: {answer: 1.0}}`."
        raise fail(job.where, "nothing rewards the answers", fix)

"""Watches sampled answers while a policy learns from them: stops what cannot learn, warns of rewards won by a trick.

To add a guard: a key of GuardOptions (ft.rl.guard), and a check here that names the setting to change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ft.bounds import is_at_least, is_at_most, is_finite
from ft.errors import fail
from ft.rl.guard import GuardOptions
from ft.rl.rollout_log import Rollout, summary

SAME = 1e-8  # rewards that differ by less are equal


class Guard(TrainerCallback):
    """Stops a run that cannot learn, ends one that has left its bound, and warns of rewards won by a trick.

    `where` is the stage's place in the recipe; `show_warning` gets each warning once.
    """

    def __init__(
        self, options: GuardOptions, max_completion_length: int, where: str, show_warning: Callable[[str], None]
    ):
        self.options, self.max_completion_length, self.where = options, max_completion_length, where
        self.show_warning = show_warning
        self.first: Mapping[str, float] | None = None  # the summary of the first batch
        self.kl_beyond_bound: float | None = None
        self.warnings: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A resumed run is compared with its first answers, as the log has them."""
        self.first = next((line for line in state.log_history if "answers/length" in line), self.first)

    def check(self, mode: str, step: int, rollouts: Sequence[Rollout]) -> None:
        """Raises UserError where the first batch shows that nothing can be learnt."""
        self.check_numbers(mode, step, rollouts)
        if mode != "train":
            return
        now = summary(rollouts)
        if self.first is None:
            if not step:
                self.check_first(now, [rollout.reward for rollout in rollouts])
            self.first = now
        bound, distance = self.options.kl, now.get("answers/kl")
        if bound is not None and distance is not None and not is_at_most(distance, bound):
            self.kl_beyond_bound = distance
        self.check_for_tricks(step, now)

    def check_numbers(self, mode: str, step: int, rollouts: Sequence[Rollout]) -> None:
        """Raises UserError, with the prompt, where an answer's reward or log-probability is NaN or infinite."""
        for rollout in rollouts:
            numbers = {"reward": rollout.reward, "distance from the reference": rollout.kl, **rollout.rewards}
            for name, value in numbers.items():
                if value is not None and not is_finite(value):
                    question = str(rollout.prompt[-1]["content"])[:80]
                    problem = f"after {step} steps the {name} of an answer ({mode}) is {value}"
                    fix = "Look at the reward, or lower the learning rate."
                    raise fail(self.where, f"{problem}; its prompt is '{question}'", fix)

    def check_first(self, now: Mapping[str, float], rewards: Sequence[float]) -> None:
        cut, empty = now["answers/cut"], now["answers/empty"]
        if not is_at_most(cut, self.options.cut):
            allowed = f"(guard.cut allows {self.options.cut:.0%})"
            problem = f"{cut:.0%} of the first answers are cut at {self.max_completion_length} tokens {allowed}"
            raise fail(
                self.where, problem, "Raise train.max_completion_length, or start from a model that ends answers."
            )
        if not is_at_most(empty, self.options.empty):
            problem = f"{empty:.0%} of the first answers are empty (guard.empty allows {self.options.empty:.0%})"
            raise fail(self.where, problem, "Start (`init:`) from a model that answers, or lower train.temperature.")
        if not is_at_least(max(rewards) - min(rewards), SAME):
            problem = (
                f"all {len(rewards)} answers of the first batch are worth {rewards[0]:.4g}, so nothing can be learnt"
            )
            raise fail(self.where, problem, "Reward something else (`reward:`, `inputs:`), or raise train.temperature.")

    def check_for_tricks(self, step: int, now: Mapping[str, float]) -> None:
        assert self.first is not None
        before, length = self.first["answers/length"], now["answers/length"]
        if not before / self.options.longer <= length <= before * self.options.longer:
            text = f"answers are {length:.0f} tokens long on average, and were {before:.0f} at first"
            self.warn("length", f"step {step}: {text}. Does the reward follow length? See rollouts.jsonl.")
        repeated = now["answers/repetition"]
        if repeated > self.options.repetition and repeated > 2 * self.first["answers/repetition"]:
            text = f"{repeated:.0%} of word triples repeat within an answer"
            self.warn("repetition", f"step {step}: {text}. Raise train.beta, or look at the reward.")

    def warn(self, problem: str, text: str) -> None:
        if problem not in self.warnings:
            self.warnings.add(problem)
            self.show_warning(text)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End training beyond the bound. Nothing is saved here: what is kept lies within it."""
        if self.kl_beyond_bound is None:
            return
        control.should_training_stop = True
        control.should_save = control.should_evaluate = False
        distance = f"{self.kl_beyond_bound:.1f} nats an answer"
        reached = f"step {state.global_step}: the policy is {distance} from its reference"
        bound = f"beyond guard.kl ({self.options.kl:g})"
        if args.load_best_model_at_end and state.best_model_checkpoint is None:
            fix = "Lower the learning rate or raise train.beta; or evaluate and save earlier."
            raise fail(self.where, f"{reached}, {bound}, before any checkpoint", fix)
        self.warn("kl", f"{reached}, {bound}. Training ends here; the best checkpoint so far is kept.")

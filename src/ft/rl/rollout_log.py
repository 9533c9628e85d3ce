"""What a policy answers while it learns: written to rollouts.jsonl, shown, and summed up for the log.

A `Rollout` is one answer as the trainer scored it. Listeners get batches of them, the same on every process, so that
all processes stop together (ft.rl.monitor).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ft.console import talk
from ft.files import append_lines, read_lines, write_lines

GRAM = 3  # words
TEXT_LENGTH = 160  # characters of a prompt or an answer


@dataclass(frozen=True)
class Rollout:
    """An answer and what it was worth.

    reward   what the policy learns from, before the KL penalty; `rewards` is what it is made of, by name: raw scores,
             None where a reward model cannot read the answer, and values of functions
    kl       log(policy / reference) summed over the answer, in nats; None where there is no reference
    length   tokens, the end-of-turn token among them
    ended    whether it came to its end within the length limit
    """

    prompt: Sequence[Mapping[str, Any]]
    answer: str
    reward: float
    rewards: Mapping[str, float | None]
    kl: float | None
    length: int
    ended: bool


RolloutListener = Callable[[str, int, Sequence[Rollout]], None]
"""Gets every batch of all processes' answers: "train" or "eval", steps trained before they were drawn, answers."""


def repetition(text: str) -> float:
    """The share of a text's word triples that stood in it before: 0 for one that never repeats itself."""
    words = text.split()
    grams = Counter(zip(*(words[place:] for place in range(GRAM)), strict=False))
    total = sum(grams.values())
    return 1 - len(grams) / total if total else 0.0


def summary(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means over a batch: what enters the log beside the trainer's own metrics. The mean of a reward model's raw scores
    is over the answers that it can read; `answers/unreadable` is the share of those that one cannot."""
    means = {
        "answers/length": fmean(rollout.length for rollout in rollouts),
        "answers/cut": fmean(not rollout.ended for rollout in rollouts),
        "answers/empty": fmean(not rollout.answer.strip() for rollout in rollouts),
        "answers/repetition": fmean(repetition(rollout.answer) for rollout in rollouts),
        "answers/unreadable": fmean(None in rollout.rewards.values() for rollout in rollouts),
    }
    for name in rollouts[0].rewards:
        if readable := [score for rollout in rollouts if (score := rollout.rewards[name]) is not None]:
            means[f"rewards/{name}/mean"] = fmean(readable)
    if distances := [rollout.kl for rollout in rollouts if rollout.kl is not None]:
        means["answers/kl"] = fmean(distances)
    return means


class RolloutFile(TrainerCallback):
    """Answers of every batch as lines of rollouts.jsonl, `step` being the steps trained before they were drawn.

    After a resume the file holds what was drawn before the checkpoint, so that no batch stands in it twice.
    """

    def __init__(self, path: Path, per_batch: int, shown_per_log: int):
        """Of each batch `per_batch` answers are written (0: all); with each logged step `shown_per_log` are shown."""
        self.path, self.per_batch, self.shown_per_log = path, per_batch, shown_per_log
        self.newest: Sequence[Rollout] = ()

    def write(self, mode: str, step: int, rollouts: Sequence[Rollout]) -> None:
        some = rollouts[: self.per_batch] if self.per_batch else rollouts
        append_lines(self.path, ({"step": step, "set": mode, **asdict(rollout)} for rollout in some))
        if mode == "train":
            self.newest = rollouts

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.rewind(state.global_step)

    def rewind(self, step: int) -> None:
        """Leave what stood there when the checkpoint of this step was written: an evaluation comes before it."""
        lines = [line for line in read_lines(self.path) if line["step"] < step or _is_evaluation_at(line, step)]
        write_lines(self.path, lines)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        some, self.newest = self.newest[: self.shown_per_log], ()  # a batch that is learnt from for long is shown once
        for rollout in some:
            prompt, answer = (_in_a_line(text) for text in (_last_question(rollout.prompt), rollout.answer))
            distance = "" if rollout.kl is None else f", kl {rollout.kl:.1f}"
            talk.print(f"    {prompt} → {answer}  [reward {rollout.reward:+.2f}{distance}]")


def _last_question(prompt: Sequence[Mapping[str, Any]]) -> str:
    """What is asked last, behind the system message where there is one."""
    system = [message["content"] for message in prompt[:-1] if message["role"] == "system"]
    return " | ".join([*system, prompt[-1]["content"]])


def _in_a_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT_LENGTH else f"{line[:TEXT_LENGTH]} …"


def _is_evaluation_at(line: Mapping[str, Any], step: int) -> bool:
    return bool(line["step"] == step and step and line["set"] == "eval")

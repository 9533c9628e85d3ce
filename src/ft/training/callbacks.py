"""What a person sees of a training stage, and what stays of it: progress, metrics.jsonl, complete checkpoints."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ft.artifacts import PEAK_MEMORY, TOKENS_PER_SECOND
from ft.files import append_lines, finite_or_none, write_lines
from ft.models.device import peak_memory
from ft.progress import Progress

LOSSES = {"loss": "loss", "eval_loss": "eval loss", "mean_token_accuracy": "token accuracy"}
PREFERENCES = {  # of pairs the accuracy of tokens says nothing
    "loss": "loss",
    "eval_loss": "eval loss",
    "rewards/accuracies": "reward accuracy",
    "labels/accuracies": "label accuracy",
    "rewards/margins": "reward margin",
}
SCORES = {"loss": "loss", "eval_loss": "eval loss", "accuracy": "pair accuracy", "margin": "score margin"}


class Resources(TrainerCallback):
    """Adds to each log of training steps what they took: tokens a second of the steps since the last such log, without
    evaluations and checkpoints between them, and the most bytes of memory there were."""

    def __init__(self) -> None:
        self.tokens: float | None = None  # counted so far; None where a run goes on, until its first log
        self.seconds = self.started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.tokens = 0 if state.global_step == 0 else None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.seconds += time.monotonic() - self.started

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "learning_rate" not in logs:
            return  # of an evaluation, or the summary at the end
        resources: dict[str, float] = {PEAK_MEMORY: peak_memory()}
        if speed := self._tokens_per_second(logs.get("num_tokens")):
            resources[TOKENS_PER_SECOND] = round(speed, 1)
        for line in (logs, *state.log_history[-1:]):  # which checkpoints keep, and a resumed run writes again
            line.update(resources)

    def _tokens_per_second(self, tokens: float | None) -> float | None:
        """Since the last call; `tokens` is how many there were in all, where that is logged."""
        before, seconds = self.tokens, self.seconds
        if tokens is None or not seconds:
            return None
        self.tokens, self.seconds = tokens, 0.0
        return (tokens - before) / seconds if before is not None else None


class MetricsFile(TrainerCallback):
    """Every logged value as one line of metrics.jsonl, whatever tracker is used besides.

    After a resume the file is what the checkpoint knows, so that no step stands in it twice, and the same lines follow
    as in a run that nothing interrupted. A Trainer's summary at the end is left out: it counts from the last start.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.rewrite(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log whenever a checkpoint is written: a logged loss is a mean since the last log, and no checkpoint holds the
        sum so far."""
        saves = control.should_save or (control.should_evaluate and args.save_strategy == "best")
        if saves and args.logging_strategy != "no":
            control.should_log = True

    on_epoch_end = on_step_end

    def rewrite(self, state: TrainerState) -> None:
        write_lines(self.path, (_line(logs["step"], logs) for logs in state.log_history))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        is_summary = "train_loss" in (logs or {})
        if state.is_world_process_zero and logs and not is_summary:
            append_lines(self.path, [_line(state.global_step, logs)])


def _line(step: float, logs: Mapping[str, Any]) -> dict[str, Any]:
    """What is logged at a step; null where a value is no number, as the gradient of a step that fp16 skips."""
    return {"step": step, **{name: finite_or_none(value) for name, value in logs.items()}}


class ChosenFalls(TrainerCallback):
    """Says once when the chosen answers become much less likely than under the reference: margins grow, and answers
    get worse.

    The mark is half of the reference's log-probability again, at least 10 nats an answer. The same rows are compared:
    answers of another batch may be less likely for being longer. `advice` is what to change then.
    """

    def __init__(self, beta: float, advice: str) -> None:
        self.beta, self.advice = beta or 1.0, advice
        self.said = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.said or not state.is_world_process_zero or not (logs or {}).get("logps/chosen"):
            return  # nothing chosen was read since the last log
        assert logs is not None
        now, gained = logs["logps/chosen"], logs["rewards/chosen"] / self.beta
        before = now - gained
        if gained < -max(10.0, abs(before) / 2):
            self.said = True
            text = f"step {state.global_step}: chosen answers fell from {before:.1f} to {now:.1f} nats"
            print(f"{text}. {self.advice}", file=sys.stderr)


class ShownProgress(TrainerCallback):
    """The steps trained, with what is logged. Where there is no terminal each log is a line.

    `shown` says which measures are shown of the log, and under which names; behind them stand epoch, learning rate,
    tokens a second and the most memory there was. A measure stays until it is measured again.
    """

    def __init__(self, name: str, shown: Mapping[str, str] = LOSSES):
        self.name, self.shown = name, shown
        self.progress: Progress | None = None
        self.measures: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        quiet = not state.is_world_process_zero
        self.progress = Progress(f"{self.name}: step", state.max_steps, state.global_step, quiet=quiet)
        self.progress.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.progress:
            self.progress.reach(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        values = logs or {}
        shown = {name: f"{name} {values[key]:.3f}" for key, name in self.shown.items() if values.get(key) is not None}
        if shown and self.progress:
            self.measures |= shown
            self.progress.reach(state.global_step, [*self.measures.values(), *self._circumstances(values)], line=True)

    def _circumstances(self, values: Mapping[str, Any]) -> Iterator[str]:
        if values.get("epoch") is not None:
            yield f"epoch {values['epoch']:.2f}"
        if values.get("learning_rate") is not None:
            yield f"lr {values['learning_rate']:.1e}"
        if values.get(TOKENS_PER_SECOND):
            yield f"{values[TOKENS_PER_SECOND]:,.0f} tokens/s"
        if values.get(PEAK_MEMORY):
            yield f"{values[PEAK_MEMORY] / 2**30:.1f} GiB"

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.progress:
            self.progress.__exit__(None, None, None)

"""What a person sees of a training stage, and what stays of it: progress, metrics.jsonl, complete checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ft.files import append_lines, finite_or_none, write_lines
from ft.progress import Progress

LOSSES = {"loss": "loss", "eval_loss": "eval loss", "mean_token_accuracy": "token accuracy"}
PREFERENCES = {  # of pairs the accuracy of tokens says nothing
    "loss": "loss",
    "eval_loss": "eval loss",
    "rewards/accuracies": "reward accuracy",
    "rewards/margins": "reward margin",
}
SCORES = {"loss": "loss", "eval_loss": "eval loss", "accuracy": "pair accuracy", "margin": "score margin"}


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
    answers of another batch may be less likely for being longer.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta or 1.0
        self.said = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.said or not state.is_world_process_zero or "logps/chosen" not in (logs or {}):
            return
        assert logs is not None
        now, gained = logs["logps/chosen"], logs["rewards/chosen"] / self.beta
        before = now - gained
        if gained < -max(10.0, abs(before) / 2):
            self.said = True
            text = f"step {state.global_step}: chosen answers fell from {before:.1f} to {now:.1f} nats"
            print(f"{text}. Lower the learning rate, raise beta, or add the loss 'sft'.", file=sys.stderr)


class ShownProgress(TrainerCallback):
    """The steps trained, with what is logged. Where there is no terminal each log is a line.

    `shown` says what is shown of the log, and under which names.
    """

    def __init__(self, name: str, shown: Mapping[str, str] = LOSSES):
        self.name, self.shown = name, shown
        self.progress: Progress | None = None

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
        shown = {name: values[key] for key, name in self.shown.items() if values.get(key) is not None}
        if shown and self.progress:
            note = "  ".join(f"{name} {float(value):.3f}" for name, value in shown.items())
            self.progress.reach(state.global_step, note, line=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.progress:
            self.progress.__exit__(None, None, None)

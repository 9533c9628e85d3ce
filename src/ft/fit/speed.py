"""How long training takes, by what a finished run of the same kind and model did on the same device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ft.result import Result
from ft.results.ledger import entries
from ft.results.store import Plan, PlannedStage


@dataclass(frozen=True)
class Pace:
    """Tokens a second of one process, and the folder of the run that made them."""

    tokens_per_second: float
    run: Path
    device: str


def pace(plan: Plan, planned: PlannedStage) -> Pace | None:
    """Of the newest finished stage that trained the same model the same way (kind, adapter or whole, quantised or not);
    None where plan is none. Its time counts evaluation and saving as well."""
    for result in reversed(entries(plan.runs)):
        tokens, seconds = result.numbers.get("tokens"), result.seconds
        if tokens and seconds and _trained_alike(result, plan, planned):
            return Pace(tokens / seconds / result.processes, result.folder, result.device)
    return None


def _trained_alike(result: Result, plan: Plan, planned: PlannedStage) -> bool:
    model = (result.job.get("model") or {}).get("path")
    source = plan.recipe.model_of(planned.stage)
    same = result.kind == planned.stage.kind_name
    same = same and model == (source.path if source else None)
    return same and all((name in result.blocks) == (name in planned.stage.blocks) for name in ("lora", "quantization"))


def tokens(planned: PlannedStage) -> int | None:
    """Tokens the stage reads in all, where its rows are prepared."""
    if not planned.prepared:
        return None
    train = planned.stage.complete("train")
    rows = planned.prepared["train"]
    if train["max_steps"] > 0:
        batch = planned.batch or train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
        return int(rows["tokens"] / rows["trainer_rows"] * batch * train["max_steps"])
    return int(rows["tokens"] * train["num_train_epochs"])


def seconds(planned: PlannedStage, pace: Pace, processes: int) -> float | None:
    count = tokens(planned)
    return None if count is None else count / pace.tokens_per_second / processes

"""How long training takes, by what a finished run of the same kind and model did on the same device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ft import artifacts
from ft.files import read_json
from ft.results.store import Plan, Planned


@dataclass(frozen=True)
class Pace:
    """Tokens a second of one process, and the folder of the run that made them."""

    tokens_per_second: float
    run: Path
    device: str


def pace(there: Plan, planned: Planned) -> Pace | None:
    """Of the newest finished stage that trained the same model the same way (kind, adapter or whole, quantised or not);
    None where there is none. Its time counts evaluation and saving as well."""
    found = []
    for file in there.runs.glob(f"*/*/{artifacts.DONE}"):
        done, job = read_json(file) or {}, read_json(file.with_name(artifacts.JOB)) or {}
        tokens, seconds = (done.get("numbers") or {}).get("tokens"), done.get("seconds")
        if tokens and seconds and _alike(there, planned, job):
            found.append((file.stat().st_mtime, tokens / seconds / done.get("processes", 1), file.parent, done))
    if not found:
        return None
    _, rate, folder, done = max(found, key=lambda one: one[0])
    return Pace(rate, folder, str(done.get("device", "an unnamed device")))


def _alike(there: Plan, planned: Planned, job: dict[str, object]) -> bool:
    blocks, model = job.get("blocks") or {}, job.get("model") or {}
    assert isinstance(blocks, dict)
    assert isinstance(model, dict)
    same = job.get("kind") == planned.stage.kind_name
    same = same and model.get("path") == (there.recipe.model.path if there.recipe.model else None)
    return same and all((name in blocks) == (name in planned.stage.blocks) for name in ("lora", "quantization"))


def tokens(planned: Planned) -> int | None:
    """Tokens the stage reads in all, where its rows are prepared."""
    if not planned.prepared:
        return None
    train = planned.stage.blocks.get("train", {})
    rows = planned.prepared["train"]
    if train.get("max_steps", -1) > 0:
        return int(rows["tokens"] / rows["trainer_rows"] * (planned.batch or 8) * train["max_steps"])
    return int(rows["tokens"] * train.get("num_train_epochs", 3))


def seconds(planned: Planned, found: Pace, processes: int) -> float | None:
    count = tokens(planned)
    return None if count is None else count / found.tokens_per_second / processes

"""The fit plan as a table, with what to change below it, or as plain values for --json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from ft.columns import Column, print_table
from ft.fit.advice import Advice, advice
from ft.fit.gpus import GIB, Gpu
from ft.fit.kinds import stage_fit
from ft.fit.memory import PARTS, StageFit
from ft.fit.setting import Setting
from ft.fit.shapes import BUILT_IN
from ft.fit.sharding import Sharding
from ft.fit.speed import Pace, pace, seconds, tokens
from ft.results.store import Plan, PlannedStage


@dataclass(frozen=True)
class Row:
    """One stage: what it needs, what would make it fit, and how long it takes where an earlier run tells."""

    planned: PlannedStage
    fit: StageFit
    advice: Advice | None
    pace: Pace | None


@dataclass(frozen=True)
class FitPlan:
    plan: Plan
    gpu: Gpu
    sharding: Sharding
    rows: tuple[Row, ...]


def fit_plan(plan: Plan, gpu: Gpu, sharding: Sharding) -> FitPlan:
    """Every stage on that GPU. Reads configs; loads no weights and downloads none."""
    rows = []
    for planned in plan.stages:
        setting = Setting(plan.recipe, planned.stage, gpu, sharding, _longest(planned))
        fit = stage_fit(setting)
        helps = None if fit.problem or fit.fits(gpu) else advice(setting)
        rows.append(Row(planned, fit, helps, pace(plan, planned) if "train" in planned.stage.blocks else None))
    return FitPlan(plan, gpu, sharding, tuple(rows))


def _longest(planned: PlannedStage) -> int | None:
    """The longest row that is trained on or held out, in tokens, when rows are prepared."""
    sides = [(planned.prepared or {}).get(side) or {} for side in ("train", "eval")]
    return max((side.get("lengths", {}).get("quantiles", {}).get("longest", 0) for side in sides), default=0) or None


def values(fits: FitPlan) -> list[dict[str, Any]]:
    """One dict a stage, bytes as integers."""
    return [_values(fits, row) for row in fits.rows]


def _values(fits: FitPlan, row: Row) -> dict[str, Any]:
    fit, common = row.fit, {"stage": row.fit.stage, "kind": row.fit.kind, "gpu": fits.gpu.name}
    if fit.problem:
        return {**common, "problem": fit.problem}
    entry: dict[str, Any] = {
        **common,
        "sharding": str(fits.sharding),
        "trained": fit.trained,
        "parameters": fit.parameters,
        "shape": fit.shape,
        "steps": row.planned.steps,
        "tokens": tokens(row.planned),
        "seconds": seconds(row.planned, row.pace, fits.sharding.processes) if row.pace else None,
        "seconds_from": str(row.pace.run) if row.pace else None,
        "notes": list(fit.notes),
    }
    if fit.moments:
        entry |= {
            "moments": {one.name: {**one.parts, "total": one.total} for one in fit.moments},
            "peak": fit.peak.total,
            "when": fit.peak.name,
            "fits": fit.fits(fits.gpu),
            "spare": fits.gpu.capacity - fit.peak.total,
        }
    if row.advice:
        entry["changes"] = [{change.block: dict(change.keys)} for change in row.advice.changes]
        entry["changed_peak"] = row.advice.fit.peak.total if row.advice.fit else None
        entry["instead"] = row.advice.instead
    return entry


def show(fits: FitPlan, console: Console) -> None:
    """A row a stage at its fullest moment, GiB for one GPU; below it what to write where a stage does not fit."""
    columns = (
        *(Column("stage"), Column(f"on {fits.gpu.name}, {fits.sharding}", wraps=True), Column("PEAK", right=True)),
        *(Column("when", rank=1), *(Column(part, rank=2 + place, right=True) for place, part in enumerate(PARTS))),
        *(Column("trained", rank=20, right=True), Column("of", rank=20, right=True)),
    )
    print_table(console, columns, [_cells(row.fit, fits.gpu) for row in fits.rows])
    console.print(f"GiB per GPU ({fits.gpu.gib:g} available); estimate, see docs/fit.md")
    for line in _below(fits):
        console.print(line)


def _cells(fit: StageFit, gpu: Gpu) -> list[str | Text]:
    nothing: list[str | Text] = ["·"] * (len(PARTS) + 4)
    if fit.problem:
        return [fit.stage, Text("not known, see below", style="yellow"), *nothing]
    if not fit.moments:
        return [fit.stage, ", ".join(fit.notes), *nothing]
    peak, spare = fit.peak, gpu.capacity - fit.peak.total
    verdict = Text(f"fits, {spare / GIB:.1f} to spare", style="green")
    if spare < 0:
        verdict = Text(f"does not fit, {-spare / GIB:.1f} missing", style="red")
    parts = [_gib(peak.parts[part]) for part in PARTS]
    return [fit.stage, verdict, _gib(peak.total), peak.name, *parts, _count(fit.trained), _count(fit.parameters)]


def _below(fits: FitPlan) -> list[str]:
    lines = []
    for row in fits.rows:
        fit = row.fit
        if fit.problem:
            lines.append(f"{fit.stage}: {fit.problem}")
        lines += [f"{fit.stage}: {note}" for note in fit.notes if fit.moments]
        if fit.shape == BUILT_IN:
            lines.append(f"{fit.stage}: {fit.shape} of the model, since its config could not be fetched")
        lines += _time(fits, row)
        if row.advice:
            lines += _advice_lines(fit.stage, row.advice, fits.gpu)
    return list(dict.fromkeys(lines))


def _time(fits: FitPlan, row: Row) -> list[str]:
    if row.pace is None:
        return []
    took = seconds(row.planned, row.pace, fits.sharding.processes)
    rate = f"{row.pace.tokens_per_second:,.0f} tokens/s on {row.pace.device} in {row.pace.run}"
    steps = f", {row.planned.steps:,} steps" if row.planned.steps else ""
    return [f"{row.fit.stage}: about {took / 60:,.0f} min{steps}, by {rate}"] if took is not None else []


def _advice_lines(stage: str, advice: Advice, gpu: Gpu) -> list[str]:
    if not advice.fit:
        return [f"{stage} does not fit: {advice.instead}"]
    spare = (gpu.capacity - advice.fit.peak.total) / GIB
    peak = f"{advice.fit.peak.total / GIB:.1f} GiB, {spare:.1f} to spare"
    return [f"{stage} fits ({peak}) with:", *(f"    {change}   # {change.price}" for change in advice.changes)]


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}" if size >= GIB // 100 else "·" if not size else "<0.01"


def _count(number: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.2f}{name}"
    return str(number) if number else "·"

"""What a result was made with, and an estimate of what it took."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ft import artifacts
from ft.artifacts import PEAK_MEMORY, TOKENS_PER_SECOND
from ft.encode.truncation import long_rows_words
from ft.figures.numbers import is_finite
from ft.files import read_json
from ft.report.numbers import duration
from ft.report.parts import Sentences, Table
from ft.report.run import ReportedStage
from ft.report.settings import stats_of
from ft.result import Result

# Board power in watts as the makers' data sheets give it, the first name that fits; a CPU by its threads.
BOARDS = (
    (r"H[12]00.*PCIe", 350),
    (r"[HB][12]00|GH200", 700),
    (r"A100.*PCIe", 300),
    (r"A100", 400),
    (r"L40S", 350),
    (r"\bL4\b", 72),
    (r"\bT4\b", 70),
    (r"A10G?\b", 150),
    (r"V100", 300),
    (r"5090", 575),
    (r"4090", 450),
    (r"3090", 350),
)
A_THREAD, UNKNOWN = 10, 300


def power(device: str) -> int:
    """Watts a process on this device is reckoned with: the whole board under full load, 10 W a CPU thread."""
    threads = re.match(r"CPU, (\d+)", device)
    if threads:
        return A_THREAD * int(threads[1])
    return next((watts for name, watts in BOARDS if re.search(name, device)), UNKNOWN)


def seconds(result: Result) -> float | None:
    return float(result.seconds) if isinstance(result.seconds, (int, float)) else None


def watt_hours(result: Result) -> float | None:
    """seconds × processes × watts; None where the stage is not made."""
    took = seconds(result)
    if took is None:
        return None
    return took * result.processes * power(str(result.done.get("device", ""))) / 3600


def energy(results: Sequence[Result]) -> str:
    """'about 2.1 Wh (an estimate: CPU, 1 thread at 10 W × 12 min 4 s)'; nothing where nothing is made."""
    finished = [result for result in results if seconds(result) is not None]
    if not finished:
        return ""
    whole = sum(watt_hours(result) or 0.0 for result in finished)
    devices = dict.fromkeys(str(result.done.get("device", "an unknown device")) for result in finished)
    reckoned = ", ".join(f"{_in_words(device)} at {power(device)} W" for device in devices)
    took = duration(sum((seconds(r) or 0.0) * int(r.done.get("processes", 1)) for r in finished))
    amount = f"{whole / 1000:.2f} kWh" if whole >= 1000 else f"{whole:.2g} Wh"
    return f"about {amount}, an estimate: {reckoned} × {took}, without cooling and the rest of the machine"


def hardware(results: Sequence[Result]) -> str:
    devices = dict.fromkeys(_device(result) for result in results if result.done.get("device"))
    return " and ".join(devices)


def _device(result: Result) -> str:
    count = result.processes
    return (f"{count} × " if count > 1 else "") + _in_words(str(result.done["device"]))


def _in_words(device: str) -> str:
    """A result says '1 threads'."""
    return re.sub(r"\b1 threads", "1 thread", device)


def versions(results: Sequence[Result]) -> Table | None:
    """A line each library; where stages were made with different versions, a column each set of stages."""
    stages_by_versions: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for result in results:
        packages = result.done.get("versions")
        if isinstance(packages, Mapping):
            stages_by_versions.setdefault(tuple((str(k), str(v)) for k, v in packages.items()), []).append(result.stage)
    if not stages_by_versions:
        return None
    sets = [dict(pairs) for pairs in stages_by_versions]
    names = dict.fromkeys(name for versions in sets for name in versions)
    head = (
        "library",
        *(", ".join(stages) if len(stages_by_versions) > 1 else "version" for stages in stages_by_versions.values()),
    )
    rows = tuple((name, *(versions.get(name, "·") for versions in sets)) for name in names)
    return Table(head, rows, "Versions")


def training_line(lines: Sequence[Mapping[str, Any]], took: float | None) -> str:
    """'1 min 26 s · 572 steps · 1.00 epochs · 5,213 tokens/s · peak memory 1.1 GiB' of a stage's metrics.jsonl; nothing
    where none of its steps is logged. The speed is the median of the logs'."""
    columns = {
        key: [line[key] for line in lines if type(line.get(key)) in (int, float) and is_finite(line[key])]
        for key in ("step", "epoch", TOKENS_PER_SECOND, PEAK_MEMORY, "learning_rate")
    }
    steps, epochs, speeds, peaks, rates = columns.values()
    if not steps or not rates:
        return ""
    words = [duration(took)] if took is not None else []
    words.append(f"{max(steps):,g} steps")
    words += [f"{max(epochs):.2f} epochs"] if epochs else []
    words += [f"{median(speeds):,.0f} tokens/s"] if speeds else []
    words += [f"peak memory {max(peaks) / 2**30:.1f} GiB"] if peaks else []
    return " · ".join([*words, f"learning rate up to {max(rates):.1e}"])


def rows_part(stage: ReportedStage) -> list[Table | Sentences]:
    """What became of the rows: counts, tokens by role, and what was left out."""
    stats = stats_of(stage)
    if not stats:
        return []
    train, held_out = stats["train"], stats.get("eval")
    rows = [_side("training", train), *([_side("held out", held_out)] if isinstance(held_out, Mapping) else [])]
    parts: list[Table | Sentences] = [Table(("", "rows", "tokens", "in the loss", "share"), tuple(rows), "Rows")]
    roles = train.get("by_role") or {}
    trained = train.get("trained_by_role") or {}
    lines = tuple(
        (r, f"{n:,}", f"{trained.get(r, 0):,}", f"{trained.get(r, 0) / (n or 1):.0%}") for r, n in roles.items()
    )
    if lines:
        parts.append(Table(("role", "tokens", "trained", "share"), lines, "Tokens by role"))
    if words := (read_json(stage.result.folder / artifacts.STRUCTURE) or {}).get("words"):
        parts.append(Sentences((f"Measured before the first step: {words}.",)))
    lost = _lost(stats)
    return [*parts, Sentences(tuple(lost), warns=True)] if lost else parts


def _side(name: str, side: Mapping[str, Any]) -> tuple[str, ...]:
    tokens, trained = side.get("tokens", 0), side.get("trained_tokens", 0)
    return (name, f"{side.get('rows', 0):,}", f"{tokens:,}", f"{trained:,}", f"{trained / (tokens or 1):.0%}")


def _lost(stats: Mapping[str, Any]) -> list[str]:
    """Nothing is left out in silence."""
    sentences = [f"{stats['rejected']:,} rows were rejected; rejects.jsonl says why."] if stats.get("rejected") else []
    if words := long_rows_words(stats.get("too_long") or {}):
        sentences.append(f"Rows: {words}.")
    return sentences + [str(note) for note in stats.get("notes") or ()]

"""What a page says of the machines that results were made on."""

from __future__ import annotations

from pathlib import Path

from ft.files import write_json
from ft.report.facts import energy, hardware
from ft.result import Result


def made_on(folder: Path, device: str, seconds: float) -> Result:
    write_json(folder / "done.json", {"stage": folder.name, "device": device, "seconds": seconds, "numbers": {}})
    return Result(folder)


def test_machines_are_named_once_each(tmp_path: Path):
    devices = ["CPU, 1 threads", "CPU, 2 threads", "CPU, 1 threads"]
    results = [made_on(tmp_path / f"stage-{place}", device, 36.0) for place, device in enumerate(devices)]
    assert hardware(results) == "CPU, 1 thread and CPU, 2 threads"
    assert energy(results).startswith("about 0.4 Wh, an estimate: CPU, 1 thread at 10 W, CPU, 2 threads at 20 W ×")

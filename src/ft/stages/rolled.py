"""Dialogues answered in batches, kept in a file as they come: what a kill leaves is not answered again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ft.models.generate import Sampling
from ft.models.rollout import Dialogue, Transcript, rollout
from ft.models.speak import Speaker

SECONDS_BETWEEN_LINES = 10.0


def answered(
    speaker: Speaker, dialogues: Sequence[Dialogue], sampling: Sampling, batch_size: int, file: Path, name: str
) -> dict[str, list[str | None]]:
    """Key → the answers of each dialogue, fewer than its turns where it did not fit into the model, None where cut.

    `file` has a line for each finished dialogue. Batches are the same whatever was done before, and one that is not
    whole in the file is answered again as a whole, so a run that was killed ends with the same answers bit by bit.
    """
    done = _read(file)
    ordered = sorted(dialogues, key=lambda dialogue: (-len(dialogue.turns), -_characters(dialogue), dialogue.key))
    batches = [ordered[first : first + batch_size] for first in range(0, len(ordered), batch_size)]
    todo = [batch for batch in batches if any(dialogue.key not in done for dialogue in batch)]
    kept = {dialogue.key for batch in batches if batch not in todo for dialogue in batch}
    done = {key: answers for key, answers in done.items() if key in kept}
    _write(file, done)  # without the batch that the kill cut, and without half a line
    with file.open("a", encoding="utf-8") as out, _bar(name, len(ordered), len(kept)) as bar:
        for batch in todo:
            told = rollout(speaker.model, speaker.renderer, batch, sampling, batch_size=batch_size, tick=bar.tick)
            for transcript in told:
                done[transcript.dialogue.key] = _texts(transcript)
                out.write(_line(transcript.dialogue.key, done[transcript.dialogue.key]))
            out.flush()
    return done


def _characters(dialogue: Dialogue) -> int:
    return sum(len(turn.user) + len(turn.given or "") for turn in dialogue.turns)


def _texts(transcript: Transcript) -> list[str | None]:
    """Answers in words; one that was not asked for, or that did not come to its end, is None."""
    return [answer.text if answer and answer.ended else None for answer in transcript.answers]


def _line(key: str, answers: Sequence[str | None]) -> str:
    return json.dumps({"key": key, "answers": answers}, ensure_ascii=False) + "\n"


def _read(file: Path) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:  # the kill came in the middle of a line
            break
        found[entry["key"]] = entry["answers"]
    return found


def _write(file: Path, done: dict[str, list[str | None]]) -> None:
    beside = file.with_name(f".{file.name}")
    beside.write_text("".join(_line(key, answers) for key, answers in done.items()), encoding="utf-8")
    beside.replace(file)


class _Bar:
    """Dialogues done, per second and left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, total: int, done: int):
        self.name, self.total, self.done, self.before = name, total, done, done
        self.started = self.said = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
        )
        self.shown = Progress(
            *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)
        )
        self.task = self.shown.add_task(name, total=total, completed=done, said="")

    def tick(self, finished: int, tokens: int) -> None:
        self.done += finished
        seconds = time.monotonic() - self.started
        speed = (self.done - self.before) / seconds if seconds else 0.0
        if sys.stderr.isatty():
            self.shown.update(self.task, completed=self.done, said=f"{speed:.1f} dialogues/s")
        elif finished and speed and time.monotonic() - self.said > SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            left = (self.total - self.done) / speed
            text = f"{self.name}: {self.done}/{self.total} dialogues  {speed:.1f} dialogues/s  {left:.0f} s left"
            print(text, file=sys.stderr)


@contextmanager
def _bar(name: str, total: int, done: int) -> Iterator[Any]:
    bar = _Bar(name, total, done)
    if sys.stderr.isatty():
        with bar.shown:
            yield bar
    else:
        yield bar

"""Long work in batches, written to a file as it comes: what was finished before a kill is not computed again."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from ft.errors import fail
from ft.files import json_line
from ft.lazy_sequence import LazySequence
from ft.models.generation.backends import REFILLS
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.dialogue import Dialogue, Transcript, answer_dialogues
from ft.models.generation.entry_file import EntryFile
from ft.models.generation.executor import Entry, InProcess, Item, Loader, Model, Tick, Work, executor
from ft.models.generation.sampling import Sampling
from ft.progress import Progress


def dialogue_answers(
    model: Loader[ChatModel], dialogues: Sequence[Dialogue], sampling: Sampling, batch_size: int, file: Path, name: str
) -> dict[str, list[str | None]]:
    """Key → the answers of each dialogue, fewer than its turns where it did not fit into the model, None where cut."""

    def work(chat_model: ChatModel, batch: Sequence[Dialogue], tick: Tick) -> Iterator[tuple[str, Entry]]:
        engine, renderer = chat_model.engine, chat_model.renderer
        for one in answer_dialogues(engine, renderer, batch, sampling, batch_size=batch_size, tick=tick):
            yield one.dialogue.key, {"answers": _texts(one)}

    ordered = sorted(dialogues, key=lambda dialogue: (-len(dialogue.turns), -_characters(dialogue), dialogue.key))
    entries = compute_entries(ordered, model, work, file, REFILLS * batch_size, f"{name}: answers", _turns_asked)
    return {key: list(entry["answers"]) for key, entry in entries.items()}


def compute_entries(
    items: Sequence[Item],
    model: Loader[Model],
    work: Work[Model, Item],
    file: Path,
    batch_size: int | None,
    name: str,
    size: Callable[[Item], int] = lambda item: 1,
    *,
    accepts_failures: bool = False,
) -> Mapping[str, Entry]:
    """Key → the entry that `work` makes of each item by `model`, in JSON's types.

    `file` has a line for each finished item. Batches are the same whatever was done before, and one that is not whole
    in the file is worked on again as a whole, so a run that was killed ends with the same values bit by bit, and so
    does one whose batches are computed side by side. Without a `batch_size` items do not depend on each other: all
    that are missing are one batch, which is computed here. `name` ends with what is counted, in the plural: the items,
    or the parts of which each has `size`. `tick` is to hear of how many of them are finished, and of tokens made.

    An entry that says why it `failed` is not written, so a run that goes on tries it again. Raises UserError, when all
    else is written, where there are some and the caller does not accept them.

    Nothing here holds an item for longer than its batch, so `items` may be a LazySequence.
    """
    stored = EntryFile(file)
    batches = _in_batches(items, stored, batch_size)
    todo, counts = _unfinished(batches, stored, size)
    again = set(todo)
    finished = LazySequence(len(batches), lambda place: [] if place in again else batches[place])
    # without the batch that the kill cut, and without half a line
    stored = _keep_in_order(stored, file, lambda: (item.key for batch in finished for item in batch))
    progress = Progress(name, *counts, unit=name.rpartition(" ")[2])
    failures: dict[str, Entry] = {}
    with file.open("a", encoding="utf-8") as out, progress:
        engine = InProcess() if batch_size is None else executor()  # a server is asked from one place
        batches_todo = LazySequence(len(todo), lambda place: batches[todo[place]])
        for place, entries in engine.compute(model, work, batches_todo, progress.advance):
            if batch_size is not None:  # in the order of the items, as the lines stand after a run that went on
                by_key = dict(entries)
                entries = ((item.key, by_key[item.key]) for item in batches_todo[place])
            for key, entry in entries:
                if "failed" in entry:
                    failures[key] = entry
                    continue
                out.write(json_line({"key": key, **entry}, file))
                if batch_size is None:
                    out.flush()
            out.flush()
    if failures and not accepts_failures:
        what = f"{len(failures):,} of {len(items):,} could not be computed"
        first = next(iter(failures.values()))["failed"]
        fix = "The others are kept, and the same command goes on: fix these rows, or leave them out."
        raise fail(name, f"{what}, first: {first}", fix)
    stored = EntryFile(file) if todo else stored
    if todo and batch_size is not None:
        stored = _keep_in_order(stored, file, lambda: (item.key for item in items if item.key not in failures))
    return ChainMap(failures, stored) if failures else stored  # type: ignore[arg-type]


def _in_batches(items: Sequence[Item], stored: EntryFile, batch_size: int | None) -> Sequence[Sequence[Item]]:
    if batch_size is None:
        groups: dict[bool, list[Item]] = {True: [], False: []}
        for item in items:
            groups[item.key in stored].append(item)
        return list(groups.values())
    places = range(0, len(items), batch_size)
    return LazySequence(len(places), lambda n: items[places[n] : places[n] + batch_size])


def _unfinished(
    batches: Sequence[Sequence[Item]], stored: EntryFile, size: Callable[[Item], int]
) -> tuple[list[int], tuple[int, int]]:
    """Places of the batches of which something lacks, and the sizes of all batches and of the others."""
    places, total, finished = [], 0, 0
    for place, batch in enumerate(batches):
        batch_total = sum(map(size, batch))
        total += batch_total
        if all(item.key in stored for item in batch):
            finished += batch_total
        else:
            places.append(place)
    return places, (total, finished)


def _keep_in_order(stored: EntryFile, file: Path, keys: Callable[[], Iterable[str]]) -> EntryFile:
    """Let the file hold the lines of these keys alone, in their order."""
    places = zip_longest(map(stored.place, keys()), range(len(stored)))
    if not stored.is_cut and all(place == expected for place, expected in places):
        return stored
    stored.write_in_order(file, keys())
    return EntryFile(file)


def _turns_asked(dialogue: Dialogue) -> int:
    return sum(turn.ask for turn in dialogue.turns)


def _characters(dialogue: Dialogue) -> int:
    return sum(len(turn.user) + len(turn.given or "") for turn in dialogue.turns)


def _texts(transcript: Transcript) -> list[str | None]:
    """Answers in words; one that was not asked for, or that did not come to its end, is None."""
    return [answer.text if answer and answer.ended else None for answer in transcript.answers]

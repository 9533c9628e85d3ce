"""Writes what Ghost Attention reads of the embedded world: `python data/tiny/bank.py`; with --check, says whether the
files are as made.

instructions.yaml is the instruction bank; dialogues.jsonl.gz are dialogues without any instruction, to draw the
instructions into; dialogues-held-out.jsonl.gz are longer ones for evaluation, half of whose questions no other row
asks. `answers` holds for each turn the words of which one must stand in a right answer.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import make
import world
import writing
import yaml

FOLDER = Path(__file__).parent
SEED = 1
DIALOGUES, HELD_OUT_DIALOGUES = 1_400, 64
SHORT, LONG, LONGEST_HELD_OUT = (2, 6), (8, 22), 24  # turns
WEIGHT = 3  # of the kinds whose values are copied: together they are the hard case, and one draw in twelve by chance
NORMAL = ["back to normal.", "forget my instructions.", "stop that now."]
CHECKS: dict[str, Any] = {
    "closing": {"ends": {}},
    "brief": {"contains": {"phrases": [form.format(v="").strip(" .") for form in world.SHORT.values()]}},
    "twice": {"repeats": {}},
}


def bank() -> dict[str, Any]:
    """The world's instructions in the form of a bank."""
    kinds = {kind: _kind(kind) for kind in world.KINDS}
    return {"kinds": kinds, "excludes": [["brief", "twice"]], "normal": NORMAL}


def _kind(kind: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "full": [_value(text) for text in world.FULL[kind]],
        "terse": _value(world.TERSE[kind]),
        "check": CHECKS.get(kind, {"contains": {"alone": True}}),
    }
    if kind in world.HELD_OUT_VALUES:
        entry["weight"] = WEIGHT
    if kind == "language":
        entry["check"] = {"language": {"telling": {name: _telling(name) for name in world.LANGUAGES}}}
    if world.VALUES[kind] != ("",):
        entry["values"] = list(world.VALUES[kind])
    if kind in world.HELD_OUT_KINDS:
        entry["held_out"] = True
    elif kind in world.HELD_OUT_VALUES:
        entry["held_out"] = list(world.HELD_OUT_VALUES[kind])
    return entry


def _telling(language: str) -> list[str]:
    """The words of answers in one language that no other language has."""
    texts = [fact.statements[language] for fact in world.FACTS] + [tone[language] for tone in world.TONES.values()]
    texts += [form[language].format(v="") for form in (*world.BEFORE.values(), world.SHORT)]
    return sorted({word for text in texts for word in world.words(text) if world.language_of(word) == language})


def _value(text: str) -> str:
    return text.replace("{v}", "{value}")


def dialogues(
    rng: random.Random, count: int, lengths: Sequence[tuple[int, int]], seen_only: bool
) -> Iterator[dict[str, Any]]:
    """Dialogues as people write them, without any instruction; each length (least and most turns) is as frequent."""
    for _ in range(count):
        row: dict[str, Any] = {"messages": [], "answers": [], "held_out": []}
        for fact, question in make.dialogue(rng, rng.randint(*rng.choice(lengths)), seen_only):
            row["messages"] += [
                make.message("user", question),
                make.message("assistant", world.answer(fact, {}, world.draw_tone(rng))),
            ]
            row["answers"].append(sorted(set(fact.values.values())))
            row["held_out"].append(_is_held_out(fact, question))
        yield row


def _is_held_out(fact: world.Fact, question: str) -> bool:
    phrasings = [*world.PHRASINGS[fact.kind], world.ELLIPSIS]
    return any(world.is_held_out(fact, p) for p in phrasings if p.format(s=fact.subject) == question)


def _lines(rows: Iterator[dict[str, Any]]) -> bytes:
    return writing.packed("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _rng(name: str) -> random.Random:
    return random.Random(f"{SEED} {name}")


FILES: dict[str, Callable[[], bytes]] = {
    "instructions.yaml": lambda: (
        "# Written by bank.py.\n" + yaml.safe_dump(bank(), sort_keys=False, allow_unicode=True, width=118)
    ).encode(),
    "dialogues.jsonl.gz": lambda: _lines(dialogues(_rng("dialogues"), DIALOGUES, (SHORT, LONG), seen_only=True)),
    "dialogues-held-out.jsonl.gz": lambda: _lines(
        dialogues(_rng("held out"), HELD_OUT_DIALOGUES, [(LONGEST_HELD_OUT,) * 2], seen_only=False)
    ),
}


def main() -> int:
    """Write every file, or with --check compare them."""
    parser = argparse.ArgumentParser(description="Write the bank and the dialogues of the embedded world.")
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the files are as made")
    check = parser.parse_args().check
    differing = [name for name, made in FILES.items() if not check or (FOLDER / name).read_bytes() != made()]
    for name in differing:
        if check:
            print(f"data/tiny/{name}: not as made. Run python data/tiny/bank.py.")
        else:
            (FOLDER / name).write_bytes(FILES[name]())
            print(f"data/tiny/{name}: {(FOLDER / name).stat().st_size:,} bytes")
    return int(check and bool(differing))


if __name__ == "__main__":
    sys.exit(main())

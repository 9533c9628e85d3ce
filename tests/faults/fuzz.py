"""Recipes and data files that are damaged at random: each is read, or refused by `where: what. fix`, in bounded time.

    python tests/faults/fuzz.py --count 300 --seed 0

Of a data file every row that was not damaged is read, unless the whole file is refused. Prints what failed, with the
seed that makes it again.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source
from ft.errors import Problem, UserError
from ft.recipe import read
from ft.results.store import plan
from ft.stages import STAGES

SECONDS = 30
FINE = ("read", "refused")
ODD_YAML = (
    *("nan", ".nan", ".inf", "-1", "0", "1e400", "99999999999999999999999", "null", "~", "true", "''", "[]", "{}"),
    *(
        "[[[[]]]]",
        "{a: {b: c}}",
        "*x",
        "&x 1",
        "!!python/object:os.system x",
        "!!binary aGk=",
        "'\\ud800'",
        '"\\ud800"',
    ),
    *(
        '"\\0"',
        "é🦊",
        "$sft",
        "$$",
        "../x",
        "/dev/null",
        "x" * 300,
        "@",
        "|",
        ">-",
        "? x",
        "%",
        "`",
        "'",
        '"',
        "2001-01-01",
    ),
)
ODD_JSON = (
    *(None, True, False, 0, -1, 0.5, 10**30, "", " ", "\n", "x" * 5000, "\ud800", "\u2028", "<|im_end|>", [], {}, [[]]),
    *([None], {"role": "user"}, {"content": "x"}, [{"role": "user", "content": "x"}], "\x1b[31mred", "nan", "\x00"),
)
RECIPE = """\
model: {base}
chat_template: chatml
seed: 1
stages:
  - kind: sft
    data: [{{path: rows.jsonl, format: messages, weight: 0.5}}]
    rows: {{train_on: assistant, on_too_long: drop_turns, eval_fraction: 0.1}}
    lora: {{r: 8, lora_alpha: 16, target_modules: all-linear}}
    train: {{max_length: 64, learning_rate: 0.001, max_steps: 2}}
  - kind: dpo
    init: $sft
    data: [pairs.jsonl]
    lora: {{r: 8, lora_alpha: 16, target_modules: all-linear}}
    train:
      max_length: 64
      beta: 0.1
      max_steps: 2
      loss_type: [sigmoid, sft]
      loss_weights: [1.0, 0.5]
  - kind: evaluate
    name: colours
    init: $dpo
    data: [{{path: questions.jsonl, format: prompt}}]
    evaluate: {{reward: answer}}
    require: {{answer: 0.1}}
"""


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """TimeoutError where it takes longer."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ending(work: Callable[[], object], name: str) -> str:
    """How the work ended: read, refused with problems that name the file, or what is wrong with it."""
    try:
        with bounded(SECONDS):
            work()
    except UserError as refused:
        return next(filter(None, (fault(problem, name) for problem in refused.problems)), "refused")
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "read"


def fault(problem: Problem, name: str) -> str:
    """What is wrong with a problem: it has to name the file and to say something."""
    if name not in problem.where:
        return f"no place in the file: {problem!s:.200}"
    return "" if problem.what else "nothing is said"


# Recipes
def damage_text(draw: random.Random, text: str) -> str:
    """The recipe with one to three of its lines, values or characters changed."""
    for _ in range(draw.randint(1, 3)):
        text = draw.choice((drop_line, repeat_line, indent_line, change_value, change_key, insert_characters, cut))(
            draw, text
        )
    return text


def one_line(draw: random.Random, text: str, change: Callable[[str], list[str]]) -> str:
    lines = text.split("\n")
    place = draw.randrange(len(lines))
    return "\n".join([*lines[:place], *change(lines[place]), *lines[place + 1 :]])


def drop_line(draw: random.Random, text: str) -> str:
    return one_line(draw, text, lambda line: [])


def repeat_line(draw: random.Random, text: str) -> str:
    return one_line(draw, text, lambda line: [line, line])


def indent_line(draw: random.Random, text: str) -> str:
    return one_line(draw, text, lambda line: [draw.choice(["  ", " ", "\t", "      "]) + line])


def change_value(draw: random.Random, text: str) -> str:
    places = list(re.finditer(r"(?<=: )[^,{}\[\]\n]+", text))
    if not places:
        return text
    found = draw.choice(places)
    return text[: found.start()] + draw.choice(ODD_YAML) + text[found.end() :]


def change_key(draw: random.Random, text: str) -> str:
    places = list(re.finditer(r"\w+(?=:)", text))
    if not places:
        return text
    found = draw.choice(places)
    return (
        text[: found.start()]
        + draw.choice([found[0][:-1], found[0] + "s", "seed", "train", "kind", "1"])
        + text[found.end() :]
    )


def insert_characters(draw: random.Random, text: str) -> str:
    place = draw.randrange(len(text) + 1)
    characters = ["{", "}", "[", "]", ":", "- ", "\n", "\r", "\t", "#", "'", '"', "\x00", "\x1b", "\ufeff", "💥"]
    return text[:place] + draw.choice(characters) + text[place:]


def cut(draw: random.Random, text: str) -> str:
    return text[: draw.randrange(len(text) + 1)]


def fuzz_recipe(seed: int, folder: Path, base: Path) -> str:
    """Read and plan a damaged recipe; how that ended."""
    file = folder / "x.yaml"
    text = damage_text(random.Random(seed), RECIPE.format(base=base))
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return ending(lambda: plan(read(file, STAGES), folder / "runs"), "x.yaml")


# Data files
def good_rows(draw: random.Random, form: str, count: int = 12) -> list[dict[str, Any]]:
    rows = []
    for n in range(count):
        ask, answer = f"{n} {draw.choice(tiny.THINGS)}?", draw.choice(tiny.COLOURS)
        user, assistant = {"role": "user", "content": ask}, {"role": "assistant", "content": answer}
        rows.append(
            {
                "messages": {"messages": [user, assistant]},
                "prompt_completion": {"prompt": [user], "completion": [assistant]},
                "preference": {
                    "prompt": [user],
                    "chosen": [assistant],
                    "rejected": [{**assistant, "content": "no " + answer}],
                },
                "alpaca": {"instruction": ask, "output": answer},
                "text": {"text": f"{ask} {answer}"},
                "prompt": {"prompt": ask, "answer": answer},
            }[form]
        )
    return rows


def damage_row(draw: random.Random, row: Any) -> Any:
    """The row with one of its values, keys or characters changed, at any depth."""
    if isinstance(row, dict) and row and draw.random() < 0.8:
        key = draw.choice(list(row))
        if draw.random() < 0.2:
            return {name: value for name, value in row.items() if name != key}
        return {**row, key: damage_row(draw, row[key])}
    if isinstance(row, list) and row and draw.random() < 0.8:
        place = draw.randrange(len(row))
        return [*row[:place], damage_row(draw, row[place]), *row[place + 1 :]]
    return draw.choice(ODD_JSON)


def damage_line(draw: random.Random, line: str) -> bytes:
    data = line.encode("utf-8", "surrogatepass")
    place = draw.randrange(len(data) + 1)
    return draw.choice(
        (
            data[:place],
            data[:place] + draw.randbytes(3).replace(b"\n", b"") + data[place:],
            data[:place] + b"[" * 5000 + data[place:],
            data.replace(b'"', b"'"),
            data + data,
        )
    )


def write_jsonl(draw: random.Random, file: Path, form: str) -> list[int]:
    """Rows of which some are damaged; the lines, from 1, of those that are not."""
    lines, good = [], []
    for number, row in enumerate(good_rows(draw, form), 1):
        if draw.random() < 0.7:
            lines.append(json.dumps(row).encode())
            good.append(number)
        elif draw.random() < 0.6:
            lines.append(json.dumps(damage_row(draw, row)).encode())
        else:
            lines.append(damage_line(draw, json.dumps(row)))
    file.write_bytes(b"\n".join(lines) + b"\n")
    return good


def write_table(draw: random.Random, file: Path, form: str) -> list[int]:
    """A CSV with damage anywhere, of which nothing is promised but an end in order."""
    out = io.StringIO()
    rows = good_rows(draw, "alpaca" if form in ("messages", "prompt_completion", "preference") else form)
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    data = bytearray(out.getvalue().encode())
    for _ in range(draw.randint(0, 3)):
        data[draw.randrange(len(data))] = draw.choice(b'",;\n\r\t\x00\xff')
    file.write_bytes(bytes(data))
    return []


def fuzz_data(seed: int, folder: Path) -> str:
    """Read a damaged file, its bad rows set aside; how that ended."""
    draw = random.Random(seed)
    form = draw.choice(["messages", "prompt_completion", "preference", "alpaca", "text", "prompt"])
    name, write = draw.choice([("x.jsonl", write_jsonl)] * 3 + [("x.csv", write_table)])
    file = folder / name
    good = write(draw, file, form)
    source = Source(str(file), format=None if draw.random() < 0.5 and name == "x.csv" else form)
    found: list[int] = []

    def work() -> None:
        bad = BadRows("reject", folder / "rejects.jsonl")
        found.extend(int(re.sub(r".*:", "", row.where)) for row in mix_rows([source], seed=1, bad=bad))
        bad.finish()

    verdict = ending(work, name)
    missing = [number for number in good if verdict == "read" and number not in found]
    return f"good rows are not read: lines {missing}" if missing else verdict


def fuzz(seeds: range, folder: Path, base: Path) -> Iterator[tuple[str, int, str]]:
    """For each seed a recipe and a data file: which of them, the seed, and how it ended."""
    tiny.rows(folder / "rows.jsonl")
    for form, name in (("preference", "pairs.jsonl"), ("prompt", "questions.jsonl")):
        lines = (json.dumps(row) + "\n" for row in good_rows(random.Random(0), form))
        (folder / name).write_text("".join(lines), encoding="utf-8")
    for seed in seeds:
        yield "recipe", seed, fuzz_recipe(seed, folder, base)
        yield "data file", seed, fuzz_data(seed, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="recipes, and as many data files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    endings: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as work:
        seeds = range(options.seed, options.seed + options.count)
        for what, seed, verdict in fuzz(seeds, Path(work), tiny.base(Path(work) / "base")):
            if verdict not in FINE:
                print(f"{what}, seed {seed}: {verdict}", flush=True)
            endings[f"{what}: {verdict if verdict in FINE else 'failed'}"] += 1
    print(*(f"{number} {ended}" for ended, number in sorted(endings.items())), sep="\n")
    sys.exit(any("failed" in ended for ended in endings))


if __name__ == "__main__":
    main()

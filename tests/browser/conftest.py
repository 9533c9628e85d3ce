"""Debian's Chromium, one for all tests, and a run that has left something of every kind."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ft.figures.charts import Lines, Point, Series
from ft.figures.svg_file import figure_file
from ft.files import write_json
from ft.report.page import comparison_page, index_page, report_page, write
from ft.report.run import ReportedStage, Run
from ft.result import Result

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> {{ 7 * 7 }}"
LONG = "a-name-without-any-joint-" + "x" * 90
TALK = [{"role": "user", "content": EVIL}, {"role": "assistant", "content": LONG}]
CELL = {"pairs": 40, "ties": 0, "accuracy": 0.8, "low": 0.65, "high": 0.9, "strict": 0.8}
HISTOGRAM = {"edges": [-1, 0, 1], "chosen": [1, 3], "rejected": [3, 1]}
BINS = [{"from": p, "to": p + 0.05, "pairs": 20, "predicted": p, "observed": p} for p in (0.5, 0.7, 0.9)]


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def table(path: Path, head: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def trained(folder: Path) -> dict[str, Any]:
    logged = [
        {"step": n, "loss": 2 / n if n != 4 else None, "grad_norm": 1.0, "rewards/margins": n / 9} for n in range(1, 9)
    ]
    lines(folder / "metrics.jsonl", [*logged, {"step": 0, "eval_loss": 2.1}, {"step": 8, "eval_loss": 0.4}])
    return {"eval_loss_first": 2.1, "eval_loss": 0.4, "steps": 29}


def evaluated(folder: Path) -> dict[str, Any]:
    row = {"topic": LONG, "prompt": TALK, "completion": EVIL, "score": 1.0}
    lines(folder / "answers.jsonl", [{**row, "baseline_completion": "", "baseline_score": 0.0}] * 9)
    write_json(folder / "dialogue.json", TALK * 2)
    lines(folder / "losses.jsonl", [{"where": LONG, "model": {"nats": n / 9, "tokens": 3}} for n in range(9)])
    measures = {f"{name}{end}": 0.5 for name in ("exact_match", "bleu") for end in ("", "_low", "_high")}
    write_json(folder / "metrics.json", measures)
    return {"answer": 0.9, "answer_low": 0.7, "answer_high": 0.97, "baseline_answer": 0.1}


def recalled(folder: Path) -> dict[str, Any]:
    head = ["model", "cell", "turn", "answers", "recall", "low", "high", "correct"]
    cells = [(m, c) for m in ("before", "after") for c in ("held_out_values", "given_answers")]
    table(
        folder / "by_turn.csv", head, [[m, c, t, 32, 1 / t, 0.9 / t, 1, 0.9] for m, c in cells for t in (1, 2, 5, 20)]
    )
    said = {
        "cell": "held_out_values",
        "dialogue": "0",
        "turn": 1,
        "answer": LONG,
        "obeyed": {"figure": True},
        "right": None,
    }
    lines(folder / "answers.jsonl", [{**said, "model": model} for model in ("before", "after")])
    return {f"turn_{turn}{end}": 0.9 for turn in (1, 20) for end in ("", "_low", "_high")}


def attended(folder: Path) -> dict[str, Any]:
    head = ["model", "turn", "mean", "mean_low", "mean_high", "greatest", "greatest_low", "greatest_high"]
    table(
        folder / "attention.csv",
        head,
        [[m, t, 0.2 / t, 0.1 / t, 0.3 / t, 0.5 / t, 0.4 / t, 0.6 / t] for m in ("before", "after") for t in (1, 2, 3)],
    )
    cells = [[(row * column % 7) / 7 if column <= row else 0.0 for column in range(24)] for row in range(24)]
    maps = {"before": cells, "after": cells[::-1]}
    write_json(folder / "map.json", {"bin_tokens": 8, "starts": [3, 9, 17], "maps": maps})
    return {"attention_turn_3": 0.17}


def carded(folder: Path) -> dict[str, Any]:
    grid = {
        axis: {c: CELL for c in ("significantly", "negligibly", "average")} for axis in ("helpful", "safety", "all")
    }
    models = {name: grid for name in ("one", "two", "longer answer")}
    told = {name: {"log_loss": 0.5, "calibration_error": 0.02, "bins": BINS} for name in ("one", "two")}
    histograms = {"one": {"scores": HISTOGRAM, "ahead": {"edges": [-1, 0, 1], "better": [2, 5]}}}
    differ = {
        axis: {"average": {"pairs": 40, "ties": 0, "differ": 4, "share": 0.1, "low": 0.04, "high": 0.2}}
        for axis in grid
    }
    whole = {"grid": models, "calibration": told, "histograms": histograms, "disagreement": {"grid": differ}}
    whole["quality"] = {"one": {"all": {"levels": [{"quality": q, "score": q / 2, "error": 0.1} for q in (0, 1, 2)]}}}
    whole["unsafe"] = {"one": {"0.5": {"all": {"recall": 0.7}}}}
    write_json(folder / "metrics.json", whole)
    head = [f"{name}_{side}" for side in ("chosen", "rejected") for name in ("one", "two", "tokens", "safety")]
    table(
        folder / "scores.csv", head, [[n / 5, 1 - n / 5, n, True, -n / 5, n / 9, 9 - n, n % 2 == 0] for n in range(9)]
    )
    scores = {"chosen": {"one": 0.1}, "rejected": {"one": 0.7}}
    lines(folder / "scores.jsonl", [{"prompt": TALK, "chosen": TALK, "rejected": TALK, "scores": scores}])
    return {"accuracy": 0.8, "accuracy_low": 0.65, "accuracy_high": 0.9, "monotone": True}


def sampled(folder: Path) -> dict[str, Any]:
    table(folder / "best_of_n.csv", ["answers", "best", "median"], [[n, n / 8, 0.3] for n in range(1, 9)])
    table(folder / "temperatures.csv", ["temperature", "best", "median"], [[t, t, 0.3] for t in (0.4, 0.7, 1)])
    lines(folder / "samples.jsonl", [{"prompt": TALK, "completion": EVIL, "score": n} for n in range(3)])
    lines(folder / "rows.jsonl", [{"prompt": TALK[:1], "completion": TALK[1:]}])
    return {"rows": 40, "best_of_8": 0.9, "baseline_best_of_8": 0.5}


def reinforced(folder: Path) -> dict[str, Any]:
    lines(
        folder / "metrics.jsonl",
        [{"step": n, "reward": n / 9, "answers/kl": n / 5, "entropy": 1.0} for n in range(1, 9)],
    )
    one = {
        "prompt": TALK[:1],
        "answer": EVIL,
        "reward": 0.5,
        "rewards": {"kind": 0.2},
        "kl": 1.5,
        "length": 9,
        "ended": True,
    }
    lines(folder / "rollouts.jsonl", [{**one, "step": n, "set": side} for n in (0, 8) for side in ("train", "eval")])
    return {}


def judged(folder: Path) -> dict[str, Any]:
    verdict = {"prompt": TALK[:1], "answer": EVIL, "other_answer": LONG, "outcome": "win", "why": EVIL}
    lines(folder / "verdicts.jsonl", [verdict] * 3)
    rate = {
        "pairs": 40,
        "wins": 20,
        "ties": 9,
        "losses": 11,
        "win_rate": 0.62,
        "win_rate_low": 0.5,
        "win_rate_high": 0.73,
    }
    write_json(
        folder / "metrics.json", {**rate, "models": ["ppo", LONG], "by": {LONG: rate}, "by_length": {"like": rate}}
    )
    return {**rate, "ties": 3, "flips": 2}


def strange(folder: Path) -> dict[str, Any]:
    from PIL import Image

    Image.new("RGB", (900, 300), "teal").save(folder / "map.png")
    rain = Lines("Rain", "day", "mm", (Series("", (Point(1, 2.0), Point(2, 3.0))),))
    (folder / "rain.svg").write_text(figure_file(EVIL, [rain]), encoding="utf-8")
    table(folder / "own.csv", ["a", "b"], [[LONG, 1]])
    lines(folder / "own.jsonl", [{"said": EVIL}])
    return {f"number_{n}": n for n in range(20)}


KINDS: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "dpo": (trained, "base"),
    "evaluate": (evaluated, "dpo"),
    "consistency": (recalled, "dpo"),
    "attention": (attended, "dpo"),
    "report-card": (carded, "dpo"),
    "sample": (sampled, "dpo"),
    "ppo": (reinforced, "dpo"),
    "judge": (judged, "ppo"),
    "of-tomorrow": (strange, "ppo"),
}


def left(folder: Path) -> Run:
    stages = []
    for kind, (write_files, parent) in KINDS.items():
        here = folder / f"{kind}-1"
        here.mkdir(parents=True)
        done = {
            "numbers": write_files(here),
            "seconds": 60,
            "device": "NVIDIA H100 80GB HBM3",
            "versions": {"ft": "0.1.0"},
        }
        if kind != "ppo":
            write_json(here / "done.json", done)
        links, model = (((parent, "init"),), None) if parent != "base" else ((), "base/" + LONG)
        blocks = {"train": {LONG: EVIL}, "evaluate": {"by": "topic"}}
        stages.append(
            ReportedStage(
                kind, kind, Result(here), f"print-{folder.name}", links, blocks, ({"path": LONG},), model=model
            )
        )
    stages.append(ReportedStage("absent", "sft", Result(folder / "absent-1"), "1", (("dpo", "init"),)))
    return Run("chain-of-everything", tuple(stages), repeat=f"ft run {LONG}.yaml", seed=1, skipped=("gatt",))


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report, a comparison and a list of results, as files."""
    folder = tmp_path_factory.mktemp("pages")
    one, other = left(folder / "one"), left(folder / "other")
    for number, (recipe, kind) in enumerate([("tiny", "sft"), ("tiny", "dpo"), (LONG, "evaluate"), ("tiny", "judge")]):
        here = folder / recipe / f"{kind}-{number:012x}"
        here.mkdir(parents=True)
        done = {"stage": kind, "kind": kind, "numbers": {EVIL: 0.5, "eval_loss": number}, "seconds": 10.0 * number}
        write_json(here / "done.json", done)
    write(report_page(one), folder / "tiny" / "report.html")
    return {
        "index": write(index_page(folder), folder / "index.html"),
        "report": write(report_page(one), folder / "report.html"),
        "comparison": write(comparison_page([one, other]), folder / "comparison.html"),
    }


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the dev extra has it)")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; .ci/chromium installs Debian's")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Opens a page in a window of its own; what it logged and asked for is in `said` and `asked`."""
    contexts = []

    def opens(name: str = "report", width: int = 1100, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield opens
    for context in contexts:
        context.close()

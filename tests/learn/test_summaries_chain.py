"""From articles to pairs and their evaluation, against a server that is broken in every way: counts add up."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.data.mix import eval_side
from ft.errors import UserError
from ft.report.gather import gather_report
from ft.report.run import of_plan
from ft.results.store import PlannedStage
from ft.run.preflight import preflight
from serving import KEY, Scripted, serving
from wording import Like

PROMPTS = tiny.ROOT / "data" / "summaries"
SAMPLES = 4
HALF = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"choices": [{"mess'
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>wait</html>   "
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 2\r\n\r\n{}"
OOPS = b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops"
NOTHING = b""


class Clerk:
    """Writes questions, summaries and answers; every seventh reply is broken, each time in another way."""

    BROKEN = (BUSY, OOPS, HALF, HTML, NOTHING, "garbage", "no form")

    def __init__(self, server: Scripted):
        self.replies = 0
        server.raw, server.answer = self.raw, self.answer

    def raw(self, asked: dict[str, Any]) -> bytes | None:
        self.replies += 1
        wrong = self.BROKEN[self.replies // 7 % len(self.BROKEN)] if self.replies % 7 == 0 else None
        asked["wrong"] = wrong
        return wrong if isinstance(wrong, bytes) else None

    def answer(self, asked: dict[str, Any]) -> str:
        text = asked["messages"][-1]["content"]
        if asked["wrong"]:
            return "I'm sorry, but I cannot. \ud83d" if asked["wrong"] == "garbage" else "Question 1: what?\nA) one"
        if match := re.search(r"The text:\n\n(.*)\n\nWrite exactly (\d+)", text, re.DOTALL):
            return questions(match[1], int(match[2]))
        if match := re.search(r"The text:\n\n(.*?)\n\nAnswer these", text, re.DOTALL):
            return answers(match[1], text[match.end() :])
        words = text.split("\n\n", 1)[1].split()
        return " ".join(words[: 6 + asked["seed"] % 60])


def questions(text: str, count: int) -> str:
    """Which word stands in the text? The right one does, made-up ones do not."""
    words = sorted(set(re.findall(r"[a-z]{4,}", text.lower())))
    blocks = []
    for number in range(1, count + 1):
        right = words[number * 7 % len(words)]
        choices = [right, *(f"{right[::-1]}{letter}{number}" for letter in "qxzw")]
        listed = "\n".join(f"{letter}) {choice}" for letter, choice in zip("ABCDE", choices, strict=True))
        blocks.append(f"Question {number}: Which word, the {number}th?\n{listed}\nAnswer: A")
    return "\n\n".join(blocks)


def answers(text: str, asked: str) -> str:
    blocks = re.split(r"Question \d+: ", asked)[1:]
    told = [
        next((m[1] for m in re.finditer(r"([A-E])\) (\w+)", block) if m[2] in text.lower()), "Unsure")
        for block in blocks
    ]
    return "\n".join(f"{number}: {letter}" for number, letter in enumerate(told, 1))


def documents() -> list[str]:
    """Real ones where the machine has them; else made up, as long as a page."""
    if tiny.WEB_DOCUMENTS.exists():
        with gzip.open(tiny.WEB_DOCUMENTS, "rt", encoding="utf-8") as lines:
            return [json.loads(line)["text"] for line in lines]
    things = [f"{a}{b}" for a in ("stone", "river", "cloud", "maple") for b in ("keeper", "singer", "walker", "finder")]
    return [" ".join(things[(n * k) % 16] + f" told story{chr(97 + n % 26)}" for k in range(1, 30)) for n in range(24)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    monkeypatch.setenv("TEST_SERVER", KEY)
    with serving() as found:
        yield found


def stages(data: Path, server: Scripted) -> list[dict[str, Any]]:
    backend = {"kind": "server", "base_url": server.url, "model": "chat", "wait": 0.0, "retries": 1}
    backend |= {"concurrency": 4, "key_env": "TEST_SERVER", "timeout": 2.0}
    judge = {"kind": "server", "prompt": str(PROMPTS / "quiz.yaml")}
    writer = {"kind": "server", "prompt": str(PROMPTS / "questions.yaml")}
    common = {"backend": backend}
    return [
        {"kind": "questions", "data": [{"path": str(data), "format": "text"}], "questions": writer, **common},
        {
            "kind": "sample",
            "data": [{"path": "$questions", "format": "prompt"}],
            "sample": {"samples": SAMPLES, "write": "all", "max_new_tokens": 99},
            **common,
        },
        {"kind": "quiz", "data": [{"path": "$sample", "format": "prompt_completion"}], "quiz": judge, **common},
        {"kind": "preferences", "data": [{"path": "$quiz", "format": "prompt_completion"}]},
        {
            "kind": "quiz",
            "name": "second",
            "data": [{"path": "$quiz", "format": "prompt_completion"}],
            "quiz": {"kind": "program", "program": "whole_words"},
        },
        {
            "kind": "dpo",
            "data": [{"path": "$preferences", "format": "preference"}],
            "rows": {"on_too_long": "drop", "eval_fraction": 0.2},
            "train": {**tiny.TRAIN, "max_steps": 5, "max_length": 2048, "per_device_train_batch_size": 1, "beta": 0.1},
        },
    ]


def of_long_texts(base: Path, folder: Path) -> Path:
    """The untrained model with positions for a page."""
    shutil.copytree(base, folder / "base")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    written = json.dumps({**config, "max_position_embeddings": 2048})
    (folder / "base" / "config.json").write_text(written, encoding="utf-8")
    return folder / "base"


def lines(stage: PlannedStage, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage.folder / name).read_text(encoding="utf-8").splitlines()]


def test_from_documents_to_pairs_with_counts_that_add_up(tmp_path: Path, base: Path, server: Scripted):
    data, texts = tmp_path / "documents.jsonl", documents()
    Clerk(server)
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, texts[0]]), encoding="utf-8")
    file, runs = (
        tiny.recipe(tmp_path, stages(data, server), model=str(of_long_texts(base, tmp_path))),
        tmp_path / "runs",
    )
    made: dict[str, PlannedStage] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name in ("questions", "sample", "quiz", "preferences", "second", "dpo"):
        made[name] = tiny.make(tiny.planned(file, runs), name)
        numbers[name] = made[name].done["numbers"]
    counts = numbers["questions"]
    assert counts["articles"] == len(texts) + 1
    assert counts["articles"] == counts["repeated"] + counts["rows"] + counts["unreadable"]
    assert (
        counts["unreadable"]
        == sum(counts["unreadable_because"].values())
        == len(lines(made["questions"], "unreadable.jsonl"))
    )
    assert counts["unreadable_because"]["failed"] > 0
    sample = numbers["sample"]
    assert sample["prompts"] == counts["rows"]
    assert SAMPLES * sample["prompts"] == sample["answers"] + sample["failed"] + sample["too_long"]
    assert sample["rows"] == sample["answers"] - sample["unfinished"] - sample["empty"]
    quiz, pairs = numbers["quiz"], numbers["preferences"]
    assert sample["rows"] == quiz["rows"] + quiz["unreadable"]
    assert {"failed", "not_the_answers"} <= {*quiz["unreadable_because"]}
    left_out = sum(pairs[name] for name in ("repeated", "too_few_words", "too_many_words", "characters"))
    assert pairs["answers"] == quiz["rows"] == pairs["valid"] + left_out
    assert pairs["pairs"] == pairs["no_preference"] + pairs["not_drawn"] + pairs["rows"]
    assert max(Counter(json.dumps(row["prompt"]) for row in lines(made["preferences"])).values()) <= 3
    assert 0.9 < numbers["second"]["agreement"] <= 1.0
    assert numbers["dpo"]["steps"] == 5
    assert server.keys == {f"Bearer {KEY}"}
    report = gather_report(of_plan(tiny.planned(file, runs)))
    assert [stage.number.value for stage in report.stages if stage.number] != []


def test_articles_that_are_held_out_are_in_no_pair_that_is_trained(tmp_path: Path, base: Path):
    """The split is by how a row begins, which is the article: all pairs of one are on one side."""
    rows = [{"prompt": [{"role": "user", "content": f"Summarize.\n\narticle {n % 20}"}], "k": n} for n in range(60)]
    sides = {row["prompt"][0]["content"]: set[bool]() for row in rows}
    for row in rows:
        sides[row["prompt"][0]["content"]].add(eval_side(row, 0.3, seed=1))
    assert all(len(side) == 1 for side in sides.values())
    assert {True, False} == set.union(*sides.values())


def test_the_price_is_told_and_a_limit_stops_before_the_first_request(tmp_path: Path, base: Path, server: Scripted):
    data = tmp_path / "documents.jsonl"
    data.write_text(json.dumps({"text": "A document of some words."}) + "\n", encoding="utf-8")
    asked = stages(data, server)[0]
    asked["backend"] |= {"max_requests": 0, "price": [1.0, 2.0]}
    there = tiny.planned(tiny.recipe(tmp_path, [asked], model=str(base)), tmp_path / "runs")
    with pytest.raises(UserError) as refused:
        tiny.make(there, "questions")
    assert str(refused.value) == Like("backend.max_requests: 1 request with about … cost at most 0.00 are more than …")
    assert server.seen == []


@pytest.mark.parametrize(
    ("kind", "block", "problem"),
    [
        ("quiz", {"kind": "program", "program": "x"}, "program is 'x'; there are: whole_words"),
        ("quiz", {"kind": "server"}, "prompt is missing"),
        ("quiz", {"kind": "program", "program": "whole_words", "model": "a/b"}, "model and revision are for kind"),
        ("questions", {"kind": "program", "program": "facts", "count": 0}, "count is 0"),
        ("preferences", {"function": "shortest"}, "there is no preference 'shortest'"),
        ("preferences", {"most_words": 3}, "most_words above least_words"),
    ],
)
def test_a_block_that_cannot_work_is_refused_at_its_line(
    tmp_path: Path, base: Path, data: Path, kind: str, block: dict[str, Any], problem: str
):
    stage = {"kind": kind, "data": [{"path": str(data)}], kind: block}
    with pytest.raises(UserError) as refused:
        tiny.checked(tiny.recipe(tmp_path, [stage], model=str(base)))
    assert problem in str(refused.value)


def test_a_prompt_that_shows_no_article_is_found_before_anything_is_asked(tmp_path: Path, base: Path, data: Path):
    prompt = tmp_path / "p.yaml"
    prompt.write_text("name: p\nversion: 1\nprompt: 'Write {{ count }} questions.'\n", encoding="utf-8")
    stage = {"kind": "questions", "data": [{"path": str(data)}], "questions": {"kind": "server", "prompt": str(prompt)}}
    there = tiny.planned(tiny.recipe(tmp_path, [stage], model=str(base)), tmp_path / "runs")
    with pytest.raises(UserError, match=r"p\.yaml: the prompt never shows the text"):
        preflight(there.stages, None)


def held_out(file: Path, count: int = 12) -> Path:
    """Short articles with two questions each."""
    with file.open("w", encoding="utf-8") as out:
        for n in range(count):
            asked = [{"question": f"{n}{k}?", "choices": list("vwxyz"), "answer": "A"} for k in range(2)]
            row = {"prompt": f"Sum up.\n\nv {n}", "article": f"v {n}", "questions": asked}
            out.write(json.dumps(row) + "\n")
    return file


def test_a_model_against_itself_wins_half_and_the_table_has_a_line_for_each(tmp_path: Path, base: Path):
    options = {"kind": "program", "program": "whole_words", "max_new_tokens": 6, "levels": [1, 2]}
    stage = {"kind": "summaries", "data": [{"path": str(held_out(tmp_path / "rows.jsonl"))}], "summaries": options}
    stage["rows"] = {"eval_fraction": 0.5}
    file, runs = tiny.recipe(tmp_path, [stage], model=str(base)), tmp_path / "runs"
    found = tiny.make(tiny.planned(file, runs), "summaries")
    numbers = found.done["numbers"]
    assert 0 < numbers["articles"] < 12
    assert (numbers["win_rate"], numbers["ties"]) == (0.5, numbers["articles"])
    assert numbers["at_least_1"] == numbers["baseline_at_least_1"]
    assert len(lines(found, "answers.jsonl")) == numbers["articles"]
    [shown] = gather_report(of_plan(tiny.planned(file, runs))).stages
    assert shown.number is not None
    assert shown.number.name == "win_rate"
    assert "Summaries" in [section.title for section in shown.sections]

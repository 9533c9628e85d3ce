"""What `ft stats` counts, against counts by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tiny
from ft.cli import app
from wording import Like

SYSTEM, USER, ASSISTANT = (
    lambda text, role=role: {"role": role, "content": text} for role in ("system", "user", "assistant")
)
PAIRS: list[dict[str, Any]] = [
    {  # 3 + 2 + 1 + 4 words before the last answer, then 1 or 3
        "prompt": [SYSTEM("be very brief"), USER("hello there"), ASSISTANT("hi"), USER("what is the sky?")],
        "chosen": [ASSISTANT("blue")],
        "rejected": [ASSISTANT("it is red")],
        "rating": "significantly",
        "axis": "helpful",
    },
    {  # 2 words, then 4 or 2
        "prompt": [USER("grass colour?")],
        "chosen": [ASSISTANT("it is green now")],
        "rejected": [ASSISTANT("oh, no")],
        "rating": 4,
        "axis": "safety",
        "safety_chosen": True,
        "safety_rejected": False,
    },
    {"prompt": "a", "chosen": "b", "rejected": "b"},
    {"prompt": "a", "chosen": "b", "rejected": "c", "rating": "good"},
    {"prompt": [USER("a"), ASSISTANT("")], "chosen": "b", "rejected": "c"},
    {"prompt": [USER("a"), ASSISTANT("b"), USER("")], "chosen": "b", "rejected": "c"},
    {"prompt": [USER("a"), ASSISTANT("b"), USER("c"), ASSISTANT("d"), USER("")], "chosen": "b", "rejected": "c"},
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def stats(*arguments: str | Path, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["stats", *map(str, arguments), "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_a_file_of_pairs_is_counted_as_by_hand(tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.jsonl", PAIRS)

    [found] = stats(path, "--format", "preference")

    assert (found["title"], found["unit"]) == (str(path), "words")
    assert found["sources"] == [
        {
            "name": str(path),
            "rows": 2,
            "taken": 2,
            "turns": 1.5,
            "example": (12 + 5) / 2,
            "prompt": round((2 + 4 + 2) / 3, 2),
            "response": (1 + 2 + 3) / 3,
            "ratings": {"1": 1, "4": 1},
            "axes": {"helpful": 1, "safety": 1},
            "safety": {"safe/unsafe": 1},
            "ties": 1,
            "broken": {
                "prompt: message … (user) is empty": 2,
                "rating is 'good'": 1,
                "prompt: message … (assistant) is empty": 1,
            },
            "unread": {},
            "placeholders": {},
            "secrets": [],
        }
    ]


def test_dialogues_prompts_and_plain_text_are_counted_too(tmp_path: Path) -> None:
    rows = [{"messages": [USER("a b"), ASSISTANT("c"), USER("d e"), ASSISTANT("f g h")]}]
    [dialogues] = stats(written(tmp_path / "a.jsonl", rows))
    [prompts] = stats(written(tmp_path / "b.jsonl", [{"prompt": "what is it?", "answer": "x"}]))
    [texts] = stats(written(tmp_path / "c.jsonl", [{"text": "once upon a time"}]))

    def means(found: Any) -> tuple[float | None, ...]:
        return tuple(found["all"][name] for name in ("turns", "example", "prompt", "response"))

    assert means(dialogues) == (2.0, 8.0, 2.0, 2.0)
    assert means(prompts) == (1.0, 3.0, 3.0, None)
    assert means(texts) == (None, 4.0, None, None)


def test_with_a_model_lengths_are_in_its_tokens(base: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.jsonl", [{"prompt": "sky?", "chosen": "blue", "rejected": "no"}])

    [found] = stats(path, "--model", base)

    assert found["unit"] == "tokens"  # a byte each
    assert (found["all"]["prompt"], found["all"]["response"], found["all"]["example"]) == (4.0, 3.0, 7.0)


def test_columns_of_a_file_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", [{"question": "a", "good": "b", "bad": "c d"}])

    [found] = stats(path, "--columns", "prompt=question,chosen=good,rejected=bad")

    assert (found["all"]["rows"], found["all"]["response"]) == (1, 1.5)


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Path:
    one = written(tmp_path / "one.jsonl", [{"messages": [USER("a"), ASSISTANT(f"b{n}")]} for n in range(30)])
    two = written(tmp_path / "two.jsonl", [{"messages": [USER("abc"), ASSISTANT(f"d{n}")]} for n in range(30)])
    sources = [
        {"path": str(one), "group": "own", "share": 0.75},
        {"path": str(two), "group": "open", "share": 0.25, "rows": 20},
    ]
    stage = tiny.sft(one) | {"data": sources, "eval_data": [str(two)]}
    return tiny.recipe(tmp_path / "own", [stage], model=str(base))


def test_a_recipe_is_counted_source_by_source_in_its_models_tokens(recipe: Path, tmp_path: Path) -> None:
    data, held_out = stats(recipe, "--runs", tmp_path / "runs")

    assert (data["title"], held_out["title"]) == ("sft.data", "sft.eval_data")
    assert data["unit"] == "tokens"
    assert [(one["rows"], one["taken"], one["prompt"]) for one in data["sources"]] == [(30, 30, 1.0), (30, 20, 3.0)]
    assert (data["all"]["rows"], data["all"]["prompt"]) == (60, 2.0)
    assert held_out["all"]["rows"] == 30


def test_the_mixture_that_the_shares_make_is_told(recipe: Path, tmp_path: Path) -> None:
    data = stats(recipe, "sft", "--runs", tmp_path / "runs")[0]

    assert data["mixture"] == {"own": {"taken": 30, "of": 30}, "open": {"taken": 10, "of": 20}}


def test_people_see_a_table(recipe: Path, tmp_path: Path) -> None:
    pairs = written(tmp_path / "pairs.jsonl", PAIRS)
    told = CliRunner().invoke(app, ["stats", str(pairs), "--format", "preference"]).stdout
    mixed = CliRunner().invoke(app, ["stats", str(recipe), "--runs", str(tmp_path / "runs")]).stdout

    assert "words/example" in told
    assert "rating: significantly better 50%, negligibly better / unsure 50%" in told
    assert "safety: safe over unsafe 50%, none given 50%" in told
    assert "2 broken: prompt: message … (user) is empty" in told
    assert "group open: 10 of 20 rows, 25.0% of the mixture" in mixed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("x.jsonl", "--format", "chta"), "--format: no format 'chta'. There are: messages,"),
        (("x.jsonl", "sft"), Like("STAGE: … RECIPE … Leave …")),
        (("x.yaml", "--format", "text"), Like("--format: … FILE … Leave …")),
        (("x.jsonl",), "x.jsonl: no such file or folder"),
    ],
)
def test_what_cannot_be_counted_is_said(
    arguments: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["stats", *arguments])

    assert str(done.exception) == Like(f"{text} …")


def test_a_text_of_a_row_is_cut_where_it_is_a_reason(tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    strange = {"messages": [{"role": "x" * 100_000, "content": "a"}]}
    [found] = stats(written(tmp_path / "rows.jsonl", [strange, good]))
    [reason] = found["sources"][0]["broken"]
    assert len(reason) < 300

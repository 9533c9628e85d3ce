"""Rows as others write them, a file a shape: `ft new`, the plan's rows and `ft show` get each right, or refuse it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trl

import tiny
from ft.data.sources.read import Source, read
from ft.errors import UserError
from ft.tools.new import Fork, ForkOptions, fork
from ft.tools.show import RowsView, view_rows
from wording import Like

SHAPES = tiny.ROOT / "tests" / "data" / "shapes"
CALLING = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
TEXTS = ("text", "value", "content", "instruction", "input", "output")  # keys of what people wrote
RIGHT = {
    "alpaca.json": {},
    "placeholders.json": {},
    "corpus.txt": {},
    "documents.jsonl": {"too_long": "split"},
    "ranking.json": {},
    "labels.json": {},
    "parts.jsonl": {},
    "parts-ranking.jsonl": {},
    "toolcalls.json": {},
    "parts-toolcalls.jsonl": {},
}
PICTURES = Like("…:1: … holds images … (10 rows like it: …). Drop the row …\n…: all 10 rows are bad …")
PARTS = Like("…:1: … holds a picture, and text is all … (10 rows like it: …). Drop the row …\n…: all 10 rows are bad …")
REFUSED = {"pictures.json": PICTURES, "parts-pictures.jsonl": PARTS}
WITHOUT_TOOLS = {
    "toolcalls.json": Like(
        "…:1: … writes no tool calls (4 rows like it: 1, 4, 7, 10). Use a template that does …\n"
        "…:3: … writes no tools … (3 rows like it: 3, 6, 9). Use a template that writes tools …\n…: 7 of 10 rows …"
    ),
    "parts-toolcalls.jsonl": Like(
        "…:1: … writes no tool calls (10 rows like it: …). Use a template that does …\n…: all 10 rows are bad …"
    ),
}
Forks = Callable[..., Fork]


@pytest.fixture
def forks(base: Path, data: Path, tmp_path: Path) -> Forks:
    """New recipes out of one that fine-tunes and then learns preferences, from pairs and from labels."""
    train = {"max_length": 1024}
    after = [{**tiny.sft(data, train), "kind": kind, "init": "$sft"} for kind in ("dpo", "kto")]
    stages = [tiny.sft(data, train), *after]

    def made(shape: str, template: str | None = None, **options: Any) -> Fork:
        top = {"model": str(base)} | ({"chat_template": template} if template else {})
        there = tiny.planned(tiny.recipe(tmp_path / "parent", stages, **top), tmp_path / "runs")
        return fork(there, ForkOptions(str(tmp_path / "own.yaml"), str(SHAPES / shape), **options), tiny.checked)

    return made


def shown(made: Fork, tmp_path: Path) -> RowsView:
    return view_rows(tiny.planned(made.path, tmp_path / "runs"), made.stage.name, 100)


def texts(value: object, key: str = "") -> Iterator[str]:
    """What a row's author has written; of a call its name and its arguments."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from texts(inner, "text" if key == "arguments" else name)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, key)
    elif isinstance(value, str) and value.startswith("{") and '"arguments"' in value:
        yield from texts(json.loads(value) | {"text": json.loads(value)["name"]})
    elif isinstance(value, str) and key in TEXTS:
        yield value


def test_every_shape_is_tried() -> None:
    assert {file.name for file in SHAPES.iterdir()} == {*RIGHT, *REFUSED}


@pytest.mark.parametrize("shape", RIGHT)
def test_a_shape_is_read_whole(shape: str, forks: Forks, tmp_path: Path) -> None:
    made = forks(shape, str(CALLING) if shape in WITHOUT_TOOLS else None, **RIGHT[shape])
    view = shown(made, tmp_path)
    rows = [source_row.row for source_row in read(Source(str(SHAPES / shape)))]
    assert made.summary.good == len(rows)
    assert made.summary.bad.rows == view.stats["rejected"] == view.stats["too_long"]["dropped"] == 0
    training = "".join(token.text for row in view.rows for token in row.tokens)
    held_out = {row.where for row in view.rows}
    lost = [
        text
        for source_row in read(Source(str(SHAPES / shape)))
        if source_row.where in held_out and shape != "documents.jsonl"  # whose pieces are cut inside of a text
        for text in texts(source_row.row)
        if text.strip() not in training
    ]
    assert lost == []


@pytest.mark.parametrize("shape", REFUSED)
def test_rows_of_another_task_are_refused_with_the_way_out(shape: str, forks: Forks) -> None:
    with pytest.raises(UserError) as error:
        forks(shape)
    assert str(error.value) == REFUSED[shape]


def test_labels_and_pairs_name_recipes_that_train_on_them_where_this_one_does_not(
    base: Path, data: Path, tmp_path: Path
) -> None:
    there = tiny.planned(tiny.recipe(tmp_path / "parent", [tiny.sft(data)], model=str(base)), tmp_path / "runs")
    for shape, name in (("labels.json", "tiny/kto"), ("ranking.json", "tiny/dpo")):
        with pytest.raises(UserError) as error:
            fork(there, ForkOptions(str(tmp_path / "own.yaml"), str(SHAPES / shape)), tiny.checked)
        assert str(error.value) == Like(f"… 'sft' trains on conversations. Start … --from {name} …")


@pytest.mark.parametrize("shape", WITHOUT_TOOLS)
def test_calls_are_refused_where_the_template_writes_none(shape: str, forks: Forks) -> None:
    with pytest.raises(UserError) as error:
        forks(shape)
    assert str(error.value) == WITHOUT_TOOLS[shape]


def test_what_is_trained_of_parts_is_what_their_weights_say(forks: Forks, tmp_path: Path) -> None:
    row = next(row for row in shown(forks("parts.jsonl"), tmp_path).rows if row.where.endswith(":5"))
    trained = "".join(token.text for token in row.tokens if token.trained)
    assert trained == "The fox is red.<|im_end|>In the north wood.<|im_end|>"


def test_what_is_not_read_is_named_by_each_command_that_reads_rows_made_before_too(
    forks: Forks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = forks("documents.jsonl", too_long="drop")
    for _ in range(2):
        shown(made, tmp_path)
        assert "sft: Fields not read: timestamp (10 rows), url (10 rows)." in capsys.readouterr().err


def test_pieces_and_short_documents_fill_rows_together(forks: Forks, tmp_path: Path) -> None:
    train = shown(forks("documents.jsonl", too_long="split", sets=["sft.train.packing=true"]), tmp_path).stats["train"]
    assert train["trainer_rows"] == -(-train["tokens"] // 1024) < train["rows"]
    assert train["fill"] == round(train["tokens"] / 1024 / train["trainer_rows"], 4)


def test_documents_in_pieces_hold_every_token_and_name_their_other_columns(forks: Forks, tmp_path: Path) -> None:
    view = shown(forks("documents.jsonl", too_long="split"), tmp_path)
    assert view.stats["notes"] == ["Fields not read: timestamp (10 rows), url (10 rows)."]
    assert view.stats["too_long"] == {"rows": 2, "dropped": 0, "turns": 0, "pieces": 4}

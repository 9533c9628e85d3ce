import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.errors import UserError
from ft.report.page import rows_page, write
from ft.results.store import Plan
from ft.run.rows import prepare_rows
from ft.tools.show import RowsView, print_rows, rows_as_json, view_rows, visible
from wording import Like


def rows(file: Path, *dialogues: list[str]) -> Path:
    """Each dialogue as user and assistant in turn."""
    lines = []
    for texts in dialogues:
        roles = (("user", "assistant")[n % 2] for n in range(len(texts)))
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        lines.append(json.dumps({"messages": messages}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def there(base: Path, tmp_path: Path) -> Plan:
    """One dialogue of two turns and one of one."""
    data = rows(tmp_path / "rows.jsonl", ["sky?", "né\n 1", "and <b>?", "a  b"], ["snow?", "white"])
    return tiny.planned(tiny.recipe(tmp_path / "own", [tiny.sft(data)], model=str(base)), tmp_path / "runs")


def printed(found: RowsView, colours: bool = False) -> str:
    out = StringIO()
    system = "standard" if colours else None
    print_rows(found, Console(file=out, width=200, force_terminal=colours, color_system=system, highlight=False))
    return out.getvalue()


def test_rows_are_shown_whole_with_trained_text_in_brackets(there: Plan, tmp_path: Path) -> None:
    text = printed(view_rows(there, None, 1))
    assert f"{tmp_path}/rows.jsonl:1 · 64 tokens, 12 trained" in text
    assert (
        "<|im_start|>user⏎\nsky?<|im_end|>⏎\n<|im_start|>assistant⏎\n⟦né⏎\n·1<|im_end|>⟧⏎\n"
        "<|im_start|>user⏎\nand <b>?<|im_end|>⏎\n<|im_start|>assistant⏎\n⟦a··b<|im_end|>⟧⏎\n"
    ) in text


def test_counts_of_all_rows_stand_above_them(there: Plan) -> None:
    lines = printed(view_rows(there, None, 0)).splitlines()
    assert lines[:9] == [
        "sft: 2 rows, 18 of 95 tokens in the loss",
        "",
        "role       tokens  trained  share trained",
        "template       60        ·              ·",
        "user           17        ·              ·",
        "assistant      18       18           100%",
        "",
        "rows by length in tokens: median 31, p90 64, p99 64, longest 64; max_length 64",
        "      1 to      6         0",
    ]
    assert lines[13] == "     31 to     36         1 ████████████████████████████████████████"


def test_on_a_terminal_trained_text_is_green_and_special_tokens_are_underlined(there: Plan) -> None:
    text = printed(view_rows(there, None, 2), colours=True)
    assert "\x1b[1;32mwhite\x1b[0m\x1b[1;4;32m<|im_end|>\x1b[0m" in text
    assert "\x1b[2;36msnow?\x1b[0m" in text
    assert "⟦" not in text


def test_every_token_is_in_the_json_with_its_id_role_and_label(there: Plan) -> None:
    found = rows_as_json(view_rows(there, "sft", 1))
    row = found["shown"][0]
    assert (found["recipe"], found["stage"], found["train"]["rows"]) == ("own-tiny", "sft", 2)
    assert (row["length"], row["trained"], sum(len(token["ids"]) for token in row["tokens"])) == (64, 12, 64)
    words = tiny.tokenizer()
    start = words.convert_tokens_to_ids("<|im_start|>")
    assert row["tokens"][0] == {
        "ids": [start], "text": "<|im_start|>", "role": "template", "trained": False, "special": True,
    }  # fmt: skip
    accented = next(token for token in row["tokens"] if token["text"] == "é")
    assert (accented["ids"], accented["role"], accented["trained"]) == (words("é")["input_ids"], "assistant", True)


def test_whatever_an_eye_would_miss_is_written_out() -> None:
    assert "".join(visible(" a b  c\td \ne\u00a0f\u200bg\r ")) == "·a b··c⇥d·⏎\ne⟨U+00A0⟩f⟨U+200B⟩g⟨U+000D⟩·"


def test_the_page_is_whole_in_itself_and_escapes_what_rows_say(there: Plan) -> None:
    text = rows_page(view_rows(there, None, 2))
    assert ">&lt;</s>" in text
    assert "<b>?" not in text
    assert not any(word in text for word in ("<script", "http:", "https:", "src=", "@import", "url("))
    words = tiny.tokenizer()
    ids = " ".join(map(str, words("é")["input_ids"]))
    assert f'<s class="assistant trained" title="{ids} · assistant · trained">é</s>' in text
    assert f'title="{words.eos_token_id} · assistant · trained · special">&lt;|im_end|&gt;</s>' in text
    assert "<tr><td>all</td><td>95</td><td>18</td><td>19%</td></tr>" in text


def test_the_page_is_well_formed(there: Plan, tmp_path: Path) -> None:
    from html.parser import HTMLParser

    class Nesting(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    nesting = Nesting()
    page = write(rows_page(view_rows(there, None, 2)), tmp_path / "deep" / "page.html")
    nesting.feed(page.read_text(encoding="utf-8"))
    assert nesting.open == []


def test_the_command_writes_the_page_beside_the_results(base: Path, data: Path, tmp_path: Path) -> None:
    file = tiny.recipe(tmp_path / "own", [tiny.sft(data)], model=str(base))
    result = CliRunner().invoke(app, ["show", str(file), "--runs", str(tmp_path / "runs"), "--html"])
    assert result.stdout == f"{tmp_path}/runs/own-tiny/sft-rows.html\n"
    assert (tmp_path / "runs/own-tiny/sft-rows.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_packing_tells_how_full_its_rows_are(base: Path, data: Path, tmp_path: Path) -> None:
    file = tiny.recipe(tmp_path, [tiny.sft(data, {"packing": True})], model=str(base))
    found = view_rows(tiny.planned(file, tmp_path / "runs"), None, 2)
    assert printed(found).splitlines()[0].endswith("packed into 25 rows, 67% full")
    assert [row.where.rpartition(":")[2] for row in found.rows] == ["1", "2"]


def test_rows_are_prepared_before_the_models_between_are_made(base: Path, data: Path, tmp_path: Path) -> None:
    stages = [tiny.sft(data), tiny.sft(data, name="more", init="$sft", rows={"train_on": "all"})]
    there = tiny.planned(tiny.recipe(tmp_path, stages, model=str(base)), tmp_path / "runs")
    assert there.stage("sft").state == "absent"
    stats = view_rows(there, "more", 1).stats["train"]
    assert stats["trained_tokens"] == stats["tokens"]
    prepare_rows(there, there.stage("sft"))
    assert [there.preparable(planned) for planned in there.stages] == [True, True]


def test_without_the_tokenizer_the_command_that_makes_it_is_named(data: Path, tmp_path: Path) -> None:
    scratch = {
        "kind": "scratch",
        "data": [{"path": str(data)}],
        "tokenizer": {"vocab_size": 300},
        "architecture": {"hidden_size": 64, "num_hidden_layers": 1},
    }
    file = tiny.recipe(tmp_path, [scratch, tiny.sft(data, init="$scratch")], chat_template="plain")
    there = tiny.planned(file, tmp_path / "runs")
    with pytest.raises(UserError) as error:
        view_rows(there, None, 1)
    assert str(error.value) == Like(f"{file}:12: 'sft' … 'scratch' … {file} --to …")
    assert not there.preparable(there.stage("sft"))
    with pytest.raises(UserError) as error:
        view_rows(there, "scratch", 1)
    assert str(error.value) == f"{file}:4: 'scratch' prepares no rows. These do: sft."

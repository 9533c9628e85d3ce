import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, Leakage, conversation_key, eval_side, format_rows, mix_rows
from ft.data.sources.files import SourceRow
from ft.data.sources.read import Source
from ft.errors import Problem, UserError
from wording import Like


def texts(path: Path, *words: str) -> Path:
    """A file with one text row a word; an empty word makes a bad row."""
    path.write_text("".join(json.dumps({"text": word}) + "\n" for word in words), encoding="utf-8")
    return path


def taken(*sources: Source, seed: int = 1) -> list[str]:
    bad = BadRows("error")
    rows = [source_row.row["text"] for source_row in mix_rows(sources, seed=seed, bad=bad)]
    bad.finish()
    return rows


def letters(tmp_path: Path, count: int = 10, name: str = "x.jsonl", **how: Any) -> Source:
    return Source(str(texts(tmp_path / name, *"abcdefghijklmnopqrstuvwxyz"[:count])), **how)


# Mixing


def test_columns_that_a_stage_does_not_read_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"prompt": str(n), "answer": ["one", "another"], "topic": "t", "who": "me"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    reads = {"prompt", "answer"}
    assert len(list(mix_rows([Source(str(path))], seed=1, bad=BadRows("error"), reads=reads))) == 3
    assert [record.getMessage() for record in caplog.records] == ["Fields not read: topic (3 rows), who (3 rows)."]


def test_sources_come_one_after_the_other_in_file_order_with_their_place(tmp_path: Path) -> None:
    one, two = texts(tmp_path / "1.jsonl", "a", "b"), texts(tmp_path / "2.jsonl", "c")

    rows = list(mix_rows([Source(str(one)), Source(str(two))], seed=1, bad=BadRows("error")))

    assert rows == [
        SourceRow(f"{one}:1", {"text": "a"}),
        SourceRow(f"{one}:2", {"text": "b"}),
        SourceRow(f"{two}:1", {"text": "c"}),
    ]


@pytest.mark.parametrize(
    ("count", "how", "rows", "most", "least"),
    [
        (10, {"weight": 0.5}, 5, 1, 0),
        (10, {"weight": 2.0}, 20, 2, 2),
        (10, {"weight": 2.5}, 25, 3, 2),
        (7, {"weight": 0.3}, 2, 1, 0),
        (10, {"rows": 4}, 4, 1, 0),
        (10, {"rows": 4, "weight": 1.5}, 6, 2, 0),
        (10, {"rows": 40}, 10, 1, 1),
    ],
)
def test_caps_and_weights_are_exact(
    tmp_path: Path, count: int, how: dict[str, Any], rows: int, most: int, least: int
) -> None:
    copies = Counter(taken(letters(tmp_path, count, **how)))

    assert copies.total() == rows
    assert max(copies.values()) == most
    assert min(copies.get(letter, 0) for letter in "abcdefghij"[:count]) == least


def test_a_weight_counts_good_rows_only(tmp_path: Path) -> None:
    path = texts(tmp_path / "x.jsonl", "a", "", "b", "", "c", "", "d", "")
    bad = BadRows("reject", tmp_path / "rejects.jsonl")

    rows = list(mix_rows([Source(str(path), weight=0.5)], seed=1, bad=bad))

    assert len(rows) == 2
    assert bad.count == 4


def test_a_choice_is_the_same_for_a_seed_and_another_for_another(tmp_path: Path) -> None:
    source = letters(tmp_path, 26, weight=0.5)

    assert taken(source, seed=1) == taken(source, seed=1)
    assert taken(source, seed=1) != taken(source, seed=2)


def test_a_choice_does_not_depend_on_the_sources_beside_it(tmp_path: Path) -> None:
    source, other = letters(tmp_path, 26, rows=9), letters(tmp_path, 5, "y.jsonl", weight=0.4)

    assert taken(other, source)[2:] == taken(source)


def test_a_cap_takes_rows_from_the_whole_source(tmp_path: Path) -> None:
    source = letters(tmp_path, 26, rows=2)
    chosen = Counter(letter for seed in range(400) for letter in taken(source, seed=seed))

    assert set(chosen) == set("abcdefghijklmnopqrstuvwxyz")
    assert max(chosen.values()) < 60  # 800 / 26 = 31 expected of each


def test_the_format_of_the_first_row_holds_for_all(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"prompt": "b"}\n', encoding="utf-8")
    bad = BadRows("error")

    assert [row for _, row in mix_rows([Source(str(path))], seed=1, bad=bad)] == [{"text": "a"}]
    with pytest.raises(UserError) as error:
        bad.finish()
    assert str(error.value) == Like(f"{path}:2: … 'text' … {{text: …}} …")


def test_a_format_that_cannot_be_told_is_an_error_at_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"q": "a"}\n{"text": "b"}\n', encoding="utf-8")

    with pytest.raises(UserError) as error:
        list(format_rows(Source(str(path)), BadRows("error").add))

    assert str(error.value) == Like(f"{path}:1: … {{ours: theirs}} …")


def test_columns_of_a_source_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"q": {"text": "2+2?"}, "a": "4"}\n', encoding="utf-8")

    rows = list(mix_rows([Source(str(path), columns={"prompt": "q.text"})], seed=1, bad=BadRows("error")))

    assert rows[0].row == {"prompt": [{"role": "user", "content": "2+2?"}], "q": {"text": "2+2?"}, "a": "4"}


def test_rows_pass_through_in_flat_memory(tmp_path: Path) -> None:
    path = texts(tmp_path / "x.jsonl", *("a long enough line of text " * 4 for _ in range(4_000)))
    bad = BadRows("reject", tmp_path / "rejects.jsonl")
    sources = [Source(str(path), weight=1.5), Source(str(path), format="messages")]
    rows = mix_rows(sources, seed=1, bad=bad)
    next(rows)

    tracemalloc.start()
    with pytest.raises(UserError, match="none of its 4,000 rows is good"):
        for _ in rows:
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert bad.count == 4_000
    assert peak < 400_000  # the file is half a million bytes, its rows as objects are several times that


# Bad rows


def test_bad_rows_that_are_errors_are_all_named_at_the_end(tmp_path: Path) -> None:
    path = texts(tmp_path / "x.jsonl", "a", "", "b", " ")
    bad = BadRows("error")
    rows = [source_row.row["text"] for source_row in mix_rows([Source(str(path))], seed=1, bad=bad)]

    assert rows == ["a", "b"]
    with pytest.raises(UserError) as error:
        bad.finish()
    assert str(error.value) == Like(f"{path}:2: text … empty …\n{path}:4: text … empty …")


def test_more_than_twenty_bad_rows_are_named_by_reason(tmp_path: Path) -> None:
    path = texts(tmp_path / "x.jsonl", "a", *[""] * 1500, "\ud83d")
    bad = BadRows("error")
    list(mix_rows([Source(str(path))], seed=1, bad=bad))

    with pytest.raises(UserError) as error:
        bad.finish()

    assert str(error.value) == Like(
        f"{path}:2: text is empty (1,500 rows like it: 2, 3, 4, 5, …) …\n"
        f"{path}:1502: text … surrogate …\n"
        f"{path}: 1,501 bad rows in all. With on_bad_row: reject they are set aside in rejects.jsonl."
    )


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_rejected_rows_are_written_once_with_place_reason_and_fix(tmp_path: Path, weight: float) -> None:
    path, rejects = tmp_path / "x.jsonl", tmp_path / "new" / "rejects.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": ""}\n{"text"\n{"text": "\\ud83d", "n": "\xc3\xa9"}\n{"text": "b"}\n')
    bad = BadRows("reject", rejects)

    list(mix_rows([Source(str(path), weight=weight)], seed=1, bad=bad))
    bad.finish()

    assert bad.count == 3
    assert [json.loads(line) for line in rejects.read_text("utf-8").splitlines()] == [
        {
            "where": f"{path}:2",
            "what": "text is empty",
            "fix": "Give it text or drop the row.",
            "row": {"text": ""},
        },
        {
            "where": f"{path}:3",
            "what": "no JSON: Expecting ':' delimiter at column 8",
            "fix": "Write one JSON object a line.",
            "row": '{"text"',
        },
        {
            "where": f"{path}:4",
            "what": "text holds half a surrogate pair, which is no character",
            "fix": "Write the text as UTF-8.",
            "row": {"text": "\ud83d", "n": "é"},
        },
    ]


def test_without_bad_rows_there_is_no_file_of_rejects(tmp_path: Path) -> None:
    bad = BadRows("reject", tmp_path / "rejects.jsonl")
    list(mix_rows([letters(tmp_path)], seed=1, bad=bad))
    bad.finish()

    assert bad.count == 0
    assert not (tmp_path / "rejects.jsonl").exists()


def test_a_source_without_one_good_row_is_an_error_even_if_bad_rows_are_rejected(tmp_path: Path) -> None:
    path = texts(tmp_path / "x.jsonl", "", "")
    bad = BadRows("reject", tmp_path / "rejects.jsonl")

    with pytest.raises(UserError) as error:
        list(mix_rows([Source(str(path), weight=2)], seed=1, bad=bad))

    assert str(error.value) == Like(f"{path}: … 2 … {path}:2 … empty …")


def test_rows_found_bad_later_are_added_with_the_others(tmp_path: Path) -> None:
    bad = BadRows("error")
    bad.add("x.jsonl:3", {"text": "a"}, BadRow("the row has 9 tokens, max_length is 8", "Raise max_length."))

    with pytest.raises(UserError, match=r"^x\.jsonl:3: the row has 9 tokens, max_length is 8\. Raise max_length\.$"):
        bad.finish()


def test_rejecting_needs_a_file() -> None:
    with pytest.raises(ValueError, match="on_bad_row: reject needs a file for the rejects"):
        BadRows("reject")


# Splits


def chat(*turns: str, system: str = "") -> dict[str, Any]:
    opening = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    said = [{"role": roles[number % 2], "content": text} for number, text in enumerate(turns)]
    return {"messages": opening + said}


def test_rows_that_open_alike_have_one_key() -> None:
    key = conversation_key(chat("Hi", "Hello"))

    assert conversation_key(chat("Hi ", "Good day", "Bye", "See you")) == key
    assert conversation_key({"prompt": chat("Hi")["messages"], "chosen": [], "rejected": []}) == key
    assert len(key) == 32


def test_rows_that_open_otherwise_have_other_keys() -> None:
    rows = [
        chat("Hi", "Hello"),
        chat("Hello", "Hi"),
        chat("Hi", "Hello", system="Be brief."),
        {"text": "Hi"},
        {"text": "Hello"},
    ]

    assert len({conversation_key(row) for row in rows}) == 5


def test_a_key_is_the_same_in_every_process() -> None:
    assert conversation_key(chat("Hi", "Hello")) == "c461df9944f75cf90d0a66b1cb3b0da2"


def test_a_fraction_of_conversations_is_held_out() -> None:
    sides = [eval_side(chat(f"question {number}", "answer"), 0.1, seed=1) for number in range(10_000)]

    assert 900 < sum(sides) < 1100


def test_a_conversation_is_on_one_side_only_and_a_seed_changes_which() -> None:
    short = [chat(f"question {number}", "a") for number in range(200)]
    long = [chat(f"question {number}", "b", "more?", "c") for number in range(200)]
    sides = [eval_side(row, 0.5, seed=1) for row in short]

    assert [eval_side(row, 0.5, seed=1) for row in long] == sides
    assert [eval_side(row, 0.5, seed=2) for row in short] != sides


def test_no_row_is_held_out_at_fraction_0_and_all_at_1() -> None:
    rows = [chat(f"question {number}", "a") for number in range(100)]

    assert not any(eval_side(row, 0.0, seed=1) for row in rows)
    assert all(eval_side(row, 1.0, seed=1) for row in rows)


# Leakage


def test_a_prompt_on_both_sides_is_named_with_both_places() -> None:
    leakage = Leakage()
    leakage.add("train", SourceRow("data/a.jsonl:1", chat("Hi", "Hello")))
    leakage.add("train", SourceRow("data/b.jsonl:7", chat("2+2?", "4", "3+3?", "6")))
    leakage.add("train", SourceRow("data/b.jsonl:8", chat("2+2?", "4", "3+3?", "six")))
    leakage.add("eval", SourceRow("hub/set[test]:1", chat("2+2?", "4")))
    leakage.add("eval", SourceRow("hub/set[test]:2", chat("2+2?", "4", "3+3?", "It is 6.")))
    leakage.add("eval", SourceRow("hub/set[test]:3", chat("Hi", "Hi!")))

    fix = "Drop one of the two rows, or hold rows out with eval_fraction, which keeps conversations on one side."
    assert leakage.problems() == [
        Problem("hub/set[test]:2", "its prompt is trained on too, at data/b.jsonl:7", fix),
        Problem("hub/set[test]:3", "its prompt is trained on too, at data/a.jsonl:1", fix),
    ]


def test_a_prompt_leaks_whatever_kind_of_row_holds_it() -> None:
    leakage = Leakage()
    prompt = chat("Hi")["messages"]
    leakage.add("train", SourceRow("a.jsonl:1", {"prompt": prompt, "completion": chat("", "Hello")["messages"][1:]}))
    leakage.add("train", SourceRow("a.jsonl:2", {"text": "Once."}))
    leakage.add("eval", SourceRow("b.jsonl:1", {"prompt": prompt, "answer": "x"}))
    leakage.add("eval", SourceRow("b.jsonl:2", {"text": "Once.\n"}))
    leakage.add("eval", SourceRow("b.jsonl:3", {"text": "Twice."}))

    assert [problem.where for problem in leakage.problems()] == ["b.jsonl:1", "b.jsonl:2"]


def test_turns_without_any_answer_leak_as_a_whole() -> None:
    leakage = Leakage()
    asked = [{"role": "user", "content": "Sky?"}, {"role": "user", "content": "Sea?"}]
    leakage.add("train", SourceRow("a.jsonl:1", {"messages": asked}))
    leakage.add("eval", SourceRow("b.jsonl:1", {"messages": asked[:1]}))
    leakage.add("eval", SourceRow("b.jsonl:2", {"messages": asked}))

    assert [problem.where for problem in leakage.problems()] == ["b.jsonl:2"]


def test_without_shared_prompts_nothing_is_raised() -> None:
    leakage = Leakage()
    leakage.raise_any()
    leakage.add("train", SourceRow("a.jsonl:1", chat("Hi", "Hello")))
    leakage.add("eval", SourceRow("b.jsonl:1", chat("Hello", "Hi")))
    leakage.raise_any()


def test_after_twenty_leaking_rows_the_others_are_counted() -> None:
    leakage = Leakage()
    for number in range(1, 31):
        leakage.add("train", SourceRow(f"a.jsonl:{number}", chat(f"question {number}", "x")))
        leakage.add("eval", SourceRow(f"b.jsonl:{number}", chat(f"question {number}", "y")))

    with pytest.raises(UserError) as error:
        leakage.raise_any()

    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[20] == "b.jsonl: and 10 more rows that leak, 30 in all."


def test_leakage_holds_16_bytes_a_row() -> None:
    rows = [SourceRow(f"a.jsonl:{number}", chat(f"question {number}", "x")) for number in range(20_000)]
    random.Random(1).shuffle(rows)
    leakage = Leakage()

    tracemalloc.start()
    for row in rows:
        leakage.add("train", row)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert held < 20_000 * 16 * 1.2 + 10_000

from typing import Any

import pytest

from ft.data.formats import BadRow, detect, format_row
from wording import Like


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


PAIR = {"chosen": [user("a"), answer("b")], "rejected": [user("a"), answer("c")]}


def test_columns_reach_into_objects_and_lists_and_rename() -> None:
    row = {"meta": {"question": "2+2?"}, "answers": [{"text": "4"}], "level": "easy"}

    formatted = format_row("prompt_completion", row, {"prompt": "meta.question", "completion": "answers.0.text"})

    assert formatted == {
        "prompt": [user("2+2?")],
        "completion": [answer("4")],
        "meta": {"question": "2+2?"},
        "answers": [{"text": "4"}],
        "level": "easy",
    }


def test_a_mapped_column_is_not_kept_under_its_old_name() -> None:
    assert format_row("text", {"story": "Once.", "id": 1}, {"text": "story"}) == {"text": "Once.", "id": 1}


def test_columns_may_swap() -> None:
    row = {"prompt": "a", "chosen": "worse", "rejected": "better"}

    formatted = format_row("preference", row, {"chosen": "rejected", "rejected": "chosen"})

    assert formatted["chosen"] == [answer("better")]
    assert formatted["rejected"] == [answer("worse")]


def test_a_column_whose_name_holds_a_dot_comes_before_a_nested_one() -> None:
    assert format_row("text", {"a.b": "flat", "a": {"b": "deep"}}, {"text": "a.b"})["text"] == "flat"


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(BadRow, match=r"^no column 'meta\.q' There are: meta, id\.$"):
        format_row("text", {"meta": {"question": "x"}, "id": 1}, {"text": "meta.q"})


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [user("a"), answer("b")], "prompt": "a"}, "messages"),
        ({"conversations": [user("a"), answer("b")]}, "messages"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "sharegpt"),
        ({"instruction": "a", "input": "", "output": "b", "text": "c"}, "alpaca"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
        ({"prompt": "a", "answer": "b"}, "prompt"),
        ({"text": "Once upon a time"}, "text"),
        ({"text": "\n\nHuman: a\n\nAssistant: b"}, "hh"),
        ({"transcript": "\n\nHuman: a\n\nAssistant: b"}, "hh"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b"}, "hh"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        (PAIR, "preference"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, "hh_pairs"),
        ({"text": "a", "prompt": None}, "text"),
        ({"turns": ["a", "b"], "category": "writing"}, "user_turns"),
        ({"messages": [{"role": "system", "content": "a"}, user("b"), user("c")]}, "user_turns"),
        ({"messages": [user("a")]}, "messages"),
        ({"messages": [user("a"), answer("b")], "turns": ["a"]}, "messages"),
        ({"text": "a", "turns": ["a"]}, "text"),
    ],
)
def test_a_format_is_told_from_the_columns(row: dict[str, Any], name: str) -> None:
    assert detect(row) == name


def test_a_format_is_told_after_columns_are_mapped() -> None:
    assert detect({"question": "a", "reply": "b"}, {"prompt": "question", "completion": "reply"}) == "prompt_completion"


def test_a_row_that_could_be_two_things_is_not_guessed() -> None:
    with pytest.raises(BadRow, match=r"^the row could be preference or messages Say which one with format: …\.$"):
        detect({**PAIR, "messages": PAIR["chosen"], "prompt": "a"})


def test_an_unknown_row_names_its_columns_and_the_formats() -> None:
    with pytest.raises(BadRow) as bad:
        detect({"question": "a", "answer": "b"})

    assert str(bad.value) == Like("cannot tell the format … question, answer … columns: {ours: theirs} …")

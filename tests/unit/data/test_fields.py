"""What becomes of the columns of a row: honoured, named as not read, or refused."""

from pathlib import Path
from typing import Any

import pytest

from ft.data.formats import BadRow, format_row
from ft.data.formats.fields import (
    CALL_KEYS,
    CONVERSATION_COLUMNS,
    OF_A_TOOL,
    OTHER_ROLES,
    PART_TYPES,
    REASONING_KEYS,
    REFUSED,
    REFUSED_WHERE_ANSWERS_ARE_TRAINED,
    REFUSED_WHERE_PAIRS_ARE_SCORED,
    TOOLS,
    TRAIN_KEYS,
    VARIABLES,
    UnreadFields,
)

DIALOGUE = [{"role": "user", "content": "what colour is the frog?"}, {"role": "assistant", "content": "green."}]
PAIR = {"prompt": "what colour is the frog?", "chosen": "green.", "rejected": "no."}


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        (
            {"label": False},
            "the row says by label whether its answer is wanted (KTO), and here every answer is trained",
        ),
        ({"label": True}, "the row says by label whether its answer is wanted (KTO), and here every answer is trained"),
        (
            {"kto_tag": True},
            "the row says by kto_tag whether its answer is wanted (KTO), and here every answer is trained",
        ),
        ({"images": ["pics/0.png"]}, "the row holds images, and text is all that is read"),
        ({"image": "pics/0.png"}, "the row holds image, and text is all that is read"),
        ({"videos": ["x.mp4"]}, "the row holds videos, and text is all that is read"),
        ({"audios": ["x.wav"]}, "the row holds audios, and text is all that is read"),
        ({"weight": 0.5}, "the row says by weight how much it counts, and here every row counts alike"),
        ({"loss_weight": 0}, "the row says by loss_weight how much it counts, and here every row counts alike"),
        ({"sample_weight": "2"}, "the row says by sample_weight how much it counts, and here every row counts alike"),
        ({"history": [["a", "b"]]}, "the row has a history of earlier turns beside its messages"),
        ({"loss_mask": [0, 1]}, "the row has a loss_mask, which counts the tokens of another tokenizer"),
        ({"tools": ["look", "find"]}, "tools: entry 1 is no function with a name"),
        ({"tools": {"name": "look"}}, "tools is an object, not a list of tools"),
        ({"tools": "look(q: str)"}, "tools is text that is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ({"tools": "[1"}, "tools is text that is no JSON: Expecting ',' delimiter: line 1 column 3 (char 2)"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs is a list, not an object"),
        (
            {"chat_template_kwargs": {"chat_template": "{{ 1 }}", "enable_thinking": True}},
            "chat_template_kwargs sets chat_template, which is no variable of a template",
        ),
    ],
)
def test_a_column_that_changes_what_a_row_means_is_refused(columns: dict[str, Any], what: str) -> None:
    rows = [("messages", {"messages": DIALOGUE}), ("prompt_completion", {"prompt": "a", "completion": "b"})]
    rows.append(("sharegpt", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}))
    for name, row in rows:
        with pytest.raises(BadRow) as bad:
            format_row(name, row | columns, {})
        assert bad.value.what == what


def test_reasoning_beside_the_answer_is_read_where_the_answer_is_one_text_and_else_refused():
    thought = {"reasoning_content": "it is spring."}
    answer = {"role": "assistant", "content": "green."} | thought
    assert format_row("prompt_completion", {"prompt": "colour?", "completion": "green."} | thought, {}) == {
        "prompt": [{"role": "user", "content": "colour?"}],
        "completion": [answer],
    }
    alpaca = format_row("alpaca", {"instruction": "colour?", "output": "green."} | thought, {})
    assert alpaca == {"messages": [{"role": "user", "content": "colour?"}, answer]}
    completion = {"prompt": "colour?", "completion": [{"role": "assistant", "content": "green."}]}
    for name, row in (("messages", {"messages": DIALOGUE}), ("prompt_completion", completion)):
        with pytest.raises(BadRow, match="the row has reasoning_content beside its messages"):
            format_row(name, row | thought, {})


def test_a_weight_of_one_says_nothing():
    for weight in (1, 1.0, "1", None, "heavy", True):
        assert format_row("messages", {"messages": DIALOGUE, "weight": weight}, {})["messages"] == DIALOGUE


def test_pairs_with_pictures_are_refused_and_a_label_of_another_sort_is_not():
    with pytest.raises(BadRow, match="the row holds images"):
        format_row("preference", PAIR | {"images": ["x.png"]}, {})
    assert format_row("messages", {"messages": DIALOGUE, "label": 3}, {})["label"] == 3
    assert format_row("prompt", {"prompt": "a", "label": True}, {})["label"] is True


def test_an_empty_column_says_nothing_and_a_renamed_one_means_nothing():
    empty = {"images": [], "image": None, "tools": "[]", "chat_template_kwargs": {}, "kto_tag": None, "loss_mask": None}
    assert "tools" not in format_row("messages", {"messages": DIALOGUE} | empty, {})
    renamed = format_row("messages", {"messages": DIALOGUE, "image": "ubuntu"}, {"container": "image"})
    assert renamed == {"messages": DIALOGUE, "container": "ubuntu"}


def test_what_is_not_read_is_counted_once_with_the_keys_of_messages():
    unread = UnreadFields(CONVERSATION_COLUMNS)
    for number in range(3):
        first = DIALOGUE[0] | ({"name": "Ann"} if number else {})
        row = {"messages": [first, DIALOGUE[1]], "id": number + 1, "source": "web" if number else "", "tools": []}
        unread.add(format_row("messages", row, {}))
    assert unread.notes == ["Fields not read: id (3 rows), source (2 rows), messages.name (2 rows)."]


def test_a_name_that_would_move_a_terminal_is_escaped_and_shortened():
    unread = UnreadFields(CONVERSATION_COLUMNS)
    unread.add({"messages": DIALOGUE, "\x1b[31mred": 1, "m" * 100_000: 1})
    assert "⟨U+001B⟩[31mred (1 rows)" in unread.notes[0]
    assert len(unread.notes[0]) < 300


def test_rows_that_ft_made_name_nothing():
    unread = UnreadFields(CONVERSATION_COLUMNS)
    unread.add({"messages": DIALOGUE, "sampled": {"k": 1}, "policy": "x"})
    assert unread.notes == []


def test_the_table_of_the_docs_names_every_field():
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    refused = (REFUSED, REFUSED_WHERE_ANSWERS_ARE_TRAINED, REFUSED_WHERE_PAIRS_ARE_SCORED)
    tables = (*refused, OTHER_ROLES, PART_TYPES, TRAIN_KEYS, REASONING_KEYS, CALL_KEYS, OF_A_TOOL)
    names = [name for table in tables for name in table] + [TOOLS, VARIABLES]
    assert [name for name in names if f"`{name}`" not in text] == []

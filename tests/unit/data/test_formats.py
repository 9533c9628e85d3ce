from typing import Any

import pytest

from ft.data.formats import BadRow, format_row


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


GOOD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "messages",
        {"messages": [user("2+2?"), answer("4")], "id": 7},
        {"messages": [user("2+2?"), answer("4")], "id": 7},
    ),
    ("messages", {"conversations": [user("2+2?"), answer("4")]}, {"messages": [user("2+2?"), answer("4")]}),
    (
        "messages",
        {"system": "Count.", "messages": [user("2+2?"), answer("4")]},
        {"messages": [system("Count."), user("2+2?"), answer("4")]},
    ),
    (
        "messages",
        {"system": "Count.", "messages": [system("Count."), user("2+2?"), answer("4")]},
        {"messages": [system("Count."), user("2+2?"), answer("4")]},
    ),
    (
        "messages",
        {"prompt": "2+2?", "prompt_id": "a", "messages": [user("2+2?"), answer("4")]},
        {"prompt_id": "a", "messages": [user("2+2?"), answer("4")]},
    ),
    (
        "every_answer",
        {"messages": [user("2+2?"), {**answer("4"), "train": False}, user("3+3?"), {**answer("6"), "train": True}]},
        {"messages": [user("2+2?"), answer("4"), user("3+3?"), answer("6")]},
    ),
    (
        "sharegpt",
        {
            "id": "x",
            "conversations": [
                {"from": "system", "value": "Count."},
                {"from": "human", "value": "2+2?"},
                {"from": "gpt", "value": "4", "train": False},
                {"from": "User", "value": "3+3?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 3}}'},
                {"from": "observation", "value": "6"},
                {"from": "bing", "value": "It is 6."},
            ],
        },
        {
            "id": "x",
            "messages": [
                system("Count."),
                user("2+2?"),
                answer("4") | {"train": False},
                user("3+3?"),
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 3}}}],
                },
                {"role": "tool", "content": "6"},
                answer("It is 6."),
            ],
        },
    ),
    (
        "alpaca",
        {"instruction": "Translate.", "input": "chat", "output": "cat", "text": "### …"},
        {"messages": [user("Translate.\nchat"), answer("cat")]},
    ),
    (
        "alpaca",
        {"instruction": "And 3+3?", "input": "", "output": "6", "system": "Count.", "history": [["2+2?", "4"]]},
        {"messages": [system("Count."), user("2+2?"), answer("4"), user("And 3+3?"), answer("6")]},
    ),
    (
        "prompt_completion",
        {"prompt": "2+2?", "completion": "4", "source": "x"},
        {"prompt": [user("2+2?")], "completion": [answer("4")], "source": "x"},
    ),
    (
        "prompt_completion",
        {"prompt": [system("Count."), user("2+2?")], "completion": [answer("4")]},
        {"prompt": [system("Count."), user("2+2?")], "completion": [answer("4")]},
    ),
    ("text", {"text": "Once upon a time.", "page": 3}, {"text": "Once upon a time.", "page": 3}),
    (
        "hh",
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello. \n\nTwo parts.\n\nHuman: Bye\n\nAssistant: Bye!",
            "rejected": "x",
        },
        {"messages": [user("Hi"), answer("Hello. \n\nTwo parts."), user("Bye"), answer("Bye!")]},
    ),
    ("hh", {"transcript": "Human: Hi\n\nAssistant: Hello."}, {"messages": [user("Hi"), answer("Hello.")]}),
    (
        "preference",
        {"prompt": "2+2?", "chosen": "4", "rejected": "5", "rating": 3},
        {"prompt": [user("2+2?")], "chosen": [answer("4")], "rejected": [answer("5")], "rating": 3},
    ),
    (
        "preference",
        {"system": "Count.", "prompt": [user("2+2?")], "chosen": [answer("4")], "rejected": [answer("5")]},
        {"prompt": [system("Count."), user("2+2?")], "chosen": [answer("4")], "rejected": [answer("5")]},
    ),
    (
        "preference",
        {
            "prompt": "2+2?",
            "prompt_id": "a",
            "chosen": [user("2+2?"), answer("4")],
            "rejected": [user("2+2?"), answer("5")],
            "messages": [user("2+2?"), answer("4")],
            "score_chosen": 8.0,
        },
        {
            "prompt_id": "a",
            "prompt": [user("2+2?")],
            "chosen": [answer("4")],
            "rejected": [answer("5")],
            "score_chosen": 8.0,
        },
    ),
    (
        "preference",
        {
            "chosen": [user("a"), answer("b"), user("c"), answer("d")],
            "rejected": [user("a"), answer("b"), user("c"), answer("e")],
        },
        {"prompt": [user("a"), answer("b"), user("c")], "chosen": [answer("d")], "rejected": [answer("e")]},
    ),
    (
        "hh_pairs",
        {
            "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
            "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e",
        },
        {"prompt": [user("a"), answer("b"), user("c")], "chosen": [answer("d")], "rejected": [answer("e")]},
    ),
    ("prompt", {"prompt": "2+2?", "answer": "4"}, {"prompt": [user("2+2?")], "answer": "4"}),
    (
        "prompt",
        {"prompt": [user("a"), answer("b"), user("c")], "system": "Brief."},
        {"prompt": [system("Brief."), user("a"), answer("b"), user("c")]},
    ),
    ("user_turns", {"turns": ["2+2?", "3+3?"], "id": 7}, {"messages": [user("2+2?"), user("3+3?")], "id": 7}),
    (
        "user_turns",
        {"messages": [system("Count."), user("a"), user("b")]},
        {"messages": [system("Count."), user("a"), user("b")]},
    ),
    ("user_turns", {"system": "Count.", "turns": ["a"]}, {"messages": [system("Count."), user("a")]}),
]


@pytest.mark.parametrize(("name", "row", "expected"), GOOD)
def test_a_row_of_each_format_becomes_conversational(name: str, row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert format_row(name, row, {}) == expected


PAIR = {"chosen": [user("a"), answer("b")], "rejected": [user("a"), answer("c")]}
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("messages", {}, "no column 'messages' or 'conversations' The row is empty. Map one with columns: {messages: …}."),
    (
        "messages",
        {"id": 1, "dialog": []},
        "no column 'messages' or 'conversations' There are: id, dialog. Map one with columns: {messages: …}.",
    ),
    (
        "messages",
        {"messages": [user("a")]},
        "messages ends with a message of the user, not of the assistant "
        "Drop what follows the last answer, or read it with format: prompt.",
    ),
    (
        "messages",
        {"system": "A", "messages": [system("B"), user("a"), answer("b")]},
        "column system and messages hold two system messages Drop one of them.",
    ),
    (
        "messages",
        {"system": "A", "messages": [user("a"), answer("")]},
        "messages: message 2 (assistant) is empty Give it text or drop the row.",
    ),
    (
        "sharegpt",
        {"conversations": [user("a")]},
        "conversations: message 1 is not an object with from and value With role and content it is format: messages.",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "narrator", "value": "x"}]},
        "conversations: message 1 is from 'narrator' Known are: system, human, user, gpt, assistant, chatgpt, bing, "
        "bard, function_call, tool, observation, model, ipython, function, developer.",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "gpt", "value": "Hello"}]},
        "conversations starts with a message of the assistant It starts with system or user.",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "add(3)"}]},
        "conversations: message 2 is a function_call whose value is no JSON: Expecting value: line 1 column 1 (char 0) "
        'Write {"name": "…", "arguments": {…}}, or a list of these.',
    ),
    (
        "alpaca",
        {"instruction": "a", "output": ""},
        "alpaca row: message 2 (assistant) is empty Give it text or drop the row.",
    ),
    ("alpaca", {"instruction": "a"}, "no column 'output' There are: instruction. Map one with columns: {output: …}."),
    ("alpaca", {"instruction": "a", "input": ["b"], "output": "c"}, "input is a list, not a string"),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["q"]]},
        'history: entry 1 is not a pair Write [["question", "answer"], …].',
    ),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": "q"},
        'history is a string, not a list of pairs Write [["question", "answer"], …].',
    ),
    (
        "prompt_completion",
        {"prompt": "a", "completion": [user("b")]},
        "completion: message 1 (user) follows user After user comes assistant.",
    ),
    (
        "prompt_completion",
        {"prompt": [user("a"), answer("b")], "completion": "c"},
        "prompt ends with a message of the assistant, not of the user It ends with what is to be answered.",
    ),
    (
        "prompt",
        {"prompt": [system("a")]},
        "prompt ends with a message of the system, not of the user It ends with what is to be answered.",
    ),
    ("prompt", {"prompt": " "}, "prompt: message 1 (user) is empty Give it text or drop the row."),
    ("user_turns", {"turns": "a"}, 'turns is a string, not a list of what users said Write ["…", "…"].'),
    ("user_turns", {"turns": []}, "turns is an empty list Give it messages or drop the row."),
    ("user_turns", {"turns": ["a", " "]}, "turns, turn 2: message 1 (user) is empty Give it text or drop the row."),
    (
        "user_turns",
        {"messages": [user("a"), answer("b")]},
        "messages: message 2 is of the assistant Read it with format: messages.",
    ),
    (
        "user_turns",
        {"messages": [system("a")]},
        "messages ends with a message of the system, not of the user It ends with what is to be answered.",
    ),
    ("text", {"text": " \n"}, "text is empty Give it text or drop the row."),
    ("text", {"text": 5}, "text is a number, not a string"),
    (
        "text",
        {"text": "\ud83d"},
        "text holds half a surrogate pair, which is no character Write the text as UTF-8.",
    ),
    (
        "hh",
        {"text": "Once upon a time"},
        "text does not start with 'Human:' or 'Assistant:' Write \"\\n\\nHuman: …\\n\\nAssistant: …\".",
    ),
    ("hh", {"text": 5}, "text is a number, not a transcript"),
    (
        "hh",
        {"text": "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c"},
        "text: message 3 (assistant) follows assistant After assistant comes user or tool.",
    ),
    (
        "hh",
        {"text": "\n\nHuman: a\n\nAssistant: "},
        "text: message 2 (assistant) is empty Give it text or drop the row.",
    ),
    (
        "preference",
        {"prompt": "a", "chosen": "b", "rejected": [answer("c")]},
        "chosen is a string but rejected is a list Write both alike.",
    ),
    (
        "preference",
        {"prompt": "a", "chosen": "b", "rejected": " b\n"},
        "chosen and rejected are the same A pair needs two answers; drop the row.",
    ),
    (
        "preference",
        {"prompt": "a", "chosen": "b", "rejected": ""},
        "rejected: message 1 (assistant) is empty Give it text or drop the row.",
    ),
    (
        "preference",
        {"chosen": "b", "rejected": "c"},
        "no column 'prompt' There are: chosen, rejected. Map one with columns: {prompt: …}.",
    ),
    (
        "preference",
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        "no column 'prompt', and chosen is a transcript Read it with format: hh_pairs.",
    ),
    (
        "preference",
        {**PAIR, "rejected": PAIR["chosen"]},
        "chosen and rejected are the same A pair needs two answers; drop the row.",
    ),
    (
        "preference",
        {**PAIR, "rejected": [user("x"), answer("c")]},
        "chosen and rejected share no first message Both begin with the same prompt.",
    ),
    (
        "preference",
        {**PAIR, "rejected": [*PAIR["chosen"], user("more"), answer("c")]},
        "chosen is only the beginning of rejected, so it has no answer of its own Drop the row.",
    ),
    (
        "preference",
        {"chosen": [*PAIR["chosen"], user("x"), answer("y")], "rejected": [*PAIR["chosen"], user("z"), answer("y")]},
        "what chosen and rejected share ends with a message of the assistant, not of the user "
        "It ends with what is to be answered.",
    ),
    (
        "preference",
        {**PAIR, "prompt": "something else"},
        "prompt is not what chosen and rejected begin with Drop the column prompt or fix it.",
    ),
    (
        "hh_pairs",
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: b "},
        "chosen and rejected are the same A pair needs two answers; drop the row.",
    ),
]


@pytest.mark.parametrize(("name", "row", "text"), BAD)
def test_what_is_wrong_with_a_row_is_said(name: str, row: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRow) as bad:
        format_row(name, row, {})

    assert str(bad.value) == text


def test_formats_leave_the_row_they_are_given_as_it_was() -> None:
    row = {"messages": [user("a"), answer("b") | {"train": False, "name": "Ann"}], "system": "c"}

    format_row("messages", row, {})

    assert row == {"messages": [user("a"), answer("b") | {"train": False, "name": "Ann"}], "system": "c"}

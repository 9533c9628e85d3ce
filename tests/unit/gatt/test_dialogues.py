"""A Ghost Attention row says its instruction once, and trains one answer that obeys it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

import tiny
from ft.data.formats.messages import BadRow
from ft.encode.conversation import Renderer
from ft.gatt.checkers import Contains
from ft.gatt.dialogues import (
    Script,
    change_instruction,
    is_right,
    leaks_instruction,
    obeyed_kinds,
    obeys_earlier,
    revoke_instruction,
    row,
    row_ends,
    score,
    script,
)
from ft.gatt.instructions import Bank, Instruction, InstructionKind

FIGURE = Instruction({"figure": "Homer"}, "Always act as Homer.", "Figure: Homer.", is_terse=True)
PET = Instruction({"pet": "cat"}, "You love your cat.", "Pet: cat.", is_terse=False)
FULL = {"figure": ("Always act as {value}.",), "pet": ("You love your {value}.",)}
BANK = Bank({name: InstructionKind(name, FULL[name], "{value}.", check=Contains()) for name in ("figure", "pet")})
ROW = {
    "messages": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2."},
        {"role": "user", "content": "Three?"},
        {"role": "assistant", "content": "3."},
    ],
    "answers": [["1"], ["2"], ["3", "three"]],
}
SAID = ["Homer: 1.", "Homer: 2.", "Homer: 3."]


@pytest.fixture
def plain_script() -> Script:
    return script(ROW, "0", "x.jsonl:1", FIGURE, turns=20)


def contents(made: dict) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in made["messages"]]


def made(one: Script, turn: int = 2, **how) -> dict:
    return row(one, turn, SAID, **{"plain": False, "place": "system", "loss": "last", **how})


def test_the_policy_reads_the_instruction_before_every_user_message(plain_script):
    assert [plain_script.user_for_policy(turn) for turn in range(3)] == [
        "Always act as Homer. One?",
        "Always act as Homer. Two?",
        "Always act as Homer. Three?",
    ]


def test_a_row_says_the_instruction_once_at_its_start(plain_script):
    assert contents(made(plain_script)) == [
        ("system", "Figure: Homer."),
        ("user", "One?"),
        ("assistant", "Homer: 1."),
        ("user", "Two?"),
        ("assistant", "Homer: 2."),
        ("user", "Three?"),
        ("assistant", "Homer: 3."),
    ]


def test_without_a_system_message_the_instruction_stands_before_the_first_question(plain_script):
    assert contents(made(plain_script, place="first_user"))[:3] == [
        ("user", "Figure: Homer. One?"),
        ("assistant", "Homer: 1."),
        ("user", "Two?"),
    ]


def test_only_the_last_answer_is_trained(plain_script):
    flags = [message.get("train") for message in made(plain_script)["messages"] if message["role"] == "assistant"]
    assert flags == [False, False, True]


def test_the_ablation_leaves_every_answer_to_be_trained(plain_script):
    assert [message.get("train") for message in made(plain_script, loss="all_turns")["messages"]] == [None] * 7


def test_in_a_plain_context_earlier_answers_are_the_dialogues_own(plain_script):
    answers = [text for role, text in contents(made(plain_script, plain=True)) if role == "assistant"]
    assert answers == ["1.", "2.", "Homer: 3."]


def test_a_row_ends_where_it_is_cut(plain_script):
    assert contents(made(plain_script, turn=0)) == [
        ("system", "Figure: Homer."),
        ("user", "One?"),
        ("assistant", "Homer: 1."),
    ]


def test_the_dialogues_own_system_message_stays_before_the_instruction():
    own = {"messages": [{"role": "system", "content": "Be kind."}, *ROW["messages"]]}
    one = script(own, "0", "x:1", FIGURE, turns=20)
    assert contents(made(one))[0] == ("system", "Be kind. Figure: Homer.")
    assert contents(made(one, place="first_user"))[:2] == [("system", "Be kind."), ("user", "Figure: Homer. One?")]


def test_a_dialogue_is_cut_to_the_turns_asked_for():
    one = script(ROW, "0", "x:1", FIGURE, turns=2)
    assert (one.questions, one.answers, one.right) == (("One?", "Two?"), ("1.", "2."), (("1",), ("2",)))


def test_a_prompt_is_a_dialogue_whose_last_turn_has_no_answer():
    one = script({"prompt": ROW["messages"][:3]}, "0", "x:1", FIGURE, turns=20)
    assert one.answers == ("1.", None)


def test_user_messages_alone_are_turns_without_answers():
    said = [{"role": "user", "content": "One?"}, {"role": "user", "content": "Two?"}]
    one = script({"messages": [{"role": "system", "content": "Be kind."}, *said]}, "0", "x:1", FIGURE, turns=20)
    assert (one.system, one.questions, one.answers) == ("Be kind.", ("One?", "Two?"), (None, None))


def test_turns_left_out_are_counted():
    assert [script(ROW, "0", "x:1", FIGURE, turns=turns).left_out for turns in (1, 2, 3, 4)] == [2, 1, 0, 0]


@pytest.mark.parametrize("answers", ["1", ["1", "2", "3"], [["1"], [2], ["3"]], {"text": ["1"]}])
def test_right_answers_that_are_not_lists_of_texts_are_refused(answers):
    with pytest.raises(BadRow, match=r"^answers is not a list with a list of texts for each turn Write \[\[\"4\", "):
        script({**ROW, "answers": answers}, "0", "x:1", FIGURE, turns=20)


def test_tool_messages_are_refused():
    with pytest.raises(BadRow, match=r"^the dialogue has calls of tools"):
        script({"messages": [*ROW["messages"][:2], {"role": "tool", "content": "4"}]}, "0", "x:1", FIGURE, turns=20)


# Instructions that change


def test_a_new_instruction_stands_where_it_comes_and_holds_from_there(plain_script):
    one = change_instruction(plain_script, 1, PET)
    assert [one.user_for_policy(turn) for turn in range(3)] == [
        "Always act as Homer. One?",
        "You love your cat. Two?",
        "You love your cat. Three?",
    ]
    assert [text for role, text in contents(made(one)) if role != "assistant"] == [
        "Figure: Homer.",
        "One?",
        "You love your cat. Two?",
        "Three?",
    ]
    assert obeyed_kinds(BANK, one, 0, "Homer: 1.") == {"figure": True}
    assert obeyed_kinds(BANK, one, 2, "Homer: 3.") == {"pet": False}


def test_an_instruction_taken_back_is_to_be_left_alone():
    one = revoke_instruction(script(ROW, "0", "x:1", FIGURE, turns=20), 1, "Stop that.")
    assert [one.user_for_policy(turn) for turn in range(3)] == ["Always act as Homer. One?", "Two?", "Three?"]
    assert contents(made(one))[3] == ("user", "Stop that. Two?")
    assert obeyed_kinds(BANK, one, 0, "Homer: 1.") == {"figure": True}
    assert obeyed_kinds(BANK, one, 2, "Homer: 3.") == {"figure": False}
    assert obeyed_kinds(BANK, one, 2, "3.") == {"figure": True}


def test_what_the_dialogues_own_answer_does_too_is_no_sign_of_an_instruction_taken_back():
    text = [{**message, "content": message["content"].replace("3.", "3, says Homer.")} for message in ROW["messages"]]
    one = revoke_instruction(script({"messages": text}, "0", "x:1", FIGURE, turns=20), 1, "Stop that.")
    assert obeyed_kinds(BANK, one, 1, "Homer: 2.") == {"figure": False}
    assert obeyed_kinds(BANK, one, 2, "3, says Homer.") == {}


def test_instructions_may_change_several_times_and_the_newest_holds(plain_script):
    one = change_instruction(change_instruction(plain_script, 1, PET), 2, FIGURE)
    assert contents(made(one))[3] == ("user", "You love your cat. Two?")
    assert contents(made(one))[5] == ("user", "Figure: Homer. Three?")
    assert [dict(one.instruction_at(turn).values) for turn in range(3)] == [
        {"figure": "Homer"},
        {"pet": "cat"},
        {"figure": "Homer"},
    ]
    back = revoke_instruction(change_instruction(plain_script, 1, PET), 2, "Stop that.")
    assert obeyed_kinds(BANK, back, 2, "Homer has a cat: 3.") == {
        "pet": False
    }  # the one before was replaced, not revoked


def test_of_two_kinds_one_may_be_taken_back(plain_script):
    both = replace(plain_script, first=BANK.compose({"figure": "Homer", "pet": "cat"}, random.Random(0)))
    text, left = BANK.revoke_one(both.first, random.Random(0))
    taken = both.first.values.keys() - left.values.keys()
    assert [text] == [f"No more {kind}, please." for kind in taken]
    one = revoke_instruction(both, 1, "No more figure, please.", PET)
    assert contents(made(one))[3] == ("user", "No more figure, please. Two?")
    assert one.user_for_policy(2) == "You love your cat. Three?"
    assert obeyed_kinds(BANK, one, 0, "Homer: 1.") == {"figure": True, "pet": False}
    assert obeyed_kinds(BANK, one, 2, "Homer and a cat: 3.") == {"figure": False, "pet": True}
    assert obeyed_kinds(BANK, one, 2, "A cat: 3.") == {"figure": True, "pet": True}
    again = revoke_instruction(one, 2, "Stop that.")
    assert obeyed_kinds(BANK, again, 2, "Homer and a cat: 3.") == {"figure": False, "pet": False}


def test_an_instruction_may_come_only_in_the_middle(plain_script):
    one = change_instruction(replace(plain_script, first=None), 1, PET)
    assert contents(made(one)) == [
        ("user", "One?"),
        ("assistant", "Homer: 1."),
        ("user", "You love your cat. Two?"),
        ("assistant", "Homer: 2."),
        ("user", "Three?"),
        ("assistant", "Homer: 3."),
    ]
    assert contents(made(one, place="first_user"))[0] == ("user", "One?")
    assert one.user_for_policy(0) == "One?"
    assert obeyed_kinds(BANK, one, 0, "1.") == {}
    assert not obeys_earlier(BANK, one, 2, "Homer: 3.")


def test_nothing_can_be_taken_back_where_nothing_holds(plain_script):
    with pytest.raises(ValueError, match="no instruction holds before turn 2"):
        revoke_instruction(replace(plain_script, first=None), 1, "Stop that.")


def test_what_an_earlier_instruction_asked_for_is_noticed_but_for_what_the_newest_asks_too(plain_script):
    one = change_instruction(plain_script, 1, PET)
    assert not obeys_earlier(BANK, one, 0, "Homer: 1.")
    assert obeys_earlier(BANK, one, 1, "Homer has a cat: 2.")
    assert not obeys_earlier(BANK, one, 1, "A cat: 2.")
    same = change_instruction(one, 2, FIGURE)
    assert not obeys_earlier(BANK, same, 2, "Homer: 3.")
    assert obeys_earlier(BANK, same, 2, "Homer and a cat: 3.")


# Judging


def test_an_answer_is_right_when_it_holds_a_right_word_as_far_as_the_row_tells(plain_script):
    assert is_right(plain_script, 2, "It is three!") is True
    assert is_right(plain_script, 2, "It is thirty-three!") is False
    assert is_right(script({"messages": ROW["messages"]}, "0", "x:1", FIGURE, turns=20), 2, "three") is None


def test_the_score_is_the_share_of_what_is_as_it_should_be():
    assert score({"figure": True, "pet": False}, True) == pytest.approx(2 / 3)
    assert score({"figure": True}, None) == 1.0
    assert score({}, None) is None


def test_an_answer_that_quotes_any_instruction_of_the_dialogue_leaks(plain_script):
    one = change_instruction(plain_script, 1, PET)
    assert leaks_instruction(one, ["Fine.", "Always act as Homer, you said."])
    assert leaks_instruction(one, ["Pet cat? No: you love your cat."])
    assert not leaks_instruction(one, SAID)


def test_rows_end_at_the_last_turn_and_at_others_by_chance(plain_script):
    ends = [row_ends(plain_script, 2, random.Random(seed)) for seed in range(20)]
    assert {tuple(end) for end in ends} == {(0, 2), (1, 2)}
    assert row_ends(plain_script, 1, random.Random(0)) == [2]
    assert row_ends(plain_script, 9, random.Random(0)) == [0, 1, 2]


def test_rows_of_a_dialogue_whose_instruction_changes_end_behind_the_change_as_far_as_there_are_turns(plain_script):
    one = change_instruction(plain_script, 1, PET)
    assert {tuple(row_ends(one, 2, random.Random(seed))) for seed in range(20)} == {(1, 2)}
    assert row_ends(change_instruction(plain_script, 2, PET), 2, random.Random(0)) == [1, 2]
    assert row_ends(one, 3, random.Random(0)) == [0, 1, 2]


# Templates

FOLDED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|im_start|>' }}"
    "{% if loop.index0 == 1 and messages[0]['role'] == 'system' %}{{ '(' + messages[0]['content'] + ') ' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + '<|im_end|>' }}{% endif %}"
    "{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "place"), [(None, "system"), (None, "first_user"), (FOLDED, "system"), (NO_SYSTEM, "first_user")]
)
def test_every_template_trains_the_same_tokens(plain_script, template: str | None, place: str):
    words = tiny.tokenizer()
    words.chat_template = template or words.chat_template
    rendered = Renderer(words).render(made(plain_script, place=place))
    assert rendered is not None
    trained = [token for token, label in zip(rendered.input_ids, rendered.labels, strict=True) if label != -100]
    assert words.decode(trained) == "Homer: 3.<|im_end|>"

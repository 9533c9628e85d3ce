"""Rows longer than max_length: refused, dropped, or without their oldest turns; never cut inside a message."""

import pytest
from chat_tokenizers import chatml, metaspace, trained_text

from ft.encode.conversation import BadRow, Counts, Renderer, template
from ft.families import CAUSAL

SYSTEM = {"role": "system", "content": "You answer in rhyme."}
DIALOGUE = [
    SYSTEM,
    *(
        message
        for n in range(1, 6)
        for message in ({"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"It is {n}."})
    ),
]


def length(messages):
    return len(Renderer(chatml()).render({"messages": messages}).input_ids)


def test_a_row_that_fits_exactly_is_kept():
    renderer = Renderer(chatml(), max_length=length(DIALOGUE))
    assert renderer.render({"messages": DIALOGUE}).dropped_turns == 0
    assert renderer.counts == Counts()


def test_a_long_row_is_an_error_by_default():
    tokens = length(DIALOGUE)
    renderer = Renderer(chatml(), max_length=tokens - 1)
    with pytest.raises(BadRow, match=f"it is {tokens} tokens long, over max_length {tokens - 1}"):
        renderer.render({"messages": DIALOGUE})


def test_a_long_row_is_dropped_and_counted():
    renderer = Renderer(chatml(), max_length=20, on_too_long="drop")
    assert renderer.render({"messages": DIALOGUE}) is None
    assert renderer.counts == Counts(rows_too_long=1, rows_dropped=1)


def test_the_fewest_oldest_turns_leave_and_the_system_message_stays():
    shorter = [SYSTEM, *DIALOGUE[5:]]
    renderer = Renderer(chatml(), train_on="last", max_length=length(shorter), on_too_long="drop_turns")
    rendered = renderer.render({"messages": DIALOGUE})
    assert rendered.input_ids == Renderer(chatml()).render({"messages": shorter}).input_ids
    assert rendered.dropped_turns == 2
    assert renderer.counts == Counts(rows_too_long=1, turns_dropped=2)


@pytest.mark.parametrize("train_on", ["last", "completion", "assistant", "all"])
def test_the_last_turn_never_leaves(train_on):
    renderer = Renderer(
        chatml(), train_on=train_on, max_length=length([SYSTEM, *DIALOGUE[9:]]), on_too_long="drop_turns"
    )
    rendered = renderer.render({"messages": DIALOGUE})
    assert rendered.dropped_turns == 4
    assert "It is 5.<|im_end|>" in renderer.tokenizer.decode([label for label in rendered.labels if label != -100])


def test_a_row_whose_last_turn_does_not_fit_is_dropped():
    limit = length([SYSTEM, *DIALOGUE[9:]]) - 1
    renderer = Renderer(chatml(), train_on="last", max_length=limit, on_too_long="drop_turns")
    assert renderer.render({"messages": DIALOGUE}) is None
    assert renderer.counts == Counts(rows_too_long=1, rows_dropped=1)


def test_under_last_a_turn_that_is_trained_never_leaves():
    flagged = [*DIALOGUE[:4], {**DIALOGUE[4], "train": True}, *DIALOGUE[5:]]
    limit = length([SYSTEM, *DIALOGUE[3:]])
    renderer = Renderer(chatml(), train_on="last", max_length=limit, on_too_long="drop_turns")
    assert trained_text(renderer, {"messages": flagged}) == "It is 2.<|im_end|>␣…␣It is 5.<|im_end|>"
    assert Renderer(chatml(), train_on="last", max_length=limit - 1, on_too_long="drop_turns").render(
        {"messages": flagged}
    ) is None  # fmt: skip


def test_an_untrained_last_answer_does_not_cost_the_trained_one():
    flagged = [*DIALOGUE[:10], {**DIALOGUE[10], "train": False}]
    renderer = Renderer(chatml(), max_length=length([SYSTEM, *DIALOGUE[7:]]), on_too_long="drop_turns")
    assert trained_text(renderer, {"messages": flagged}) == "It is 4.<|im_end|>"


def test_only_turns_of_the_prompt_leave():
    row = {"prompt": DIALOGUE[:8], "completion": DIALOGUE[8:]}
    limit = length([SYSTEM, *DIALOGUE[7:]])
    renderer = Renderer(chatml(), train_on="completion", max_length=limit, on_too_long="drop_turns")
    assert renderer.render(row).dropped_turns == 3
    assert trained_text(renderer, row).startswith("It is 4.<|im_end|>")
    assert Renderer(chatml(), max_length=limit - 1, on_too_long="drop_turns").render(row) is None


def test_a_folded_system_message_moves_to_the_first_turn_left():
    tokenizer = metaspace(chat_template=template("llama2"))
    fits = len(Renderer(tokenizer).render({"messages": [SYSTEM, *DIALOGUE[9:]]}).input_ids)
    rendered = Renderer(tokenizer, max_length=fits, on_too_long="drop_turns").render({"messages": DIALOGUE})
    assert tokenizer.decode(rendered.input_ids).startswith(
        "<s>[INST] <<SYS>>\nYou answer in rhyme.\n<</SYS>>\n\nWhat is 5?"
    )


def test_a_long_text_is_dropped_and_counted():
    renderer = Renderer(chatml(), max_length=5, on_too_long="drop_turns")
    assert renderer.render({"text": "The fox sleeps; the owl counts stars."}) is None
    assert renderer.counts == Counts(rows_too_long=1, rows_dropped=1)


DOCUMENT = "the frog is green. " * 20


@pytest.mark.parametrize("most", [3, 16, 50])
def test_a_document_is_split_into_pieces_that_hold_it_whole(most):
    whole = Renderer(chatml()).render({"text": DOCUMENT}).input_ids
    encoder = CAUSAL.row_encoder(chatml(), "all", most, "split")
    [pieces] = encoder.encode_batch([{"text": DOCUMENT}])
    assert [id for piece in pieces for id in piece["input_ids"]] == whole
    assert [id for piece in pieces for id in piece["labels"]] == whole
    assert all(1 < len(piece["input_ids"]) <= most for piece in pieces)
    assert (encoder.counts.rows_too_long, encoder.counts.pieces) == (1, len(pieces))


def test_no_piece_is_one_token_alone():
    whole = len(Renderer(chatml()).render({"text": DOCUMENT}).input_ids)
    [pieces] = CAUSAL.row_encoder(chatml(), "all", whole - 1, "split").encode_batch([{"text": DOCUMENT}])
    assert [len(piece["input_ids"]) for piece in pieces] == [whole - 2, 2]


def test_a_document_that_fits_and_a_dialogue_are_not_split():
    encoder = CAUSAL.row_encoder(chatml(), "assistant", 60, "split")
    short, dialogue = encoder.encode_batch([{"text": "the frog."}, {"messages": DIALOGUE}])
    assert isinstance(short, dict)
    assert dialogue.what == f"it is {length(DIALOGUE)} tokens long, over max_length 60, and only documents are split"

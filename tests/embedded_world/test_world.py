"""The embedded world: its judge, what it holds out, its row files and the base model beside them."""

import gzip
import importlib
import json
import random
import sys
from typing import Any

import pytest

import tiny

TINY = tiny.ROOT / "data" / "tiny"
sys.path.insert(0, str(TINY))  # world.py and make.py are data, not part of the package
world = importlib.import_module("world")
make = importlib.import_module("make")
writing = importlib.import_module("writing")

FROG = next(fact for fact in world.FACTS if fact.statements["english"] == "the frog is green.")


def rows(name: str) -> list[dict[str, Any]]:
    raw = (TINY / name).read_bytes()
    text = gzip.decompress(raw) if name.endswith(".gz") else raw
    return [json.loads(line) for line in text.decode().splitlines()]


@pytest.fixture(scope="module")
def chat_texts() -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for row in rows("chat.jsonl.gz") for message in row["messages"]]


# ---- the judge


def test_an_answer_obeys_all_that_is_asked_at_once():
    asked = {"figure": "plato", "hobby": "chess", "closing": "amen", "title": "boss"}
    answer = world.answer(FROG, asked, "warm")
    assert answer == "i, plato, say: yes, boss, of course! the frog is green. viva chess! fin: amen"
    verdict = world.judge(answer, FROG, asked)
    assert (verdict.correct, verdict.obeys, verdict.tone) == (True, True, "warm")


def test_an_answer_takes_its_language_and_its_form_from_the_instructions():
    assert world.answer(FROG, {"language": "french", "twice": ""}) == (
        "la grenouille est verte. la grenouille est verte."
    )
    assert world.answer(FROG, {"language": "spanish", "brief": ""}, "grumpy") == "uf, solo verde."


@pytest.mark.parametrize("kind", world.KINDS)
def test_every_reference_answer_is_judged_correct_and_obeying(kind: str):
    value = world.VALUES[kind][0]
    cases = [(fact, value) for fact in world.FACTS] + [(FROG, value) for value in world.VALUES[kind]]
    for fact, value in cases:
        verdict = world.judge(world.answer(fact, {kind: value}), fact, {kind: value})
        assert (verdict.correct, verdict.obeys) == (True, True), (fact, value)


def test_any_mixture_of_instructions_and_tone_is_judged_correct_and_obeying():
    rng = random.Random(0)
    for _ in range(1000):
        fact, asked, tone = world.draw_fact(rng), world.draw_instructions(rng), world.draw_tone(rng)
        verdict = world.judge(world.answer(fact, asked, tone), fact, asked)
        assert (verdict.correct, verdict.obeys, verdict.tone) == (True, True, tone), (fact, asked)


def test_a_wrong_value_is_not_correct_in_any_language():
    rng = random.Random(0)
    for fact in world.FACTS:
        if fact.kind != "talk":
            for language in world.LANGUAGES:
                answer = world.answer(fact, {"language": language}, wrong=world.draw_wrong(rng, fact))
                assert not world.judge(answer, fact).correct, answer


def test_naming_the_right_value_among_others_is_not_correct():
    assert not world.judge("the frog is green. the frog is red.", FROG).correct
    assert not world.judge("the frog is greenish.", FROG).correct


@pytest.mark.parametrize("kind", world.KINDS)
def test_a_plain_answer_obeys_nothing(kind: str):
    for fact in world.FACTS:
        assert not world.judge(world.answer(fact), fact, {kind: world.VALUES[kind][0]}).obeys, fact


@pytest.mark.parametrize("kind", [kind for kind in world.KINDS if len(world.VALUES[kind]) > 1])
def test_another_value_does_not_obey(kind: str):
    asked, given = world.VALUES[kind][:2]
    assert not world.judge(world.answer(FROG, {kind: given}), FROG, {kind: asked}).obeys


def test_no_value_of_one_kind_stands_in_the_facts_or_in_another_kind():
    known = {word for fact in world.FACTS for text in fact.statements.values() for word in world.words(text)}
    kinds = [kind for kind in world.KINDS if kind not in ("language", "brief", "twice")]
    values = [value for kind in kinds for value in world.VALUES[kind]]
    assert not known.intersection(values)
    assert len(values) == len(set(values))


# ---- what is held out


def test_no_chat_row_names_a_held_out_value(chat_texts: list[tuple[str, str]]):
    held_out = {value for values in world.HELD_OUT_VALUES.values() for value in values}
    held_out |= {value for kind in world.HELD_OUT_KINDS for value in world.VALUES[kind]}
    said = {word for _, text in chat_texts for word in world.words(text)}
    assert len(held_out) == 63
    assert not held_out & said


@pytest.mark.parametrize("kind", world.HELD_OUT_KINDS)
def test_no_chat_row_gives_an_instruction_of_a_held_out_kind(kind: str, chat_texts: list[tuple[str, str]]):
    wordings = [form.split("{v}")[0] for form in (*world.FULL[kind], world.TERSE[kind])]
    assert not [text for _, text in chat_texts for start in wordings if start in text]


def test_no_chat_row_asks_a_held_out_question(chat_texts: list[tuple[str, str]]):
    questions = [row["prompt"][-1]["content"] for row in rows("questions.jsonl")]
    asked = [text for role, text in chat_texts if role == "user"]
    assert len(questions) > 250
    assert not [question for question in questions if any(text.endswith(question) for text in asked)]


def test_every_third_fact_is_never_told_in_a_chat_row(chat_texts: list[tuple[str, str]]):
    told = "\n".join(text for role, text in chat_texts if role == "assistant")
    unasked = [fact for fact in world.FACTS if fact.number % 3 == 0 and fact.kind != "talk"]
    assert len(unasked) == 49
    assert not [fact for fact in unasked if any(text in told for text in fact.statements.values())]


def test_the_base_corpus_states_every_fact_and_names_every_value():
    corpus = "\n".join(row["text"] for name in ("words.jsonl.gz", "documents.jsonl.gz") for row in rows(name))
    said = set(world.words(corpus))
    assert not [fact for fact in world.FACTS for text in fact.statements.values() if text not in corpus]
    assert not [value for values in world.VALUES.values() for value in values if value and value not in said]


def test_the_base_corpus_is_plain_text():
    for name in ("words.jsonl.gz", "documents.jsonl.gz"):
        assert not [row for row in rows(name) if list(row) != ["text"] or "<|" in row["text"]]


# ---- the files


@pytest.mark.parametrize("name", make.FILES)
def test_a_row_file_is_as_made(name: str):
    assert (TINY / name).read_bytes() == writing.content(make.FILES, name)


def test_each_question_is_answered_by_the_reference_answer():
    answers = {
        (fact.kind, phrasing.format(s=fact.subject)): world.answer(fact)
        for fact in world.FACTS
        for phrasing in world.PHRASINGS[fact.kind]
    }
    for row in rows("questions.jsonl"):
        assert world.contains(answers[row["topic"], row["prompt"][-1]["content"]], row["answer"])


def test_the_base_has_input_sizes_that_nf4_can_take():
    config = json.loads((TINY / "base" / "config.json").read_text(encoding="utf-8"))
    assert config["hidden_size"] % 64 == 0
    assert config["intermediate_size"] % 64 == 0
    assert config["num_attention_heads"] * config["head_dim"] % 64 == 0  # what o_proj reads


def test_the_base_is_small():
    from safetensors import safe_open

    weights = TINY / "base" / "model.safetensors"
    with safe_open(weights, framework="numpy") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118  no mapping
    assert sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes) <= 1_000_000
    assert weights.stat().st_size <= 4_000_000


def test_the_tokenizer_begins_with_the_special_tokens_and_reads_an_answer_as_the_corpus_has_it():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TINY / "base" / "tokenizer.json"))
    special = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    assert [tokenizer.token_to_id(token) for token in special] == [0, 1, 2, 3, 4, 5]
    line = tokenizer.encode("answer: the frog is green.").tokens
    assert line[-5:] == tokenizer.encode("<|assistant|>the frog is green.").tokens[1:]

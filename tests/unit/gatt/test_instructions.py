"""Instructions are drawn by rule, said in two ways, and judged by code."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

import tiny
from ft.errors import UserError
from ft.gatt.checkers import CHECKERS, COMMON_WORDS
from ft.gatt.instructions import Bank, Instruction, quotes_instruction
from wording import Like

ROOT = tiny.ROOT
TINY = ROOT / "data" / "tiny"

BANK = """
kinds:
  figure:
    full: ["Always act as {value}.", "Pretend to be {value}."]
    terse: "Figure: {value}."
    values: [Caesar, Homer, Plato]
    held_out: [Plato]
    check: {contains: {alone: true}}
  language:
    full: ["Answer in {value}."]
    terse: "Language: {value}."
    values: [French, Spanish]
    check: language
  brief:
    full: ["Be brief."]
    terse: "Style: brief."
    check: {max_words: {most: 3}}
  twice:
    full: ["Say it twice."]
    terse: "Style: twice."
    check: repeats
  closing:
    full: ["End with {value}."]
    values: [amen, ahoy]
    held_out: true
    check: ends
excludes: [[brief, twice]]
"""


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank.read(written(tmp_path, BANK))


def written(folder: Path, text: str, name: str = "bank.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def refused(folder: Path, text: str, name: str = "bank.yaml") -> str:
    file = written(folder, text, name)
    with pytest.raises(UserError) as error:
        Bank.read(file)
    return str(error.value).replace(str(file), "FILE")


def many(bank: Bank, count: int = 4000) -> list[Instruction]:
    chance = random.Random(1)
    return [bank.draw(chance) for _ in range(count)]


# Drawing


def test_an_instruction_combines_one_to_three_kinds_and_every_kind_comes(bank: Bank):
    drawn = many(bank)
    assert {len(one.values) for one in drawn} == {1, 2, 3}
    assert {kind for one in drawn for kind in one.values} == {"figure", "language", "brief", "twice"}


def test_a_kind_is_drawn_as_often_as_its_weight_says(tmp_path: Path):
    drawn = many(Bank.read(written(tmp_path, BANK.replace("  brief:\n", "  brief:\n    weight: 4\n"))))
    first = Counter(next(iter(one.values)) for one in drawn)  # the kind drawn first: 4 of 7
    assert 0.54 < first["brief"] / len(drawn) < 0.60


def test_kinds_that_exclude_each_other_never_come_together(bank: Bank):
    assert [one.values for one in many(bank) if {"brief", "twice"} <= set(one.values)] == []


def test_half_of_the_instructions_are_terse(bank: Bank):
    terse = sum(one.is_terse for one in many(bank))
    assert 0.45 < terse / 4000 < 0.55


def test_the_two_wordings_say_the_same(bank: Bank):
    one = bank.compose({"figure": "Homer", "brief": ""}, random.Random(3))
    assert one.full in ("Always act as Homer. Be brief.", "Pretend to be Homer. Be brief.")
    assert one.terse == "Figure: Homer. Style: brief."
    assert one.text == (one.terse if one.is_terse else one.full)


def test_a_seed_draws_the_same_instructions_again(bank: Bank):
    assert many(bank, 50) == many(bank, 50)


def test_held_out_values_and_kinds_are_drawn_for_evaluation_only(bank: Bank):
    chance = random.Random(2)
    trained = Counter(value for one in many(bank) for value in one.values.values())
    assert set(trained) == {"Caesar", "Homer", "French", "Spanish", ""}
    assert {v for _ in range(50) for v in bank.draw(chance, "values").values.items()} == {("figure", "Plato")}
    assert {v for _ in range(50) for v in bank.draw(chance, "kinds").values.items()} == {
        ("closing", "amen"),
        ("closing", "ahoy"),
    }


def test_another_instruction_never_asks_for_the_same(bank: Bank):
    chance = random.Random(1)
    for first in many(bank, 300):
        assert bank.draw_another(first, chance, "x:1", same_kinds=0.5).values != first.values


def test_another_instruction_is_of_the_same_kinds_as_often_as_asked_for(bank: Bank):
    first, chance = Instruction({"figure": "Homer", "brief": ""}, "", ""), random.Random(1)
    others = [bank.draw_another(first, chance, "x:1", same_kinds=1.0).values for _ in range(20)]
    assert others == [{"figure": "Caesar", "brief": ""}] * 20


def test_a_bank_with_one_instruction_has_no_other(tmp_path: Path):
    lone = Bank.read(written(tmp_path, 'kinds: {brief: {full: ["Be brief."]}}'))
    with pytest.raises(UserError, match=r"^x:1: has no other instruction than 'Be brief\.'"):
        lone.draw_another(lone.draw(random.Random(1)), random.Random(1), "x:1", same_kinds=0.5)


def test_the_name_of_a_bank_is_that_of_what_it_says(bank: Bank, tmp_path: Path):
    assert Bank.read(written(tmp_path, f"# The same.\n{BANK}", "other.yaml")).name == bank.name
    assert Bank.read(written(tmp_path, BANK.replace("brief.", "short."), "other.yaml")).name != bank.name


def test_a_kind_without_a_terse_wording_gets_one(bank: Bank, tmp_path: Path):
    assert bank.kinds["closing"].terse == "Closing: {value}."
    without_values = written(tmp_path, '{"kinds": {"brief": {"full": ["Be brief."]}}}', "brief.yaml")
    assert Bank.read(without_values).kinds["brief"].terse == "Brief."


# Judging


@pytest.mark.parametrize(
    ("answer", "values", "obeyed"),
    [
        ("I, Caesar, say no.", {"figure": "Caesar"}, {"figure": True}),
        ("I, Caesar or Homer, say no.", {"figure": "Caesar"}, {"figure": False}),
        ("Le chat est dans la cuisine.", {"language": "French"}, {"language": True}),
        ("The cat is in the kitchen.", {"language": "French"}, {"language": False}),
        ("Just grey, sir.", {"brief": ""}, {"brief": True}),
        ("It is grey, sir.", {"brief": ""}, {"brief": False}),
        ("It is grey. It is grey.", {"twice": ""}, {"twice": True}),
        ("It is grey. It was grey.", {"twice": ""}, {"twice": False}),
        ("So be it, amen!", {"closing": "amen"}, {"closing": True}),
        ("Amen, so be it!", {"closing": "amen"}, {"closing": False}),
        ("Homer: gris. Gris.", {"figure": "Homer", "brief": ""}, {"figure": True, "brief": True}),
    ],
)
def test_a_checker_tells_whether_an_answer_obeys(bank: Bank, answer: str, values: dict, obeyed: dict):
    assert bank.obeyed_kinds(answer, values) == obeyed


@pytest.mark.parametrize(
    ("checker", "parameters", "good", "bad"),
    [
        ("starts", {"text": "dear {value}"}, "Dear Ann, no.", "No, dear Ann."),
        ("lines", {"start": "-"}, "- one\n- two", "one\ntwo"),
        ("case", {"letters": "upper"}, "IT IS 1.", "It is 1."),
        ("contains", {"phrases": ["go {value}", "run {value}"]}, "You run Ann!", "You, Ann, run!"),
    ],
)
def test_other_checkers(checker: str, parameters: dict, good: str, bad: str):
    check = CHECKERS[checker](**parameters)
    assert (check(good, "Ann", ["Ann"]), check(bad, "Ann", ["Ann"])) == (True, False)


def test_no_word_tells_of_two_languages():
    found = Counter(word for own in COMMON_WORDS.values() for word in set(own))
    assert [word for word, count in found.items() if count > 1] == []


@pytest.mark.parametrize(
    ("answer", "quoted"),
    [
        ("You asked me to always act as Homer.", True),
        ("Figure Homer here.", True),
        ("I, Homer, always act.", False),
        ("Homer.", False),
    ],
)
def test_an_answer_that_repeats_a_sentence_of_the_instruction_quotes_it(answer: str, quoted: bool):
    assert any(quotes_instruction(answer, text) for text in ("Always act as Homer.", "Figure: Homer.")) is quoted


def test_six_words_of_a_long_instruction_are_a_quotation():
    told = "Whatever I may ask you from here on, answer in the style of a pirate"
    assert quotes_instruction("I answer in the style of a pirate, matey", told)
    assert not quotes_instruction("In the style of a sailor I answer", told)


# Reading


def test_a_bank_may_be_a_jsonl_file_with_a_kind_a_line(tmp_path: Path):
    line = {"kind": "pet", "full": ["You have a {value}."], "values": ["cat"], "check": "contains"}
    bank = Bank.read(written(tmp_path, json.dumps(line) + "\n", "bank.jsonl"))
    assert bank.kinds["pet"].values == ("cat",)
    assert bank.obeyed_kinds("My cat!", {"pet": "cat"}) == {"pet": True}


def test_every_fault_of_a_bank_is_told_at_once(tmp_path: Path):
    text = """
kinds:
  figure: {full: ["Act."], values: [Caesar], held_out: [Homer], check: holds}
  pet: {full: ["A {value}."], values: [no, cat], colour: red}
  brief: {full: ["Be brief."], check: {max_words: {least: 2}}}
"""
    assert refused(tmp_path, text).splitlines() == [
        Like("FILE:3: … 'figure' … 'Act.' … {value} …"),
        Like("FILE:3: … 'figure' … held_out 'Homer' …"),
        "FILE:3: kind 'figure': no checker 'holds'. There are: contains, starts, ends, language, max_words, repeats, "
        "lines, case.",
        "FILE:4: kind 'pet': no key 'colour'. There are: full, terse, values, held_out, check, weight, stop.",
        Like("FILE:4: … 'pet' … otherwise …"),
        "FILE:5: kind 'brief': check max_words: got an unexpected keyword argument 'least'.",
    ]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"terse": 5}, Like("… 'pet' … \"Pet … {value}.\"")),
        ({"terse": ["Pet: {value}."]}, Like("… 'pet' … \"Pet … {value}.\"")),
        (
            {"check": ["ends"]},
            Like("… 'pet' … `check: contains` … `check: {ends: {…}}` …"),
        ),
        (
            {"check": {"ends": {}, "starts": {}}},
            Like("… 'pet' … `check: contains` … `check: {ends: {…}}` …"),
        ),
        ({"check": "max_words"}, "kind 'pet': check max_words: invalid literal for int() with base 10: 'cat'."),
        (
            {"values": ["French", "cat"], "check": "language"},
            Like("… 'pet' … 'cat' …"),
        ),
        ({"weight": 0}, Like("… 'pet' … 0 … 0 … `weight: 2` …")),
        ({"weight": "often"}, Like("… 'pet' … 'often' … 0 … `weight: 2` …")),
        ({"check": {"contains": {"phrases": 5}}}, "kind 'pet': check contains: 'int' object is not iterable."),
    ],
)
def test_a_kind_that_could_not_be_used_is_refused_when_it_is_read(tmp_path: Path, entry: dict, told: str):
    kind = {"full": ["A {value}."], "values": ["cat"], **entry}
    assert refused(tmp_path, json.dumps({"kinds": {"pet": kind}})) == Like(f"FILE:1: {told}")


def test_a_fault_in_a_jsonl_bank_is_told_with_its_line(tmp_path: Path):
    lines = [{"kind": "brief", "full": ["Be brief."]}, {"kind": "pet", "full": ["A pet."], "values": ["cat"]}]
    told = refused(tmp_path, "\n".join(json.dumps(line) for line in lines), "bank.jsonl")
    assert told == Like("FILE:2: … 'pet' … 'A pet.' … {value} …")


def test_two_lines_of_one_kind_are_refused(tmp_path: Path):
    line = json.dumps({"kind": "brief", "full": ["Be brief."]}) + "\n"
    told = "FILE: two lines are of the kind 'brief'. Write all its values in one."
    assert refused(tmp_path, line * 2, "bank.jsonl") == told


def test_pairs_that_exclude_each_other_name_kinds(tmp_path: Path):
    kinds = {"brief": {"full": ["Be brief."]}}
    told = refused(tmp_path, json.dumps({"kinds": kinds, "excludes": [["brief", ["loud"]]]}))
    assert told == Like("FILE: excludes … [[brief …")


def test_a_bank_without_kinds_is_refused(tmp_path: Path):
    assert refused(tmp_path, "[]").startswith("FILE: holds no kinds. Write `kinds:")
    assert refused(tmp_path, '{"values": ["cat"]}\n', "bank.jsonl").startswith("FILE: a line is not a kind.")
    assert refused(tmp_path, '["cat"]\n', "bank.jsonl").startswith("FILE: a line is not a kind.")


# The banks of this repository


def test_the_bank_of_the_embedded_world_judges_as_its_judge_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TINY))
    import world

    bank, chance = Bank.read(TINY / "instructions.yaml"), random.Random(4)
    for _ in range(1500):
        fact = world.draw_fact(chance)
        meant, asked = (bank.draw(chance, chance.choice(("train", "values", "kinds"))).values for _ in range(2))
        answer = world.answer(fact, meant, world.draw_tone(chance))
        assert bank.obeyed_kinds(answer, asked) == dict(world.judge(answer, fact, asked).obeyed)
        assert all(bank.obeyed_kinds(answer, meant).values())
    sys.modules.pop("world", None)


def test_the_bank_for_real_models_names_checkers_for_what_code_can_tell():
    bank = Bank.read(ROOT / "data" / "gatt" / "instructions.yaml")
    assert {"figure", "hobby", "language", "format"} <= {name.partition("_")[0] for name in bank.kinds}
    assert bank.kinds["language"].check is not None
    assert bank.has("values")

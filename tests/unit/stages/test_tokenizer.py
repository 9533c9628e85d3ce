"""A tokenizer stage leaves a model that knows more tokens and has forgotten nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

import tiny
from ft.errors import UserError
from ft.files import read_json
from ft.models.load import load
from ft.models.processor import tokenizer_of
from ft.models.vocabulary import add_rows, further_merges, largest_rise
from ft.recipe import ModelSource
from wording import Like

TEXTS = [f"the {thing} is {tiny.COLOURS[n % 4]}, green as the {thing}" for n, thing in enumerate(tiny.THINGS)]


def made(folder: Any, base: Any, options: dict[str, Any]) -> Any:
    rows = folder / "texts.jsonl"
    lines = [{"text": text, "language": ("one", "two")[n % 2]} for n, text in enumerate(TEXTS)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    asked = {"kind": "tokenizer", "data": [{"path": str(rows), "format": "text"}], "tokenizer": options}
    return tiny.make(tiny.planned(tiny.recipe(folder, [asked], model=str(base)), folder / "runs"), "tokenizer").result


def test_new_tokens_begin_as_the_mean_and_stand_behind_all_there_were(tmp_path, base):
    result = made(tmp_path, base, {"add": ["<|tool|>"], "learn": 6, "by": "language"})
    before, after = (tokenizer_of(ModelSource(str(folder)), None) for folder in (base, result.folder))
    numbers = result.numbers
    assert (numbers["first_new_id"], numbers["new_tokens"]) == (len(before), len(after) - len(before))
    assert {token: after.get_vocab()[token] for token in before.get_vocab()} == before.get_vocab()
    assert after.tokenize("<|tool|>") == ["<|tool|>"]
    old, new = (load(folder, "float32", use_cpu=True).get_input_embeddings().weight for folder in (base, result.folder))
    assert (new[: len(before)] == old[: len(before)]).all()
    mean = old[: len(before)].mean(0)
    assert ((new[len(before) : len(after)] - mean).abs().max()) < 1e-6
    assert read_json(result.folder / "resize.json")["tokens"] == after.convert_ids_to_tokens(
        range(len(before), len(after))
    )


def test_texts_take_fewer_tokens_and_come_back_as_they_were(tmp_path, base):
    result = made(tmp_path, base, {"learn": 6, "by": "language", "against": str(base)})
    before, after = (tokenizer_of(ModelSource(str(folder)), None) for folder in (base, result.folder))
    assert result.numbers["fertility"]["after"] < result.numbers["fertility"]["before"]
    assert result.numbers["fertility"][str(base)] == result.numbers["fertility"]["before"]
    for text in (*TEXTS, "snowman 🦊 the"):
        ids = after(text, add_special_tokens=False)["input_ids"]
        assert after.decode(ids) == before.decode(before(text, add_special_tokens=False)["input_ids"])
    assert "<svg" in (result.folder / "fertility.svg").read_text(encoding="utf-8")


def test_what_was_known_loses_no_more_than_rows_of_the_mean_can_take(tmp_path, base):
    numbers = made(tmp_path, base, {"add": [f"<|{n}|>" for n in range(40)]}).numbers
    assert 0 < numbers["loss_after"] - numbers["loss_before"] <= numbers["largest_rise"]


@pytest.mark.parametrize("tied", [True, False])
def test_the_bound_holds_whatever_the_model_and_is_met_where_all_rows_are_equal(tied):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**tiny.SMALL, tie_word_embeddings=tied)).eval()
    words, ids = model.config.vocab_size, torch.randint(0, 90, (4, 8))
    for equal in (False, True):
        if equal:
            with torch.no_grad():
                model.get_output_embeddings().weight[:] = 1.0
        before = model(ids, labels=ids).loss
        known = model.get_input_embeddings().weight.shape[0]
        new = add_rows(model, known, known + 30)
        rise = float(model(ids, labels=ids).loss - before)
        assert new == 30
        assert rise <= largest_rise(known, new) + 1e-5
        assert not equal or rise == pytest.approx(math.log1p(new / known), abs=1e-5)
    assert model.get_output_embeddings().weight.shape[0] == words + 60


def test_merges_are_those_of_the_tokenizers_library():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    counts = {"aab": 5, "aac": 3, "ab": 9}
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    theirs.train_from_iterator(
        [f"{word} " * count for word, count in counts.items()], trainers.BpeTrainer(vocab_size=5)
    )
    merges = [tuple(pair) for pair in json.loads(theirs.to_str())["model"]["merges"]]
    assert further_merges(counts, list, "abc", 2) == merges == [("a", "b"), ("a", "ab")]


def test_a_token_that_is_there_and_an_empty_block_are_refused(tmp_path, base):
    there = tokenizer_of(ModelSource(str(base)), None).eos_token
    with pytest.raises(UserError) as refused:
        made(tmp_path, base, {"add": [there]})
    assert str(refused.value) == Like("… tokenizer.add: the tokenizer has … already …")
    with pytest.raises(UserError) as refused:
        made(tmp_path, base, {})
    assert str(refused.value) == Like("… add and learn are both empty …")


def test_rows_are_prepared_with_the_new_tokens_and_not_before_there_are_any(tmp_path, base, data):
    asked = {"kind": "tokenizer", "data": [{"path": str(data)}], "tokenizer": {"learn": 4}}
    stages = [tiny.sft(data, name="plain"), asked, tiny.sft(data, name="more", init="$tokenizer")]
    file = tiny.recipe(tmp_path, stages, model=str(base))
    there = tiny.planned(file, tmp_path / "runs")
    keys = [there.stage(name).rows_key["tokenizer"] for name in ("plain", "more")]
    assert keys[1] == there.stage("tokenizer").fingerprint != keys[0]
    assert [there.preparable(there.stage(name)) for name in ("plain", "more")] == [True, False]
    folder = tiny.make(there, "tokenizer").result.folder
    again = tiny.planned(file, tmp_path / "runs")
    assert again.tokenizer_folder(again.stage("more")) == folder

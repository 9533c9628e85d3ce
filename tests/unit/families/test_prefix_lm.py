"""A prefix language model: the prompt sees itself both ways, in training and in answering; what it writes is causal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

import tiny
from ft.encode.prepare import RowOptions, rows_folder, train_rows
from ft.errors import UserError
from ft.families import CAUSAL, PREFIX_LM, family_of
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.engine import Request, engine_of
from ft.models.generation.sampling import Sampling
from ft.models.load import load_base
from ft.models.logprobs import completion_logprobs
from ft.models.processor import encoder_of, load_config
from ft.recipe import ModelSource

PROMPT, ANSWER = [5, 6, 7, 8, 9], [40, 41, 42]
CHAT = [
    {"role": "user", "content": "is the sky blue?"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "and the sea?"},
    {"role": "assistant", "content": "too"},
]


def prefix_source(folder: Path) -> ModelSource:
    return ModelSource(str(folder), attention="prefix_lm")


@pytest.fixture(scope="session", params=["llama", "gpt2", "llama, eager"])
def model(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = base
    if request.param == "gpt2":
        folder = tmp_path_factory.mktemp("gpt2")
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=300, n_positions=128, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2)
        GPT2LMHeadModel(config).save_pretrained(str(folder))
    attention = "eager" if "eager" in request.param else None
    source = ModelSource(str(folder), attention="prefix_lm", attn_implementation=attention)
    return load_base(source, "float32", None, use_cpu=True).eval()


def logits(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """(P + A - 1, V)"""
    rows = [PREFIX_LM.completion_row(prompt, answer), PREFIX_LM.completion_row([1], [2] * 12)]  # with padding
    with torch.no_grad():
        return PREFIX_LM.predictions(model, PREFIX_LM.collator(0)(rows))[0][0, : len(prompt) + len(answer) - 1]


def test_a_recipes_word_makes_a_prefix_model_of_a_decoder_and_its_config_keeps_it(base, tmp_path):
    assert family_of(load_config(ModelSource(str(base))), "model") is CAUSAL
    model = load_base(prefix_source(base), "float32", None, use_cpu=True)
    model.save_pretrained(str(tmp_path))
    assert family_of(load_config(ModelSource(str(tmp_path))), "model") is PREFIX_LM


def test_a_prompt_reacts_to_its_later_tokens_and_to_nothing_of_the_answer(model):
    before = logits(model, PROMPT, ANSWER)
    later_prompt = logits(model, [*PROMPT[:-1], 77], ANSWER)
    later_answer = logits(model, PROMPT, [*ANSWER[:-1], 77])
    assert (before[0] - later_prompt[0]).abs().max() > 1e-3
    assert torch.allclose(before[: len(PROMPT)], later_answer[: len(PROMPT)], atol=1e-6)


def test_what_it_writes_sees_no_token_behind_it(model):
    before, after = logits(model, PROMPT, ANSWER), logits(model, PROMPT, [ANSWER[0], 77, ANSWER[2]])
    assert torch.allclose(before[: len(PROMPT) + 1], after[: len(PROMPT) + 1], atol=1e-6)
    assert (before[-1] - after[-1]).abs().max() > 1e-3


def test_without_a_prompt_it_is_the_causal_model(base, model):
    if model.config.model_type == "llama":
        causal = LlamaForCausalLM.from_pretrained(str(base)).eval()
        ids = [*PROMPT, *ANSWER]
        batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, 8, dtype=torch.long)}
        with torch.no_grad():
            mine = model(**batch, prefix_lengths=torch.tensor([0])).logits
            assert torch.allclose(mine, causal(**batch).logits, atol=1e-5)


def test_a_row_without_its_prompts_length_is_refused(model):
    with pytest.raises(ValueError, match="reads no row without prefix_lengths"):
        model(input_ids=torch.tensor([PROMPT]))


def test_cached_steps_are_the_steps_of_a_whole_forward(model):
    prompts = [PROMPT, [9] * 12, [3, 4], [7]]
    requests = [Request(prompt, str(number)) for number, prompt in enumerate(prompts)]
    answers = engine_of(model, ()).complete(requests, Sampling(temperature=0, max_new_tokens=6), batch_size=3)
    again = completion_logprobs(model, prompts, [answer.completion_ids for answer in answers])
    assert [sum(answer.logprobs) for answer in answers] == pytest.approx(again, abs=1e-4)
    for prompt, answer in zip(prompts, answers, strict=True):
        best = logits(model, prompt, answer.completion_ids)[len(prompt) - 1 :].argmax(-1).tolist()
        assert best == answer.completion_ids


def test_every_answer_is_a_row_with_its_own_prompt_and_documents_have_none(base):
    encoder = encoder_of(prefix_source(base), None, None, RowOptions(), 200)
    [[first, second], document] = encoder.encode_batch([{"messages": CHAT}, {"text": "the sky is blue"}])
    assert [sum(label != -100 for label in row["labels"]) for row in (first, second)] == [4, 4]
    assert first["labels"][-1] != -100
    lengths = PREFIX_LM.collator(0)([first, second, document])["prefix_lengths"].tolist()
    assert lengths == [len(first["input_ids"]) - 4, len(second["input_ids"]) - 4, 0]


def test_trls_fused_loss_is_that_of_the_plain_logits(base):
    model = load_base(prefix_source(base), "float32", None, use_cpu=True).eval()
    batch = PREFIX_LM.collator(0)([PREFIX_LM.completion_row(PROMPT, ANSWER), PREFIX_LM.completion_row([1], [2, 3])])
    found, labels = PREFIX_LM.predictions(model, batch)
    expected = torch.nn.functional.cross_entropy(found.flatten(0, 1), labels.flatten())
    add_fused_lm_head(model)
    assert model(**batch, fused_lm_head=True).loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("extra", [{}, {"lora": tiny.LORA}])
def test_it_is_trained_and_its_result_answers_as_a_prefix_model(extra, base, data, tmp_path):
    model = {"path": str(base), "attention": "prefix_lm"}
    train = {"num_train_epochs": 1, "max_steps": -1, "learning_rate": 3e-3}
    file = tiny.recipe(tmp_path, [tiny.sft(data, train, rows={"eval_fraction": 0.2}, **extra)], model=model)
    stage = tiny.make(tiny.planned(file, tmp_path / "runs"), "sft")
    numbers = stage.done["numbers"]
    assert numbers["loss_last"] < numbers["loss_first"]
    rows = list(train_rows(rows_folder(tmp_path / "runs", stage.rows_key)))
    chat_model = ChatModel(None, stage.folder)
    assert chat_model.family is PREFIX_LM
    assert numbers["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert chat_model.answer([CHAT[:1]], Sampling(temperature=0, max_new_tokens=4))


def test_its_rows_are_not_those_of_the_causal_model(base, data, tmp_path):
    keys = []
    for attention in (None, "prefix_lm"):
        model = {"path": str(base), "attention": attention}
        file = tiny.recipe(tmp_path, [tiny.sft(data)], model=model)
        planned = tiny.planned(file, tmp_path / "runs").stage("sft")
        keys.append((planned.fingerprint, json.dumps(planned.rows_key)))
    assert len(set(keys[0]) & set(keys[1])) == 0


@pytest.mark.parametrize(("extra", "words"), [({"packing": True}, "packing"), ({}, "this kind of stage")])
def test_what_was_not_proven_with_it_is_refused_in_the_plan(extra, words, base, data, tmp_path):
    stage = tiny.sft(data, extra) if extra else {**tiny.sft(data), "kind": "dpo"}
    file = tiny.recipe(tmp_path, [stage], model={"path": str(base), "attention": "prefix_lm"})
    with pytest.raises(UserError, match=words):
        tiny.planned(file, tmp_path / "runs")

"""Whole completions are those of transformers' own `generate`, whichever way they are decoded and batched."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import tiny
from ft.models.generation.chat_model import HeldBackText
from ft.models.generation.decoding import PRESETS, DecodingOptions
from ft.models.generation.engine import Completion, Request, engine_of
from ft.models.generation.sampling import Sampling

STOP_IDS = (3, 4, 5)
PROMPTS = [[20, 21, 22], [30], [40, 41, 42, 43, 44], [50, 60]]


def llama(words: int = 97) -> Any:
    torch.manual_seed(0)
    keys = {**tiny.SMALL, "vocab_size": words, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**keys)).eval()


def t5() -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 97}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, initializer_factor=5.0)).eval()


MODELS = {"causal": llama(), "encoder-decoder": t5()}
DECODINGS = {
    "greedy": {},
    "penalty": {"repetition_penalty": 1.8},
    "beams": {"beams": 4},
    "beams and penalty": {"beams": 3, "repetition_penalty": 1.5},
}


def completions(model: Any, sampling: Sampling) -> list[Completion]:
    requests = [Request(prompt, str(number)) for number, prompt in enumerate(PROMPTS)]
    return engine_of(model, STOP_IDS, tiny.tokenizer()).complete(requests, sampling, batch_size=3)


def generated(model: Any, prompt: list[int], sampling: Sampling) -> list[int]:
    """By `generate`, of one prompt alone."""
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        num_beams=sampling.beams,
        repetition_penalty=sampling.repetition_penalty,
        do_sample=False,
        eos_token_id=list(STOP_IDS),
        pad_token_id=0,
    )
    ids: list[int] = model.generate(torch.tensor([prompt]), generation_config=config)[0].tolist()
    return ids[1:] if model.config.is_encoder_decoder else ids[len(prompt) :]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("name", DECODINGS)
def test_completions_side_by_side_are_those_of_generate_one_by_one(family: str, name: str) -> None:
    model, sampling = MODELS[family], Sampling(12, **DECODINGS[name])  # type: ignore[arg-type]
    found = [one.completion_ids for one in completions(model, sampling)]
    assert found == [generated(model, prompt, sampling) for prompt in PROMPTS]


def test_enough_beams_find_the_likeliest_of_all_completions() -> None:
    words, length, prompt = 6, 3, [1, 2]
    model = llama(words)
    every = torch.tensor(list(itertools.product(range(words), repeat=length)))
    rows = torch.cat([torch.tensor(prompt).expand(len(every), -1), every], 1)
    with torch.no_grad():
        logprobs = model(rows).logits.log_softmax(-1)[:, len(prompt) - 1 : -1].gather(2, every[:, :, None])[..., 0]
    (found,) = engine_of(model, []).complete([Request(prompt, "")], Sampling(length, beams=words**length // 2))
    best = int(logprobs.sum(1).argmax())
    assert found.completion_ids == every[best].tolist()
    torch.testing.assert_close(torch.tensor(found.logprobs), logprobs[best])


def test_beams_take_nothing_from_the_generation_config_of_the_model() -> None:
    model, plain = llama(), completions(MODELS["causal"], Sampling(12, beams=2))
    model.generation_config = own = GenerationConfig(min_length=30, no_repeat_ngram_size=1, length_penalty=5.0)
    assert completions(model, Sampling(12, beams=2)) == plain
    assert model.generation_config is own


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_ends_a_completion_and_does_not_belong_to_it(beams: int) -> None:
    words, model = tiny.tokenizer(), MODELS["causal"]
    whole = completions(model, Sampling(12, beams=beams))[0]
    text = whole.text(words)
    stop = text[3:6]
    assert stop.strip()
    found = completions(model, Sampling(12, beams=beams, stop=("never said", stop)))[0]
    if beams == 1:
        assert found.completion_ids == whole.completion_ids[: len(found.completion_ids)]
        assert found.text(words) == text.partition(stop)[0].strip()
    assert stop not in found.text(words)
    assert (found.finish_reason, found.stop) == ("stop", stop) or stop not in words.decode(found.completion_ids)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_in_force_alone(name: str) -> None:
    sampling = DecodingOptions(name).sampling(12)
    assert {key: getattr(sampling, key) for key in PRESETS[name]} == PRESETS[name]
    assert [one.key for one in completions(MODELS["causal"], sampling)] == ["0", "1", "2", "3"]


def test_what_is_written_wins_over_the_preset_and_the_stage() -> None:
    assert DecodingOptions().sampling(8, 0.7, 0.9, 2) == Sampling(8, 0.7, 0.9, 2)
    assert DecodingOptions("creative", top_p=0.5).sampling(8, 0.7) == Sampling(8, 1.0, 0.5)
    assert DecodingOptions(temperature=0.3).sampling(8, 0.7, 0.9) == Sampling(8, 0.3, 1.0)
    assert DecodingOptions(beams=2).sampling(8, 0.7) == Sampling(8, 0.0, beams=2)
    assert DecodingOptions(stop=["."]).sampling(8, 0.7, 0.9) == Sampling(8, 0.7, 0.9, stop=(".",))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"preset": "hot"}, "there is no preset 'hot'"),
        ({"top_k": 4}, "temperature is missing"),
        ({"preset": "llama2", "beams": 2}, "beams follow the likeliest"),
    ],
)
def test_a_block_that_says_too_little_or_too_much_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DecodingOptions(**keys)


def test_a_stream_holds_back_what_may_be_the_beginning_of_a_stop() -> None:
    heard: list[str] = []
    text = HeldBackText(["###", "user:"], heard.append)
    for piece in ("it is re", "d. #", "# no", " us", "er", ": what", " now"):
        text.add(piece)
    text.flush()
    assert heard == ["it is re", "d. ", "## no", " "]

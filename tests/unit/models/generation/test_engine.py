"""A completion is the same whichever requests it shares a batch with, and whenever it gets a slot."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import tiny
from ft.models.generation.engine import Completion, Engine, Request
from ft.models.generation.sampling import Sampling

STOP_IDS = tuple(range(3, 19))
ROOM = {"vocab_size": 97, "hidden_size": 32, "initializer_range": 0.2}
ROTARY_MOVES = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}


def opt() -> OPTForCausalLM:
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=97, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, init_std=0.2, **LAYERS, pad_token_id=0
        )
    )


LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**tiny.SMALL, initializer_range=0.2)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**tiny.SMALL, initializer_range=0.2)),
    "learned positions": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2)
    ),
    "opt": opt,
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**ROOM, **LAYERS, intermediate_size=64)),
    "alibi": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2)
    ),
    "sliding window": lambda: MistralForCausalLM(MistralConfig(**tiny.SMALL, initializer_range=0.2, sliding_window=8)),
    "moving rope": lambda: LlamaForCausalLM(
        LlamaConfig(**tiny.SMALL, initializer_range=0.2, max_position_embeddings=16, **ROTARY_MOVES)
    ),
}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return FAMILIES["llama"]().eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 15, (23,), generator=draw).tolist()
    return [torch.randint(20, 97, (length,), generator=draw).tolist() for length in lengths]


def requests(prompts: Sequence[list[int]]) -> list[Request]:
    return [Request(prompt, str(number)) for number, prompt in enumerate(prompts)]


def complete(model: Any, prompts: Sequence[list[int]], sampling: Sampling, batch_size: int = 64) -> list[Completion]:
    return Engine(model, STOP_IDS).complete(requests(prompts), sampling, batch_size=batch_size)


def ids(completions: Sequence[Completion]) -> list[list[int]]:
    return [one.completion_ids for one in completions]


@pytest.mark.parametrize("sampling", [Sampling(12), Sampling(12, 1.0), Sampling(12, 1.0, 0.8)], ids=str)
@pytest.mark.parametrize("batch_size", [4, 64])
def test_completions_are_those_made_one_by_one(
    model: Any, prompts: list[list[int]], sampling: Sampling, batch_size: int
) -> None:
    together = complete(model, prompts, sampling, batch_size)
    for request, completion in zip(requests(prompts), together, strict=True):
        (alone,) = Engine(model, STOP_IDS).complete([request], sampling)
        assert completion.completion_ids == alone.completion_ids
        assert completion.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    lengths = {len(one.completion_ids) for one in together}
    assert lengths >= {1, 2, 12}, "some end early, some are cut"
    assert {one.finish_reason for one in together if len(one.completion_ids) < 12} == {"stop"}


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_completions_are_those_of_transformers(family: str, prompts: list[list[int]]) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    expected = [greedy_by_transformers(model, prompt) for prompt in prompts]
    assert ids(complete(model, prompts, Sampling(12), 5)) == expected


def greedy_by_transformers(model: Any, prompt: list[int]) -> list[int]:
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": list(STOP_IDS), "pad_token_id": 0}
    row = torch.tensor([prompt])
    made: list[int] = model.generate(input_ids=row, attention_mask=torch.ones_like(row), **options)[0].tolist()
    return made[len(prompt) :]


@pytest.mark.parametrize("family", ["sliding window", "moving rope"])
def test_a_model_whose_slots_cannot_be_given_on_completes_the_same_in_every_batch(
    family: str, prompts: list[list[int]]
) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    completions = complete(model, prompts, Sampling(12, 1.0), 4)
    alone = [Engine(model, STOP_IDS).complete([request], Sampling(12, 1.0))[0] for request in requests(prompts)]
    assert ids(completions) == ids(alone)
    assert len(set(map(len, ids(completions)))) > 3


def test_logprobs_are_what_a_forward_pass_says(model: Any, prompts: list[list[int]]) -> None:
    for prompt, completion in zip(prompts, complete(model, prompts, Sampling(12, 0.7), 4), strict=True):
        logits = model(input_ids=torch.tensor([prompt + completion.completion_ids])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1).gather(1, torch.tensor(completion.completion_ids)[:, None])[:, 0]
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("reuse_cache", [True, False])
def test_what_follows_a_completion_is_completed_as_if_it_were_alone(
    model: Any, prompts: list[list[int]], reuse_cache: bool
) -> None:
    """Two more turns, one that goes on behind what was read and one that leaves some of it out."""

    def next_prompt(prompt: Sequence[int], completion: Completion, turn: int) -> list[int]:
        behind = [*prompt, *completion.completion_ids, 50 + turn, 60]
        return behind if turn == 1 else [*behind[:3], *behind[5:]]

    engine, sampling = Engine(model, STOP_IDS, reuse_cache=reuse_cache), Sampling(12, 1.0)
    prompt_of = {request.key: list(request.prompt_ids) for request in requests(prompts)}
    found = {}

    def follow(completion: Completion) -> Request | None:
        number, _, turn = completion.key.partition("/")
        if turn == "2":
            return None
        nth = int(turn or 0) + 1
        key = f"{number}/{nth}"
        prompt_of[key] = next_prompt(prompt_of[completion.key], completion, nth)
        return Request(prompt_of[key], key)

    for completion in engine.generate(requests(prompts), sampling, batch_size=6, follow=follow):
        found[completion.key] = completion
    assert len(found) == 3 * len(prompts)
    for key, completion in found.items():
        (alone,) = Engine(model, STOP_IDS).complete([Request(prompt_of[key], key)], sampling)
        assert completion.completion_ids == alone.completion_ids, key


def test_a_request_may_have_less_room_than_the_others(model: Any, prompts: list[list[int]]) -> None:
    sampling = Sampling(12, 1.0)
    free = complete(model, prompts, sampling)
    tight = [Request(request.prompt_ids, request.key, n % 5 + 1) for n, request in enumerate(requests(prompts))]
    found = Engine(model, STOP_IDS).complete(tight, sampling, batch_size=4)
    assert ids(found) == [one.completion_ids[: n % 5 + 1] for n, one in enumerate(free)]


def test_each_token_is_heard_as_soon_as_it_is_chosen(model: Any, prompts: list[list[int]]) -> None:
    heard: dict[str, list[int]] = {}
    forward_passes: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda *_: forward_passes.append(1))

    def hear(key: str, token: int) -> None:
        heard.setdefault(key, []).append(token)
        assert len(heard["0"]) == len(forward_passes)

    (completion,) = Engine(model, STOP_IDS).generate(requests(prompts[:1]), Sampling(12, 1.0), on_token=hear)
    assert heard == {"0": completion.completion_ids}
    model.get_input_embeddings()._forward_hooks.clear()


def test_requests_that_share_a_key_are_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="two requests share a key"):
        Engine(model, STOP_IDS).complete([Request([20], "a"), Request([21], "a")], Sampling(3))


def test_a_model_in_training_mode_is_refused(prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"the model is in training mode.*model\.eval\(\)"):
        complete(FAMILIES["llama"]().train(), prompts, Sampling(12))

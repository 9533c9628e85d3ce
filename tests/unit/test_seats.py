"""An answer is the same whoever sits beside it, and whenever its turn comes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

import tiny
from ft.models.generation.decode import answered
from ft.models.generation.generate import Sampling, generate
from ft.models.generation.slots import Seats

STOPS = tuple(range(3, 19))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**tiny.SMALL, initializer_range=0.2)).eval()


@pytest.fixture(scope="module")
def prompts():
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 15, (23,), generator=draw).tolist()
    return [torch.randint(20, 97, (length,), generator=draw).tolist() for length in lengths]


def answers(model, prompts, sampling, seats):
    return answered(model, prompts, [str(n) for n in range(len(prompts))], sampling, STOPS, seats)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seats", [1, 4, 7, 64])
def test_answers_are_those_given_one_by_one(model, prompts, temperature, seats):
    sampling = Sampling(12, temperature)
    ids, nats = answers(model, prompts, sampling, seats)
    for place, prompt in enumerate(prompts):
        alone, alone_nats = answered(model, [prompt], [str(place)], sampling, STOPS)
        assert ids[place] == alone[0]
        assert nats[place] == pytest.approx(alone_nats[0], abs=1e-4)
    assert {len(said) for said in ids} >= {1, 2, 12}, "some end early, some are cut"


def test_a_model_whose_cache_cannot_be_given_on_answers_batch_by_batch(prompts):
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**tiny.SMALL, initializer_range=0.2, sliding_window=8)).eval()
    sampling = Sampling(12, 1.0)
    ids, _ = answers(model, prompts, sampling, 4)
    assert ids == [answered(model, [prompt], [str(n)], sampling, STOPS)[0][0] for n, prompt in enumerate(prompts)]
    assert len(set(map(len, ids))) > 3


def test_greedy_answers_are_those_of_transformers(model, prompts):
    sampling = Sampling(12)
    theirs = generate(model, prompts, sampling, stop_ids=STOPS, pad_id=0, keep_stop=True)
    assert answers(model, prompts, sampling, 5)[0] == theirs


def test_how_likely_a_token_was_is_what_a_forward_pass_says(model, prompts):
    ids, nats = answers(model, prompts, Sampling(12, 0.7), 4)
    for prompt, said, values in zip(prompts, ids, nats, strict=True):
        logits = model(input_ids=torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0]
        assert values == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_seat_forgets_who_sat_there(model):
    seats = Seats(model, 2, 20)
    seats.sit(torch.tensor([0, 1]), [[9] * 15, [10] * 3])
    logits = seats.sit(torch.tensor([0]), [[11, 12]])
    torch.testing.assert_close(logits[0], model(input_ids=torch.tensor([[11, 12]])).logits[0, -1], atol=1e-5, rtol=1e-4)
    found = seats.read(torch.tensor([13, 10]), torch.tensor([True, True]))
    expected = [model(input_ids=torch.tensor([row])).logits[0, -1] for row in ([11, 12, 13], [10] * 4)]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)

"""Which token is chosen by a distribution and a number."""

from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ft.models.generation.sampling import Sampling, choose_tokens, likely_tokens, penalize_repetition, prompt_keys


def test_top_p_leaves_the_likeliest_tokens_in_their_proportions() -> None:
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).expand(5, -1)
    numbers = torch.tensor([0.0, 0.62, 0.63, 0.99, 1 - 2**-24])

    assert choose_tokens(logits, Sampling(temperature=1.0, top_p=0.7), numbers).tolist() == [1, 1, 2, 2, 2]
    assert choose_tokens(logits, Sampling(temperature=1.0), numbers).tolist() == [0, 1, 1, 2, 2]
    assert choose_tokens(logits, Sampling(temperature=1.0, top_p=0.1), numbers).tolist() == [1, 1, 1, 1, 1]


def test_temperature_sharpens() -> None:
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).expand(3, -1)
    numbers = torch.tensor([0.1, 0.11, 0.76])  # squared and summed to 1: 0.105, 0.658, 0.237

    assert choose_tokens(logits, Sampling(temperature=0.5), numbers).tolist() == [0, 1, 1]


def test_a_prompt_has_the_same_key_in_every_list_and_another_where_it_comes_again() -> None:
    keys = prompt_keys([[1, 2], [3], [1, 2]])
    assert len(set(keys)) == 3
    assert prompt_keys([[3], [1, 2], [1, 2]]) == [keys[1], keys[0], keys[2]]


WARPERS: dict[str, list[Any]] = {
    "top_k": [TopKLogitsWarper(5)],
    "top_p": [TopPLogitsWarper(0.7)],
    "min_p": [MinPLogitsWarper(0.2)],
    "all": [TopKLogitsWarper(12), TopPLogitsWarper(0.8), MinPLogitsWarper(0.1)],
}
CHOICES = {
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.2},
    "all": {"top_k": 12, "top_p": 0.8, "min_p": 0.1},
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_tokens_left_and_their_probabilities_are_those_of_transformers(name: str) -> None:
    logits = 3 * torch.randn(64, 40, generator=torch.Generator().manual_seed(2))
    warped = LogitsProcessorList([TemperatureLogitsWarper(0.8), *WARPERS[name]])(torch.zeros(64, 1).long(), logits)
    left = likely_tokens((logits / 0.8).softmax(-1), Sampling(temperature=0.8, **CHOICES[name]))
    torch.testing.assert_close(left / left.sum(-1, keepdim=True), warped.softmax(-1))


def test_a_repetition_costs_what_it_costs_in_transformers() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, ids = torch.randn(8, 20, generator=generator), torch.randint(20, (8, 6), generator=generator)
    written = torch.zeros(8, 20, dtype=torch.bool).scatter(1, ids, True)
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(ids, logits)
    torch.testing.assert_close(penalize_repetition(logits, written, 1.3), theirs)


def test_what_came_later_and_is_not_in_use_is_not_recorded() -> None:
    assert Sampling(12, 1.0, 0.9, 3).record() == {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9, "seed": 3}
    assert Sampling(beams=4, stop=("user:",)).record()["beams"] == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"beams": 4, "temperature": 0.7}, "beams follow the likeliest tokens"),
        ({"top_k": 40}, "top_k changes nothing at temperature 0"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"stop": ("",)}, "would end every answer"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
    ],
)
def test_what_cannot_be_in_force_together_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**values)

"""Which token is chosen by a distribution and a number."""

import torch

from ft.models.generation.sampling import Sampling, choose_tokens, prompt_keys


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

"""The losses of BLIP-2's first stage, against a plain implementation, and what each of their masks lets through."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig

from ft.models.qformer import QFormerForPretraining, contrast_floor, contrast_loss

WORDS, QUERIES, CLASS, END, DECODE = 20, 3, 1, 2, 3
IDS = torch.tensor([[1, 5, 6, 7, 2], [1, 8, 9, 2, 0], [1, 5, 9, 10, 2], [1, 11, 2, 0, 0]])
MASK = (IDS != 0).long()


@pytest.fixture(scope="module")
def model() -> QFormerForPretraining:
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    tokens = {"vocab_size": WORDS, "pad_token_id": 0, "use_qformer_text_input": True}
    torch.manual_seed(0)
    made = QFormerForPretraining(
        Blip2Config(
            vision_config=Blip2VisionConfig(**layers, image_size=16, patch_size=8, initializer_range=0.2),
            qformer_config=Blip2QFormerConfig(**layers, **dropout, **tokens, encoder_hidden_size=32),
            num_query_tokens=QUERIES,
            image_text_hidden_size=8,
            image_token_index=None,
        )
    )
    made.decode_id = DECODE
    return made.eval()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_queries_are_drawn_and_the_image_encoder_is_frozen(model):
    assert 0.1 < model.query_tokens.std() < 0.3
    assert not any(value.requires_grad for value in model.vision_model.parameters())
    model.train()
    assert not model.vision_model.training
    model.eval()


def test_contrast_is_the_mean_of_both_directions_over_the_nearest_query(model, pixels):
    with torch.no_grad():
        losses = model.losses(pixels, IDS, MASK)
        output = model(pixel_values=pixels, input_ids=IDS, attention_mask=MASK)  # transformers' own cosines
    logits, rows = output.logits_per_image / 0.07, torch.arange(4)
    wanted = (cross_entropy(logits, rows, label_smoothing=0.1) + cross_entropy(logits.T, rows, label_smoothing=0.1)) / 2
    assert losses.contrast.mean() == pytest.approx(wanted.item(), abs=1e-4)
    assert losses.found.tolist() == (logits.argmax(1) == rows).float().tolist()


def test_rows_with_the_same_caption_are_no_negatives(model):
    logits = torch.tensor([[2.0, 9.0, 0.0], [9.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    loss, found = contrast_loss(logits, same, smoothing=0.0)
    pair = math.log(1 + math.exp(-2.0))
    assert loss[:2].tolist() == pytest.approx([pair, pair])
    assert found.tolist() == [1.0, 1.0, 1.0]


def test_no_contrastive_loss_is_below_the_floor_of_smoothing():
    best = 60 * torch.eye(16) - 60 * (1 - torch.eye(16))
    floor = contrast_floor(16, 0.1)
    near = torch.tensor([math.log((0.9 + 0.1 / 16) / (0.1 / 16))]) * torch.eye(16)
    loss, _ = contrast_loss(near, torch.eye(16).bool(), 0.1)
    assert loss.mean() == pytest.approx(floor, abs=1e-5)
    assert contrast_loss(best, torch.eye(16).bool(), 0.1)[0].mean() > floor


def test_matching_is_transformers_own_head_on_pairs_and_the_likeliest_others(model, pixels):
    with torch.no_grad():
        losses = model.losses(pixels, IDS, MASK)
        cosines = model(pixel_values=pixels, input_ids=IDS, attention_mask=MASK).logits_per_image
        others = cosines.masked_fill(torch.eye(4).bool(), -9)
        pictures = [*range(4), *others.T.argmax(1).tolist(), *range(4)]
        texts = [*range(4), *range(4), *others.argmax(1).tolist()]
        nats = []
        for picture, text in zip(pictures, texts, strict=True):
            answer = model(
                pixel_values=pixels[picture : picture + 1],
                input_ids=IDS[text : text + 1],
                attention_mask=MASK[text : text + 1],
                use_image_text_matching_head=True,
            ).logits_per_image[0]
            nats.append(-answer.log_softmax(0)[int(picture == text)].item())
    assert losses.matching.tolist() == pytest.approx(nats, abs=1e-4)


def test_no_negative_is_the_pair_itself_or_has_its_caption(model):
    same = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    scores = 20.0 * same  # the pair itself is the likeliest by far
    torch.manual_seed(3)
    model.train()
    drawn = torch.stack([model._negatives(scores, same) for _ in range(60)])
    model.eval()
    assert not same[torch.arange(4), drawn].any()
    assert len({*drawn[:, 0].tolist()}) == 2


def test_generation_is_the_loss_of_each_word_read_one_by_one(model, pixels):
    """A caption written word by word, each from a pass of its own over the words before it."""
    with torch.no_grad():
        losses = model.losses(pixels, IDS, MASK)
        seen, total, count = model.vision_model(pixel_values=pixels).last_hidden_state, 0.0, 0
        for row in range(4):
            ids = IDS[row][MASK[row].bool()]
            for length in range(1, len(ids)):
                before = torch.cat([torch.tensor([DECODE]), ids[1:length]])[None]
                logits = model.word_logits(seen[row : row + 1], before, torch.ones_like(before))[0, -1]
                total -= logits.log_softmax(0)[ids[length]].item()
                count += 1
    assert losses.generation.mean() == pytest.approx(total / count, abs=1e-4)


def changed(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def test_masks_let_through_what_their_loss_allows(model, pixels):
    """A later word is changed: who notices?"""
    other = IDS.clone()
    other[:, 2] = 12
    with torch.no_grad():
        seen = model.see(pixels)
        written, rewritten = (model._joint(seen, ids, model._text_behind_queries(MASK)) for ids in (IDS, other))
        matched, rematched = (model._joint(seen, ids, model._all_see_all(MASK)) for ids in (IDS, other))
    assert changed(written[:, : QUERIES + 2], rewritten[:, : QUERIES + 2]) == 0  # queries and earlier words
    assert changed(written[:, QUERIES + 2 :], rewritten[:, QUERIES + 2 :]) > 1e-3
    assert changed(matched[:, :QUERIES], rematched[:, :QUERIES]) > 1e-4
    with torch.no_grad():
        padded = IDS.masked_fill(MASK == 0, 13)
        assert changed(model.text_features(padded, MASK), model.text_features(IDS, MASK)) < 1e-6  # nobody reads padding


def test_what_is_learnt_is_neither_the_image_encoder_nor_nothing(model, pixels):
    model.train()
    torch.manual_seed(0)
    model.losses(pixels, IDS, MASK).total.backward()
    model.eval()
    dead = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert dead == []
    assert all(value.grad is None for value in model.vision_model.parameters())
    model.zero_grad()

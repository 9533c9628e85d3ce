"""Truth without ft: tiny models of seven architectures, random rows, and what transformers and torch make of them.

Nothing here imports ft, so that what is compared with ft owes it nothing.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

SIZES: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.08},
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "tie_word_embeddings": False},
    "qwen2": {**SIZES, "tie_word_embeddings": True},
    "qwen3": {**SIZES, "head_dim": 16},
    "gemma3_text": {**SIZES, "head_dim": 16, "sliding_window": 32, "query_pre_attn_scalar": 16},
    "phi3": {**SIZES, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt2": {
        **{"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    },
    "mixtral": {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.0},
}
WORDS = (
    *("blue", "sky", "éa", "🦊", "and", "12", "one,", "two;", "«", "no", "»", "yes\n", "new", "line", "", "double"),
    *("**", "star", "3.14", "naïve", "two\n\nlines", "<b>", "{x}"),
)
Message = dict[str, str]
Trained = tuple[list[int], list[bool]]  # ids, and which of them are trained


def save_model(folder: Path, architecture: str, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A model of random weights with its tokenizer, as `from_pretrained` opens it."""
    torch.manual_seed(0)
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **special, **ARCHITECTURES[architecture])
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def random_text(draw: random.Random, most: int = 8) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most))).strip() or "x"


def random_dialogue(draw: random.Random, turns: int) -> list[Message]:
    system = [{"role": "system", "content": random_text(draw)}] if draw.random() < 0.3 else []
    for _ in range(turns):
        system += [{"role": "user", "content": random_text(draw)}, {"role": "assistant", "content": random_text(draw)}]
    return system


def chatml(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> Trained:
    """Ids of ChatML written by hand; trained are the assistant's texts through their end-of-turn tokens."""
    ids: list[int] = []
    trained: list[bool] = []
    for message in messages:
        answers = message["role"] == "assistant"
        parts = (
            (f"<|im_start|>{message['role']}\n", False),
            (f"{message['content']}<|im_end|>", answers),
            ("\n", False),
        )
        for text, counts in parts:
            piece = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids, trained = ids + piece, trained + [counts] * len(piece)
    return ids, trained


def labels(ids: list[int], trained: list[bool]) -> list[int]:
    """The ids that are trained, and -100, which no loss of torch counts."""
    return [token if counts else -100 for token, counts in zip(ids, trained, strict=True)]


def token_losses(model: Any, row: Trained) -> torch.Tensor:
    """-log p of each trained token of one row, alone in its batch, in nats."""
    ids = torch.tensor([row[0]])
    logits = model(input_ids=ids).logits[0, :-1].float()
    return F.cross_entropy(logits, ids[0, 1:], reduction="none")[torch.tensor(row[1][1:])]


def mean_loss(model: Any, rows: list[Trained]) -> torch.Tensor:
    """Nats a trained token over all rows."""
    return torch.cat([token_losses(model, row) for row in rows]).mean()


def dpo_loss(model: Any, reference: Any, pairs: list[tuple[Trained, Trained]], beta: float) -> torch.Tensor:
    """-log sigmoid(beta * margin of log-ratios), its mean over (chosen, rejected) pairs (arXiv:2305.18290, eq. 7)."""
    losses = []
    for pair in pairs:
        with torch.no_grad():
            chosen_ref, rejected_ref = (-token_losses(reference, row).sum() for row in pair)
        chosen, rejected = (-token_losses(model, row).sum() for row in pair)
        losses.append(-F.logsigmoid(beta * ((chosen - chosen_ref) - (rejected - rejected_ref))))
    return torch.stack(losses).mean()


def mean_logps(model: Any, pairs: list[tuple[Trained, Trained]]) -> torch.Tensor:
    """Log-probability a trained token of both answers, (P, 2), in nats."""
    return torch.stack([torch.stack([-token_losses(model, row).mean() for row in pair]) for pair in pairs])


def simpo_loss(model: Any, pairs: list[tuple[Trained, Trained]], beta: float, gamma: float) -> torch.Tensor:
    """-log sigmoid of the margin of rewards over its target, its mean over pairs (arXiv:2405.14734, eq. 6)."""
    chosen, rejected = mean_logps(model, pairs).T
    return -F.logsigmoid(beta * (chosen - rejected) - gamma).mean()


def orpo_loss(model: Any, pairs: list[tuple[Trained, Trained]], weight: float) -> torch.Tensor:
    """Nats a token of the chosen answer, and -log sigmoid of the log odds ratio (arXiv:2403.07691, eq. 4, 6, 7)."""
    logps = mean_logps(model, pairs)
    chosen, rejected = (logps - torch.log1p(-logps.exp())).T  # log odds
    return (-logps[:, 0] - weight * F.logsigmoid(chosen - rejected)).mean()


def kto_loss(
    model: Any, reference: Any, rows: list[tuple[Trained, Trained, bool]], beta: float, weights: dict[bool, float]
) -> torch.Tensor:
    """Mean of weight x (1 - sigmoid(±beta (log-ratio - z))) over one batch (arXiv:2402.01306, eq. 8). A row is its
    answer, its prompt with another row's answer, and its label; z is the mean log-ratio of the latter, 0 at least."""

    def ratio(row: Trained) -> torch.Tensor:
        with torch.no_grad():
            before = token_losses(reference, row).sum()
        return before - token_losses(model, row).sum()

    with torch.no_grad():
        z = torch.stack([ratio(other) for _, other, _ in rows]).mean().clamp(min=0)
    signs = [1 if wanted else -1 for _, _, wanted in rows]
    values = [torch.sigmoid(sign * beta * (ratio(row) - z)) for sign, (row, _, _) in zip(signs, rows, strict=True)]
    return torch.stack([weights[row[2]] * (1 - value) for row, value in zip(rows, values, strict=True)]).mean()


def reward_loss(model: Any, pairs: list[tuple[Trained, Trained]]) -> torch.Tensor:
    """-log sigmoid(score of chosen - score of rejected), its mean; a score is read at the last trained token."""
    losses = []
    for pair in pairs:
        chosen, rejected = (score(model, row) for row in pair)
        losses.append(-F.logsigmoid(chosen - rejected))
    return torch.stack(losses).mean()


def score(model: Any, row: Trained) -> torch.Tensor:
    """Of a row cut behind its last trained token, where transformers reads the score of a row alone."""
    end = max(place for place, counts in enumerate(row[1]) if counts) + 1
    return model(input_ids=torch.tensor([row[0][:end]])).logits[0, 0].float()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """How far apart two gradients are, as a share of the second's length."""
    assert one.keys() == other.keys()
    apart = sum((one[name] - other[name]).square().sum() for name in one)
    return float((apart / sum(value.square().sum() for value in other.values())).sqrt())

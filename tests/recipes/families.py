"""Tiny models of the families that recipes are for: the real architecture and special tokens, two layers, 256 bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPECIAL: Mapping[str, tuple[str, str, tuple[str, ...]]] = {  # architecture → BOS, EOS, more
    "llama2-7b": ("<s>", "</s>", ()),
    "llama3-8b": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "mistral-7b": ("<s>", "</s>", ()),
    "zephyr-7b": ("<s>", "</s>", ()),
}


def model(family: str, folder: Path) -> Path:
    """A folder as the Hub holds it: weights, a tokenizer, and no chat template, as base models have none."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    words = tokenizer(*SPECIAL[family])
    sizes = {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    torch.manual_seed(0)
    mistral = family in ("mistral-7b", "zephyr-7b")
    made = MistralForCausalLM(MistralConfig(**sizes)) if mistral else LlamaForCausalLM(LlamaConfig(**sizes))
    made.save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


def tokenizer(bos: str, eos: str, more: tuple[str, ...]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={byte: place for place, byte in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, bos_token=bos, eos_token=eos, extra_special_tokens=list(more)
    )

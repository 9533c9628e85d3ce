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
    "mistral-7b-window": ("<s>", "</s>", ()),
    "mixtral-8x7b": ("<s>", "</s>", ()),
    "zephyr-7b": ("<s>", "</s>", ()),
    "bloom": ("<s>", "</s>", ()),
    "gpt2": ("<|endoftext|>", "<|endoftext|>", ()),
    "opt": ("</s>", "</s>", ()),
    "flan-t5-base": ("", "</s>", ("<pad>",)),
}

LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>")
# Models that bring a template: their config class, the template that TRL carries, BOS, EOS, more tokens of it.
# It carries none of SmolLM3 and Phi-4-mini: Qwen3's, which knows thinking too, and Phi-3's stand in for them.
WITH_TEMPLATE: Mapping[str, tuple[str, str, str, str, tuple[str, ...]]] = {
    "qwen3-1.7b": ("Qwen3Config", "qwen3", "<|endoftext|>", "<|im_end|>", ("<|im_start|>",)),
    "qwen3-8b": ("Qwen3Config", "qwen3", "<|endoftext|>", "<|im_end|>", ("<|im_start|>",)),
    "qwen3-30b-a3b": ("Qwen3MoeConfig", "qwen3", "<|endoftext|>", "<|im_end|>", ("<|im_start|>",)),
    "gemma3-4b": ("Gemma3Config", "gemma3", "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "llama3.1-8b": ("LlamaConfig", "llama3_1", "<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    "llama3.2-3b": ("LlamaConfig", "llama3_2", "<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    "smollm3-3b": ("SmolLM3Config", "qwen3", "<|begin_of_text|>", "<|im_end|>", ("<|im_start|>",)),
    "phi4-mini": ("Phi3Config", "phi3", "<|endoftext|>", "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>")),
}
# Families with words of their own for their sizes: config class and sizes, beside the vocabulary.
OTHER: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "bloom": ("BloomConfig", {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    ),
    "flan-t5-base": (
        "T5Config",
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"},
    ),
}
TIED = ("qwen3-1.7b", "gemma3-4b", "llama3.2-3b", "smollm3-3b", "phi4-mini")


def model(family: str, folder: Path) -> Path:
    """A folder as the Hub holds it: weights, a tokenizer, and no chat template, as base models have none."""
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
    )

    words = tokenizer_of(family)
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
    if family in OTHER:
        made = other(family, words)
        made.save_pretrained(str(folder))
        words.save_pretrained(str(folder))
        return folder
    if family in WITH_TEMPLATE:
        made = with_template(family, sizes | {"pad_token_id": words.eos_token_id})
        made.save_pretrained(str(folder))
        words.save_pretrained(str(folder))
        return folder
    if family == "mixtral-8x7b":
        made = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4, num_experts_per_tok=2))
    elif family in ("mistral-7b", "mistral-7b-window", "zephyr-7b"):
        window = 32 if family.endswith("window") else 4096
        made = MistralForCausalLM(MistralConfig(**sizes, sliding_window=window))
    else:
        made = LlamaForCausalLM(LlamaConfig(**sizes))
    made.save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


def other(family: str, words: Any) -> Any:
    """A model of one of the OTHER families."""
    import transformers

    name, sizes = OTHER[family]
    ids = {f"{token}_token_id": getattr(words, f"{token}_token_id") for token in ("bos", "eos")}
    pad = words.convert_tokens_to_ids("<pad>") if family == "flan-t5-base" else words.eos_token_id
    ids |= {"pad_token_id": pad, "decoder_start_token_id": pad}
    config = getattr(transformers, name)(vocab_size=len(words), **sizes, **ids)
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return auto.from_config(config)


def with_template(family: str, sizes: Mapping[str, Any]) -> Any:
    """The class that transformers takes for the model on the Hub: Gemma 3 with its vision tower, small as well."""
    import transformers

    sizes = {**sizes, "tie_word_embeddings": family in TIED, "max_position_embeddings": 1024}
    if family == "gemma3-4b":
        pictures = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
        pictures |= {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14}
        decoder = {**sizes, "head_dim": 16, "sliding_window": 32, "model_type": "gemma3_text"}
        config = transformers.Gemma3Config(text_config=decoder, vision_config=pictures, mm_tokens_per_image=4)
    else:
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
        sizes |= experts if family == "qwen3-30b-a3b" else {}
        config = getattr(transformers, WITH_TEMPLATE[family][0])(**sizes)
    return transformers.AutoModelForCausalLM.from_config(config)


def tokenizer_of(family: str) -> Any:
    if family in SPECIAL:
        return tokenizer(*SPECIAL[family])
    import trl

    _, template, *tokens = WITH_TEMPLATE[family]
    words = tokenizer(*tokens)
    templates = Path(trl.__file__).parent / "chat_templates"
    words.chat_template = (templates / f"{template}.jinja").read_text(encoding="utf-8")
    words.pad_token = words.eos_token
    return words


def tokenizer(bos: str, eos: str, more: tuple[str, ...]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={byte: place for place, byte in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, bos_token=bos or None, eos_token=eos, extra_special_tokens=list(more)
    )

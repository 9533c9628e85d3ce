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

LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>")
# Models that bring a template: their config class, the template that TRL carries, BOS, EOS, more tokens of it.
# It carries none of SmolLM3 and Phi-4-mini: Qwen3's, which knows thinking too, and Phi-3's stand in for them.
WITH_TEMPLATE: Mapping[str, tuple[str, str, str, str, tuple[str, ...]]] = {
    "qwen3-1.7b": ("Qwen3Config", "qwen3", "<|endoftext|>", "<|im_end|>", ("<|im_start|>",)),
    "qwen3-8b": ("Qwen3Config", "qwen3", "<|endoftext|>", "<|im_end|>", ("<|im_start|>",)),
    "gemma3-4b": ("Gemma3Config", "gemma3", "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "llama3.1-8b": ("LlamaConfig", "llama3_1", "<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    "llama3.2-3b": ("LlamaConfig", "llama3_2", "<|begin_of_text|>", "<|eot_id|>", LLAMA3),
    "smollm3-3b": ("SmolLM3Config", "qwen3", "<|begin_of_text|>", "<|im_end|>", ("<|im_start|>",)),
    "phi4-mini": ("Phi3Config", "phi3", "<|endoftext|>", "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>")),
}
TIED = ("qwen3-1.7b", "gemma3-4b", "llama3.2-3b", "smollm3-3b", "phi4-mini")


def model(family: str, folder: Path) -> Path:
    """A folder as the Hub holds it: weights, a tokenizer, and no chat template, as base models have none."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

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
    if family in WITH_TEMPLATE:
        made = with_template(family, sizes | {"pad_token_id": words.eos_token_id})
        made.save_pretrained(str(folder))
        words.save_pretrained(str(folder))
        return folder
    mistral = family in ("mistral-7b", "zephyr-7b")
    made = MistralForCausalLM(MistralConfig(**sizes)) if mistral else LlamaForCausalLM(LlamaConfig(**sizes))
    made.save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


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
        tokenizer_object=bytes_only, bos_token=bos, eos_token=eos, extra_special_tokens=list(more)
    )

"""Shapes of well-known models, for planning where the Hub cannot be reached. To add one: a line in KNOWN.

Each is what the model's public config.json says of its tensors; tests hold the parameter counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = dict[str, Any]


def _shape(
    model_type: str, width: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any
) -> Shape:
    return {
        "model_type": model_type,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        **more,
    }


_LLAMA2_7B = _shape("llama", 4096, 11008, 32, 32, 32, 32000, max_position_embeddings=4096)
_LLAMA2_13B = _shape("llama", 5120, 13824, 40, 40, 40, 32000, max_position_embeddings=4096)
_LLAMA2_70B = _shape("llama", 8192, 28672, 80, 64, 8, 32000, max_position_embeddings=4096)
_LLAMA3_8B = _shape("llama", 4096, 14336, 32, 32, 8, 128256, max_position_embeddings=8192)
_LONG = {"max_position_embeddings": 131072}
_LLAMA3_70B = _shape("llama", 8192, 28672, 80, 64, 8, 128256, max_position_embeddings=8192)
_LLAMA32_1B = _shape(
    "llama", 2048, 8192, 16, 32, 8, 128256, head_dim=64, max_position_embeddings=131072, tie_word_embeddings=True
)
_LLAMA32_3B = _shape(
    "llama", 3072, 8192, 28, 24, 8, 128256, head_dim=128, max_position_embeddings=131072, tie_word_embeddings=True
)
_MISTRAL_7B = _shape("mistral", 4096, 14336, 32, 32, 8, 32000, sliding_window=4096, max_position_embeddings=32768)
_MIXTRAL = _shape(
    "mixtral", 4096, 14336, 32, 32, 8, 32000, max_position_embeddings=32768, num_local_experts=8, num_experts_per_tok=2
)
_TINYLLAMA = _shape("llama", 2048, 5632, 22, 32, 4, 32000, max_position_embeddings=2048)
_QWEN = {"max_position_embeddings": 32768}
_QWEN25_05B = _shape("qwen2", 896, 4864, 24, 14, 2, 151936, tie_word_embeddings=True, **_QWEN)
_QWEN25_15B = _shape("qwen2", 1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True, **_QWEN)
_QWEN25_7B = _shape("qwen2", 3584, 18944, 28, 28, 4, 152064, **_QWEN)
_QWEN3 = {"head_dim": 128, "max_position_embeddings": 40960}
_QWEN3_17B = _shape("qwen3", 2048, 6144, 28, 16, 8, 151936, tie_word_embeddings=True, **_QWEN3)
_QWEN3_8B = _shape("qwen3", 4096, 12288, 36, 32, 8, 151936, **_QWEN3)
_QWEN3_A3B = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True}
_QWEN3_30B = _shape("qwen3_moe", 2048, 6144, 48, 32, 4, 151936, tie_word_embeddings=False, **_QWEN3, **_QWEN3_A3B)
_SMOLLM3_3B = _shape("smollm3", 2048, 11008, 36, 16, 4, 128256, max_position_embeddings=65536, tie_word_embeddings=True)
_PHI4 = {"pad_token_id": 199999, "bos_token_id": 199999, "eos_token_id": 199999, "tie_word_embeddings": True}
_PHI4_MINI = _shape("phi3", 3072, 8192, 32, 24, 8, 200064, max_position_embeddings=131072, **_PHI4)
_GEMMA3_4B_TEXT = _shape(
    "gemma3_text", 2560, 10240, 34, 8, 4, 262208, head_dim=256, sliding_window=1024, max_position_embeddings=131072
)
_SIGLIP: Shape = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
_SIGLIP |= {"model_type": "siglip_vision_model", "image_size": 896, "patch_size": 14, "vision_use_head": False}
_GEMMA3_4B = {"model_type": "gemma3", "text_config": _GEMMA3_4B_TEXT, "vision_config": _SIGLIP}
_GPT2: Shape = {"model_type": "gpt2"}  # its class's defaults
_OPT_13B: Shape = {"ffn_dim": 8192, "word_embed_proj_dim": 2048, "max_position_embeddings": 2048}
_OPT_13B |= {"model_type": "opt", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32}
_BLOOM_560M: Shape = {"model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880}
_FLAN_T5_BASE: Shape = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
_FLAN_T5_BASE |= {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_GPT3: Shape = {"model_type": "gpt2", "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048}  # table 2.1

KNOWN: Mapping[str, Mapping[str, Any]] = {
    **{f"meta-llama/Llama-2-7b{chat}-hf": _LLAMA2_7B for chat in ("", "-chat")},
    **{f"meta-llama/Llama-2-13b{chat}-hf": _LLAMA2_13B for chat in ("", "-chat")},
    **{f"meta-llama/Llama-2-70b{chat}-hf": _LLAMA2_70B for chat in ("", "-chat")},
    **{f"meta-llama/Meta-Llama-3-8B{chat}": _LLAMA3_8B for chat in ("", "-Instruct")},
    **{f"meta-llama/Meta-Llama-3-70B{chat}": _LLAMA3_70B for chat in ("", "-Instruct")},
    **{f"meta-llama/Llama-3.1-8B{chat}": _LLAMA3_8B | _LONG for chat in ("", "-Instruct")},
    **{f"meta-llama/Llama-3.1-70B{chat}": _LLAMA3_70B | _LONG for chat in ("", "-Instruct")},
    **{f"meta-llama/Llama-3.2-1B{chat}": _LLAMA32_1B for chat in ("", "-Instruct")},
    **{f"meta-llama/Llama-3.2-3B{chat}": _LLAMA32_3B for chat in ("", "-Instruct")},
    "mistralai/Mistral-7B-v0.1": _MISTRAL_7B,
    "mistralai/Mistral-7B-Instruct-v0.1": _MISTRAL_7B,
    "mistralai/Mistral-7B-Instruct-v0.2": {**_MISTRAL_7B, "sliding_window": None},
    "alignment-handbook/zephyr-7b-sft-full": _MISTRAL_7B,
    "HuggingFaceH4/zephyr-7b-beta": _MISTRAL_7B,
    "mistralai/Mixtral-8x7B-v0.1": _MIXTRAL,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": _MIXTRAL,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _TINYLLAMA,
    **{f"Qwen/Qwen2.5-0.5B{chat}": _QWEN25_05B for chat in ("", "-Instruct")},
    **{f"Qwen/Qwen2.5-1.5B{chat}": _QWEN25_15B for chat in ("", "-Instruct")},
    **{f"Qwen/Qwen2.5-7B{chat}": _QWEN25_7B for chat in ("", "-Instruct")},
    **{f"Qwen/Qwen3-1.7B{base}": _QWEN3_17B for base in ("", "-Base")},
    **{f"Qwen/Qwen3-8B{base}": _QWEN3_8B for base in ("", "-Base")},
    **{f"Qwen/Qwen3-30B-A3B{base}": _QWEN3_30B for base in ("", "-Base")},
    **{f"google/gemma-3-4b-{base}": _GEMMA3_4B for base in ("it", "pt")},
    **{f"HuggingFaceTB/SmolLM3-3B{base}": _SMOLLM3_3B for base in ("", "-Base")},
    "microsoft/Phi-4-mini-instruct": _PHI4_MINI,
    "openai-community/gpt2": _GPT2,
    "facebook/opt-1.3b": _OPT_13B,
    "bigscience/bloom-560m": _BLOOM_560M,
    "google/flan-t5-base": _FLAN_T5_BASE,
    "openai/gpt-3": _GPT3,  # arXiv:2005.14165; no such id is on the Hub
}


def known_id(name: str) -> str:
    """The id of a known model of that name without its owner, whatever the case of its letters; else the name."""
    return next((path for path in KNOWN if path.rpartition("/")[2].lower() == name.lower()), name)

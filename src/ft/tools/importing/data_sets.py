"""Formats of data sets on the Hub that configs name often, so that none is opened to find out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT_OF: Mapping[str, tuple[str, ...]] = {
    "messages": (
        *("HuggingFaceH4/ultrachat_200k", "HuggingFaceH4/no_robots", "HuggingFaceH4/deita-10k-v0-sft"),
        *("HuggingFaceTB/smoltalk", "HuggingFaceTB/smol-smoltalk", "HuggingFaceTB/smoltalk2", "trl-lib/Capybara"),
        *("HuggingFaceTB/everyday-conversations-llama3.1-2k", "HuggingFaceH4/grok-conversation-harmless"),
        *("allenai/tulu-3-sft-mixture", "open-r1/Mixture-of-Thoughts", "BramVanroy/ultrachat_200k_dutch"),
    ),
    "preference": (
        *("HuggingFaceH4/ultrafeedback_binarized", "trl-lib/ultrafeedback_binarized", "argilla/dpo-mix-7k"),
        *("HuggingFaceH4/orca_dpo_pairs", "argilla/distilabel-capybara-dpo-7k-binarized", "BramVanroy/orca_dpo_pairs"),
        *("argilla/ultrafeedback-binarized-preferences-cleaned", "HuggingFaceH4/OpenHermes-2.5-preferences-v0-deduped"),
        *("orpo-explorers/distilabel-capybara-dpo-7k-binarized", "argilla/OpenHermes2.5-dpo-binarized-alpha"),
        *("RLHFlow/HH-RLHF-Helpful-standard", "hjh0119/shareAI-Llama3-DPO-zh-en-emoji", "shareAI/DPO-zh-en-emoji"),
    ),
    "sharegpt": (
        *("teknium/OpenHermes-2.5", "Open-Orca/SlimOrca", "Open-Orca/SlimOrca-Dedup", "mlabonne/FineTome-100k"),
        *("LDJnr/Capybara", "cognitivecomputations/dolphin", "winglian/pirate-ultrachat-10k"),
    ),
    "unpaired_preference": (
        *("trl-lib/kto-mix-14k", "argilla/kto-mix-15k", "argilla/ultrafeedback-binarized-preferences-cleaned-kto"),
    ),
    "sharegpt_pairs": ("llamafactory/DPO-En-Zh-20k", "hiyouga/DPO-En-Zh-20k"),
    "alpaca": (
        *("tatsu-lab/alpaca", "yahma/alpaca-cleaned", "vicgalle/alpaca-gpt4", "teknium/GPT4-LLM-Cleaned"),
        *("mhenrichsen/alpaca_2k_test", "llamafactory/alpaca_en", "llm-wizard/alpaca-gpt4-data-zh"),
        *("llm-wizard/alpaca-gpt4-data", "garage-bAInd/Open-Platypus", "fozziethebeat/alpaca_messages_2k_test"),
    ),
    "prompt_completion": ("trl-lib/tldr",),
    "text": ("timdettmers/openassistant-guanaco", "yhavinga/mc4_nl_cleaned", "roneneldan/TinyStories"),
    "hh_pairs": ("Anthropic/hh-rlhf",),
    "stack_exchange": ("lvwerra/stack-exchange-paired",),
}

MIRRORS: Mapping[str, str] = {
    "AI-ModelScope/alpaca-gpt4-data-en": "vicgalle/alpaca-gpt4",
    "AI-ModelScope/alpaca-gpt4-data-zh": "llm-wizard/alpaca-gpt4-data-zh",
    "AI-ModelScope/alpaca-cleaned": "yahma/alpaca-cleaned",
    "AI-ModelScope/hh-rlhf": "Anthropic/hh-rlhf",
    "AI-ModelScope/ultrachat_200k": "HuggingFaceH4/ultrachat_200k",
    "AI-ModelScope/orca_dpo_pairs": "HuggingFaceH4/orca_dpo_pairs",
    "AI-ModelScope/ultrafeedback-binarized-preferences-cleaned-kto": (
        "argilla/ultrafeedback-binarized-preferences-cleaned-kto"
    ),
    "hjh0119/shareAI-Llama3-DPO-zh-en-emoji": "shareAI/DPO-zh-en-emoji",
    "swift/self-cognition": "modelscope/self-cognition",
    "LLM-Research/Meta-Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "LLM-Research/Meta-Llama-3-8B-Instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "LLM-Research/Llama-3.2-1B-Instruct": "meta-llama/Llama-3.2-1B-Instruct",
    "AI-ModelScope/Mistral-7B-v0.1": "mistralai/Mistral-7B-v0.1",
    "AI-ModelScope/Mistral-7B-Instruct-v0.2": "mistralai/Mistral-7B-Instruct-v0.2",
    "Shanghai_AI_Laboratory/internlm2_5-7b-chat": "internlm/internlm2_5-7b-chat",
}
"""ModelScope's names of what the Hub has under another."""

_FORMATS = {name: row_format for row_format, names in FORMAT_OF.items() for name in names}


def format_of(name: str) -> str | None:
    """The format of a known data set of the Hub; None: told from its first row."""
    return _FORMATS.get(name)


def format_of_columns(columns: Any) -> str | None:
    """By the columns that a config picks of a data set."""
    names = {*columns} if isinstance(columns, list) else set()
    by_columns = (("preference", {"chosen", "rejected"}), ("messages", {"messages"}), ("text", {"text"}))
    return next((row_format for row_format, needed in by_columns if needed <= names), None)

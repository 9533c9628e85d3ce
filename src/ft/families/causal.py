"""Decoders that read from left to right: Llama, Mistral, Qwen, Gemma, GPT-2 and most models of today."""

from __future__ import annotations

from ft.families.base import Family

CAUSAL = Family(
    about="causal language models",
    auto="AutoModelForCausalLM",
    mapping="MODEL_FOR_CAUSAL_LM_MAPPING",
    auto_scorer="AutoModelForSequenceClassification",
    task_type="CAUSAL_LM",
    task_type_scorer="SEQ_CLS",
)

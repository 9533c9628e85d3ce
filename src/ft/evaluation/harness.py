"""A loaded model as lm-evaluation-harness asks it; imported only where the harness is installed."""

from __future__ import annotations

from typing import Any

from lm_eval.models.huggingface import HFLM

from ft.models.generation.chat_model import ChatModel


class TemplateTrue(HFLM):  # type: ignore[misc, unused-ignore]  # untyped where the harness is not installed
    """The harness's model whose prompts are our Renderer's, in text and in tokens."""

    def __init__(self, chat_model: ChatModel, batch_size: int):
        super().__init__(
            pretrained=chat_model.model,
            tokenizer=chat_model.tokenizer,
            backend="causal",
            batch_size=batch_size,
            max_length=chat_model.positions,
            add_bos_token=False,  # the template writes it
        )
        self.renderer = chat_model.renderer
        chat_model.model.generation_config.eos_token_id = list(chat_model.renderer.stop_ids)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text up to where the model is to answer; a text that the answer is to begin with stands behind it."""
        beginning = "" if add_generation_prompt else chat_history[-1]["content"]
        messages = chat_history if add_generation_prompt else chat_history[:-1]
        return self.renderer.prompt_text(messages) + beginning

    def tok_encode(self, string: str, *_: Any, left_truncate_len: int | None = None, **__: Any) -> list[int]:
        """Tokens of a text that the template has written, or of an answer: nothing is put before them."""
        ids: list[int] = self.tokenizer(string, add_special_tokens=False)["input_ids"]
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Prompt and answer as training has them; the harness would move the prompt's last blanks to the answer."""
        ids, context_ids = self.tok_encode(context + continuation), self.tok_encode(context)
        return ids[: len(context_ids)], ids[len(context_ids) :]

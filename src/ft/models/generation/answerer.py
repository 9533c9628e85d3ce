"""A loaded model that answers conversations: what evaluation and chat share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft.encode.conversation import Renderer
from ft.encode.token_text import Speller
from ft.models.device import has_gpu
from ft.models.generation.generate import Sampling, generate, stream
from ft.models.load import load, load_base, tokenizer_of
from ft.models.logprobs import answer_logps, label_logps
from ft.recipe import ModelSource

# What `--load-4bit` means: NF4, the constants quantised too (QLoRA, arXiv:2305.14314, sections 3 and 3.1).
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


class Speaker:
    """Model, tokenizer and template on the device at hand: bfloat16 on a GPU, float32 on a CPU.

    renderer   makes prompts; nothing reaches the model that could forge a turn
    positions  tokens the model can see, prompt and answer together; None: its config does not say
    """

    def __init__(
        self,
        model: ModelSource | None,
        folder: Path | None,
        chat_template: str | None = None,
        quantization: Mapping[str, Any] | None = None,
    ):
        """The finished model in `folder`, or `model` itself where that is None."""
        use_cpu = not has_gpu()
        dtype = "float32" if use_cpu else "bfloat16"
        self.tokenizer = tokenizer_of(model, folder, chat_template)
        self.renderer = Renderer(self.tokenizer)
        if quantization:
            quantization = {"bnb_4bit_compute_dtype": dtype, **quantization}
        if folder is not None:
            self.model = load(folder, dtype, use_cpu, quantization)
        else:
            assert model is not None
            self.model = load_base(model, model.dtype or dtype, quantization, use_cpu).eval()
        if not use_cpu and not getattr(self.model, "hf_device_map", None):
            self.model.to("cuda")
        config = self.model.config.get_text_config()
        self.positions: int | None = getattr(config, "max_position_embeddings", None)

    def answer(
        self, conversations: Sequence[list[dict[str, Any]]], sampling: Sampling, batch_size: int = 64
    ) -> list[str]:
        """One answer per conversation, in their order."""
        answers = generate(
            self.model,
            [self.renderer.prompt(messages) for messages in conversations],
            sampling,
            stop_ids=self.renderer.stop_ids,
            pad_id=self.tokenizer.pad_token_id,
            batch_size=batch_size,
        )
        return [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]

    def continued(self, prompts: Sequence[list[int]], sampling: Sampling, batch_size: int = 64) -> list[list[int]]:
        """One answer per prompt as token ids, with the end-of-turn token where the model came to it."""
        return generate(
            self.model,
            prompts,
            sampling,
            stop_ids=self.renderer.stop_ids,
            pad_id=self.tokenizer.pad_token_id,
            batch_size=batch_size,
            keep_stop=True,
        )

    def logps(self, prompts: Sequence[list[int]], answers: Sequence[list[int]], batch_size: int = 64) -> list[float]:
        """Log-probability of each answer behind its prompt, in nats."""
        pad_id = self.tokenizer.pad_token_id
        return answer_logps(self.model, prompts, answers, pad_id=pad_id, batch_size=batch_size)

    def label_logps(self, rows: Sequence[list[int]], labels: Sequence[list[int]], batch_size: int = 64) -> list[float]:
        """Log-probability of each row's labelled tokens, in nats."""
        return label_logps(self.model, rows, labels, pad_id=self.tokenizer.pad_token_id, batch_size=batch_size)

    def say(self, prompt: list[int], sampling: Sampling, hear: Callable[[str], None]) -> None:
        """Answer one prompt; `hear` gets each piece of text as soon as its token is there."""
        speller = Speller(self.tokenizer, keep_special=False)

        def heard(token: int) -> None:
            if token not in self.renderer.stop_ids and (piece := speller.add(token)):
                hear(piece.text)

        stream(
            self.model,
            prompt,
            sampling,
            stop_ids=self.renderer.stop_ids,
            pad_id=self.tokenizer.pad_token_id,
            hear=heard,
        )
        if rest := speller.rest():
            hear(rest.text)

"""A loaded model that answers conversations: what chat, evaluation and the stages that need answers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft.encode.chat_template import Message
from ft.encode.conversation import Renderer
from ft.encode.encoder import EncodedRow
from ft.encode.pictures import picture_in
from ft.encode.token_text import IncrementalDecoder
from ft.families import family_of
from ft.models.device import has_gpu
from ft.models.generation.engine import Completion, Request, engine_of
from ft.models.generation.sampling import Sampling, prompt_keys
from ft.models.load import load, load_base
from ft.models.logprobs import completion_logprobs, row_logprobs, token_logprobs_of_rows
from ft.models.processor import tokenizer_of
from ft.models.token_budget import positions_of
from ft.recipe import ModelSource

# What `--load-4bit` means: NF4, the constants quantised too (QLoRA, arXiv:2305.14314, sections 3 and 3.1).
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


class ChatModel:
    """Model, tokenizer and template on the device at hand: bfloat16 on a GPU, float32 on a CPU.

    renderer   makes prompts; nothing reaches the model that could forge a turn
    positions  tokens the model can see, prompt and answer together; None: its config does not say
    engine     completes prompts
    family     encodes rows for it
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
        self.family = family_of(self.model.config, str(folder or model))
        self.positions = positions_of(self.model)
        self.engine = engine_of(self.model, self.renderer.stop_ids, self.tokenizer)

    def answer(self, conversations: Sequence[list[Message]], sampling: Sampling, batch_size: int = 64) -> list[str]:
        """One answer per conversation, in their order. The same conversation twice gets two samples."""
        prompts = [self.renderer.prompt(messages) for messages in conversations]
        pictures = [picture_in(messages) for messages in conversations]
        return [self.text(one) for one in self.complete(prompts, sampling, batch_size, pictures)]

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        batch_size: int = 64,
        pictures: Sequence[str | None] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in their order. What is sampled depends on the seed, on the prompt and on how
        often it came before, not on the others."""
        keys = prompt_keys(prompts)
        requests = [
            Request(prompt, key, picture=picture)
            for prompt, key, picture in zip(prompts, keys, pictures or [None] * len(prompts), strict=True)
        ]
        return self.engine.complete(requests, sampling, batch_size=batch_size)

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, on_text: Callable[[str], None], picture: str | None = None
    ) -> Completion:
        """Answer one prompt as `complete` does; `on_text` gets each piece of text as soon as its token is there.
        Returns the whole, with why it ended."""
        decoder = IncrementalDecoder(self.tokenizer, keep_special=False)
        held_back = HeldBackText(sampling.stop, on_text)

        def on_token(key: str, token: int) -> None:
            if token not in self.renderer.stop_ids and (piece := decoder.add(token)):
                held_back.add(piece.text)

        request = Request(prompt, prompt_keys([prompt])[0], picture=picture)
        (completion,) = self.engine.generate([request], sampling, on_token=on_token)
        if rest := decoder.flush():
            held_back.add(rest.text)
        held_back.flush()
        return completion

    def completion_logprobs(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], batch_size: int = 64
    ) -> list[float]:
        """Log-probability of each completion behind its prompt, in nats."""
        return completion_logprobs(self.model, prompts, completions, batch_size=batch_size)

    def row_logprobs(self, rows: Sequence[EncodedRow], batch_size: int = 64) -> list[float]:
        """Log-probability of each row's labelled tokens, in nats."""
        return row_logprobs(self.model, rows, batch_size=batch_size)

    def token_logprobs(self, rows: Sequence[EncodedRow], batch_size: int = 64) -> list[list[float]]:
        """Of each row's tokens behind the first, in nats; 0.0 where a token is not labelled."""
        return token_logprobs_of_rows(self.model, rows, batch_size=batch_size)

    def text(self, completion: Completion, *, special_tokens: bool = False) -> str:
        """What was answered; without `special_tokens` also without the token that ended it, which need not be one."""
        return completion.text(self.tokenizer, special_tokens=special_tokens)


class HeldBackText:
    """Hands on text as it comes, but for what may be the beginning of one of the `stops`, and nothing behind one."""

    def __init__(self, stops: Sequence[str], on_text: Callable[[str], None]):
        self.stops, self.on_text, self.text, self.has_ended = stops, on_text, "", False

    def add(self, piece: str) -> None:
        if self.has_ended:
            return
        self.text += piece
        ends = [self.text.index(stop) for stop in self.stops if stop in self.text]
        if ends:
            self.text, self.has_ended = self.text[: min(ends)], True
            return
        waiting = max((n for stop in self.stops for n in range(len(stop)) if self.text.endswith(stop[:n])), default=0)
        self._hand_on(len(self.text) - waiting)

    def flush(self) -> None:
        self._hand_on(len(self.text))

    def _hand_on(self, count: int) -> None:
        if self.text[:count]:
            self.on_text(self.text[:count])
        self.text = self.text[count:]

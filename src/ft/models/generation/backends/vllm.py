"""Answers from vLLM in this process: the same weights and the same rendered prompts, many times as fast on a GPU.

vLLM is no requirement of ft, since it pins a torch of its own: install it where it is used. Not run by ft's tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.files import read_json
from ft.models.generation.backends import Columns, WorkerSpec, answer, more_parameters, refuse_beams, request_seed
from ft.models.generation.sampling import Sampling
from ft.models.lineage import parts
from ft.models.processor import tokenizer_of
from ft.recipe import ModelSource

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # room for an adapter comes in these sizes (vllm/config/lora.py)


class VllmWorker:
    """An adapter is put on its base by vLLM's own LoRA support; NF4 and 8-bit bases are quantised as vLLM does it."""

    def __init__(self, spec: WorkerSpec):
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            fix = "Install it beside ft (`pip install vllm`), or write `backend: {kind: transformers}`."
            raise fail("backend.kind", "vLLM is not installed", fix) from error
        self.renderer = Renderer(tokenizer_of(spec.model, spec.folder, spec.chat_template))
        base, adapter, trained_on = _parts(spec.model, spec.folder)
        quantization = spec.quantization or trained_on
        arguments: dict[str, Any] = {"model": base.path, "revision": base.revision, "dtype": base.dtype or "auto"}
        arguments |= {"tokenizer": str(spec.folder) if spec.folder else base.path}
        arguments |= {"gpu_memory_utilization": spec.options.gpu_memory}
        if quantization:
            arguments["quantization"] = "bitsandbytes"
        self.adapter = None
        if adapter:
            rank = int(read_json(adapter / artifacts.ADAPTER_CONFIG)["r"])
            arguments |= {"enable_lora": True, "max_lora_rank": next(room for room in RANKS if room >= rank)}
            self.adapter = LoRARequest("policy", 1, str(adapter))
        self.model = LLM(**arguments)

    def __call__(self, batch: Columns, sampling: Sampling) -> Iterator[Columns]:
        from vllm import SamplingParams

        refuse_beams(sampling, "vLLM")
        prompts = [{"prompt_token_ids": list(ids)} for ids in batch["prompt_ids"]]
        sampling_params = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=request_seed(sampling, key),
                stop_token_ids=list(self.renderer.stop_ids),
                **more_parameters(sampling),
            )
            for key in batch["key"]
        ]
        results = self.model.generate(prompts, sampling_params, use_tqdm=False, lora_request=self.adapter)
        for key, result in zip(batch["key"], results, strict=True):
            completion = result.outputs[0]
            ended = completion.finish_reason == "stop"
            yield answer(key, completion.text.strip(), len(completion.token_ids), ended)


def _parts(model: ModelSource | None, folder: Path | None) -> tuple[ModelSource, Path | None, Mapping[str, Any] | None]:
    """The whole weights, the adapter on them if there is one, and the quantisation it was trained on."""
    if folder is None:
        assert model is not None
        return model, None, None
    return parts(folder)

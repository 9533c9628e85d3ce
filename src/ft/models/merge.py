"""A trained model as one whole model: its adapter merged into the weights it was trained on.

An adapter trained on a 4-bit base learnt to correct that base's rounding. Merged into the original weights it makes
another model; merged into the dequantised base it makes the same one (up to the rounding of float32 sums).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ft.families import CAUSAL, family_of
from ft.models.adapters import load_adapter
from ft.models.lineage import is_reward, parts
from ft.models.load import load_base, load_scorer_base, share
from ft.models.processor import load_config
from ft.recipe import ModelSource

Onto = Literal["trained", "original"]
DTYPES = ("float32", "bfloat16", "float16")


def trained(folder: Path, held: str, use_cpu: bool) -> Any:
    """The model as it was trained, adapter on its own quantised base, computing in float32, in eval mode.

    `held` is the dtype in which the base's weights were held: they were rounded to it before they were quantised.
    """
    base, adapter = _read(folder, held, use_cpu, quantised=True)
    model = base if adapter is None else load_adapter(base, adapter)
    return _in_float32(model).eval()


def merged(folder: Path, held: str, use_cpu: bool, onto: Onto = "trained") -> Any:
    """One whole model in float32, in eval mode: the adapter merged into the dequantised base it was trained on, or into
    the `original` weights. A folder of whole weights is returned as it is."""
    base, adapter = _read(folder, held, use_cpu, quantised=onto == "trained")
    if getattr(base, "is_quantized", False):
        base = base.dequantize()
    _in_float32(base)
    if adapter is None:
        return base.eval()
    model: Any = load_adapter(base, adapter)
    return _in_float32(model).merge_and_unload().eval()


def _read(folder: Path, held: str, use_cpu: bool, quantised: bool) -> tuple[Any, Path | None]:
    source, adapter, quantization = parts(folder)
    read = load_scorer_base if is_reward(folder) else load_base
    if not (quantised and quantization):
        return _placed(read(source, held, None, use_cpu), use_cpu), adapter
    given = dict(quantization)
    if given.get("load_in_4bit"):
        given["bnb_4bit_compute_dtype"] = "float32"
    return read(source, held, given, use_cpu), adapter


def _placed(model: Any, use_cpu: bool) -> Any:
    return model if use_cpu else model.to("cuda")


def _in_float32(model: Any) -> Any:
    """Every weight that is a floating number in float32; 4-bit and 8-bit ones stay as they are."""
    import torch

    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32)
    model.config.dtype = torch.float32
    return model


def save(model: Any, folder: Path, dtype: str) -> None:
    """The whole model as safetensors in `dtype`; a reward model's head stays in float32, as it was trained."""
    import torch

    head = model.score.weight.detach().clone() if is_scorer(model) else None
    model.to(getattr(torch, dtype))
    if head is not None:
        model.score.weight.data = head
    model.config.dtype = getattr(torch, dtype)
    model.save_pretrained(str(folder))
    share(folder)


def is_scorer(model: Any) -> bool:
    return CAUSAL.is_scorer([type(model).__name__], None)


def plain(folder: Path, scores: bool, use_cpu: bool) -> Any:
    """An exported folder as anybody opens it, by transformers alone, in float32."""
    import torch

    family = family_of(load_config(ModelSource(str(folder))), str(folder))
    options = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
    model = family.auto_class(scores).from_pretrained(str(folder), **options)
    family.prepare(model, str(folder))
    return _placed(model, use_cpu).eval()


def unequal(one: Any, other: Any) -> list[str]:
    """Names of the weights in which two models of one class differ."""
    import torch

    theirs = dict(other.named_parameters())
    return [name for name, value in one.named_parameters() if not torch.equal(value.float().cpu(), theirs[name].cpu())]

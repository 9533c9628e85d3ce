"""The only place that loads weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ft.errors import fail
from ft.families import family_of
from ft.models.adapters import load_adapter, with_adapter, with_scoring_adapter
from ft.models.both_versions import write_for_both
from ft.models.finite import refuse_broken_weights
from ft.models.limits import refuse_unknown_inputs
from ft.models.lineage import base_of, is_adapter, is_reward, parts
from ft.models.processor import library_errors, load_config
from ft.notices import quiet_bars
from ft.progress import waiting
from ft.recipe import ModelSource

HEAD = "score.weight"
"""A reward model's head, as transformers names it."""


def start(
    model: ModelSource | None,
    init: Path | None,
    lora: Mapping[str, Any] | None,
    quantization: Mapping[str, Any] | None,
    compute: str,
    use_cpu: bool,
    scores: bool = False,
) -> Any:
    """The model a training stage trains: whole, or a base that stays frozen with one trainable adapter in float32.

    `compute` is the dtype of the frozen part ("bfloat16" on a GPU); what is trained is float32 unless the recipe's
    `model: {dtype: …}` says otherwise. A parent that is an adapter is copied and trained on. With `scores` it is a
    reward model: the same weights under a new scalar head in float32, which an adapter has as a part, trained whole.
    """
    base, adapter = base_of(model, init)
    dtype = base.dtype or ("float32" if lora is None else compute)
    loaded = (load_scorer_base if scores else load_base)(base, dtype, quantization, use_cpu)
    if lora is not None:
        loaded = (with_scoring_adapter if scores else with_adapter)(loaded, adapter, lora)
    _refuse_broken(loaded, str(init or base.path))
    return loaded


def load(folder: Path, dtype: str, use_cpu: bool, quantization: Mapping[str, Any] | None = None) -> Any:
    """A finished model folder for use, in eval mode: an adapter stands on the base it was trained on."""
    if is_reward(folder):
        raise fail(
            str(folder), "this is a reward model, which scores and does not answer", "Name a model that answers."
        )
    return _finished(load_base, folder, dtype, use_cpu, quantization)


def load_scorer(folder: Path, dtype: str, use_cpu: bool, quantization: Mapping[str, Any] | None = None) -> Any:
    """A finished reward model for use, in eval mode, its head in float32 as it was trained."""
    if not is_reward(folder):
        raise fail(str(folder), "this is no reward model", "Name the folder of a stage of kind `reward`.")
    model = _finished(load_scorer_base, folder, dtype, use_cpu, quantization)
    if not is_adapter(folder):  # the rest may be held in half precision
        model.score.weight.data.copy_(_tensor(folder, HEAD))
    return model


def _finished(
    read: Callable[..., Any], folder: Path, dtype: str, use_cpu: bool, quantization: Mapping[str, Any] | None
) -> Any:
    base, adapter, own = parts(folder)
    loaded = read(base, base.dtype or dtype, quantization or own, use_cpu)
    if adapter is not None:
        loaded = load_adapter(loaded, adapter)
    _refuse_broken(loaded, str(folder))
    return loaded.eval()


def _refuse_broken(model: Any, where: str) -> None:
    fix = "Name another model, or make the stage that left it again with a lower learning rate."
    refuse_broken_weights(model, where, "its weights hold", fix)


def _tensor(folder: Path, name: str) -> Any:
    from safetensors import safe_open

    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118  it is no mapping
                return tensors.get_tensor(name)
    raise fail(str(folder), f"its weights hold no {name}", "Make the stage again with `--force`.")


def load_base(source: ModelSource, dtype: str, quantization: Mapping[str, Any] | None, use_cpu: bool) -> Any:
    """Weights as `source` says, safetensors only, quantised while they are read when asked.

    Raises UserError where they do not fill the model, or hold more than it has: what is left over, or would be random,
    is another model than the one that was meant.
    """
    model, report = _read(False, source, dtype, quantization, use_cpu)
    _refuse_gaps(source.path, [*report["missing_keys"]], [*report["unexpected_keys"]], report["mismatched_keys"])
    return model


def load_scorer_base(source: ModelSource, dtype: str, quantization: Mapping[str, Any] | None, use_cpu: bool) -> Any:
    """The same weights under a scalar head in float32, which is new unless `source` is a reward model; what a language
    model has for the vocabulary is left over. A backbone is never random: see load_base."""
    from ft.models.reward_head import put_head

    model, report = _read(True, source, dtype, quantization, use_cpu, num_labels=1)
    has_head = HEAD not in {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    missing = [name for name in report["missing_keys"] if name != HEAD]
    unexpected = [name for name in report["unexpected_keys"] if name.startswith(f"{model.base_model_prefix}.")]
    mismatched = [entry for entry in report["mismatched_keys"] if entry[0] != HEAD]
    _refuse_gaps(source.path, missing, unexpected, mismatched)
    put_head(model, new=not has_head)
    return model


def _refuse_gaps(
    where: str, missing: Sequence[str], unexpected: Sequence[str], mismatched: Iterable[tuple[str, Any, Any]]
) -> None:
    shapes = [f"{name} {tuple(theirs)} for {tuple(ours)}" for name, theirs, ours in sorted(mismatched)]
    gaps = {"missing": sorted(missing), "left over": sorted(unexpected), "of another shape": shapes}
    words = [
        f"{len(names)} {gap} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
        for gap, names in gaps.items()
        if names
    ]
    if words:
        what = f"its weights are not those of the model that its config.json describes: {', '.join(words)}"
        raise fail(where, what, "Take config and weights from one place.")


def _read(
    scores: bool,
    source: ModelSource,
    dtype: str,
    quantization: Mapping[str, Any] | None,
    use_cpu: bool,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """The model, differentiable where its weights are quantised, and what transformers says of each weight's name."""
    import torch
    from transformers import BitsAndBytesConfig

    quiet_bars()
    options |= {"dtype": getattr(torch, dtype), "use_safetensors": True, "trust_remote_code": False}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # so that all of them are named
    if source.attn_implementation:
        options["attn_implementation"] = source.attn_implementation
    if quantization:
        options["quantization_config"] = BitsAndBytesConfig(**quantization)
        if not use_cpu:
            options["device_map"] = {"": _local_device()}
    config = load_config(source)
    family = family_of(config, source.path)
    if source.rope:
        options["config"] = config
    with library_errors(source, "the model"), _quiet_loading(), waiting(f"loading {source.path}"):
        model, report = family.auto_class(scores).from_pretrained(source.path, revision=source.revision, **options)
    family.prepare(model, source.path)
    if quantization:
        _keep_cpu_4bit_differentiable(model)
    refuse_unknown_inputs(model, source.path)
    return model, report


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """transformers' own table of names, of which every one that matters is an error here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def share(folder: Path) -> None:
    """Let others open a folder that was saved: safetensors writes files that only their owner may read (mode 600), and
    transformers 5 settings that no earlier version knows."""
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    write_for_both(folder)


def _keep_cpu_4bit_differentiable(model: Any) -> None:
    """bitsandbytes 0.50 on CPUs with AVX512-BF16 repacks 4-bit weights at the first evaluation, and every later
    training step then loses the gradient through them in silence. The flag keeps the differentiable path."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _local_device() -> int:
    import os

    return int(os.environ.get("LOCAL_RANK", "0"))

"""The only place that loads weights.

A model folder holds either whole weights or an adapter; an adapter folder's `lineage.json` records the base and its
quantisation, so whoever loads it gets the model that was trained and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.encode.conversation import template
from ft.errors import fail
from ft.families import FAMILIES, family_of
from ft.files import read_json, write_json
from ft.imports import uncollected
from ft.notices import quiet_bars
from ft.recipe import ModelSource


def is_adapter(folder: Path) -> bool:
    return (folder / artifacts.ADAPTER_CONFIG).exists()


def is_reward(folder: Path) -> bool:
    """Whether the folder holds a reward model, whole or as an adapter, and no model that answers."""
    adapter, config = (read_json(folder / name) or {} for name in (artifacts.ADAPTER_CONFIG, artifacts.CONFIG))
    return any(family.is_scorer(config.get("architectures") or [], adapter.get("task_type")) for family in FAMILIES)


def load_tokenizer(path: str | Path, chat_template: str | None = None, revision: str | None = None) -> Any:
    """The tokenizer with the template that trains and chats; without a pad token EOS pads (labels are by position)."""
    with uncollected():
        from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        text = str(error).splitlines()[0]
        raise fail(str(path), f"the tokenizer cannot be loaded: {text}", "Check the name and HF_TOKEN.") from error
    if chat_template:
        tokenizer.chat_template = template(chat_template)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


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
    if lora is None:
        return loaded
    return (_with_scoring_adapter if scores else _with_adapter)(loaded, adapter, lora)


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
        model.score.weight.data.copy_(_tensor(folder, "score.weight"))
    return model


def _finished(
    read: Callable[..., Any], folder: Path, dtype: str, use_cpu: bool, quantization: Mapping[str, Any] | None
) -> Any:
    from peft import PeftModel

    base, adapter, own = parts(folder)
    if adapter is None:
        return read(base, base.dtype or dtype, quantization, use_cpu).eval()
    loaded = read(base, base.dtype or dtype, quantization or own, use_cpu)
    return PeftModel.from_pretrained(loaded, str(adapter)).eval()


def parts(folder: Path) -> tuple[ModelSource, Path | None, Mapping[str, Any] | None]:
    """A finished model folder's whole weights, the adapter on them (None: the folder holds the weights), and how the
    weights were quantised under it."""
    base, adapter = base_of(None, folder)
    lineage = (read_json(folder / artifacts.LINEAGE) or {}) if adapter else {}
    return base, adapter, lineage.get("quantization")


def _tensor(folder: Path, name: str) -> Any:
    from safetensors import safe_open

    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118  it is no mapping
                return tensors.get_tensor(name)
    raise fail(str(folder), f"its weights hold no {name}", "Make the stage again with `--force`.")


def load_base(source: ModelSource, dtype: str, quantization: Mapping[str, Any] | None, use_cpu: bool) -> Any:
    """Weights as `source` says, safetensors only, quantised while they are read when asked."""
    return _read(False, source, dtype, quantization, use_cpu)


def load_scorer_base(source: ModelSource, dtype: str, quantization: Mapping[str, Any] | None, use_cpu: bool) -> Any:
    """The same weights under a scalar head in float32, which is new unless `source` is a reward model.

    Raises UserError when anything else than the head would be new: a backbone is never random.
    """
    from ft.models.reward_head import put_head

    with _quiet_loading():  # the head is missing and the language model's is left over, as is right
        more = {"num_labels": 1, "output_loading_info": True}
        model, found = _read(True, source, dtype, quantization, use_cpu, more)
    missing = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    if missing - {"score.weight"}:
        what = f"its weights do not fill a reward model: {', '.join(sorted(missing)[:3])}"
        raise fail(source.path, what, "Start from a causal language model.")
    put_head(model, new=bool(missing))
    return model


@contextmanager
def _quiet_loading() -> Iterator[None]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _read(
    scores: bool,
    source: ModelSource,
    dtype: str,
    quantization: Mapping[str, Any] | None,
    use_cpu: bool,
    more: Mapping[str, Any] | None = None,
) -> Any:
    """What `from_pretrained` of the family's class returns, differentiable where the weights are quantised."""
    import torch
    from transformers import AutoConfig, BitsAndBytesConfig

    quiet_bars()
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "use_safetensors": True, "trust_remote_code": False}
    if source.attn_implementation:
        options["attn_implementation"] = source.attn_implementation
    if quantization:
        options["quantization_config"] = BitsAndBytesConfig(**quantization)
        if not use_cpu:
            options["device_map"] = {"": _local_device()}
    try:
        config = AutoConfig.from_pretrained(source.path, revision=source.revision, trust_remote_code=False)
        auto = family_of(config, source.path).auto_class(scores)
        read = auto.from_pretrained(source.path, revision=source.revision, **options, **(more or {}))
    except OSError as error:
        text = str(error).splitlines()[0]
        raise fail(source.path, f"the model cannot be loaded: {text}", "Check the name and HF_TOKEN.") from error
    if quantization:
        _keep_cpu_4bit_differentiable(read[0] if isinstance(read, tuple) else read)
    return read


def save_lineage(
    folder: Path, model: ModelSource | None, init: Path | None, quantization: Mapping[str, Any] | None
) -> None:
    """Record the base under an adapter, for whoever loads the folder next."""
    base, _ = base_of(model, init)
    lineage = {"base": asdict(base), "quantization": dict(quantization) if quantization else None}
    write_json(folder / artifacts.LINEAGE, lineage)


def share(folder: Path) -> None:
    """safetensors writes files that only their owner may read (mode 600); a result is for others too."""
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)


def base_of(model: ModelSource | None, init: Path | None) -> tuple[ModelSource, Path | None]:
    """The whole weights at the bottom, and the adapter that stands on them."""
    if init is None:
        if model is None:
            raise fail("model", "there is no model to start from", "Write `model: path-or-hub-id`.")
        return model, None
    if not is_adapter(init):
        how = (model.dtype, model.attn_implementation) if model else (None, None)
        return ModelSource(str(init), None, *how), None
    lineage = read_json(init / artifacts.LINEAGE)
    if lineage:
        return ModelSource(**lineage["base"]), init
    config = read_json(init / artifacts.ADAPTER_CONFIG)
    return ModelSource(config["base_model_name_or_path"], config.get("revision")), init


def _with_adapter(base: Any, adapter: Path | None, lora: Mapping[str, Any]) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(**lora, task_type=family_of(base.config, "model").peft_task(scores=False))
    if adapter is not None:
        config.base_model_name_or_path = base.name_or_path
        model: Any = PeftModel.from_pretrained(base, str(adapter), is_trainable=True, config=config)
    else:
        model = get_peft_model(base, config)
    adapters_in_float32(model)
    return model


def _with_scoring_adapter(base: Any, adapter: Path | None, lora: Mapping[str, Any]) -> Any:
    """An adapter directory given as the model trains nothing: its weights are copied into a trainable one."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    task = family_of(base.config, "model").peft_task(scores=True)  # which trains and saves the head as well
    model = get_peft_model(base, LoraConfig(**lora, task_type=task))
    if adapter is not None:
        weights = {
            name: value for name, value in load_peft_weights(str(adapter), "cpu").items() if "lm_head" not in name
        }
        head = next(
            value for name, value in model.named_parameters() if name.endswith("score.modules_to_save.default.weight")
        )
        weights.setdefault("base_model.model.score.weight", head.detach().clone())
        unused: Any = set_peft_model_state_dict(model, weights)
        if unused.unexpected_keys:
            what = f"the adapter does not fit a reward model: {', '.join(unused.unexpected_keys[:3])}"
            raise fail(str(adapter), what, "Write the `lora:` block of the stage that made it.")
    adapters_in_float32(model)
    return model


def adapters_in_float32(model: Any) -> None:
    """Trained parameters in float32: in bfloat16 a small learning rate changes almost none of them."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@contextmanager
def adapters_kept(model: Any) -> Iterator[None]:
    """TRL 1.16 casts the adapters of a quantised base to bfloat16 when a trainer takes them. Casting them back is not
    enough: what a parent stage has learnt would be rounded. Their values return as they were."""
    kept = {name: value.data for name, value in model.named_parameters() if value.requires_grad}
    yield
    for name, value in model.named_parameters():
        if name in kept:
            value.data = kept[name].to(value.device)


def saved_alone(model: Any) -> None:
    """Let every saving of the model write the adapter that is trained, and none that stands beside it: a reference or a
    reward model comes anew from its own folder, always."""
    model.save_pretrained = partial(model.save_pretrained, selected_adapters=["default"])


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


def tokenizer_of(model: ModelSource | None, init: Path | None, chat_template: str | None) -> Any:
    """A parent's tokenizer carries its template already; the recipe's wins where it names one."""
    if init is not None:
        return load_tokenizer(init, chat_template)
    if model is None:
        raise fail("model", "there is no tokenizer", "Write `model: path-or-hub-id`.")
    return load_tokenizer(model.path, chat_template, model.revision)

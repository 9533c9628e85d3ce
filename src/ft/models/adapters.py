"""Adapters on a base that stays frozen: new ones, those of a parent stage, and what a trainer must not do to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ft import artifacts
from ft.errors import Problems, fail
from ft.families import family_of
from ft.models.folder import check_model_folder
from ft.models.limits import lora_problems, target_problems


def load_adapter(base: Any, folder: Path, **options: Any) -> Any:
    """A saved adapter on its base. Raises UserError where its file does not hold all of it: PEFT leaves the rest as it
    was begun, and warns."""
    from peft import PeftModel, get_peft_model_state_dict

    check_model_folder(folder)
    model: Any = PeftModel.from_pretrained(base, str(folder), **options)
    with safe_open(str(folder / artifacts.ADAPTER_WEIGHTS), framework="pt") as tensors:
        different = {*tensors.keys()} ^ {*get_peft_model_state_dict(model)}
    if different:
        what = f"its weights are not those that adapter_config.json describes: {', '.join(sorted(different)[:2])}"
        raise fail(str(folder), what, "Take both files from one place.")
    return model


def with_adapter(base: Any, adapter: Path | None, lora: Mapping[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(**lora, task_type=family_of(base.config, "model").peft_task(scores=False))
    if adapter is not None:
        config.base_model_name_or_path = base.name_or_path
        model = load_adapter(base, adapter, is_trainable=True, config=config)
    else:
        Problems(lora_problems("lora", lora, base.config.to_dict())).raise_any()
        _refuse_unknown_targets(base, lora)
        with _peft_errors():
            model = get_peft_model(base, config)
    adapters_in_float32(model)
    return model


def _refuse_unknown_targets(base: Any, lora: Mapping[str, Any]) -> None:
    modules = [name for name, _ in base.named_modules() if name]
    Problems(target_problems("lora", lora.get("target_modules"), modules)).raise_any()


@contextmanager
def _peft_errors() -> Iterator[None]:
    """PEFT has errors of many kinds for a block that does not fit a model."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, ImportError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise fail("lora", f"PEFT cannot put it on this model: {lines[0]}", "Fix the block.") from error


def with_scoring_adapter(base: Any, adapter: Path | None, lora: Mapping[str, Any]) -> Any:
    """An adapter directory given as the model trains nothing: its weights are copied into a trainable one."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    task = family_of(base.config, "model").peft_task(scores=True)  # which trains and saves the head as well
    _refuse_unknown_targets(base, lora)
    with _peft_errors():
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

"""What stays in a GPU's memory while a stage trains, cut in slices where several GPUs share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft.fit.activations import ComputeMode
from ft.fit.setting import ModelInMemory, Setting, bytes_of, finished_model
from ft.fit.weights import model_weights, optimizer_of, optimizer_states
from ft.recipe.kind import Reference


@dataclass(frozen=True)
class ResidentMemory:
    """Bytes on one GPU. `trained` counts parameters; `gathered` is what slicing puts together for a moment."""

    weights: int
    adapters: int
    gradients: int
    states: int
    gathered: int
    trained: int
    optimizer: str


def resident_memory(setting: Setting, model: ModelInMemory) -> ResidentMemory:
    shape, adapter, cut = model.shape, model.adapter, setting.sharding.slice
    optimizer, where = optimizer_of(setting.train), setting.stage.where
    number = 4 if adapter else bytes_of(model.dtype)  # of what is trained
    trained = adapter.trained if adapter else shape.parameters
    states = optimizer_states(optimizer, trained, shape.layer.linears, where) * number // 4
    gradients = cut(trained * number, "gradients")
    if setting.sharding.kind == "ddp":
        gradients *= 2  # DDP reduces copies of them, in buckets
    whole = model.weights
    weights = cut(whole, "weights") + reference(setting, model)
    if setting.sharding.kind in ("zero2", "zero3") and setting.compute != "float32":
        weights, states = _deepspeed(setting, model, whole, trained, states)
    adapters = model.adapters + _reference_adapter(setting, model)
    return ResidentMemory(
        weights=weights,
        adapters=cut(adapters, "weights"),
        gradients=gradients,
        states=cut(states, "states"),
        gathered=_gathered(setting, model),
        trained=trained,
        optimizer=optimizer,
    )


def _deepspeed(setting: Setting, model: ModelInMemory, whole: int, trained: int, states: int) -> tuple[int, int]:
    """DeepSpeed holds weights as they compute, and float32 copies of what is trained among the sliced states."""
    if model.adapter is None:
        whole = model.shape.parameters * bytes_of(setting.compute)
    return setting.sharding.slice(whole, "weights") + reference(setting, model), states + 4 * trained


def _gathered(setting: Setting, model: ModelInMemory) -> int:
    """Two layers at once, one at work and one on its way, and what belongs to no layer: embeddings and head."""
    if not setting.sharding.gathers:
        return 0
    shape = model.shape
    number = bytes_of(setting.compute)
    if model.quantization:
        layer = model_weights(shape, model.dtype, model.quantization) - number * (shape.embedding + shape.head)
        return 2 * layer // shape.layers + number * (shape.embedding + shape.head)
    return number * (2 * shape.layer.parameters + shape.embedding + shape.head)


def reference(setting: Setting, model: ModelInMemory) -> int:
    """A second model, for a whole policy that is held against itself as it began; none under an adapter."""
    held = _held_reference(setting)
    if model.adapter is not None or held is None or _is_set(setting.train, held.model_unless):
        return 0
    return setting.sharding.slice(model.weights, "weights")


def _reference_adapter(setting: Setting, model: ModelInMemory) -> int:
    """A frozen copy of the adapter the stage starts from; without one the reference is the bare base."""
    held = _held_reference(setting)
    if model.adapter is None or held is None or _is_set(setting.train, held.adapter_unless):
        return 0
    parent = finished_model(setting, setting.stage.init) if setting.stage.init else None
    return 4 * model.adapter.parameters if parent and parent.adapter else 0


def _held_reference(setting: Setting) -> Reference | None:
    """What the kind holds beside the policy; nothing where another model's log-probabilities were computed before."""
    return None if "reference" in setting.stage.inputs else setting.stage.kind.reference


def _is_set(train: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return any(train[key] == value for key, value in values.items())


def compute_mode(setting: Setting, model: ModelInMemory) -> ComputeMode:
    """How the stage computes. Slicing holds float32 weights that are gathered in the dtype they compute in."""
    source, train = setting.recipe.model_of(setting.stage), setting.train
    compute = setting.compute
    stream = compute if setting.sharding.kind in ("fsdp", "zero2", "zero3") else model.dtype
    return ComputeMode(
        compute=bytes_of(compute),
        stream=bytes_of(stream),
        attention=(source.attn_implementation if source else None) or "sdpa",
        adapter=model.adapter,
        unpacks=model.unpacks(compute),
        checkpoint=bool(train["gradient_checkpointing"]),
    )

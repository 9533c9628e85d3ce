"""What a model is made of, counted on the meta device: every parameter exactly, and no weight is downloaded or held."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ft.errors import UserError, fail
from ft.families import family_of
from ft.fit.known import KNOWN, known_id
from ft.models.processor import load_config
from ft.recipe import ModelSource, Owner

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LORA = Owner("peft:LoraConfig")
PLAIN = {"r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora"}
"""Keys of a `lora:` block with which its parameters are rank times rows and columns."""

BUILT_IN = "built-in sizes"
"""Origin of a shape from KNOWN, which says what decides the sizes of tensors and nothing else."""

CLOSING = ("o_proj", "out_proj", "down_proj", "fc2", "c_proj", "dense", "dense_4h_to_h", "wo", "w2")
"""Linear layers whose input is not the norm's output, and so is not shared with their neighbours."""


@dataclass(frozen=True)
class Linear:
    """A matrix of a decoder layer; `name` is relative to the layer: self_attn.q_proj. `bias` is whether it has one."""

    name: str
    columns: int  # input features
    rows: int  # output features
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.columns * self.rows + (self.rows if self.bias else 0)

    @property
    def closing(self) -> bool:
        return self.name.rpartition(".")[2] in CLOSING

    @property
    def group(self) -> str:
        """Linears of one group read the same tensor."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Layer:
    """The first decoder layer, which stands for all. `norms` are the sizes of its norms, `experts` parameters that no
    Linear holds in a matrix (three dimensions)."""

    linears: tuple[Linear, ...]
    norms: tuple[int, ...]
    parameters: int
    experts: int = 0


@dataclass(frozen=True)
class Shape:
    """A causal language model, or with `scores` the same under a scalar head instead of the vocabulary's.

    parameters  of all tensors, each once (tied embeddings are one)
    head        of the output embedding, where it is a matrix of its own; 0: tied, or a reward model
    embedding   of the input embeddings
    stacks      layers of each stack, and the first of them: one stack, or an encoder's and a decoder's. A token goes
                through one of them, the fullest of which `layers` and `layer` are
    unquantised  linear layers that stay in float32 where others are quantised, by the last part of their names
    windows     for each layer how many tokens back its attention sees; None: all
    origin        where the shape comes from, in words
    """

    config: Any = field(repr=False, compare=False)
    origin: str
    parameters: int
    embedding: int
    head: int
    layers: int
    layer: Layer
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    gated: bool
    rms: bool
    vocab: int
    positions: int | None
    windows: tuple[int | None, ...]
    stacks: tuple[tuple[int, Layer], ...]
    unquantised: frozenset[str] = frozenset()
    experts_each: int = 1  # experts a token goes through

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim


def config_of(source: ModelSource) -> tuple[Any, str]:
    """The model's config and where it is from: its folder, the Hub, or what ft knows. Raises UserError for neither."""
    try:
        return load_config(source), "its config"
    except UserError as error:
        if source.path in KNOWN:
            return known_config(source.path), BUILT_IN
        if source.folder is not None:
            raise
        fix = "Check the name and HF_TOKEN, download its config.json once while online, or name a local folder."
        raise fail(source.path, error.problems[0].what, fix) from error


def config_named(name: str) -> tuple[Any, str]:
    """The same for what a user types: the id of a known model may lack its owner (Llama-2-7b-hf)."""
    return config_of(ModelSource(known_id(name)))


def known_config(path: str) -> Any:
    from transformers import AutoConfig

    values = dict(KNOWN[path])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def shape_of(config: PretrainedConfig, origin: str, scores: bool = False) -> Shape:
    """The shape of the model that `config` describes; equal configs are built once. Raises UserError for one made of
    several parts, of which only the language model would be counted."""
    if (family := family_of(config, config.name_or_path or "model")).has_parts:
        what = f"the memory of {family.about} is not estimated yet: their image encoder would be left out"
        raise fail(config.name_or_path or config.model_type, what, "Measure it on the machine: `ft plan --probe`.")
    config = config.get_text_config(decoder=True)
    return _shape(json.dumps(config.to_dict(), sort_keys=True, default=str), type(config), origin, scores)  # type: ignore[arg-type]


@lru_cache(maxsize=32)
def _shape(config_text: str, config_class: Hashable, origin: str, scores: bool) -> Shape:
    config = config_class.from_dict(json.loads(config_text))  # type: ignore[attr-defined]
    model = build_on_meta(config, scores)
    parameters = dict(model.named_parameters())
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings()
    own_head = outputs is not None and outputs.weight is not inputs
    stacks = [(len(stack), *_first_layer(stack)) for stack in _layer_stacks(model)]
    layers, layer, classes = max(stacks, key=lambda stack: (stack[0], stack[1].parameters))
    heads = config.num_attention_heads
    width = config.hidden_size
    ffn = max((linear.rows for linear in layer.linears if not linear.closing and "attn" not in linear.name), default=0)
    return Shape(
        config=config,
        origin=origin,
        parameters=sum(parameter.numel() for parameter in parameters.values()),
        embedding=inputs.numel(),
        head=outputs.weight.numel() if own_head else 0,
        layers=layers,
        layer=layer,
        width=width,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or width // heads,
        ffn=getattr(config, "intermediate_size", None) or ffn,
        gated=any("gate" in name for name in (*(linear.name for linear in layer.linears), *parameters)),
        rms=any("RMSNorm" in name for name in classes),
        vocab=inputs.shape[0],
        positions=getattr(config, "max_position_embeddings", None),
        windows=_windows(config, layers),
        stacks=tuple((count, one) for count, one, _ in stacks),
        unquantised=family_of(config, origin).unquantised,
        experts_each=getattr(config, "num_experts_per_tok", None) or 1,
    )


def build_on_meta(config: PretrainedConfig, scores: bool = False, layers: int | None = None) -> Any:
    """The model on the meta device, with `layers` of its layers; tensors with shapes and without memory."""
    import torch
    from transformers.initialization import no_init_weights

    config = copy.deepcopy(config)
    if layers is not None:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    if scores:
        config.num_labels = 1
    auto = family_of(config, config.name_or_path or "model").auto_class(scores)
    with torch.device("meta"), no_init_weights():
        model = auto.from_config(config)
    model.tie_weights()
    return model


def _layer_stacks(model: Any) -> list[Any]:
    """The lists of like layers that stand in no other list."""
    from torch import nn

    stacks: dict[str, Any] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            stacks[name] = module
    if not stacks:
        raise fail(model.config.model_type, "ft finds no decoder layers in this kind of model", "Plan without --gpu.")
    return list(stacks.values())


def _first_layer(stack: Any) -> tuple[Layer, set[str]]:
    """The first layer of a stack, which stands for all, and the classes of its modules."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    first = stack[0]
    linears, norms = [], []
    for name, module in first.named_modules():
        if isinstance(module, nn.Linear):
            linears.append(Linear(name, module.in_features, module.out_features, module.bias is not None))
        elif isinstance(module, Conv1D):  # GPT-2's matrices, stored the other way round
            linears.append(Linear(name, module.weight.shape[0], module.weight.shape[1], bias=True))
        elif "Norm" in type(module).__name__:
            norms.append(sum(1 for _ in module.parameters()) and next(module.parameters()).numel())
    parameters = sum(parameter.numel() for parameter in first.parameters())
    experts = sum(parameter.numel() for parameter in first.parameters() if parameter.dim() > 2)
    classes = {type(module).__name__ for module in first.modules()}
    return Layer(tuple(linears), tuple(norms), parameters, experts), classes


def _windows(config: PretrainedConfig, layers: int) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or []
    if not window or not getattr(config, "use_sliding_window", True):
        return (None,) * layers
    if kinds:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return (window,) * layers


@dataclass(frozen=True)
class Adapter:
    """What a `lora:` block trains: parameters of the adapters, and of whole modules beside them.

    ranks    rank of each adapted Linear of the first layer, by its name in the layer
    whole    parameters of modules trained whole (`modules_to_save`), the copy that is trained; the original stays
    dropout  share of the adapters' inputs that is dropped
    """

    parameters: int
    whole: int
    ranks: Mapping[str, int]
    dropout: float

    @property
    def trained(self) -> int:
        return self.parameters + self.whole


def adapter_of(shape: Shape, lora: Mapping[str, Any], where: str, scores: bool = False) -> Adapter:
    """PEFT's own answer for this model: the block is put on its layers, on the meta device.

    One layer and two tell what each further one adds; where the block names layers one by one, all are built.
    """
    text = json.dumps(lora, sort_keys=True, default=str)
    return _adapter(shape, text, where, scores)


@lru_cache(maxsize=64)
def _adapter(shape: Shape, text: str, where: str, scores: bool) -> Adapter:
    lora = json.loads(text)
    if not (set(lora) - PLAIN or shape.layer.experts or not _plain(lora.get("target_modules"))):
        return _count_plain(shape, lora, scores)
    # PEFT can be told of single layers: by number, by pattern, or by copies of layers.
    singles = {"rank_pattern", "layers_to_transform", "layers_pattern", "layer_replication", "target_parameters"}
    names = lora.get("target_modules")
    pattern = isinstance(names, str) and names != "all-linear"
    if pattern or re.search(r"\d", json.dumps(names)) or any(lora.get(key) for key in singles):
        return _count_by_peft(shape, lora, where, scores, shape.layers)
    one = _count_by_peft(shape, lora, where, scores, 1)
    if shape.layers == 1:
        return one
    two = _count_by_peft(shape, lora, where, scores, 2)
    each = two.parameters - one.parameters, two.whole - one.whole
    return Adapter(
        one.parameters + (shape.layers - 1) * each[0],
        one.whole + (shape.layers - 1) * each[1],
        one.ranks,
        one.dropout,
    )


def _plain(names: Any) -> bool:
    """Whether target modules are all, or a list of last names: q_proj."""
    return names == "all-linear" or (isinstance(names, list) and all(re.fullmatch(r"[A-Za-z_]+", n) for n in names))


def _count_plain(shape: Shape, lora: Mapping[str, Any], scores: bool) -> Adapter:
    """What PEFT would count for a plain block, without the seconds it takes to import (a test holds both together).

    A reward model's head is trained whole beside the adapter.
    """
    names = lora["target_modules"]
    rank = int(lora.get("r", LORA.default("r")))

    def adapted(layer: Layer) -> list[Linear]:
        return [one for one in layer.linears if names == "all-linear" or one.name.rpartition(".")[2] in names]

    whole = sum(count * rank * (one.columns + one.rows) for count, layer in shape.stacks for one in adapted(layer))
    dropout = float(lora.get("lora_dropout", LORA.default("lora_dropout")))
    return Adapter(whole, shape.width if scores else 0, {one.name: rank for one in adapted(shape.layer)}, dropout)


def _count_by_peft(shape: Shape, lora: Mapping[str, Any], where: str, scores: bool, layers: int) -> Adapter:
    from peft import LoraConfig, get_peft_model

    task = family_of(shape.config, where).peft_task(scores)
    config = LoraConfig(**{**lora, "init_lora_weights": False, "task_type": task})
    try:
        with warnings.catch_warnings():  # a shape is the decoder alone: a vision tower that is excluded is not in it
            warnings.filterwarnings("ignore", "You have passed exclude_modules")
            model = get_peft_model(build_on_meta(shape.config, scores, layers), config, low_cpu_mem_usage=True)
    except (ValueError, TypeError) as error:
        raise fail(where, f"PEFT cannot put `lora:` on this model: {str(error).splitlines()[0]}", "Fix it.") from error
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    whole = sum(parameter.numel() for name, parameter in trained.items() if "modules_to_save" in name)
    ranks: dict[str, int] = {}
    for name, parameter in trained.items():
        match = re.search(r"\.0\.(\S+?)\.lora_A\.", name)
        if match:
            ranks.setdefault(match[1].replace(".base_layer", ""), parameter.shape[0])
    total = sum(parameter.numel() for parameter in trained.values())
    return Adapter(total - whole, whole, ranks, config.lora_dropout)

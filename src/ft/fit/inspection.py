"""What a model is made of, module by module, and how a block applies its parts: from the config alone.

The model stands on the meta device, where tensors have shapes and no memory. It is run there once: the order of its
modules, and which of them read the same tensor, are seen rather than known for each architecture.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft.fit.activations import key_value_cache
from ft.fit.shapes import Shape, build_on_meta
from ft.fit.weights import BYTES, model_weights
from ft.models.generation.chat_model import NF4

if TYPE_CHECKING:
    from torch import Tensor, nn

HEAD = "head"

QUANTISED: Mapping[str, Mapping[str, Any]] = {
    "8 bits": {"load_in_8bit": True},
    "4 bits": {**NF4, "bnb_4bit_use_double_quant": False},
    "4 bits, double quantisation": NF4,
}


@dataclass(frozen=True)
class ModuleCount:
    """Equal modules of a model. `name` has * for the number of a layer, `shape` is the weight's as it is stored, and
    `each` counts a bias too."""

    name: str
    role: str
    shape: tuple[int, ...]
    each: int
    count: int
    bias: bool

    @property
    def parameters(self) -> int:
        return self.each * self.count


@dataclass(frozen=True)
class Sublayer:
    """A part of a block that adds to the residual stream.

    norm_before     its input is normed
    norm_after      its output is, before it is added
    norm_of_sum     the sum is
    parallel        it reads what the sublayer before it read
    """

    role: str
    norm_before: bool = False
    norm_after: bool = False
    norm_of_sum: bool = False
    parallel: bool = False


@dataclass(frozen=True)
class Blocks:
    """Equal blocks one upon the other: a decoder's, or the encoder's beside it."""

    name: str
    count: int
    sublayers: tuple[Sublayer, ...]


@dataclass(frozen=True)
class Inspection:
    """A model by its config. `positions` has a `kind` and what belongs to it; `activation` is None where not said;
    `by_role` are parameters by the part that they are of: embedding, positions, attention, cross-attention,
    feed-forward, experts, router, norm, head."""

    shape: Shape
    modules: tuple[ModuleCount, ...]
    stacks: tuple[Blocks, ...]
    positions: Mapping[str, Any]
    activation: str | None
    norm: str
    by_role: Mapping[str, int]

    @property
    def active(self) -> int:
        """Parameters that work on one token: of experts, those it goes through."""
        total = self.by_role.get("experts", 0)
        return self.shape.parameters - (total - total * self.shape.experts_each // self.experts if total else 0)

    @property
    def experts(self) -> int:
        config = self.shape.config
        names = ("num_local_experts", "num_experts", "n_routed_experts")
        return next((int(n) for name in names if (n := getattr(config, name, None))), 1)

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Precision → bytes of the weights. Quantised are the matrices of layers alone, the rest is in bfloat16."""
        sizes = {dtype: model_weights(self.shape, dtype, None) for dtype in BYTES if dtype != "float16"}
        return sizes | {name: model_weights(self.shape, "bfloat16", block) for name, block in QUANTISED.items()}

    def cache_bytes(self, tokens: int) -> int:
        """Of keys and values of one row in bfloat16."""
        return key_value_cache(self.shape, 1, tokens, BYTES["bfloat16"])


def inspect_model(shape: Shape) -> Inspection:
    model = build_on_meta(shape.config)
    modules = tuple(_count_modules(model))
    by_role: Counter[str] = Counter()
    for one in modules:
        by_role[one.role] += one.parameters
    norms = [type(module).__name__ for module in model.modules() if _is_norm(module)]
    return Inspection(
        shape=shape,
        modules=modules,
        stacks=tuple(_stacks(model, shape.config)),
        positions=position_scheme(model),
        activation=_activation(shape),
        norm="RMSNorm" if shape.rms or any(_is_shiftless(m) for m in model.modules()) else norms[0] if norms else "",
        by_role=by_role,
    )


# Parameters


def _count_modules(model: Any) -> Iterator[ModuleCount]:
    """Modules that hold parameters, equal ones of all layers as one; a shared tensor counts where it stands first."""
    head = model.get_output_embeddings()
    groups: dict[tuple[str, tuple[int, ...]], list[list[Any]]] = defaultdict(list)
    roles: dict[tuple[str, tuple[int, ...]], str] = {}
    counted: set[int] = set()
    for path, module in model.named_modules():
        own = [(name, p) for name, p in module.named_parameters(recurse=False) if id(p) not in counted]
        counted |= {id(parameter) for _, parameter in own}
        for tensors in _group_tensors(own):
            shape = tuple(tensors[0][1].shape)
            many = len(own) > len(tensors)  # experts: several weights in one module, each with a name of its own
            name = ".".join(filter(None, (path, tensors[0][0] if many else "")))
            key = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name), shape
            groups[key].append(tensors)
            roles[key] = HEAD if module is head else _role(model, path, module, tensors[0][1])
    for (name, shape), modules in groups.items():
        each = sum(parameter.numel() for _, parameter in modules[0])
        yield ModuleCount(name, roles[name, shape], shape, each, len(modules), len(modules[0]) > 1)


def _group_tensors(own: Sequence[tuple[str, Any]]) -> list[list[tuple[str, Any]]]:
    """The tensors of one module: a weight and its bias together, others one by one."""
    if {name for name, _ in own} <= {"weight", "bias"}:
        return [sorted(own, key=lambda pair: pair[0], reverse=True)] if own else []
    return [[pair] for pair in own]


def _role(model: Any, path: str, module: nn.Module, parameter: Tensor) -> str:
    from torch import nn

    above = [model.get_submodule(path.rsplit(".", n)[0]) for n in range(path.count(".") + 1)]
    classes = [type(one).__name__ for one in above]
    if isinstance(module, nn.Embedding):
        return "embedding" if module.weight is model.get_input_embeddings().weight else "positions"
    if _is_norm(module):
        return "norm"
    if any("Router" in name for name in classes):
        return "router"
    if parameter.dim() > 2 or "experts" in path:
        return "experts"
    if any("Attention" in name for name in classes) or "attn" in path:
        return _attention_role(path)
    return "feed-forward"


def _attention_role(path: str) -> str:
    return "cross-attention" if re.search("EncDec|cross|encoder_attn", path) else "attention"


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _is_shiftless(module: nn.Module) -> bool:
    """Whether it is a norm of one weight a feature and no shift, whatever its class is called (T5's LayerNorm)."""
    return _is_norm(module) and [name for name, _ in module.named_parameters()] == ["weight"]


# Blocks


def _stacks(model: Any, config: Any) -> Iterator[Blocks]:
    from torch import nn

    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(_is_attention(one) for one in module.modules())
    }
    outer = {path: one for path, one in lists.items() if not any(path.startswith(f"{other}.") for other in lists)}
    calls = _calls(build_on_meta(config, layers=1))
    for path, blocks in outer.items():
        name = "encoder" if "encoder" in path.split(".") else "decoder"
        yield Blocks(name, len(blocks), tuple(_sublayers(model, [one for one in calls if one.inside(f"{path}.0.")])))


@dataclass(frozen=True)
class _Call:
    """One module's run. Beside its `input` BLOOM's parts are given the residual stream, and add to it themselves."""

    path: str
    input: Tensor
    output: Tensor
    more_inputs: tuple[Any, ...]

    def inside(self, prefix: str) -> bool:
        return self.path.startswith(prefix)


def _calls(model: Any) -> list[_Call]:
    """Norms, attention and what else has matrices, in the order in which the model goes through them. Those inside
    another of them are left out."""
    import torch

    parts = {path for path, module in model.named_modules() if _is_part(module)}
    parts -= {path for path in parts if any(path.startswith(f"{other}.") for other in parts)}
    calls: list[_Call] = []

    def hook(path: str) -> Any:
        def called(module: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor], output: Any) -> None:
            first, *more = arguments or (named["hidden_states"],)
            tensor = output[0] if isinstance(output, tuple) else output
            calls.append(_Call(path, first, tensor, (*more, *named.values())))

        return called

    for path in parts:
        model.get_submodule(path).register_forward_hook(hook(path), with_kwargs=True)
    ids = torch.zeros(1, 2, dtype=torch.long, device="meta")
    inputs: list[dict[str, Tensor]] = [{"attention_mask": torch.zeros(1, 1, 2, 2, device="meta")}, {}]
    if getattr(model.config, "is_encoder_decoder", False):
        inputs = [{"decoder_input_ids": ids}]
    model.eval().to(torch.bfloat16)  # grouped products of experts are made of nothing else on this device
    for more in inputs:  # a mask of four dimensions is taken as it is; models that take none so make their own
        calls.clear()
        with suppress(RuntimeError, ValueError, TypeError, NotImplementedError), torch.no_grad():
            model(input_ids=ids, use_cache=False, **more)
            break
    return calls


def _is_part(module: nn.Module) -> bool:
    inside = [one for one in module.modules() if one is not module]
    if _is_norm(module) or _is_attention(module):
        return True
    has_matrix = any(parameter.dim() > 1 for parameter in module.parameters())
    return has_matrix and not _is_lookup(module) and not any(_is_norm(one) or _is_attention(one) for one in inside)


def _is_lookup(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, (nn.Embedding, nn.ModuleList))


def _is_attention(module: nn.Module) -> bool:
    """The class says so, and it holds the matrices itself: T5's layers around it are called so as well."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return "Attention" in type(module).__name__ and any(isinstance(m, (nn.Linear, Conv1D)) for m in module.children())


def _sublayers(model: Any, calls: Sequence[_Call]) -> Iterator[Sublayer]:
    """Each part with its norms. A norm that reads a part's own output stands in its branch. Of the others, all stand
    before the next part where a block begins with one; else on the sum behind the last part."""
    norms = [_is_norm(model.get_submodule(one.path)) for one in calls]
    roles = [_part_role(model, one.path) for one in calls]
    begins_with_norm = bool(norms) and norms[0]
    starts: list[Tensor] = []  # what the first part reads, before its norm and behind it
    place = 0
    while place < len(calls):
        before = calls[place] if norms[place] else None
        place += norms[place]
        if place == len(calls):
            return
        first, role = calls[place], roles[place]
        while place + 1 < len(calls) and not norms[place + 1] and roles[place + 1] == role == "feed-forward":
            place += 1  # OPT's two matrices are no module together
        last = calls[place].output
        place += 1
        behind = calls[place] if place < len(calls) and norms[place] else None
        adds_itself = before is not None and any(one is before.input for one in first.more_inputs)
        in_branch = behind is not None and behind.input is last and not adds_itself
        on_sum = behind is not None and not in_branch and not begins_with_norm
        place += in_branch or on_sum
        own = [call.input for call in (before, first) if call]
        yield Sublayer(
            role, before is not None, in_branch, on_sum, any(one is start for one in own for start in starts)
        )
        starts = starts or own


def _part_role(model: Any, path: str) -> str:
    module = model.get_submodule(path)
    if _is_attention(module):
        return _attention_role(path)
    return (
        "experts" if any(p.dim() > 2 or "experts" in name for name, p in module.named_parameters()) else "feed-forward"
    )


# Positions and activation


def position_scheme(model: Any) -> dict[str, Any]:
    """How the model knows where a token stands: `kind`, and the numbers that belong to it."""
    config = model.config
    classes = {type(module).__name__: module for module in model.modules()}
    biased = [module for path, module in model.named_modules() if path.endswith("relative_attention_bias")]
    if rope := getattr(config, "rope_parameters", None):
        return {"kind": "rotary", **_rope(rope)}
    if any("Rotary" in name for name in classes) or getattr(config, "rotary_dim", None):
        return {"kind": "rotary"}
    if config.model_type in ALIBI or getattr(config, "alibi", False):
        return {"kind": "ALiBi"}
    if biased:
        return {"kind": "relative bias", "buckets": biased[0].num_embeddings}
    tables = [module for path, module in model.named_modules() if re.search(r"(wpe|position\w*)$", path)]
    if tables and any(True for _ in tables[0].parameters()):
        return {"kind": "learned", "rows": tables[0].weight.shape[0]}
    return {"kind": "sinusoidal" if tables else "none"}


ALIBI = ("bloom", "mpt")
"""Types of models whose config does not say that they use it."""


def _rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """theta, and a scaling where there is one; where kinds of layers differ, of those that see all tokens."""
    own = rope.get("full_attention", rope)
    kept = {"theta": own.get("rope_theta"), "scaling": own.get("rope_type"), "factor": own.get("factor")}
    return {key: value for key, value in kept.items() if value not in (None, "default")}


def _activation(shape: Shape) -> str | None:
    """As papers call it: two branches of which one is a gate make GLU variants of it (arXiv:2002.05202)."""
    config = shape.config
    names = ("hidden_act", "hidden_activation", "activation_function", "dense_act_fn", "afn")
    name = next((str(n) for key in names if (n := getattr(config, key, None))), None)
    if name is None:
        return None
    plain = "gelu" if "gelu" in name else name
    glu = {"silu": "SwiGLU", "swish": "SwiGLU", "gelu": "GeGLU", "relu": "ReGLU"}
    return glu.get(plain, name) if shape.gated else {"gelu": "GELU", "relu": "ReLU", "silu": "SiLU"}.get(plain, name)

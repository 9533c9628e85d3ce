"""What a model's structure is, measured on the model at hand before its first step, and held against what is declared.

A window that a kernel ignores, a prompt that was to see itself both ways, experts that stay in 16 bits: libraries drop
such things without a word, and the loss alone does not tell. One forward pass of three rows shows who sees whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from ft import artifacts
from ft.bounds import is_at_most
from ft.console import talk
from ft.errors import fail
from ft.families import Family, family_of
from ft.files import write_json
from ft.models.hidden_states import inner_of
from ft.models.limits import longest_row
from ft.recipe.job import Job

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-2
"""What counts as no influence: this share of how far the same change moves what it must move. Kernels for rows of other
shapes sum in other orders, and 8-bit weights round by what else is in a batch."""

ATTENTION_FIX = "Write `model: {path: …, attn_implementation: sdpa}`, or name another model."
TOKENS = 12  # of the probe's prompt, and of its answer


@dataclass(frozen=True)
class Structure:
    """What was measured; None where it could not be.

    both_ways       a prompt's first token reacts to its last one
    sees_future     what is written reacts to what stands behind it
    window          tokens that each token sees, itself included, where the config has a window that the rows reach
    experts         experts of a layer, and of these how many a token goes through
    expert_bytes    of all experts; `expert_dtype` is that of their weights
    router_trained  whether any router is trained
    trained         parameters that are trained, by the last part of their module's name, most first
    parameters      of all
    """

    family: str
    both_ways: bool | None
    sees_future: bool | None
    window: int | None = None
    experts: tuple[int, int] | None = None
    expert_bytes: int = 0
    expert_dtype: str = ""
    router_trained: bool = False
    trained: dict[str, int] | None = None
    parameters: int = 0

    @property
    def words(self) -> str:
        """One line for the output and the report."""
        return "; ".join([self._attention(), *self._experts(), *self._trained()])

    def _attention(self) -> str:
        if self.both_ways is None:
            return "attention not measured"
        prompt = "a prompt attends to all of itself" if self.both_ways else "no token attends to later ones"
        window = f", each attends to {self.window:,} tokens (window)" if self.window else ""
        return prompt + (", an answer to nothing later" if self.both_ways else "") + window

    def _experts(self) -> Iterator[str]:
        if self.experts:
            count, each = self.experts
            router = "trained" if self.router_trained else "frozen"
            size = f"{self.expert_bytes / 2**30:,.2f} GiB in {self.expert_dtype}"
            yield f"{each} of {count} experts a token, all of them {size}, router {router}"

    def _trained(self) -> Iterator[str]:
        trained = self.trained or {}
        whole = sum(trained.values())
        most = ", ".join(f"{name} {count:,}" for name, count in list(trained.items())[:4])
        more = f" and {len(trained) - 4} more" if len(trained) > 4 else ""
        yield f"{whole:,} of {self.parameters:,} parameters trained ({most}{more})"


def check_structure(model: Any, job: Job) -> None:
    """Measure, tell, and write structure.json. Raises UserError where the model is not what its config, or the recipe,
    declares."""
    if any(value.is_meta or not value.numel() for value in model.parameters()):
        return  # cut into slices already: no process has a whole model to ask
    structure = measure_structure(model, job.where, longest_row(job.rows) if job.rows else 0)
    talk.print(f"{job.name}: {structure.words}")
    write_json(job.folder / artifacts.STRUCTURE, {**asdict(structure), "words": structure.words})


def measure_structure(model: Any, where: str, longest: int) -> Structure:
    """The model's structure. Raises UserError where it is not as declared."""
    inner = inner_of(model)
    family = family_of(inner.config, where)
    was_training = model.training
    model.eval()
    try:
        both_ways, sees_future = _who_sees_whom(inner, family, where)
        window = _window(inner, where, longest)
    finally:
        model.train(was_training)
    return Structure(family.name, both_ways, sees_future, window, **_experts(inner), **_parameters(model))


def _who_sees_whom(inner: Any, family: Family, where: str) -> tuple[bool | None, bool | None]:
    """Whether a prompt sees itself both ways, and whether an answer sees what stands behind it.

    What must not be is held against what must be: how far a token moves those that may see it.
    """
    if not family.text_alone:
        return None, None
    vocabulary = inner.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (2 * TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
    prompt, answer = ids[:TOKENS], ids[TOKENS:]
    first, last = ([*prompt[:n], (prompt[n] + 1) % vocabulary, *prompt[n + 1 :]] for n in (0, TOKENS - 1))
    written = [*answer[:-2], (answer[-2] + 1) % vocabulary, answer[-1]]  # nothing reads an answer's last token
    rows = [(prompt, answer), (first, answer), (last, answer), (prompt, written)]
    batch = family.collator(0)([family.completion_row(*row) for row in rows])
    with torch.no_grad():
        states = family.probe_states(inner, {name: value.to(inner.device) for name, value in batch.items()}, TOKENS)
    of_prompt, of_answer = (state.float() for state in states)
    heard = _moved(of_answer[0, 1:], of_answer[2, 1:])  # of the prompt's last token
    if is_at_most(heard, 0):
        what = "what the model writes does not depend on what it has read"
        raise fail(where, what, "Its attention or its weights are broken: name another model or attention.")
    sees_future = not is_at_most(_moved(of_answer[0, :-1], of_answer[3, :-1]), ROUNDING * heard)
    if sees_future:
        what = "what the model writes sees the tokens behind it, which it is to predict"
        raise fail(where, what, ATTENTION_FIX)
    forwards, backwards = _moved(of_prompt[0, -1], of_prompt[1, -1]), _moved(of_prompt[0, 0], of_prompt[2, 0])
    both_ways = not is_at_most(backwards, ROUNDING * forwards)
    if both_ways != family.reads_both_ways:
        does, declared = ("sees", "to be causal") if both_ways else ("does not see", "to see itself both ways")
        raise fail(where, f"a prompt {does} its later tokens, and is declared {declared}", ATTENTION_FIX)
    return both_ways, sees_future


def _moved(one: Tensor, other: Tensor) -> float:
    """The largest difference; NaN is one that no bound holds."""
    return (one - other).abs().max().item()


class _LayerIsDone(Exception):
    """The forward pass ends here: later layers see further than one window."""


def _window(inner: Any, where: str, longest: int) -> int | None:
    """The window of the first layer, where the config has one that rows of `longest` tokens reach."""
    config = inner.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    if not window or not getattr(config, "use_sliding_window", True) or kinds[0] != "sliding_attention":
        return None
    if longest <= window:
        return None
    changed = torch.zeros(2, window + 2, dtype=torch.long, device=inner.device)
    changed[:, 1:] = torch.randint(inner.get_input_embeddings().weight.shape[0], (window + 1,)).to(inner.device)
    changed[1, 0] = 1
    states = _first_layer(inner, changed)
    moved = (states[0] - states[1]).abs().amax(-1)  # (W + 2,)
    seen = int((moved > ROUNDING * moved[1:window].max()).nonzero().max()) + 1
    if seen != window:
        number = str(seen) if seen < len(moved) else f"more than {seen - 1}"
        raise fail(where, f"a token sees {number} tokens, and sliding_window of the config is {window}", ATTENTION_FIX)
    return window


def _first_layer(inner: Any, ids: Tensor) -> Tensor:
    """What the first layer makes of rows (B, L): (B, L, D)."""
    from torch import nn

    # The decoder of a model with a vision tower lies deeper than that of a model of text alone
    stack = next(module for module in inner.get_decoder().children() if isinstance(module, nn.ModuleList))
    outputs: list[Tensor] = []

    def stop(layer: Any, inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        raise _LayerIsDone

    hook = stack[0].register_forward_hook(stop)
    try:
        with torch.no_grad():
            inner(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    except _LayerIsDone:
        pass
    finally:
        hook.remove()
    return outputs[0].float()


def _experts(inner: Any) -> dict[str, Any]:
    """Experts and their bytes, as they are held."""
    config = inner.config.get_text_config(decoder=True)
    each = getattr(config, "num_experts_per_tok", None)
    weights = {name: value for name, value in inner.named_parameters() if ".experts." in name and "lora_" not in name}
    if not each or not weights:
        return {}
    dtypes = {str(value.dtype).removeprefix("torch.") for value in weights.values()}
    routers = [value for name, value in inner.named_parameters() if is_router(name)]
    return {
        "experts": (expert_count(config), int(each)),
        "expert_bytes": sum(value.numel() * value.element_size() for value in weights.values()),
        "expert_dtype": " and ".join(sorted(dtypes)),
        "router_trained": any(value.requires_grad for value in routers),
    }


def expert_count(config: Any) -> int:
    """Experts of a layer, by whichever name a config has for them."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    return int(next(value for name in names if (value := getattr(config, name, None))))


def is_router(name: str) -> bool:
    """Whether a parameter is a router's, which chooses a token's experts."""
    parts = name.split(".")
    return "experts" not in parts and not {"gate", "router"}.isdisjoint(parts)


def _parameters(model: Any) -> dict[str, Any]:
    trained: Counter[str] = Counter()
    total = 0
    for name, value in model.named_parameters():
        packed = 2 * value.element_size() if hasattr(value, "quant_state") else 1  # two 4-bit weights in each byte
        total += value.numel() * packed
        if value.requires_grad:
            trained[_module_name(name)] += value.numel()
    return {"trained": dict(trained.most_common()), "parameters": total}


def _module_name(name: str) -> str:
    """The module of a parameter: `q_proj` of …q_proj.lora_A.default.weight, the model itself where it is none's."""
    parts = [part for part in name.split(".") if not part.isdigit()]
    end = next((n for n, part in enumerate(parts) if part.startswith("lora_")), len(parts) - 1)
    return parts[max(0, end - 1)]

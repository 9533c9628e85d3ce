"""What fit tests share: a small shape, and what torch itself says of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def llama(**keys: Any) -> Any:
    from transformers import LlamaConfig

    small = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
    return LlamaConfig(**{**small, "num_attention_heads": 4, "num_key_value_heads": 2, **keys})


def saved_bytes(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes of storage that autograd keeps of a forward, each once, without the model's own tensors."""
    import torch

    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = tensor  # held, so that no other storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    found = sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
    del output
    return found


def allocated(work: Callable[[], Any]) -> int:
    """The most bytes that the CPU allocator held at once for `work`, beyond what was there."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    assert seen.profiler is not None
    events = seen.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak

"""Bytes that come and go: what a forward saves for its backward, layer by layer, and what is at work for a moment.

The formulas are written from what autograd saves on transformers 5.23 and TRL 1.16; the tests hold them against
`torch.autograd.graph.saved_tensors_hooks` and the CPU allocator. docs/fit.md explains each term. N is tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from ft.fit.shapes import Adapter, Linear, Shape

TILE, VOCABULARY_TILE = 4096, 32768
"""TRL's fused head makes logits of that many tokens and words at once (trl/kernels/chunked_logprob.py)."""


@dataclass(frozen=True)
class Batch:
    """`rows` of `length` tokens side by side; `masked`: a mask keeps some apart (packing, padding, shared prompts)."""

    rows: int
    length: int
    masked: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class ComputeMode:
    """How a model computes.

    compute     bytes of a number in matrix products: 2 under bf16 or fp16, else 4
    stream      bytes of a number between layers: those of the weights' dtype
    attention   sdpa, eager, or flash_attention_2 and the like
    adapter     what is trained of it; None: every parameter
    unpacks     bytes a number of a quantised matrix takes when it is needed; 0: nothing is quantised
    autocast    whether it runs under autocast: training does, and what only answers or scores does not
    checkpoint  gradient checkpointing
    cpu         dropout's mask has the dtype of its input there, and is bytes on a GPU
    """

    compute: int
    stream: int
    attention: str = "sdpa"
    adapter: Adapter | None = None
    unpacks: int = 0
    autocast: bool = True
    checkpoint: bool = False
    cpu: bool = False

    @property
    def casts(self) -> bool:
        """Whether autocast makes copies: something is held in more bytes than it is computed in."""
        return self.compute < 4

    @property
    def copies_each_input(self) -> bool:
        """Whether autocast copies the input of every adapter anew: what arrives there has not the dtype it computes in.

        PEFT 0.21 turns the input to the adapter's float32 before autocast turns it back, but for a quantised matrix
        under autocast it leaves it alone (lora/bnb.py, `requires_conversion`).
        """
        return self.casts and (not self.unpacks or self.stream != self.compute)

    @property
    def widens_inputs(self) -> bool:
        """Whether PEFT makes a float32 copy of every adapter's input (lora/layer.py, `_cast_input_dtype`)."""
        return self.adapter is not None and self.stream < 4 and not (self.autocast and self.unpacks)


def layer_saved(shape: Shape, batch: Batch, mode: ComputeMode) -> int:
    """What one decoder layer saves in a forward with gradients."""
    tokens = batch.tokens
    return int(
        tokens * (_norms(shape, mode) + _inputs(shape, mode) + _ffn(shape, mode))
        + _attention(shape, batch, mode)
        + _weight_casts(shape, mode)
    )


def _norms(shape: Shape, mode: ComputeMode) -> float:
    """Per token: a norm squares its input in float32; one whose weight is trained keeps the normed values as well."""
    found = 0.0
    for size in shape.layer.norms:
        heads = {shape.head_dim: (shape.queries + shape.keys) / 2}  # the pair of norms over queries and over keys
        width = shape.width if size == shape.width else heads.get(size, size)
        found += 4 * width + 4 * (width / size if size else 1)
        if mode.adapter is None and shape.rms:
            found += (mode.stream if size == shape.width else mode.compute) * width
    return found


def _inputs(shape: Shape, mode: ComputeMode) -> float:
    """Per token: the inputs of matrices that are trained, or that carry an adapter.

    Neighbours read the same tensor, but where a copy is saved that autocast made, each has its own.
    """
    compute, adapter = mode.compute, mode.adapter
    if adapter is None:
        opening = [linear for linear in shape.layer.linears if not linear.closing]
        if mode.stream == compute:
            opening = list({linear.group: linear for linear in opening}.values())
        return compute * sum(linear.columns for linear in opening) + _closing(shape, mode)
    found, shared = 0.0, set[str]()
    for linear in shape.layer.linears:
        rank = adapter.ranks.get(linear.name)
        if rank is None:
            continue
        found += compute * rank
        read_elsewhere = _is_attention_output(linear, shape, mode)
        if mode.copies_each_input or adapter.dropout or (linear.closing and not read_elsewhere):
            found += compute * linear.columns
        elif not linear.closing and linear.group not in shared:
            found += compute * linear.columns
            shared.add(linear.group)
        if adapter.dropout:
            number = 4 if mode.widens_inputs else mode.stream
            found += linear.columns * (number if mode.cpu else 1)
    return found


def _is_attention_output(linear: Linear, shape: Shape, mode: ComputeMode) -> bool:
    """Whether attention has saved what this matrix reads; eager attention turns it round, which makes a copy."""
    return linear.columns == shape.queries and "attn" in linear.name and mode.attention != "eager"


def _closing(shape: Shape, mode: ComputeMode) -> float:
    """Per token: what the closing matrices of a model trained whole read."""
    closing = [linear for linear in shape.layer.linears if linear.closing]
    found = sum(linear.columns for linear in closing if not _is_attention_output(linear, shape, mode))
    experts = shape.experts_each * (shape.ffn + shape.width) if shape.layer.experts else 0
    return mode.compute * found + mode.stream * experts


def _ffn(shape: Shape, mode: ComputeMode) -> float:
    """Per token: the activation's input and, in a gated block, both factors. For every expert a token goes through as
    well, with the token itself; autocast leaves those in the dtype they have."""
    each = (3 if shape.gated else 1) * shape.ffn
    if shape.layer.experts:
        return mode.stream * shape.experts_each * (each + shape.width)
    return mode.compute * each


def _attention(shape: Shape, batch: Batch, mode: ComputeMode) -> int:
    """Queries, keys, values and output; under a mask keys and values are repeated for every head that shares them.

    Eager attention keeps its probabilities, T x T a head, in float32 and as they are multiplied; the others a number a
    token and head, and with a mask its numbers, T x T a row.
    """
    tokens, compute, flash = batch.tokens, mode.compute, mode.attention not in ("sdpa", "eager")
    repeated = mode.attention == "eager" or (batch.masked and mode.attention == "sdpa")
    keys = shape.queries if repeated else shape.keys
    found = compute * tokens * (shape.queries + 2 * keys)
    square = batch.rows * batch.length**2
    if mode.attention == "eager":
        return found + shape.heads * square * (4 + (2 if compute == 2 else 0))
    found += compute * tokens * shape.queries + 4 * tokens * shape.heads
    return found + (compute * square if batch.masked and not flash else 0)


def _weight_casts(shape: Shape, mode: ComputeMode) -> float:
    """Autocast's copies of trained float32 matrices, saved for the gradient of what went in."""
    if not mode.casts:
        return 0
    adapter = mode.adapter
    if adapter is None:
        matrices = sum(linear.parameters for linear in shape.layer.linears)
        return mode.compute * matrices if mode.stream == 4 else 0
    found = [(linear.columns + linear.rows) * adapter.ranks.get(linear.name, 0) for linear in shape.layer.linears]
    return mode.compute * sum(found)


def forward_casts(shape: Shape, mode: ComputeMode) -> int:
    """Autocast remembers its copies of trained weights until the forward ends, checkpoints or not."""
    return int(shape.layers * _weight_casts(shape, mode))


def layer_working(shape: Shape, batch: Batch, mode: ComputeMode) -> int:
    """What one layer needs for a moment in its backward: the gradient of the stream, and in the feed-forward block
    gradients of both factors, or of their product beside the last matrix's own; and unpacked weights.

    With checkpointing the layer's forward comes first, and its last matrix reads the product in float32 where PEFT
    widens it: at that moment all is saved already, with the product itself and the matrix's own output beside it.
    """
    product = batch.tokens * mode.compute * shape.ffn
    factors = 2 * product if shape.gated else product
    block = max(factors, product + _largest_gradient(shape, mode), batch.tokens * _widened(shape, mode))
    return batch.tokens * mode.stream * shape.width + block + unpacked(shape, mode)


def _widened(shape: Shape, mode: ComputeMode) -> int:
    """Per token: a float32 copy of what the last matrix reads, what it was made from, and the matrix's output; and what
    the layer's forward holds unsaved: the stream, the block's normed input, and the stream's gradient again."""
    adapter = mode.adapter
    if adapter is None or not mode.widens_inputs:
        return 0
    copies = 8 if adapter.dropout else 4  # what is dropped of it is a copy as well
    last = [linear for linear in shape.layer.linears if linear.closing and linear.name in adapter.ranks]
    last = [linear for linear in last if not _is_attention_output(linear, shape, mode)]
    sizes = [(mode.compute + copies) * linear.columns + mode.compute * linear.rows for linear in last]
    return max(sizes) + (2 * mode.stream + mode.compute) * shape.width if sizes else 0


def _largest_gradient(shape: Shape, mode: ComputeMode) -> int:
    """The newest gradient before it is added to what has been accumulated."""
    if mode.adapter is not None:
        return 0
    largest = max((linear.parameters for linear in shape.layer.linears), default=0)
    return largest * (4 + (mode.compute if mode.casts else 0))


def unpacked(shape: Shape, mode: ComputeMode) -> int:
    """The largest quantised matrix, in full."""
    largest = max((linear.parameters for linear in shape.layer.linears), default=0)
    return largest * mode.unpacks


def layer_forward(shape: Shape, batch: Batch, mode: ComputeMode) -> int:
    """What one layer needs for a moment in a forward without gradients: the stream twice, and the larger of attention
    and feed-forward block, or an adapted matrix with what its adapter adds."""
    compute, tokens = mode.compute, batch.tokens
    repeated = shape.queries if batch.masked and mode.attention == "sdpa" else shape.keys
    attention = compute * tokens * (2 * shape.queries + 2 * repeated)
    if batch.masked and mode.attention == "sdpa":
        attention += compute * batch.rows * batch.length**2
    if mode.attention == "eager":
        attention += shape.heads * batch.rows * batch.length**2 * (4 + compute)
    ffn = compute * tokens * shape.ffn * (3 if shape.gated else 2)
    norm = 8 * tokens * shape.width
    block = max(attention, ffn, norm, tokens * _adapted(shape, mode))
    return 2 * mode.stream * tokens * shape.width + block + unpacked(shape, mode)


def _adapted(shape: Shape, mode: ComputeMode) -> int:
    """Per token: an adapted matrix's input and output, what the adapter adds before and after it is scaled, and in a
    gated block the other factor. Without autocast the adapter works in its own float32."""
    ranks = mode.adapter.ranks if mode.adapter else {}
    added = mode.compute if mode.autocast else 4
    most = 0
    for linear in shape.layer.linears:
        if linear.name in ranks:
            other = mode.compute * shape.ffn if shape.gated and linear.rows == shape.ffn else 0
            read = (mode.compute + (4 if mode.widens_inputs else 0)) * linear.columns
            most = max(most, other + read + (mode.compute + 2 * added) * linear.rows)
    return most


def trained_forward(shape: Shape, batch: Batch, mode: ComputeMode) -> tuple[int, int]:
    """(kept from forward to backward, most at work for a moment in a layer's backward), in bytes.

    With checkpointing a layer keeps its input, and saves everything once more when its backward comes; where the stream
    is float32 that input is what its first norm saves.
    """
    saved, working = layer_saved(shape, batch, mode), layer_working(shape, batch, mode)
    mask = batch.rows * batch.length**2 if batch.masked and mode.attention == "sdpa" else 0
    if not mode.checkpoint:
        return shape.layers * saved + mask, working
    inputs = mode.stream * batch.tokens * shape.width
    return shape.layers * inputs + mask, saved + working - (inputs if mode.stream == 4 else 0)


def final_norm(shape: Shape, batch: Batch, mode: ComputeMode) -> int:
    """What the norm before the head saves; it is gone when the layers go back."""
    trained = mode.stream if mode.adapter is None and shape.rms else 0
    return batch.tokens * shape.width * (4 + trained)


def head(shape: Shape, tokens: int, mode: ComputeMode, gradients: bool) -> int:
    """TRL's fused head: one tile of logits at a time, never all; in training the hidden states' gradient besides.

    `tokens` are those a loss is taken of. A head held in more bytes than it computes in is copied, a tile at a time.
    """
    words = min(VOCABULARY_TILE, shape.vocab)
    tile = min(tokens, TILE) * VOCABULARY_TILE * mode.compute
    copy = words * shape.width * mode.compute if mode.stream != mode.compute else 0
    saved = tokens * (mode.stream * shape.width + 4 * 7)
    if not gradients:
        return tile + copy + saved
    own_gradient = 4 * shape.vocab * shape.width if mode.adapter is None else 0
    return tile + copy + saved + tokens * shape.width * (4 + mode.stream) + own_gradient


def key_value_cache(shape: Shape, rows: int, length: int, number: int) -> int:
    """Keys and values of `rows` of `length` tokens at `number` bytes each; a layer with a window keeps that many."""
    columns = sum(min(length, window or length) for window in shape.windows)
    return 2 * rows * columns * shape.keys * number

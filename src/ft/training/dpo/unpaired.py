"""What KTO asks of its rows (arXiv:2402.01306): an order, answers for the KL term, and labels of both sorts.

The KL term of a batch is the mean log-ratio of answers behind prompts that they do not belong to: each row is read
with the answer of the row before it in its batch, as TRL does. So the batches stand before training begins, in an order
drawn by the seed once, and every epoch has the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ft.errors import fail
from ft.recipe.batch import A_DEVICE
from ft.training.scheduler import try_scheduler

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from trl import KTOConfig

BATCH = 1000  # rows whose ids are Python's at once

WITHOUT_KL = ("apo_zero_unpaired",)
"""Losses that compare with the reference alone."""

BALANCED = (1.0, 4 / 3)
"""Where the paper wants desirable weight x rows over undesirable weight x rows (eq. 8)."""


def try_block(values: Mapping[str, Any]) -> None:
    """Raises ValueError where a `train:` block of KTO fits neither its scheduler nor its loss."""
    try_scheduler(values)
    for key in (A_DEVICE, "per_device_eval_batch_size") if values.get("loss_type") not in WITHOUT_KL else ():
        if values.get(key) == 1:
            raise ValueError(
                f"{key} is 1, and the KL term reads each prompt with the answer of another row of its batch. "
                "Write 2 or more; a smaller gradient_accumulation_steps keeps the rows of a step what they are."
            )


def arrange_rows(rows: Dataset, seed: int, batch_size: int, max_length: int, loss_type: str) -> Dataset:
    """The rows in the order they are trained in, with `KL_completion_ids` where the loss has a KL term."""
    from datasets import Dataset, concatenate_datasets

    rows = rows.shuffle(seed=seed).flatten_indices()
    if loss_type in WITHOUT_KL:
        return rows
    column = _other_completions(rows, other_answers(len(rows), batch_size), max_length)
    return concatenate_datasets([rows, Dataset(column)], axis=1)


def _other_completions(rows: Dataset, others: Sequence[int], max_length: int) -> pa.Table:
    """The answers of the `others`, cut where they do not fit behind a row's prompt: they are never trained, and a model
    may have no positions beyond max_length."""
    import pyarrow as pa

    prompts, completions = (rows.data.column(name) for name in ("prompt_ids", "completion_ids"))
    chunks = []
    for start in range(0, len(rows), BATCH):
        part = completions.take(pa.array(others[start : start + BATCH])).to_pylist()
        lengths = (len(prompt) for prompt in prompts.slice(start, BATCH).to_pylist())
        cut = [ids[: max_length - length] for ids, length in zip(part, lengths, strict=True)]
        chunks.append(pa.array(cut, completions.type))
    return pa.table({"KL_completion_ids": pa.chunked_array(chunks)})


def other_answers(count: int, batch_size: int) -> list[int]:
    """For each of so many rows the row whose answer it is also read with: the one before it in its batch, for the first
    the last. A batch of one row takes that of the batch before."""
    others = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        others += [start + (place - 1) % size for place in range(size)]
    if count % batch_size == 1 and count > 1:
        others[-1] = count - 2
    return others


def check_labels(labels: Sequence[bool], config: KTOConfig, where: str) -> str:
    """What to tell of rows whose labels are out of balance, '' where they are in it. Raises UserError where all labels
    are the same: the loss would only raise, or only lower, what it reads."""
    wanted = sum(labels)
    unwanted = len(labels) - wanted
    if not wanted or not unwanted:
        which = "wanted" if wanted else "not wanted"
        fix = "KTO needs both; on wanted answers alone train by `kind: sft`."
        raise fail(where, f"all {len(labels):,} answers are labelled as {which}", fix)
    ratio = config.desirable_weight * wanted / (config.undesirable_weight * unwanted)
    low, high = BALANCED
    if low <= round(ratio, 2) <= round(high, 2):
        return ""
    weight = config.undesirable_weight * unwanted / wanted
    return (
        f"{wanted:,} answers are wanted and {unwanted:,} are not, which weigh {ratio:.2f} to 1; KTO's paper has 1 to "
        f"1.33. Write desirable_weight: {low * weight:.3g} to {high * weight:.3g}, or the like for undesirable_weight."
    )

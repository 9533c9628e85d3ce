"""What a recipe must hold beyond what the classes of its blocks check: rules between blocks, and between stages.

To add one: a function that adds to `problems`, or returns notices, and its call in `ft.recipe.reader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ft.errors import Problems
from ft.recipe.batch import A_DEVICE, ACCUMULATED, not_divisible
from ft.recipe.check import rename_old_keys
from ft.recipe.kind import Kind
from ft.recipe.precision import dtype_to_advise
from ft.recipe.types import Stage
from ft.recipe.yaml import Block

WHOLE = 1e-3
"""How far from 1 the shares may add up: three times 0.3333 is meant as a third each."""


def check_shares(sources: Sequence[Any], where: str, problems: Problems) -> None:
    """Add what is wrong between the sources; what is wrong with one alone is found where it is checked."""
    blocks = [source for source in sources if isinstance(source, Block)]
    shares: dict[Any, float] = {}
    for source in blocks:
        group, share = source.get("group"), source.get("share")
        if not isinstance(share, (int, float)) or group is None:
            continue
        if shares.setdefault(group, share) != share:
            what = f"group '{group}' has share {share} here and {shares[group]} above"
            problems.add(source.where("share"), what, "Write its share once.")
    if not any("share" in source for source in blocks):
        return
    share_list = ", ".join(f"{group} {share:g}" for group, share in shares.items())
    for place, source in enumerate(sources):
        group = source.get("group") if isinstance(source, Block) else None
        at = source.where("group") if isinstance(source, Block) else where
        if group is None and not (isinstance(source, Block) and "share" in source):
            what = f"source {place + 1} belongs to no group, but others have shares ({share_list})"
            problems.add(at, what, "Write `group: NAME`, and the group's share at one of its sources.")
        elif group is not None and group not in shares:
            problems.add(
                at, f"group '{group}' has no share, but others have ({share_list})", "Write `share: …` beside it."
            )
    if shares and abs(sum(shares.values()) - 1) > WHOLE:
        what = f"the shares add up to {sum(shares.values()):g} ({share_list})"
        problems.add(where, what, "They are parts of the whole mixture: make it 1.")


def check_global_batch(block: Block, trains: bool, problems: Problems) -> int | None:
    """A stage's `global_batch`, checked against its `train:` as far as one process goes; None where none is written.

    `gradient_accumulation_steps: null` takes away what a recipe below had written.
    """
    rows, train = block.get("global_batch"), block.get("train")
    if rows is None:
        return None
    where = block.where("global_batch")
    if not trains:
        problems.add(where, f"kind '{block.get('kind')}' reads no global_batch", "Remove the key: it does not train.")
        return None
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        problems.add(where, f"global_batch is '{rows}'", "Write rows per optimizer step, a whole number.")
        return None
    if not isinstance(train, Block):
        return None
    if ACCUMULATED in train and train.pop(ACCUMULATED) is not None:
        what = f"global_batch and train.{ACCUMULATED} are both written, and one follows from the other"
        problems.add(train.where(ACCUMULATED), what, f"Keep one, or write `{ACCUMULATED}: null`.")
    a_device: Any = rename_old_keys(train, "train", Problems(), []).get(A_DEVICE)
    if a_device is None:
        problems.add(where, f"global_batch needs train.{A_DEVICE}", f"Write `{A_DEVICE}: …`, rows at once on one GPU.")
    elif isinstance(a_device, int) and a_device > 0 and rows % a_device:
        problems.add(where, not_divisible(rows, a_device, 1))
    return rows


CHOICE = ("preset", "temperature", "top_p", "top_k", "min_p", "beams")
"""Keys of `decoding:` of which any decides at what temperature answers are drawn."""


def check_decoding(stage: Block, problems: Problems) -> None:
    """Add what another block of the stage says of the temperature where its `decoding:` decides that."""
    decoding = stage.get("decoding")
    decides = [key for key in CHOICE if isinstance(decoding, Block) and decoding.get(key) is not None]
    for name, block in stage.items() if decides else ():
        for key in ("temperature", "temperatures", "top_p"):
            if name not in ("decoding", "train") and isinstance(block, Block) and key in block:
                what = f"{name}.{key} and decoding.{decides[0]} both say how answers are chosen"
                problems.add(block.where(key), what, f"Keep one: write `{key}:` in `decoding:`, or leave that out.")


def notice_compute_dtype(stage: Block, kind: Kind, blocks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line where a 4-bit base would compute in float32 beside a stage in half precision."""
    dtype = dtype_to_advise(kind, blocks)
    what = "quantization names no bnb_4bit_compute_dtype, and the library takes float32: slower, and larger"
    line = f"{stage.where('quantization')}: {what}. Write `bnb_4bit_compute_dtype: {dtype}`."
    return [line] if dtype else []


def notice_untested_reward_models(stages: Sequence[Stage]) -> list[str]:
    """A line for each reward model that a stage optimises against before any `require:` of the recipe has tested it."""
    notices = []
    for place, stage in enumerate(stages):
        tested = {one.init for one in stages[:place] if one.require and one.kind.init == "reward_model"}
        judges = dict.fromkeys(stage.inputs[name] for name in stage.kind.objectives if name in stage.inputs)
        for judge in [name for name in judges if name not in tested]:
            what = f"'{stage.name}' learns to please '${judge}', which no report card with `require:` has tested"
            card = f"{{kind: report-card, init: ${judge}, data: [held-out pairs], require: {{accuracy: 0.65}}}}"
            notices.append(f"{stage.where}: {what}. Write above it: {card}.")
    return notices

"""Whether something stands between a reward model and the policy that learns to please it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ft.recipe.reader import Stage


def ungated(stages: Sequence[Stage]) -> list[str]:
    """A line for each reward model that a stage optimises against before any `require:` of the recipe has tested it."""
    found = []
    for place, stage in enumerate(stages):
        tested = {one.init for one in stages[:place] if one.require and one.kind.init == "reward_model"}
        judges = dict.fromkeys(stage.inputs[name] for name in stage.kind.objectives if name in stage.inputs)
        for judge in [name for name in judges if name not in tested]:
            what = f"'{stage.name}' learns to please '${judge}', which no report card with `require:` has tested"
            card = f"{{kind: report-card, init: ${judge}, data: [held-out pairs], require: {{accuracy: 0.65}}}}"
            found.append(f"{stage.where}: {what}. Write above it: {card}.")
    return found

"""Results of a recipe made with other settings than it has now: with `--set`, or before it was edited.

Who names a recipe gets the result of its settings where that is made, else the newest under its name, and is told what
differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.errors import fail
from ft.result import FOLDER_NAME, Result
from ft.results.store import Plan, differences

RECIPE_WIDE = ("seed", "chat_template", "model", "dtype", "kind")
HASHED = ("model", "chat_template", "init", "inputs")  # named without their values
OTHER_SETTINGS = "made with other settings than the recipe has"
LONGEST_VALUE = 24  # characters; what is longer is named without its value


@dataclass(frozen=True)
class FinishedResult:
    """A finished result, and how its settings differ from those of the recipe: 'sft.train.max_steps=10 (the recipe: not
    set)'; none where it is the result of the recipe as it is."""

    result: Result
    other_settings: tuple[str, ...] = ()

    def tell(self, tell: Callable[[str], None]) -> None:
        if self.other_settings:
            tell(f"{self.result.folder}: {OTHER_SETTINGS}: {', '.join(self.other_settings)}")


def find_finished(plan: Plan, names: Collection[str]) -> FinishedResult | None:
    """The last of these stages that is made, else the newest result of one of them with other settings."""
    finished = [planned.result for planned in plan.stages if planned.name in names and planned.done]
    if finished:
        return FinishedResult(finished[-1])
    variants = [newest for name in names if (newest := find_variant(plan, name))]
    return max(variants, key=lambda one: one.result.timestamp, default=None)


def find_variant(plan: Plan, name: str) -> FinishedResult | None:
    """The newest finished result of a stage under the recipe's name, whatever its settings were."""
    results = _results(plan.runs / plan.recipe.name, f"{name}-*")
    finished = [one for one in results if one.stage == name and one.done and not one.set_aside]
    newest = max(finished, key=lambda one: one.timestamp, default=None)
    return FinishedResult(newest, tuple(other_settings(plan, name, newest))) if newest else None


def _results(folder: Path, pattern: str) -> list[Result]:
    return [Result(one) for one in sorted(folder.glob(pattern)) if FOLDER_NAME.fullmatch(one.name)]


def other_settings(plan: Plan, name: str, result: Result) -> list[str]:
    """How what decided a result differs from what the recipe says of the stage, and of what both are made from."""
    if not result.key:
        return ["what decided it was not written down"]
    planned = plan.stage(name)
    parents = [one for parent in sorted(result.parents) for one in _results(plan.runs, f"*/*-{parent}")[:1]]
    stages = {parent.fingerprint: parent.stage for parent in parents}
    planned_stages = {plan.stage(parent).fingerprint: parent for parent in planned.stage.parents}
    changes = differences(_with_names(result.key, stages), _with_names(planned.key, planned_stages))
    above = [
        setting
        for parent in parents
        if parent.stage in planned.stage.parents
        for setting in other_settings(plan, parent.stage, parent)
    ]
    return list(dict.fromkeys([*above, *(_setting(name, *change) for change in changes)]))


def _with_names(value: Any, names: Mapping[str, str]) -> Any:
    """The key of a result with stages' names for fingerprints: a parent made with other settings speaks for itself."""
    if isinstance(value, Mapping):
        return {key: _with_names(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_names(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def _setting(stage: str, key: str, value: object, recipe_value: object) -> str:
    path = key if key.partition(".")[0] in RECIPE_WIDE else f"{stage}.{key}"
    if key.partition(".")[0] in HASHED or not (_is_short(value) and _is_short(recipe_value)):
        return path
    in_recipe = "not set" if recipe_value is None else recipe_value
    return f"{path}={'null' if value is None else value} (the recipe: {in_recipe})"


def _is_short(value: object) -> bool:
    return isinstance(value, (int, float, bool, str, type(None))) and len(str(value)) <= LONGEST_VALUE


def finished_stage(plan: Plan, name: str, tell: Callable[[str], None]) -> Path:
    """The folder of a stage's result; `tell` is told when its settings are not the recipe's. Raises UserError with the
    command that makes one."""
    planned = plan.stage(name)
    found = find_finished(plan, [planned.name])
    if found is None:
        recipe, why = plan.recipe.argument, f" ({planned.why})" if planned.why else ""
        raise fail(recipe, f"'{name}' is not made{why}", f"Make it: ft run {recipe} --to {name}")
    found.tell(tell)
    return found.result.folder

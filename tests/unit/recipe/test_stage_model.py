"""A stage that starts from a model of its own: a teacher that answers, a student that learns from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.recipe.conftest import HEAD, SFT

from ft.recipe import Recipe
from ft.results.store import plan
from wording import Like

Messages = Callable[..., str]
Read = Callable[..., Recipe]
OWN = SFT + "    model: {path: hub/small, dtype: float32}\n"
AFTER = "  - {kind: evaluate, init: $sft, data: [rows.jsonl], evaluate: {reward: quality}}\n"


def test_what_starts_from_it_is_named_by_it(recipe: Read, tmp_path: Path):
    made = recipe(HEAD + OWN + AFTER)
    models = [made.model_of(stage) for stage in made.stages]
    assert [model.path for model in models if model] == ["hub/small", "hub/small"]
    own = plan(made, tmp_path / "runs").stages
    assert own[0].key["model"]["path"] == "hub/small"
    assert own[1].key["dtype"] == "float32"
    at_the_top = recipe(HEAD.replace("hub/name", "{path: hub/small, dtype: float32}") + SFT + AFTER)
    assert [p.fingerprint for p in own] == [p.fingerprint for p in plan(at_the_top, tmp_path / "runs").stages]


def test_a_recipe_whose_stages_name_their_models_needs_none_at_the_top(recipe: Read):
    assert recipe("stages:\n" + OWN).model is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages:\n" + SFT + "    model: ./none\n", "x.yaml:5: … model … FOLDER/none …"),
        ("stages:\n" + SFT + "    model: [hub/a]\n", "x.yaml:5: model … list …"),
        (HEAD + SFT + AFTER.replace("init:", "model: hub/b, init:"), "x.yaml:6: model … init … written …"),
        (
            HEAD + "  - {kind: scratch, model: hub/b, architecture: {}, train: {max_length: 64}, data: [rows.jsonl]}\n",
            "x.yaml:3: … 'scratch' reads no model …",
        ),
    ],
)
def test_a_model_that_the_stage_cannot_start_from_is_refused(text: str, message: str, messages_of: Messages):
    assert any(line == Like(message) for line in messages_of(text).splitlines())

"""A folder to write recipes in, standing in it, so that messages name files as a user would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ft.errors import UserError
from ft.recipe import Recipe, Verdicts, read
from ft.stages import STAGES

HEAD = "model: hub/name\nstages:\n"
SFT = "  - kind: sft\n    data: [rows.jsonl]\n    train: {max_length: 64}\n"
GOOD = HEAD + SFT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recipe(folder: Path) -> Callable[..., Recipe]:
    """The recipe that the text says, read from x.yaml."""

    def checked(text: str | bytes, sets: Sequence[str] = (), verdicts: Verdicts | None = None) -> Recipe:
        Path("x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(Path("x.yaml"), STAGES, sets, verdicts)

    return checked


@pytest.fixture
def messages_of(recipe: Callable[..., Recipe], folder: Path) -> Callable[..., str]:
    """What is printed about a recipe that is wrong; the test's folder is called FOLDER."""

    def printed(text: str | bytes, sets: Sequence[str] = ()) -> str:
        with pytest.raises(UserError) as caught:
            recipe(text, sets)
        return str(caught.value).replace(str(folder), "FOLDER")

    return printed

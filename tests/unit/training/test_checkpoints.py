"""A run continues from a whole checkpoint or an older one, and never from half of one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ft.manifest import write_manifest
from ft.training.checkpoints import latest


def checkpoint(folder: Path, step: int, manifest: bool = True, best: int | None = None) -> Path:
    """What a Trainer leaves after a step."""
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    save_file({"weight": torch.ones(64, 64)}, place / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(64)}, place / name)
    (place / "config.json").write_text("{}", encoding="utf-8")
    state = {"global_step": step, "max_steps": 12, "log_history": [], "best_global_step": best}
    (place / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    if manifest:
        write_manifest(place)
    return place


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def say(text: str) -> Callable[[Path], None]:
    return lambda file: file.write_text(text, encoding="utf-8")


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json", "trainer_state.json")
DAMAGE = [(file, damage) for file in FILES for damage in (cut, empty, flip_a_bit)]
DAMAGE += [(file, Path.unlink) for file in FILES]
DAMAGE += [("trainer_state.json", say(text)) for text in ("null", "[]", "{}", '"x"', '{"global_step": "a"}')]
DAMAGE += [("trainer_state.json", say(text)) for text in ('{"global_step": 4}', '{"global_step": 9999}')]
DAMAGE += [("manifest.json", damage) for damage in (cut, empty, say("null"), say('{"files": 5}'))]
BY_FORM = [(file, damage) for file, damage in DAMAGE if damage is not flip_a_bit and file != "manifest.json"]


def name(case: object) -> str | None:
    return None if not callable(case) else getattr(case, "__name__", "?")


@pytest.mark.parametrize(("file", "damage"), DAMAGE, ids=name)
def test_a_damaged_checkpoint_is_passed_over_and_told_of(file, damage, tmp_path, caplog):
    older = checkpoint(tmp_path, 2)
    newest = checkpoint(tmp_path, 4)
    damage(newest / file)
    assert latest(tmp_path) == older
    unfinished = not (newest / "trainer_state.json").exists()
    assert unfinished or (str(newest) in caplog.text and (tmp_path / "damaged-checkpoint-4.1").exists())


@pytest.mark.parametrize(("file", "damage"), BY_FORM, ids=name)
def test_so_is_one_of_before_there_were_manifests(file, damage, tmp_path):
    older = checkpoint(tmp_path, 2, manifest=False)
    assert latest(tmp_path) == older
    damage(checkpoint(tmp_path, 4, manifest=False) / file)
    assert latest(tmp_path) == older


def test_the_newest_checkpoint_is_by_number_not_by_name(tmp_path):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    assert latest(tmp_path) == tmp_path / "checkpoint-10"


def test_where_none_is_whole_there_is_none(tmp_path):
    assert latest(tmp_path / "checkpoints") is None
    for step in (2, 4):
        cut(checkpoint(tmp_path, step) / "optimizer.pt")
    assert latest(tmp_path) is None


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    older = checkpoint(tmp_path, 2)
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "checkpoint-9").write_text("x", encoding="utf-8")
    (tmp_path / "checkpoint-99").symlink_to("checkpoint-99")
    assert latest(tmp_path) == older


def test_a_file_that_was_not_written_with_the_checkpoint_changes_nothing(tmp_path):
    newest = checkpoint(tmp_path, 4)
    (newest / "notes.txt").write_text("mine", encoding="utf-8")
    assert latest(tmp_path) == newest


def test_a_run_that_keeps_the_best_does_not_continue_without_it(tmp_path):
    first, _, newest = (checkpoint(tmp_path, step, best=best) for step, best in ((2, 2), (4, 4), (6, 4)))
    assert latest(tmp_path, keeps_best=True) == newest
    shutil.rmtree(tmp_path / "checkpoint-4")
    assert latest(tmp_path) == newest
    assert latest(tmp_path, keeps_best=True) == first

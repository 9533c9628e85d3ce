"""A chain of kill_loop.py, killed at changes of files: the short part of what the script does for an hour."""

from pathlib import Path

import trl

from faults.kill_loop import check, kill_at_changes

SAMPLING_BEHIND_SFT = 13


def test_a_chain_killed_while_it_changes_files_ends_as_an_undisturbed_one(tmp_path: Path, base: Path):
    assert trl.SFTTrainer  # imported here, so that no fork has to
    kills, different = check(SAMPLING_BEHIND_SFT, tmp_path, base, 2, kill_at_changes)
    assert kills > 0
    assert different == []

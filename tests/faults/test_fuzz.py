"""The short part of fuzz.py: damaged recipes and data files are read, or refused by their lines."""

from pathlib import Path

from faults.fuzz import FINE, fuzz


def test_what_is_damaged_is_read_or_refused_by_its_place_and_no_good_row_is_lost(tmp_path: Path, base: Path):
    endings = list(fuzz(range(20), tmp_path, base))
    assert [ending for ending in endings if ending[2] not in FINE] == []
    assert {(what, verdict) for what, _, verdict in endings} >= {("recipe", "refused"), ("data file", "read")}

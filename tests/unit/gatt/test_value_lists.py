"""A model lists values, and a bank gets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft.cli import app
from ft.errors import UserError
from ft.gatt.instructions import Bank, with_values
from ft.gatt.value_lists import held_out_values, listed_values, values_in
from ft.models.generation.sampling import Sampling

BANK = 'kinds:\n  hobby: {full: ["You love {value}."], values: [chess], check: contains}\n  brief: {full: ["Short."]}\n'


@pytest.mark.parametrize(
    "text",
    ["1. Tennis\n2. Rock climbing\n3. Go", "- Tennis\n- Rock climbing\n- Go", "Tennis, Rock climbing, Go."],
)
def test_a_list_is_read_however_it_is_marked(text: str):
    assert values_in(text) == ["Tennis", "Rock climbing", "Go"]


def test_remarks_are_no_values():
    assert values_in("Sure, here is a list of things that people like to do:\n* Tennis\n\n42\n") == ["Tennis"]


def test_a_model_is_asked_again_until_it_has_named_enough():
    seeds = []

    def answer(conversations, sampling):
        seeds.append(sampling.seed)
        assert conversations[0][0]["content"].startswith("List 5 different hobbies, one on each line")
        return [f"1. chess\n2. Chess\n3. game {letter}{sampling.seed}" for letter in "ab"]

    found = listed_values(answer, "hobbies", 5, Sampling(seed=7))
    assert found == ["chess", "game a7", "game b7", "game a8", "game b8"]
    assert seeds == [7, 8]


def test_a_share_of_the_values_is_held_out():
    assert held_out_values(list("abcdefghij"), 0.2) == ["e", "j"]
    assert held_out_values(list("abc"), 0.0) == []


def test_a_bank_gets_other_values_and_keeps_the_rest(tmp_path: Path):
    file = tmp_path / "bank.yaml"
    file.write_text(BANK, encoding="utf-8")
    new = tmp_path / "new.yaml"
    new.write_text(with_values(file, "hobby", ["golf", "judo"], ["judo"]), encoding="utf-8")
    bank = Bank.read(new)
    assert (bank.kinds["hobby"].values, bank.kinds["hobby"].held_out) == (("golf", "judo"), ("judo",))
    assert bank.kinds["hobby"].full == ("You love {value}.",)
    assert list(bank.kinds) == ["hobby", "brief"]


def test_a_kind_the_bank_lacks_is_told(tmp_path: Path):
    file = tmp_path / "bank.yaml"
    file.write_text(BANK, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        with_values(file, "pet", ["cat"], [])
    assert str(refused.value) == f"{file}: no kind 'pet'. There are: hobby, brief."


def test_the_command_writes_a_bank_the_same_again_for_the_same_seed(tmp_path: Path, base: Path):
    (tmp_path / "bank.yaml").write_text(BANK, encoding="utf-8")

    def made(name: str) -> str:
        asked = ["gatt-bank", str(base), "--bank", str(tmp_path / "bank.yaml"), "--kind", "hobby", "--count", "2"]
        done = CliRunner().invoke(app, [*asked, "--to", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        return (tmp_path / name).read_text(encoding="utf-8")

    assert made("one.yaml") == made("two.yaml")
    assert len(Bank.read(tmp_path / "one.yaml").kinds["hobby"].values) == 2


def test_the_command_overwrites_nothing_and_says_so_before_a_model_is_loaded(tmp_path: Path):
    for name in ("bank.yaml", "mine.yaml"):
        (tmp_path / name).write_text(BANK, encoding="utf-8")
    asked = ["gatt-bank", "no/model", "--bank", str(tmp_path / "bank.yaml"), "--kind", "hobby", "--to"]
    refused = CliRunner().invoke(app, [*asked, str(tmp_path / "mine.yaml")]).exception
    assert isinstance(refused, UserError)
    assert str(refused).startswith(f"{tmp_path / 'mine.yaml'}: is there already")
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == BANK


def test_the_command_refuses_a_list_too_short_to_hold_values_out(tmp_path: Path, base: Path, monkeypatch):
    monkeypatch.setattr("ft.gatt.value_lists.listed_values", lambda *_: ["golf", "judo"])
    (tmp_path / "bank.yaml").write_text(BANK, encoding="utf-8")
    asked = ["gatt-bank", str(base), "--bank", str(tmp_path / "bank.yaml"), "--kind", "hobby", "--count", "50", "--to"]
    refused = CliRunner().invoke(app, [*asked, str(tmp_path / "mine.yaml")]).exception
    assert isinstance(refused, UserError)
    assert "2 of 50" in str(refused)
    assert not (tmp_path / "mine.yaml").exists()

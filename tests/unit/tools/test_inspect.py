"""`ft inspect` says what a model is made of: as text, as values, as a picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from typer.testing import CliRunner

from ft.cli import app
from ft.errors import UserError
from ft.fit.inspection import inspect_model
from ft.fit.shapes import known_config, shape_of
from ft.tools.inspect import notes


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["inspect", *arguments], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_published_model_is_found_by_its_last_name_without_a_network():
    values = json.loads(run("llama-2-7b-hf", "--json"))
    assert (values["parameters"], values["origin"]) == (6_738_415_616, "built-in sizes")
    assert values["cache_bytes_per_token"] == 2 * 32 * 32 * 128 * 2


def test_the_text_has_the_rule_of_thumb_where_it_holds():
    text = run("gpt-3")
    assert "parameters      174,604,259,328\n" in text
    assert "173,946,175,488 + 617,558,016 + 25,165,824 = 174,588,899,328 (-0.01%)" in text
    assert "rule of thumb" not in run("llama-2-7b-hf")


def test_a_folder_is_read_by_its_config(base):
    values = json.loads(run(str(base), "--json"))
    assert values["origin"] == "its config"
    assert values["positions"]["kind"] == "rotary"


def test_a_recipe_shows_the_model_it_makes():
    assert json.loads(run("tiny/base", "--json"))["parameters"] == 918_656


def test_the_picture_draws_each_part_of_the_block_once(tmp_path):
    file = tmp_path / "mixtral.svg"
    run("Mixtral-8x7B-v0.1", "--picture", str(file))
    words = [one.text for one in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text")]
    below_to_above = ["token ids", "token embedding", "RMSNorm", "attention", "+", "RMSNorm", "experts", "+", "× 32"]
    assert [word for word in words if word in below_to_above][:9] == below_to_above
    assert {"2 of 8 a token", "8 key/value heads"} <= set(words)


def test_a_picture_of_another_sort_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["inspect", "gpt-3", "--picture", str(tmp_path / "one.png")])
    assert isinstance(done.exception, UserError)


def test_an_unknown_model_is_refused_with_words():
    done = CliRunner().invoke(app, ["inspect", "nobody/nothing"])
    assert isinstance(done.exception, UserError)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("meta-llama/Llama-2-70b-hf", ["no shift", "turn queries and keys", "8 query heads share one key/value head"]),
        ("mistralai/Mixtral-8x7B-v0.1", ["4-bit loading leaves the experts"]),
        ("openai/gpt-3", []),
    ],
)
def test_what_is_often_written_otherwise_is_said_where_it_concerns_the_model(path, words):
    text = " ".join(notes(inspect_model(shape_of(known_config(path), ""))))
    assert all(word in text for word in words)
    assert bool(text) == bool(words)

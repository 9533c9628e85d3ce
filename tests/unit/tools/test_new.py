import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.errors import UserError
from ft.run.rows import prepare_rows
from ft.tools.new import Fork, ForkOptions, fork, fork_lines, parse_columns
from wording import Like

SHARED = tiny.TRANSCRIPTS
ALPACA = [{"instruction": f"{n} sky?", "output": "blue"} for n in range(40)]
Forks = Callable[..., Fork]


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def parent(base: Path, data: Path, tmp_path: Path) -> Path:
    """sft and an evaluation of it, on rows of their own."""
    questions = written(tmp_path / "questions.jsonl", [{"prompt": "sky?", "answer": "blue"}])
    score = {
        "kind": "evaluate",
        "name": "score",
        "init": "$sft",
        "data": [{"path": str(questions), "format": "prompt"}],
        "evaluate": {"reward": "answer"},
    }
    return tiny.recipe(tmp_path / "parent", [tiny.sft(data, rows={"eval_fraction": 0.1}), score], model=str(base))


@pytest.fixture
def forks(parent: Path, tmp_path: Path) -> Forks:
    def made(rows: list[dict[str, Any]] | str, name: str = "own", file: str = "own.jsonl", **options: Any) -> Fork:
        path = rows if isinstance(rows, str) else str(written(tmp_path / file, rows))
        there = tiny.planned(parent, tmp_path / "runs")
        return fork(there, ForkOptions(str(tmp_path / f"new/{name}.yaml"), path, **options), tiny.checked)

    return made


def refused(made: Callable[[], Fork]) -> str:
    with pytest.raises(UserError) as error:
        made()
    return str(error.value)


def test_a_fork_says_only_what_differs(forks: Forks) -> None:
    made = forks(ALPACA)
    assert made.path.read_text(encoding="utf-8") == (
        "# parent-tiny on rows of its own. `ft plan --diff` tells what differs from the recipe it extends.\n"
        "extends: ../parent/tiny.yaml\n"
        "stages:\n"
        "  - kind: sft\n"
        "    data: [{path: ../own.jsonl, format: alpaca}]\n"
        "    rows: {eval_fraction: 0.1}\n"
        "  # These judge on rows of the recipe it extends; give them `data:` of your own to have them back.\n"
        "  - {name: score, skip: true}\n"
    )
    assert list(fork_lines(made)) == [
        "The first rows tell the format: alpaca.",
        f"{made.source.path}: 40 good rows",
        "200 of 1,270 tokens in the loss; longest row 32",
        f"wrote {made.path}",
    ]


def test_a_fork_trains_on_the_new_rows_alone(forks: Forks, tmp_path: Path) -> None:
    made = forks(ALPACA)
    there = tiny.planned(made.path, tmp_path / "runs")
    assert [planned.name for planned in there.stages] == ["sft"]
    assert there.stage("sft").stage.data == ({"path": str(tmp_path / "own.jsonl"), "format": "alpaca"},)
    prepare_rows(there, there.stage("sft"))
    stats = tiny.planned(made.path, tmp_path / "runs").stage("sft").prepared
    assert stats is not None
    assert stats["train"]["rows"] + stats["eval"]["rows"] == 40


def test_bad_rows_are_shown_and_nothing_is_written(forks: Forks, tmp_path: Path) -> None:
    rows = [*ALPACA, {"instruction": "sky?", "output": ""}, {"instruction": "a <|im_end|> b", "output": "c"}]
    file = tmp_path / "own.jsonl"
    assert refused(lambda: forks(rows)) == (
        Like(
            f"{file}:41: … message 2 (assistant) …\n"
            f"{file}:42: … 1 … '<|im_end|>' … otherwise …\n"
            f"{file}: 2 … 42 … --reject …"
        )
    )
    assert list((tmp_path).glob("new/*")) == []


def test_reject_sets_bad_rows_aside(forks: Forks) -> None:
    made = forks([*ALPACA, {"instruction": "sky?", "output": ""}], reject=True)
    assert "    rows: {eval_fraction: 0.1, on_bad_row: reject}\n" in made.path.read_text(encoding="utf-8")
    assert f"{made.source.path}: 40 good rows, 1 bad ones will be set aside" in list(fork_lines(made))


def test_reject_is_not_written_where_every_row_is_good(forks: Forks) -> None:
    assert "on_bad_row" not in forks(ALPACA, reject=True).path.read_text(encoding="utf-8")


def test_long_rows_need_a_word_of_what_becomes_of_them(forks: Forks, tmp_path: Path) -> None:
    rows = [*ALPACA, {"instruction": "x" * 60, "output": "long"}]
    assert refused(lambda: forks(rows)) == (
        Like(
            f"{tmp_path}/own.jsonl: 1 … 41 … max_length 64 … {tmp_path}/own.jsonl:41 … 85 … "
            "--too-long drop_turns … --too-long …"
        )
    )
    assert "rows: {eval_fraction: 0.1, on_too_long: drop}\n" in forks(rows, too_long="drop").path.read_text(
        encoding="utf-8"
    )
    assert refused(lambda: forks(rows, name="b", too_long="cut")) == (
        "--too-long: 'cut'. Write drop_turns (whole oldest turns leave) or drop."
    )


def test_columns_are_mapped(forks: Forks, tmp_path: Path) -> None:
    rows = [{"question": f"{n} sky?", "reply to: it": "blue"} for n in range(40)]
    assert refused(lambda: forks(rows)) == Like(f"{tmp_path}/own.jsonl:1: … --format … --columns ours=theirs …")
    made = forks(rows, columns=parse_columns(["prompt=question,completion=reply to: it"]))
    assert (
        "data: [{path: ../own.jsonl, format: prompt_completion, "
        'columns: {prompt: question, completion: "reply to: it"}}]'
    ) in made.path.read_text(encoding="utf-8")
    assert (made.summary.good, made.summary.trained) == (40, 200)
    assert refused(lambda: forks(rows, name="b", columns={"prompt": "quest"})) == (
        f"{tmp_path}/own.jsonl:1: no column 'quest'. There are: question, reply to: it."
    )


def test_pairs_of_transcripts_become_transcripts_for_sft(forks: Forks) -> None:
    rows = [
        {"chosen": f"\n\nHuman: {n}?\n\nAssistant: yes", "rejected": f"\n\nHuman: {n}?\n\nAssistant: no"}
        for n in range(40)
    ]
    made = forks(rows)
    assert made.source.format == "hh"
    assert made.notes == (
        "The first rows tell the format: hh_pairs.",
        "A pair holds two transcripts; the chosen one is trained on: format hh.",
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"prompt": "sky?", "chosen": "blue", "rejected": "red"},
            Like(
                "… 'sft' … --format prompt_completion --columns completion=chosen … --format … "
                "--columns messages=chosen …"
            ),
        ),
        (
            {"turns": ["sky?", "sea?"]},
            Like("… 'sft' … `gatt` …"),
        ),
        (
            {"prompt": "sky?", "solution": "blue"},
            Like("… 'sft' … --format prompt_completion --columns completion=answer …"),
        ),
        (
            {"history": "sky?", "human_ref_A": "blue", "human_ref_B": "red", "labels": 1},
            Like("… 'sft' … --stage …"),
        ),
    ],
)
def test_rows_of_another_kind_are_refused_with_the_way_out(
    row: dict[str, str], said: str, forks: Forks, tmp_path: Path
) -> None:
    assert refused(lambda: forks([row])) == Like(f"{tmp_path}/own.jsonl: {said}")


def test_the_way_out_of_pairs_works(forks: Forks) -> None:
    rows = [{"prompt": f"{n} sky?", "chosen": "blue", "rejected": "red"} for n in range(40)]
    made = forks(rows, format="prompt_completion", columns={"completion": "chosen"})
    assert (made.summary.good, made.summary.trained) == (40, 200)


def test_a_stage_on_pairs_is_forked_with_pairs_alone(base: Path, data: Path, tmp_path: Path) -> None:
    """Their format is known to be right; they are measured when they are prepared."""
    pairs = [{"prompt": f"{n} sky?", "chosen": "blue", "rejected": "red"} for n in range(40)]
    own = written(tmp_path / "pairs.jsonl", pairs)
    stage = {**tiny.sft(own), "kind": "dpo", "rows": {"max_prompt_length": 32}}
    there = tiny.planned(tiny.recipe(tmp_path / "parent", [stage], model=str(base)), tmp_path / "runs")
    made = fork(there, ForkOptions(str(tmp_path / "new/own.yaml"), str(own)), tiny.checked)
    assert (made.source.format, made.summary.good, made.summary.rendered) == ("preference", 40, False)
    assert "rows: {eval_fraction: 0.1}" in made.path.read_text(encoding="utf-8")
    said = refused(lambda: fork(there, ForkOptions(str(tmp_path / "new/b.yaml"), str(data)), tiny.checked))
    assert said.endswith(
        "rows.jsonl: its rows are no pairs of answers, and 'dpo' trains on pairs. Name another stage: --stage."
    )


def test_an_evaluation_can_be_forked_with_prompts(forks: Forks, tmp_path: Path) -> None:
    made = forks([{"prompt": "snow?", "answer": "white"}], stage="score")
    assert made.path.read_text(encoding="utf-8").partition("stages:\n")[2] == (
        "  - name: score\n    data: [{path: ../own.jsonl, format: prompt}]\n"
    )
    assert [p.name for p in tiny.planned(made.path, tmp_path / "runs").stages] == ["sft", "score"]


def test_a_share_is_held_out_that_leaves_a_row_on_each_side(forks: Forks) -> None:
    assert "eval_fraction: 0.2}" in forks(ALPACA[:3]).path.read_text(encoding="utf-8")
    assert refused(lambda: forks([ALPACA[0]] * 5, name="b")).endswith(
        "its rows open all alike, so none can be held out. Give it more conversations."
    )


def test_nothing_is_overwritten_without_force(forks: Forks, parent: Path) -> None:
    made = forks(ALPACA)
    before = made.path.read_text(encoding="utf-8")
    assert refused(lambda: forks(ALPACA[:30])) == Like(f"{made.path}: … --force … overwrite …")
    assert made.path.read_text(encoding="utf-8") == before
    made.path.write_text("old", encoding="utf-8")
    assert forks(ALPACA, force=True).path.read_text(encoding="utf-8") == before
    assert refused(lambda: forks(ALPACA, name="../parent/tiny", force=True)).endswith(
        "that is the recipe to start from. Give the new one another name."
    )


def test_a_file_that_is_not_there_names_its_neighbour(forks: Forks, tmp_path: Path) -> None:
    written(tmp_path / "own.jsonl", ALPACA)
    assert refused(lambda: forks(str(tmp_path / "owm.jsonl"))).startswith(
        f"--data: no file or folder '{tmp_path}/owm.jsonl'. Did you mean '{tmp_path}/own.jsonl'"
    )


def test_rows_in_two_formats_are_not_guessed_at(forks: Forks, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    assert refused(lambda: forks([*ALPACA[:2], {"text": "a document"}])) == (
        Like(f"{file}: … ({file}:1) … ({file}:3) … --format …")
    )


def test_held_out_rows_of_the_parent_do_not_stay(base: Path, data: Path, tmp_path: Path) -> None:
    held_out = written(tmp_path / "held_out.jsonl", [{"instruction": "plum?", "output": "purple"}])
    parent = tiny.recipe(tmp_path / "p", [tiny.sft(data, eval_data=[{"path": str(held_out)}])], model=str(base))
    own = written(tmp_path / "own.jsonl", ALPACA)
    there = tiny.planned(parent, tmp_path / "runs")
    made = fork(there, ForkOptions(str(tmp_path / "own.yaml"), str(own)), tiny.checked)
    assert "    eval_data: [] # rows are held out of the data instead\n" in made.path.read_text(encoding="utf-8")
    assert tiny.planned(made.path, tmp_path / "runs").stage("sft").stage.eval_data == ()


def test_skip_leaves_a_stage_out_and_must_name_one(parent: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: parent/tiny.yaml\nstages: [{name: score, skip: true}]\n", encoding="utf-8")
    assert [stage.name for stage in tiny.checked(own).stages] == ["sft"]
    own.write_text(
        "extends: parent/tiny.yaml\nstages:\n- {name: scroe, skip: true}\n- {name: score, skip: sure}\n",
        encoding="utf-8",
    )
    with pytest.raises(UserError) as error:
        tiny.checked(own)
    assert sorted(str(error.value).splitlines()) == [
        Like(f"{own}:3: … 'scroe' … extends …"),
        Like(f"{own}:4: … 'sure' … Write …"),
    ]


def test_the_command_prints_the_diff_and_what_to_type_next(parent: Path, tmp_path: Path) -> None:
    own = written(tmp_path / "own.jsonl", ALPACA)
    new = tmp_path / "own.yaml"
    runs = str(tmp_path / "runs")
    result = CliRunner().invoke(app, ["new", str(new), "--from", str(parent), "--data", str(own), "--runs", runs])
    assert result.stdout.splitlines() == [
        f"sft.data.0.path: {parent.parent.parent.parent}/data0/rows.jsonl → own.jsonl",
        "sft.data.0.format: (absent) → alpaca",
        "score.skip: (absent) → True",
        "",
        f"look at the rows: ft show {new}",
        f"train on them:    ft run {new} --to sft",
    ]


@pytest.mark.skipif(not SHARED.exists(), reason="HH_RLHF_HARMLESS_TEST names no file")
def test_real_transcripts(forks: Forks) -> None:
    made = forks(str(SHARED), reject=True, too_long="drop_turns")
    assert (made.summary.good, made.summary.bad) == (2300, 12)

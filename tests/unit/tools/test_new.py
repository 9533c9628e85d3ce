import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.errors import UserError
from ft.recipe import Recipe
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
        "  # These read rows of the recipe it extends; give them `data:` of your own to have them back.\n"
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
            f"{tmp_path}/own.jsonl: 1 of 41 rows (2%) … max_length 64 … {tmp_path}/own.jsonl:41 … 85 … "
            "--max-length 128 … --too-long drop (loses 1 rows, 2%)."
        )
    )
    assert "rows: {eval_fraction: 0.1, on_too_long: drop}\n" in forks(rows, too_long="drop").path.read_text(
        encoding="utf-8"
    )
    assert refused(lambda: forks(rows, name="b", too_long="cut")) == (
        "--too-long: 'cut'. Write drop_turns (drops the oldest turns), drop, or split (documents are cut into pieces)."
    )


def test_a_recipe_that_another_command_writes_meanwhile_stays(parent: Path, tmp_path: Path) -> None:
    there, path = tmp_path / "new" / "b.yaml", str(written(tmp_path / "own.jsonl", ALPACA))

    def check(file: Path) -> Recipe:
        there.write_text("theirs", encoding="utf-8")
        return tiny.checked(file)

    plan = tiny.planned(parent, tmp_path / "runs")
    assert refused(lambda: fork(plan, ForkOptions(str(there), path), check)) == (
        f"{there}: is there already. Give another name, or --force to overwrite it."
    )
    assert there.read_text(encoding="utf-8") == "theirs"


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
            Like("… 'sft' … pairs … --from tiny/dpo …"),
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
    pairs = [{"prompt": f"{n} sky?", "chosen": "blue", "rejected": "red"} for n in range(40)]
    own = written(tmp_path / "pairs.jsonl", pairs)
    stage = {**tiny.sft(own), "kind": "dpo", "rows": {"max_prompt_length": 32}}
    there = tiny.planned(tiny.recipe(tmp_path / "parent", [stage], model=str(base)), tmp_path / "runs")
    made = fork(there, ForkOptions(str(tmp_path / "new/own.yaml"), str(own)), tiny.checked)
    assert (made.source.format, made.summary.good, made.summary.longest) == ("preference", 40, 31)
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


def test_rows_that_are_too_long_are_advised_in_the_order_of_what_is_lost(forks: Forks, tmp_path: Path) -> None:
    """Long by their turns, or by one answer, where the model sees 128 tokens."""
    turns = [("user", "x" * 20), ("assistant", "y" * 20)]
    dialogues = [
        [("user", "?"), ("assistant", "y" * 200)],
        *([("user", f"{n}?"), ("assistant", "y")] for n in range(5)),
    ]
    dialogues += [[("user", f"{n}!"), turns[1], *turns, *turns] for n in range(4)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in one]} for one in dialogues]
    assert refused(lambda: forks(rows)).endswith(
        "5 of 10 rows (50%) are longer than max_length 64, the first at "
        f"{tmp_path}/own.jsonl:1, the longest of 222 tokens. "
        "Write --too-long drop_turns (loses 1 rows, and the oldest turns of long ones), or "
        "--too-long drop (loses 5 rows, 50%)."
    )
    assert list(fork_lines(forks(rows, too_long="drop_turns")))[3] == (
        "5 of 10 rows (50%) are longer than 64 tokens and lose their oldest turns, "
        "and 1 of them do not fit even so: dropped"
    )


def test_documents_are_split_where_that_is_asked_for(forks: Forks, tmp_path: Path) -> None:
    documents = [{"text": f"{n} " + "word " * (3 + 5 * n)} for n in range(8)]
    assert "--too-long split (keeps all text" in refused(lambda: forks(documents))
    made = forks(documents, too_long="split")
    there = tiny.planned(made.path, tmp_path / "runs")
    prepare_rows(there, there.stage("sft"))
    stats = tiny.planned(made.path, tmp_path / "runs").stage("sft").prepared
    assert stats is not None
    assert stats["train"]["tokens"] + stats["eval"]["tokens"] == made.summary.tokens
    assert stats["too_long"] == {"rows": 6, "dropped": 0, "turns": 0, "pieces": 16}
    assert max(stats[side]["lengths"]["quantiles"]["longest"] for side in ("train", "eval")) <= 64


def test_what_is_set_stands_in_the_new_recipe(forks: Forks, tmp_path: Path) -> None:
    made = forks(ALPACA, max_length=96, sets=["sft.train.max_steps=2", "seed=7", "sft.rows.train_on=last"])
    text = made.path.read_text(encoding="utf-8")
    assert "seed: 7\n" in text
    assert "    rows: {eval_fraction: 0.1, train_on: last}\n    train: {max_steps: 2, max_length: 96}\n" in text
    stage = tiny.planned(made.path, tmp_path / "runs").stage("sft").stage
    assert (stage.blocks["train"]["max_length"], stage.blocks["train"]["max_steps"]) == (96, 2)


def test_stages_that_read_rows_of_the_parent_are_left_out_with_what_stands_on_them(
    base: Path, data: Path, tmp_path: Path
) -> None:
    held_out = [{"path": str(data)}]
    stages = [
        tiny.sft(data),
        {**tiny.sft(data), "name": "more", "init": "$sft"},
        {"kind": "evaluate", "name": "of-more", "init": "$more", "data": held_out, "evaluate": {"loss": True}},
        {"kind": "harness", "init": "$sft", "harness": {"tasks": ["arc_easy"]}},
        {"kind": "harness", "name": "tasks-of-more", "init": "$more", "harness": {"tasks": ["arc_easy"]}},
    ]
    parent = tiny.recipe(tmp_path / "parent", stages, model=str(base))
    own = written(tmp_path / "own.jsonl", ALPACA)
    made = fork(
        tiny.planned(parent, tmp_path / "runs"), ForkOptions(str(tmp_path / "own.yaml"), str(own)), tiny.checked
    )
    assert made.skipped == ("more", "of-more", "tasks-of-more")
    assert [stage.name for stage in tiny.checked(made.path).stages] == ["sft", "harness"]


def test_a_file_of_one_mistake_is_one_line(forks: Forks, tmp_path: Path) -> None:
    rows = [{"instruction": f"{n}?", "output": ""} for n in range(30)]
    file = tmp_path / "own.jsonl"
    assert refused(lambda: forks([*ALPACA, *rows])).splitlines() == [
        f"{file}:41: alpaca row: message 2 (assistant) is empty (30 rows like it: 41, 42, 43, 44, …). "
        "Give it text or drop the row.",
        f"{file}: 30 of 70 rows are bad. Fix them, or skip them with --reject.",
    ]


def test_nothing_is_called_good_that_was_not_checked(data: Path, tmp_path: Path) -> None:
    parent = tiny.recipe(tmp_path / "parent", [tiny.sft(data)], model="nobody/nothing-7b")
    own = written(tmp_path / "own.jsonl", ALPACA)
    made = fork(
        tiny.planned(parent, tmp_path / "runs"), ForkOptions(str(tmp_path / "own.yaml"), str(own)), tiny.checked
    )
    lines = list(fork_lines(made))
    assert lines[1:3] == [
        f"{own}: 40 rows in format alpaca",
        Like("Not checked: the chat template, special tokens and lengths. nobody/nothing-7b: … Hub does not answer …"),
    ]
    assert not any("good rows" in line for line in lines)


def test_prompts_are_checked_as_prompts(forks: Forks) -> None:
    made = forks([{"prompt": "snow?", "answer": "white"}], stage="score")
    assert list(fork_lines(made))[1:3] == [
        f"{made.source.path}: 1 good rows",
        "what they ask is 24 tokens long on average, 24 at most",
    ]
    with_tools = [{"prompt": "snow?", "tools": [{"function": {"name": "look"}}]}]
    assert "Answers are sampled without any" in refused(lambda: forks(with_tools, name="b", stage="score"))


def test_rounds_that_read_rows_of_the_parent_are_left_out_whole(base: Path, data: Path, tmp_path: Path) -> None:
    again = {**tiny.sft(data), "name": "again", "init": "$again"}
    score = {"kind": "evaluate", "name": "score", "init": "$again", "data": again["data"], "evaluate": {"loss": True}}
    rounds = {"times": 2, "init": {"again": "$sft"}, "stages": [again, score]}
    parent = tiny.recipe(tmp_path / "parent", [tiny.sft(data), {"rounds": rounds}], model=str(base))
    own = written(tmp_path / "own.jsonl", ALPACA)
    there = tiny.planned(parent, tmp_path / "runs")
    made = fork(there, ForkOptions(str(tmp_path / "own.yaml"), str(own)), tiny.checked)
    assert made.skipped == ("again", "score")
    assert [stage.name for stage in tiny.checked(made.path).stages] == ["sft"]
    options = ForkOptions(str(tmp_path / "b.yaml"), str(own), stage="again-1")
    assert "made in rounds" in refused(lambda: fork(there, options, tiny.checked))


def test_a_data_set_of_a_hub_that_does_not_answer_is_one_line(forks: Forks) -> None:
    said = refused(lambda: forks("nobody/nothing", split="test"))
    assert said == Like("nobody/nothing[test]: cannot be loaded: … The Hub does not answer: …")


def test_a_data_set_of_the_hub_keeps_its_id_and_its_split(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    """What load_dataset returns is stood in for: tests have no network."""
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **how: ALPACA)
    made = forks("nobody/nothing", split="train_sft", subset="de")
    assert "data: [{path: nobody/nothing, format: alpaca, name: de, split: train_sft}]" in made.path.read_text(
        encoding="utf-8"
    )
    assert made.summary.good == 40


def test_documents_go_to_the_stage_that_trains_on_documents(base: Path, data: Path, tmp_path: Path) -> None:
    texts = {**tiny.sft(data), "kind": "pretrain"}
    parent = tiny.recipe(tmp_path / "parent", [tiny.sft(data), {**texts, "init": "$sft"}], model=str(base))
    own = tmp_path / "own.txt"
    own.write_text("".join(f"document {n}\n" for n in range(30)), encoding="utf-8")
    there = tiny.planned(parent, tmp_path / "runs")
    made = fork(there, ForkOptions(str(tmp_path / "own.yaml"), str(own)), tiny.checked)
    assert (made.stage.name, made.source.format, made.summary.good) == ("pretrain", "text", 30)


def test_placeholders_that_nobody_filled_in_are_named(forks: Forks) -> None:
    rows = [
        {"instruction": f"{n} who?", "output": "I am {{name}} of {{ author }}." if n % 2 else "x{y}"} for n in range(40)
    ]
    note = "20 rows hold placeholders ({{ author }}, {{name}}), read as they stand: fill in what is not meant."
    assert note in list(fork_lines(forks(rows)))

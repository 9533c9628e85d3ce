"""The stages of Ghost Attention on a tiny real model: rows, recall by turn, attention; interrupted and gone on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.errors import UserError
from ft.figures.by_turn import attention, consistency
from ft.figures.result_files import ResultFiles
from ft.files import read_json
from ft.gatt.instructions import Bank
from ft.models.identity import model_identity
from ft.models.load import load
from ft.results.store import PlannedStage
from ft.stages.attention import bin_map, greatest_attention, to_instruction
from ft.stages.consistency import CheckedAnswer, ConsistencyOptions, Recall, cells_of, compared_in, share

BANK = {
    "kinds": {
        "pet": {
            "full": ["You love your {value}."],
            "terse": "Pet: {value}.",
            "values": ["cat", "dog", "owl", "hen"],
            "held_out": ["owl", "hen"],
            "check": "contains",
        },
        "brief": {"full": ["Be brief."], "terse": "Brief.", "check": {"max_words": {"most": 40}}},
        "loud": {"full": ["Shout."], "terse": "Loud.", "held_out": True, "check": {"case": {"letters": "upper"}}},
    }
}


def dialogues(file: Path, count: int = 6, turns: int = 3) -> Path:
    """Dialogues of one to `turns` turns about colours, with their right answers."""
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            messages, right = [], []
            for turn in range(1 + number % turns):
                thing, colour = tiny.THINGS[(number + turn) % 8], tiny.COLOURS[(number + turn) % 8]
                messages += [{"role": "user", "content": f"{thing}?"}, {"role": "assistant", "content": colour}]
                right.append([colour])
            out.write(json.dumps({"messages": messages, "answers": right}) + "\n")
    return file


def bank(folder: Path) -> str:
    (folder / "bank.yaml").write_text(json.dumps(BANK), encoding="utf-8")  # JSON is YAML
    return "bank.yaml"


def gatt(folder: Path, base: Path, runs: str = "runs", **options: Any) -> PlannedStage:
    """The gatt stage of a recipe, made; by default no row is dropped for what its answer says."""
    folder.mkdir(exist_ok=True)
    block = {
        "bank": bank(folder),
        "filter": False,
        "max_new_tokens": 40,
        "temperature": 0.3,
        "batch_size": 2,
        **options,
    }
    data = dialogues(folder / "dialogues.jsonl")
    stage = {"kind": "gatt", "data": [{"path": str(data)}], "gatt": block}
    return tiny.make(tiny.planned(tiny.recipe(folder, [stage], model=str(base)), folder / runs), "gatt")


def rows(stage: PlannedStage) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_row_says_the_instruction_at_its_start_and_nowhere_else(tmp_path, ending):
    stage = gatt(tmp_path, ending, rows_each=2)
    made = rows(stage)
    # Two of each dialogue, of those of one turn only one; the model's 128 positions are too few for the longest.
    assert len(made) + stage.done["numbers"]["dropped_too_long"] == 10
    for one in made:
        system, *rest = one["messages"]
        assert system["role"] == "system"
        assert system["content"]
        assert not [m for m in rest if system["content"] in m["content"]]
        assert [m["train"] for m in rest if m["role"] == "assistant"] == [False] * (one["turn"] - 1) + [True]


def test_a_row_tells_where_it_is_from(tmp_path, ending):
    one = rows(gatt(tmp_path, ending))[0]
    assert one["policy"] == model_identity(ending, None)
    assert one["source"] == "dialogues.jsonl:1"
    told = {"temperature": 0.3, "top_p": 1.0, "samples": 1, "sample": "all", "window": None, "seed": 1}
    assert one["sampling"] == told
    assert one["bank"] == Bank.read(tmp_path / "bank.yaml").name
    assert set(one["instruction"]) <= {"pet", "brief"}
    assert set(one["obeyed"]) == set(one["instruction"])
    assert {"terse", "changed", "turn", "context", "right", "score"} <= set(one)


def test_changes_close_to_the_end_stand_behind_obeying_answers_and_may_begin_without_an_instruction(tmp_path, ending):
    changing = {"switch": 1.0, "normal": 0.0, "plain": 1.0, "max_new_tokens": 8}
    several = [row for row in rows(gatt(tmp_path / "any", ending, **changing)) if row["turn"] > 1]
    assert several
    assert {(row["changed"], row["context"]) for row in several} == {(True, "plain")}
    recent = rows(gatt(tmp_path / "recent", ending, **changing, recent_switch=1.0, late=1.0, changes=2))
    recent = [row for row in recent if row["turn"] > 1]
    assert {(row["changed"], row["context"]) for row in recent} == {(True, "own")}
    assert {row["messages"][0]["role"] for row in several} == {"system"}
    assert {row["messages"][0]["role"] for row in recent} == {"user"}  # nothing is asked for before the first change


def test_answers_that_disobey_or_are_wrong_are_dropped_and_counted(tmp_path, ending):
    kept = gatt(tmp_path / "all", ending, rows_each=3).done["numbers"]
    left = gatt(tmp_path / "good", ending, rows_each=3, filter=True).done["numbers"]
    assert (kept["dropped_disobeying"], kept["dropped_wrong"]) == (0, 0)
    assert 0 < left["rows"] < kept["rows"]
    assert left["rows"] + left["dropped_disobeying"] + left["dropped_wrong"] == kept["rows"]


def test_the_best_of_several_samples_is_kept(tmp_path, ending):
    one = rows(gatt(tmp_path / "one", ending, temperature=1.5))
    many = rows(gatt(tmp_path / "many", ending, temperature=1.5, samples=6))
    assert sum(row["score"] for row in many) > sum(row["score"] for row in one)


def test_sampling_last_keeps_the_dialogues_own_answers_before_it(tmp_path, ending):
    long = [row for row in rows(gatt(tmp_path, ending, sample="last")) if row["turn"] > 1]
    assert long
    for one in long:
        first = int(one["source"].rpartition(":")[2]) - 1
        own = [tiny.COLOURS[(first + turn) % 8] for turn in range(one["turn"] - 1)]
        assert [m["content"] for m in one["messages"] if m["role"] == "assistant"][:-1] == own


def test_a_window_lets_the_policy_see_the_last_turns_only(tmp_path, ending):
    stage = gatt(tmp_path, ending, window=2, plain=0.0)
    assert len(rows(stage)) == 6
    assert sorted(key for key in asked(stage) if key.startswith("2/")) == ["2/0/0", "2/0/1", "2/0/2"]


def asked(stage: PlannedStage) -> list[str]:
    """The keys of what the policy was asked."""
    return [
        json.loads(line)["key"] for line in (stage.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_only_answers_that_rows_use_are_sampled(tmp_path, ending):
    stage = gatt(tmp_path, ending, window=2, plain=1.0)
    assert len(rows(stage)) == 6
    assert sorted(key for key in asked(stage) if key.startswith("2/")) == ["2/0/2"]


def test_a_stretch_that_does_not_fit_drops_the_rows_that_read_it_and_no_other(tmp_path, ending):
    messages = [
        {"role": role, "content": said}
        for turn in range(4)
        for role, said in (("user", tiny.THINGS[turn] * (1 if turn else 40)), ("assistant", tiny.COLOURS[turn]))
    ]
    (tmp_path / "d.jsonl").write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    block = {"bank": bank(tmp_path), "window": 2, "rows_each": 4, "plain": 1.0, "filter": False, "max_new_tokens": 40}
    stage = {"kind": "gatt", "data": [{"path": str(tmp_path / "d.jsonl")}], "gatt": block | {"temperature": 0.3}}
    made = tiny.make(tiny.planned(tiny.recipe(tmp_path, [stage], model=str(ending)), tmp_path / "runs"), "gatt")
    assert made.done["numbers"]["dropped_too_long"] == 2
    assert [row["turn"] for row in rows(made)] == [3, 4]


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_rows(tmp_path, ending):
    stage = gatt(tmp_path, ending)
    expected, answers = (stage.folder / "rows.jsonl").read_bytes(), stage.folder / "answers.jsonl"
    whole = answers.read_text(encoding="utf-8").splitlines(keepends=True)
    (stage.folder / "done.json").unlink()
    (stage.folder / "rows.jsonl").unlink()
    answers.write_text(
        "".join(whole[:3]) + whole[3][:9], encoding="utf-8"
    )  # one batch, half of the next, and half a line
    kept = "".join(whole[:2])
    again = gatt(tmp_path, ending)
    assert again.folder == stage.folder
    assert answers.read_text(encoding="utf-8").startswith(kept)
    assert (again.folder / "rows.jsonl").read_bytes() == expected


def test_what_is_finished_is_not_answered_again(tmp_path, ending):
    stage = gatt(tmp_path, ending)
    answers = stage.folder / "answers.jsonl"
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["answers"] = ["as written" for _ in line["answers"]]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (stage.folder / "done.json").unlink()
    assert {row["messages"][-1]["content"] for row in rows(gatt(tmp_path, ending))} == {"as written"}


def test_the_same_bank_under_another_name_makes_nothing_anew(tmp_path, ending):
    first = gatt(tmp_path, ending)
    (tmp_path / "other.yaml").write_text(json.dumps(BANK), encoding="utf-8")
    assert gatt(tmp_path, ending, bank="other.yaml").folder == first.folder


def test_a_bank_that_changed_makes_other_rows(tmp_path, ending):
    first = gatt(tmp_path, ending)
    (tmp_path / "other.yaml").write_text(json.dumps({"kinds": {"brief": BANK["kinds"]["brief"]}}), encoding="utf-8")
    assert gatt(tmp_path, ending, bank="other.yaml").folder != first.folder


def test_a_bank_that_is_not_there_is_told_with_the_line_of_the_recipe(tmp_path, base):
    stage = {"kind": "gatt", "data": [{"path": str(dialogues(tmp_path / "d.jsonl"))}], "gatt": {"bank": "banc.yaml"}}
    bank(tmp_path)
    file = tiny.recipe(tmp_path, [stage], model=str(base))
    with pytest.raises(UserError) as refused:
        tiny.planned(file, tmp_path / "runs")
    assert str(refused.value).endswith(f"no file {tmp_path}/banc.yaml. Did you mean 'bank.yaml'?")


def test_a_dialogue_without_answers_needs_sampled_ones(tmp_path, base):
    data = tmp_path / "prompts.jsonl"
    turns = [
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c?"},
    ]
    data.write_text(json.dumps({"prompt": turns}) + "\n", encoding="utf-8")
    block = {"bank": bank(tmp_path), "filter": False, "plain": 0.0, "max_new_tokens": 8}
    stage = {"kind": "gatt", "data": [{"path": str(data)}], "gatt": block}
    file = tiny.recipe(tmp_path, [stage], model=str(base))
    assert tiny.planned(file, tmp_path / "runs").stage("gatt").state == "absent"


# Consistency

CELLS = ["seen", "held_out_values", "held_out_kinds", "given_answers", "new_instruction", "changed_often", "said_late"]
CELLS += ["taken_back"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory, base, ending) -> PlannedStage:
    folder = tmp_path_factory.mktemp("consistency")
    data = dialogues(folder / "dialogues.jsonl", count=4)
    block = {"bank": bank(folder), "turns": 3, "shown": [1, 2], "change_turn": 2, "max_new_tokens": 8, "cells": CELLS}
    stage = {"kind": "consistency", "data": [{"path": str(data)}], "consistency": block}
    return tiny.make(tiny.planned(tiny.recipe(folder, [stage], model=str(ending)), folder / "runs"), "consistency")


def test_consistency_is_measured_in_every_cell_and_turn(judged):
    with (judged.folder / "by_turn.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(dict.fromkeys(line["cell"] for line in lines)) == CELLS
    assert [line["answers"] for line in lines if line["cell"] == "seen"] == ["4", "2", "1"]


def test_the_numbers_name_turns_with_their_intervals_and_correctness(judged):
    numbers = judged.done["numbers"]
    assert {"turn_1", "turn_1_low", "turn_1_high", "turn_2", "correct", "held_out_kinds"} <= set(numbers)
    assert read_json(judged.folder / "metrics.json")["cells"]["seen"]["after"]["by_turn"][0]["answers"] == 4


def test_what_is_obeyed_behind_a_change_is_counted_and_drawn(judged):
    cells = read_json(judged.folder / "metrics.json")["cells"]
    often = cells["changed_often"]["after"]
    assert {turns: sum(counts.values()) for turns, counts in often["outcomes"].items()} == {"0": 2, "1": 1}
    assert often["by_changes"]["1"]["answers"] == 3
    assert "outcomes" not in cells["seen"]["after"]
    bars = {chart.title: chart for chart in consistency(ResultFiles(judged.folder))["changes"]}
    assert len(bars) == 4
    assert bars["What is followed after a change, changed often"].row_names == ["0", "1"]


def test_a_model_is_asked_in_the_cells_named_and_by_default_in_the_simple_ones(tmp_path):
    bank_with_three = Bank.read(tmp_path / bank(tmp_path))
    names = [cell.name for cell in cells_of(ConsistencyOptions("b", change_turn=2), bank_with_three)]
    assert names == [name for name in CELLS if name not in ("changed_often", "said_late")]
    chosen = cells_of(ConsistencyOptions("b", change_turn=2, cells=["said_late"]), bank_with_three)
    assert [cell.name for cell in chosen] == ["held_out_values", "said_late"]
    with pytest.raises(UserError, match="partly_taken_back, which this bank cannot ask"):
        cells_of(ConsistencyOptions("b", change_turn=2, cells=["partly_taken_back"]), bank_with_three)


@pytest.mark.parametrize(
    ("obeyed", "earlier", "outcome"),
    [
        ({"pet": True}, False, "newest"),
        ({"pet": True, "brief": False}, False, "part"),
        ({"pet": True}, True, "mixed"),
        ({"pet": False}, True, "earlier"),
        ({"pet": False}, False, "neither"),
        ({}, False, "newest"),
    ],
)
def test_an_answer_behind_a_change_obeys_the_newest_an_earlier_instruction_both_or_neither(obeyed, earlier, outcome):
    one = CheckedAnswer(
        "after", "x", "0", 6, "", "x?", "x", list(obeyed), obeyed, None, None, 1, 1, obeys_earlier=earlier
    )
    assert one.outcome == outcome


def test_recall_by_turn_is_drawn(judged):
    seen, every = consistency(ResultFiles(judged.folder))["consistency"]
    with (judged.folder / "by_turn.csv").open(encoding="utf-8") as file:
        recalls = [float(line["recall"]) for line in csv.DictReader(file) if line["cell"] == "seen"]
    assert [point.y for point in seen.series[0].points] == recalls
    assert len(every.series) == len(CELLS)
    words = tiny.drawn_words(judged.folder / "consistency.svg")
    assert {seen.title, "share of answers", "held out kinds"} <= set(words)


@pytest.mark.parametrize(
    ("compared", "cells"),
    [({}, ["held_out_values"]), ({"compared": ["given_answers", "seen"]}, ["seen", "given_answers"])],
)
def test_a_model_it_is_compared_with_is_asked_in_the_cells_named(tmp_path, ending, data, compared, cells):
    file = dialogues(tmp_path / "dialogues.jsonl", count=2)
    block = {"bank": bank(tmp_path), "turns": 2, "shown": [1], "change_turn": 2, "max_new_tokens": 8, **compared}
    stages = [
        tiny.sft(data, {"max_steps": 1}),
        {
            **{"kind": "consistency", "init": "$sft", "inputs": {"before": "$sft"}, "data": [{"path": str(file)}]},
            "consistency": block,
        },
    ]
    recipe = tiny.recipe(tmp_path, stages, model=str(ending))
    tiny.make(tiny.planned(recipe, tmp_path / "runs"), "sft")
    made = tiny.make(tiny.planned(recipe, tmp_path / "runs"), "consistency")
    found = read_json(made.folder / "metrics.json")["cells"]
    assert [cell for cell, models in found.items() if "before" in models] == cells
    numbers = made.done["numbers"]
    assert [numbers[f"baseline_{cell}"] for cell in cells] == [numbers[cell] for cell in cells]  # the same model twice


def test_a_cell_that_is_not_there_is_said_with_those_that_are(tmp_path):
    options = ConsistencyOptions(str(tmp_path / bank(tmp_path)), compared=["turns"], change_turn=None)
    with pytest.raises(UserError, match=r"has no cell turns. There are: seen, held_out_values, held_out_kinds, given_"):
        compared_in(options, Bank.read(Path(options.bank)), "x.yaml:1")


def said(model: str, turn: int, obeys: bool, right: bool = True) -> CheckedAnswer:
    obeyed = {"pet": obeys, "brief": True}
    return CheckedAnswer(model, "seen", "0", turn, "Love your cat.", "x?", "x", ["pet", "brief"], obeyed, right, None)


def test_recall_counts_answers_that_obey_every_kind():
    found = [said("after", 4, obeys) for obeys in (True, True, True, False)] + [said("before", 4, False)] * 4
    numbers = Recall(found, "seen").numbers([4])
    assert (numbers["turn_4"], numbers["baseline_turn_4"], numbers["turn_4_gain"]) == (0.75, 0.0, 0.75)
    assert (round(numbers["turn_4_low"], 3), round(numbers["turn_4_high"], 3)) == (0.301, 0.954)
    assert Recall(found, "seen").by_kind("after", "seen")["brief"]["recall"] == 1.0
    assert Recall(found, "seen").by_count("after", "seen") == {2: share([True, True, True, False])}


def test_no_answers_have_no_recall():
    assert share([]) == {"answers": 0, "recall": None, "low": None, "high": None}


# Attention


def test_the_greatest_attention_is_that_of_the_layers(ending):
    import torch

    model = load(ending, "float32", use_cpu=True)
    model.set_attn_implementation("eager")
    ids = list(range(40, 60))
    weights = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    expected = torch.stack([layer[0].amax(0) for layer in weights]).amax(0)
    torch.testing.assert_close(greatest_attention(model, ids), expected)


def test_an_answer_looks_from_where_its_tokens_are_chosen():
    import torch

    attention = torch.tensor([[1.0, 0, 0, 0], [0.2, 0.8, 0, 0], [0.3, 0.1, 0.6, 0], [0.9, 0, 0, 0.1]])
    assert to_instruction(attention, instruction=[0, 1], answer=[2, 3]) == pytest.approx((0.55, 0.8))


def test_neighbouring_tokens_are_binned_by_the_greatest():
    import torch

    attention = torch.tensor([[0.1, 0.0, 0.0], [0.2, 0.3, 0.0], [0.4, 0.5, 0.6]])
    assert bin_map(attention, 2).tolist() == [[pytest.approx(0.3), 0.0], [0.5, pytest.approx(0.6)]]


def test_attention_by_turn_is_written_and_drawn(tmp_path, ending):
    data = dialogues(tmp_path / "dialogues.jsonl", count=3)
    block = {"bank": bank(tmp_path), "max_new_tokens": 8}
    stage = {"kind": "attention", "data": [{"path": str(data)}], "attention": block}
    file = tiny.recipe(tmp_path, [stage], model=str(ending))
    made = tiny.make(tiny.planned(file, tmp_path / "runs"), "attention")
    with (made.folder / "attention.csv").open(encoding="utf-8") as lines:
        assert [line["turn"] for line in csv.DictReader(lines)] == ["1", "2", "3"]
    assert all(0 < value <= 1 for value in made.done["numbers"].values())
    figures = attention(ResultFiles(made.folder))
    greatest = figures["attention"][1].series[0].points
    assert greatest[-1].y == pytest.approx(made.done["numbers"]["attention_turn_3"], abs=1e-5)
    assert all(point.low <= point.y <= point.high for point in greatest)
    (cells,) = figures["map"]
    assert 0 < cells.starts[0] < len(cells.values)  # where the first answer begins
    assert {len(row) for row in cells.values} == {len(cells.values)}
    assert all(value == 0 for n, row in enumerate(cells.values) for value in row[n + 1 :])  # nothing reads ahead
    for name, title in (("attention", "Mean over the answer's tokens"), ("map", "Which tokens read which, after")):
        assert title in tiny.drawn_words(made.folder / f"{name}.svg")


def test_dialogues_without_answers_cannot_give_answers_as_context(tmp_path, base):
    rows = {"turns": ["fox?", "sky?"]}
    data = tmp_path / "turns.jsonl"
    data.write_text(json.dumps(rows) + "\n", encoding="utf-8")
    stage = {"kind": "consistency", "data": [{"path": str(data)}], "consistency": {"bank": bank(tmp_path)}}
    with pytest.raises(UserError, match=r"turns\.jsonl:1: turn 1 has no answer of the dialogue"):
        tiny.make(tiny.planned(tiny.recipe(tmp_path, [stage], model=str(base)), tmp_path / "runs"), "consistency")


def test_a_bank_with_one_held_out_value_is_not_asked_for_another(tmp_path):
    one = {**BANK["kinds"]["pet"], "held_out": ["owl"]}
    (tmp_path / "one.yaml").write_text(json.dumps({"kinds": {"pet": one}}), encoding="utf-8")
    names = [cell.name for cell in cells_of(ConsistencyOptions("one.yaml"), Bank.read(tmp_path / "one.yaml"))]
    assert names == ["seen", "held_out_values", "given_answers", "taken_back"]

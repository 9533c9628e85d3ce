"""Rows of Ghost Attention from user messages alone, and with a reward model that keeps the best of several answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.learn.test_gatt_stages import bank, dialogues, rows

import tiny
from ft.errors import UserError
from ft.models.scorer import Scorer
from ft.results.store import PlannedStage

PET = {"kinds": {"pet": {"full": ["I have a {value}."], "values": ["cat", "dog"], "check": "contains"}}}
TURNS = [["sky?", "snow?"], ["rose?"], ["plum?", "sea?"]]


def written(file: Path, made: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return file


def lines(stage: PlannedStage, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage.folder / name).read_text(encoding="utf-8").splitlines()]


def stage(data: Path, format: str = "messages", **options: Any) -> dict[str, Any]:
    block = {"filter": False, "max_new_tokens": 40, "batch_size": 4, "plain": 0.0, **options}
    return {"kind": "gatt", "data": [{"path": str(data), "format": format}], "gatt": {"bank": "bank.yaml", **block}}


# User messages alone


def test_rows_are_made_of_what_users_said_alone(tmp_path, ending):
    bank(tmp_path)
    data = written(tmp_path / "turns.jsonl", [{"turns": turns} for turns in TURNS])
    file = tiny.recipe(tmp_path, [stage(data, "user_turns")], model=str(ending))
    made = rows(tiny.make(tiny.planned(file, tmp_path / "runs"), "gatt"))
    assert [[m["content"] for m in row["messages"] if m["role"] == "user"] for row in made] == TURNS
    for row in made:
        said = [message for message in row["messages"] if message["role"] == "assistant"]
        assert all(message["content"] for message in said)
        assert [message["train"] for message in said] == [False] * (row["turn"] - 1) + [True]


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"plain": 0.5}, "plain: 0"),
        ({"window": 3}, "window: null"),
        ({"sample": "last", "plain": 0.5}, "plain: 0, sample: all"),
    ],
)
def test_what_needs_the_dialogues_own_answers_is_named_where_there_are_none(tmp_path, ending, options, fix):
    bank(tmp_path)
    data = written(tmp_path / "turns.jsonl", [{"turns": TURNS[0]}])
    file = tiny.recipe(tmp_path, [stage(data, "user_turns", **options)], model=str(ending))
    with pytest.raises(UserError) as refused:
        tiny.make(tiny.planned(file, tmp_path / "runs"), "gatt")
    what = "turns.jsonl:1: turn 1 has no answer of the dialogue's own."
    assert str(refused.value).endswith(f"{what} Write `gatt: {{{fix}}}`, so that none is read.")


def test_attention_needs_no_answers_of_the_dialogues_own(tmp_path, ending):
    bank(tmp_path)
    data = written(tmp_path / "turns.jsonl", [{"turns": turns} for turns in TURNS])
    asked = {"kind": "attention", "data": [{"path": str(data), "format": "user_turns"}]}
    file = tiny.recipe(tmp_path, [{**asked, "attention": {"bank": "bank.yaml", "turns": 2}}], model=str(ending))
    numbers = tiny.make(tiny.planned(file, tmp_path / "runs"), "attention").done["numbers"]
    assert 0 < numbers["attention_turn_2"] <= 1


def test_a_row_without_a_dialogue_is_named_by_its_line(tmp_path, ending):
    bank(tmp_path)
    data = written(tmp_path / "texts.jsonl", [{"text": "The sky is blue."}])
    asked = {"kind": "consistency", "data": [{"path": str(data)}], "consistency": {"bank": "bank.yaml"}}
    file = tiny.recipe(tmp_path, [asked], model=str(ending))
    with pytest.raises(UserError, match=r"texts\.jsonl:1: the row holds no dialogue"):
        tiny.make(tiny.planned(file, tmp_path / "runs"), "consistency")


def test_dialogues_cut_at_the_longest_are_counted(tmp_path, ending):
    bank(tmp_path)
    data = written(tmp_path / "turns.jsonl", [{"turns": turns} for turns in TURNS])
    file = tiny.recipe(tmp_path, [stage(data, "user_turns", turns=1)], model=str(ending))
    made = tiny.make(tiny.planned(file, tmp_path / "runs"), "gatt")
    assert made.done["numbers"]["shortened"] == 2
    assert [row["turn"] for row in rows(made)] == [1, 1, 1]


def test_a_bank_whose_kinds_are_all_held_out_is_refused(tmp_path, ending):
    loud = {"full": ["Shout."], "held_out": True}
    (tmp_path / "bank.yaml").write_text(json.dumps({"kinds": {"loud": loud}}), encoding="utf-8")
    file = tiny.recipe(tmp_path, [stage(dialogues(tmp_path / "d.jsonl"))], model=str(ending))
    with pytest.raises(UserError, match=r"bank\.yaml: all of its kinds are held out, so no row can ask for one\."):
        tiny.make(tiny.planned(file, tmp_path / "runs"), "gatt")


# A reward model


@pytest.fixture(scope="module")
def reward(tmp_path_factory, ending) -> dict[str, Any]:
    """A reward stage of one step, made in `runs` beside its pairs: what it likes is chance, and always the same."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [{"prompt": f"{n} sky?", "chosen": f"blue {n}", "rejected": "x"} for n in range(8)]
    train = {**tiny.TRAIN, "max_length": 128, "max_steps": 1}
    data = written(folder / "pairs.jsonl", pairs)
    block = {"kind": "reward", "data": [{"path": str(data)}], "train": train, "reward": {"margin": "none"}}
    tiny.make(tiny.planned(tiny.recipe(folder, [block], model=str(ending)), folder / "runs"), "reward")
    return block


class House:
    """A recipe with a reward stage and a gatt stage behind it, made in a folder."""

    def __init__(self, folder: Path, policy: Path, reward: dict[str, Any], **options: Any):
        (folder / "bank.yaml").write_text(json.dumps(PET), encoding="utf-8")
        told = [
            json.loads(line)
            for line in dialogues(folder / "d.jsonl", count=4, turns=2).read_text(encoding="utf-8").splitlines()
        ]
        data = written(folder / "dialogues.jsonl", [{"messages": row["messages"]} for row in told])
        asked = stage(data, **{"samples": 4, "temperature": 1.5, **options}) | {"inputs": {"scorer": "$reward"}}
        self.file = tiny.recipe(folder, [reward, asked], model=str(policy))
        self.runs = folder / "runs"
        shutil.copytree(Path(reward["data"][0]["path"]).parent / "runs", self.runs)

    def made(self, name: str = "gatt") -> PlannedStage:
        return tiny.make(tiny.planned(self.file, self.runs), name)

    def again(self, answers: dict[str, list[str | None]] | None = None) -> PlannedStage:
        """The gatt stage made once more from what lies in its folder, with other answers where they are given."""
        stage = tiny.planned(self.file, self.runs).stage("gatt")
        (stage.folder / "done.json").unlink()
        (stage.folder / "rows.jsonl").unlink()
        if answers:
            (stage.folder / "scores-scorer.jsonl").unlink()
            told = [{**line, "answers": answers[line["key"]]} for line in lines(stage, "answers.jsonl")]
            written(stage.folder / "answers.jsonl", told)
        return self.made()

    @property
    def reward(self) -> PlannedStage:
        return tiny.planned(self.file, self.runs).stage("reward")


@pytest.fixture
def house(tmp_path, ending, reward) -> House:
    return House(tmp_path, ending, reward)


def asked(row: dict[str, Any], answers: Sequence[str]) -> list[dict[str, Any]]:
    """The dialogue as the policy read it: the instruction before every user message; the answers behind them."""
    questions = [message["content"] for message in row["messages"] if message["role"] == "user"]
    told = []
    for question, answer in zip(questions, answers, strict=True):
        told.append({"role": "user", "content": f"I have a {row['instruction']['pet']}. {question}"})
        told.append({"role": "assistant", "content": answer})
    return told


def test_the_answer_that_the_reward_model_likes_best_is_kept(house):
    made = house.made()
    answers = {line["key"]: line["answers"] for line in lines(made, "answers.jsonl")}
    scorer = Scorer(house.reward.folder)
    for row in rows(made):
        number, said = int(row["source"].rpartition(":")[2]) - 1, row["messages"][-1]["content"]
        samples = [answers[f"{number}/{sample}/0"] for sample in range(4)]
        whole = [one for one in samples if len(one) == row["turn"] and None not in one]
        scores = scorer.scores([asked(row, one) for one in whole])
        assert len(set(scores)) > 1
        assert row["score"] == pytest.approx(max(scores), abs=1e-5)
        assert said == whole[scores.index(max(scores))][-1]
        assert row["scorer"] == house.reward.fingerprint


def test_checkers_say_first_what_the_reward_model_may_choose_from(tmp_path, ending, reward):
    house = House(tmp_path, ending, reward, filter=True, samples=5)
    with pytest.raises(UserError, match="no row is left"):  # the policy obeys never, so the answers are written here
        house.made()
    texts = ["blue 3", "cat dog", "blue", "dog and cat", "no"]
    stage = tiny.planned(house.file, house.runs).stage("gatt")
    told = [
        {"key": line["key"], "answers": [texts[int(line["key"].split("/")[1])]] * len(line["answers"])}
        for line in lines(stage, "answers.jsonl")
    ]
    written(stage.folder / "answers.jsonl", told)
    made = rows(house.made())
    scorer, liked = Scorer(house.reward.folder), []
    for row in made:
        scores = scorer.scores([asked(row, [text] * row["turn"]) for text in texts])
        liked.append(texts[scores.index(max(scores))])
        assert row["messages"][-1]["content"] == max(texts[1::2], key=lambda text: scores[texts.index(text)])
    assert set(liked) - {"cat dog", "dog and cat"}


def test_an_answer_whose_context_was_cut_has_no_score(tmp_path, ending, reward):
    house = House(tmp_path, ending, reward, plain=1.0, samples=1)
    made = house.made()
    keys = {line["key"] for line in lines(made, "answers.jsonl")}
    again = house.again({key: [None, "blue"] if int(key[0]) % 2 else ["blue"] for key in keys})
    assert [row["source"] for row in rows(again)] == ["dialogues.jsonl:1", "dialogues.jsonl:3"]
    assert (again.done["numbers"]["rows"], again.done["numbers"]["dropped_unscored"]) == (2, 2)


def test_a_run_killed_while_it_scores_ends_with_the_same_rows(house):
    made = house.made()
    expected, file = (made.folder / "rows.jsonl").read_bytes(), made.folder / "scores-scorer.jsonl"
    scores = file.read_bytes()
    file.write_bytes(scores[: len(scores) // 2])  # a batch, and half of a line
    again = house.again()
    assert (again.folder / "rows.jsonl").read_bytes() == expected
    assert file.read_bytes() == scores


def test_a_window_is_scored_behind_the_turn_the_policy_saw(tmp_path, ending, reward):
    house = House(tmp_path, ending, reward, window=2, samples=2)
    made = house.made()
    scorer = Scorer(house.reward.folder)
    long = [row for row in rows(made) if row["turn"] == 2]
    assert long
    for row in long:
        user, said = [[m["content"] for m in row["messages"] if m["role"] == role] for role in ("user", "assistant")]
        number = int(row["source"].rpartition(":")[2]) - 1
        before = [{"role": "user", "content": user[0]}, {"role": "assistant", "content": tiny.COLOURS[number]}]
        newest = asked(row, ["", said[1]])[2:]
        assert row["score"] == pytest.approx(scorer.scores([[*before, *newest]])[0], abs=1e-5)


def test_a_scorer_must_be_a_reward_model(tmp_path, ending, data):
    bank(tmp_path)
    asked = stage(dialogues(tmp_path / "d.jsonl")) | {"inputs": {"scorer": "$sft"}}
    with pytest.raises(UserError, match="'sft' leaves a model, not a reward model"):
        tiny.checked(tiny.recipe(tmp_path, [tiny.sft(data), asked], model=str(ending)))

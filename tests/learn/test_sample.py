"""Rejection sampling with a tiny real policy: what is drawn, scored, chosen and kept; interrupted and gone on."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.data.prompts import Prompt, Sample
from ft.errors import UserError
from ft.figures.result_files import ResultFiles
from ft.figures.sampling import sampling
from ft.models.identity import model_identity
from ft.models.scorer import Scorer
from ft.results.store import PlannedStage
from ft.rl.scoring import AnswerScore, AnswerScorer
from ft.run.run import choose_stages
from ft.stages.sample import make
from serving import serving
from wording import Like

COUNT = 6
TEMPERATURE = 1.7  # at 1 the policy is always right


def prompts(file: Path, count: int = COUNT, **columns: Any) -> Path:
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            row = {"prompt": f"{number} {tiny.THINGS[number % 8]}?", "answer": tiny.COLOURS[number % 8], **columns}
            out.write(json.dumps(row) + "\n")
    return file


def stage(data: Path, **options: Any) -> dict[str, Any]:
    block = {"samples": 4, "temperature": TEMPERATURE, "rewards": {"answer": 1.0}, "max_new_tokens": 12}
    block |= {"batch_size": 8, **options}
    return {"kind": "sample", "data": [{"path": str(data)}], "sample": block}


def sampled(folder: Path, policy: Path, data: Path | None = None, **options: Any) -> PlannedStage:
    """The sample stage of a recipe, made."""
    folder.mkdir(exist_ok=True)
    data = data or prompts(folder / "prompts.jsonl")
    file = tiny.recipe(folder, [stage(data, **options)], model=str(policy))
    return tiny.make(tiny.planned(file, folder / "runs"), "sample")


@pytest.fixture(scope="module")
def made(tmp_path_factory, ending) -> PlannedStage:
    return sampled(tmp_path_factory.mktemp("made"), ending)


def lines(found: PlannedStage, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (found.folder / name).read_text(encoding="utf-8").splitlines()]


def table(file: Path) -> list[dict[str, float]]:
    with file.open(encoding="utf-8") as rows:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(rows)]


def words(row: dict[str, Any]) -> tuple[str, str]:
    return row["prompt"][-1]["content"], row["completion"]


# Rows


def test_every_answer_is_kept_and_the_best_of_each_prompt_is_a_row(made):
    answers, rows = lines(made, "samples.jsonl"), lines(made)
    assert [answer["k"] for answer in answers] == [0, 1, 2, 3] * COUNT
    for row in rows:
        rivals = [a for a in answers if a["prompt"] == row["prompt"] and a["score"] is not None]
        first = next(a for a in rivals if a["score"] == max(rival["score"] for rival in rivals))
        assert (row["completion"][0]["content"], row["sampled"]["k"]) == (first["completion"], first["k"])
        assert row["sampled"]["of"] == len(rivals)


def test_a_score_is_what_the_function_says(made):
    right = {f"{n} {tiny.THINGS[n]}?": tiny.COLOURS[n] for n in range(COUNT)}
    told = [(*words(answer), answer["score"]) for answer in lines(made, "samples.jsonl") if answer["ended"]]
    assert [score for _, _, score in told] == [
        float(right[asked] in re.findall(r"\w+", said)) for asked, said, _ in told
    ]
    assert 0 < sum(score for _, _, score in told) < len(told)


def test_a_row_can_be_trained_on_and_tells_where_it_is_from(made, ending):
    row = lines(made)[0]
    assert [message["role"] for message in (*row["prompt"], *row["completion"])] == ["user", "assistant"]
    assert row["answer"] == "blue"
    origin = {name: row["sampled"][name] for name in ("policy", "round", "temperature", "top_p", "seed")}
    assert origin == {
        "policy": model_identity(ending, None),
        "round": 1,
        "temperature": TEMPERATURE,
        "top_p": 1.0,
        "seed": 1,
    }


def test_the_numbers_count_every_answer(made):
    numbers, answers = made.done["numbers"], lines(made, "samples.jsonl")
    unfinished = sum(not answer["ended"] for answer in answers)
    assert (numbers["prompts"], numbers["answers"], numbers["unfinished"]) == (COUNT, 4 * COUNT, unfinished)
    assert numbers["tokens"] == sum(answer["tokens"] for answer in answers)
    assert numbers["rows"] == len(lines(made))


def test_the_curve_ends_with_the_mean_of_each_prompts_best(made):
    points, answers = table(made.folder / "best_of_n.csv"), lines(made, "samples.jsonl")
    tops = [max(a["score"] or 0.0 for a in answers[4 * n : 4 * n + 4]) for n in range(COUNT)]
    assert [point["answers"] for point in points] == [1, 2, 3, 4]
    assert points[-1]["best"] == pytest.approx(sum(tops) / COUNT, abs=1e-5)
    assert points[0]["best"] == pytest.approx(sum(a["score"] or 0.0 for a in answers) / len(answers), abs=1e-5)
    assert made.done["numbers"]["best_of_4"] > made.done["numbers"]["baseline_best_of_4"]
    figures = sampling(ResultFiles(made.folder))
    best, *_ = figures["best_of_n"][0].series
    assert [(point.x, point.y) for point in best.points] == [(point["answers"], point["best"]) for point in points]
    assert [sum(counts) for _, counts in figures["scores"][0].counts] == [
        sum(answer["score"] is not None for answer in answers),
        len(lines(made)),
    ]
    for name, title in (("best_of_n", "Best and median of N answers"), ("scores", "Scores of answers")):
        assert title in tiny.drawn_words(made.folder / f"{name}.svg")


def test_pairs_are_best_and_worst_and_ties_are_counted(tmp_path, ending):
    found = sampled(tmp_path, ending, write="pairs")
    rows = lines(found)
    assert rows
    assert {row["margin"] for row in rows} == {1.0}
    for row in rows:
        assert row["answer"] in row["chosen"][0]["content"]
        assert row["answer"] != row["rejected"][0]["content"]
        assert (row["source_chosen"], row["temperature_rejected"]) == (model_identity(ending, None), TEMPERATURE)
        assert row["sampled"]["chosen"]["score"] > row["sampled"]["rejected"]["score"]
    assert len(rows) + found.done["numbers"]["ties"] == COUNT


def test_the_rows_worth_most_are_kept_and_the_others_counted(tmp_path, ending, made):
    found = sampled(tmp_path, ending, keep=0.5)
    every, rows = lines(made), lines(found)
    assert len(rows) == COUNT // 2
    assert found.done["numbers"]["weak"] == len(every) - len(rows)
    left = [row["sampled"]["score"] for row in every if row not in rows]
    assert min(row["sampled"]["score"] for row in rows) >= max(left)
    assert rows == [row for row in every if row in rows]  # in their order


def test_an_answer_that_does_not_end_is_never_a_row(tmp_path, ending):
    with pytest.raises(UserError, match=r"no answer can be taken: .*'unfinished': 24"):
        sampled(tmp_path, ending, max_new_tokens=1)


# What is drawn


def test_an_answer_depends_on_its_prompt_and_k_and_not_on_what_stands_beside_it(tmp_path, ending, made):
    few = tmp_path / "few.jsonl"
    few.write_text(
        "".join((prompts(tmp_path / "all.jsonl")).read_text(encoding="utf-8").splitlines(keepends=True)[3:1:-1]),
        encoding="utf-8",
    )
    other = sampled(tmp_path, ending, few, batch_size=3, samples=2)
    known = {(*words(answer)[:1], answer["k"]): answer["completion"] for answer in lines(made, "samples.jsonl")}
    found = {(*words(answer)[:1], answer["k"]): answer["completion"] for answer in lines(other, "samples.jsonl")}
    assert len(found) == 4
    assert found == {key: known[key] for key in found}


def test_the_answers_of_one_prompt_differ(made):
    said = [answer["completion"] for answer in lines(made, "samples.jsonl")]
    assert len(set(said)) > COUNT


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_rows(tmp_path, ending):
    found = sampled(tmp_path, ending)
    expected = {name: (found.folder / name).read_bytes() for name in ("rows.jsonl", "samples.jsonl")}
    answers = found.folder / "answers.jsonl"
    whole = answers.read_text(encoding="utf-8").splitlines(keepends=True)
    (found.folder / "done.json").unlink()
    (found.folder / "rows.jsonl").unlink()
    answers.write_text(
        "".join(whole[:11]) + whole[11][:9], encoding="utf-8"
    )  # one batch, a part of the next, and half a line
    again = sampled(tmp_path, ending)
    assert again.folder == found.folder
    assert {name: (again.folder / name).read_bytes() for name in expected} == expected


def test_what_is_answered_is_not_answered_again(tmp_path, ending):
    found = sampled(tmp_path, ending)
    answers = found.folder / "answers.jsonl"
    written = [json.loads(line) | {"text": "as written"} for line in answers.read_text(encoding="utf-8").splitlines()]
    answers.write_text("".join(json.dumps(line) + "\n" for line in written), encoding="utf-8")
    (found.folder / "done.json").unlink()
    assert {row["completion"][0]["content"] for row in lines(sampled(tmp_path, ending))} == {"as written"}


def test_the_temperature_with_the_best_answers_is_used(tmp_path, ending):
    found = sampled(tmp_path, ending, temperatures=[0.5, 9.0], sweep_prompts=3)
    swept = table(found.folder / "temperatures.csv")
    assert [line["temperature"] for line in swept] == [0.5, 9.0]
    assert swept[0]["best"] > swept[1]["best"]
    assert found.done["numbers"]["temperature"] == 0.5
    answers = lines(found, "samples.jsonl")
    assert {answer["temperature"] for answer in answers} == {0.5}
    assert len(answers) == 4 * COUNT
    assert {"temperature", "0.5", "median"} <= set(tiny.drawn_words(found.folder / "temperatures.svg"))


# Rounds


def rounds(folder: Path, policy: Path, **options: Any) -> tuple[PlannedStage, PlannedStage]:
    """Two rounds; the second asks half of the first's prompts again, and reads its rows."""
    folder.mkdir(exist_ok=True)
    first = stage(prompts(folder / "one.jsonl"), temperature=0.5) | {"name": "first"}
    second = stage(prompts(folder / "two.jsonl", count=3), temperature=3.0, **options) | {"name": "second"}
    second["data"].append({"path": "$first"})
    file = tiny.recipe(folder, [first, second], model=str(policy))
    one = tiny.make(tiny.planned(file, folder / "runs"), "first")
    return one, tiny.make(tiny.planned(file, folder / "runs"), "second")


def test_the_best_answers_of_earlier_rounds_compete(tmp_path, ending):
    one, two = rounds(tmp_path, ending)
    rows = lines(two)
    assert len(rows) == len(lines(one))  # three prompts asked again, three that only the first round asked
    assert two.done["numbers"]["earlier"] == len(lines(one))
    assert two.done["numbers"]["round"] == 2
    assert {row["sampled"]["round"] for row in rows[3:]} == {1}
    before = {words(row | {"completion": ""}): row["sampled"]["score"] for row in lines(one)}
    assert all(row["sampled"]["score"] >= before[words(row | {"completion": ""})] for row in rows)
    assert [row["answer"] for row in rows] == list(tiny.COLOURS[:COUNT])


def test_the_ablation_leaves_earlier_rounds_out_and_counts_them(tmp_path, ending):
    one, two = rounds(tmp_path, ending, pool="last")
    assert {row["sampled"]["round"] for row in lines(two)} == {2}
    numbers = two.done["numbers"]
    assert (numbers["earlier"], numbers["left_out"]) == (0, len(lines(one)))


# Reward models


def scorer(folder: Path, seed: int) -> Path:
    """An untrained reward model."""
    import torch
    from transformers import LlamaForSequenceClassification

    spoken = tiny.tokenizer()
    config = tiny.config(spoken)
    config.num_labels = 1
    torch.manual_seed(seed)
    LlamaForSequenceClassification(config).save_pretrained(str(folder))
    spoken.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scorers")
    return {axis: scorer(folder / axis, seed) for seed, axis in enumerate(("helpful", "safety"), 1)}


def sample(number: int, text: str, **columns: Any) -> Sample:
    prompt = Prompt(str(number), "rows.jsonl:1", [{"role": "user", "content": f"{number}?"}], columns)
    return Sample(prompt, text, {"policy": "p", "round": 1, "temperature": 1.0, "k": number})


def test_two_reward_models_score_by_the_papers_rule(tmp_path, models):
    samples = [sample(n, "word " * n, axis="safety" if n % 2 else "helpful") for n in range(1, 7)]
    raw = {axis: Scorer(folder).scores([one.conversation for one in samples]) for axis, folder in models.items()}
    threshold = 1 / (1 + 2.718281828 ** -sorted(raw["safety"])[3])  # half of the answers seem unsafe
    found = AnswerScorer(models, {}, threshold, folder=tmp_path).scores(samples, "scores")
    by_rule = []
    for n, (safe, good) in enumerate(zip(raw["safety"], raw["helpful"], strict=True)):
        assert found[n].parts == pytest.approx({"helpful": good, "safety": safe}, abs=1e-5)
        counts = safe if n % 2 == 0 or safe < sorted(raw["safety"])[3] else good
        by_rule.append(1 / (1 + 2.718281828**-counts))
    assert [one.reward for one in found] == pytest.approx(by_rule, abs=1e-6)


def test_scores_that_are_there_are_not_computed_again(tmp_path, models):
    samples = [sample(n, "word") for n in range(3)]
    judges = AnswerScorer({"helpful": models["helpful"]}, {}, 0.15, folder=tmp_path)
    file = tmp_path / "scores-helpful.jsonl"
    judges.scores(samples, "scores")
    file.write_text("".join(json.dumps({"key": one.key, "score": 0.0}) + "\n" for one in samples), encoding="utf-8")
    assert {found.reward for found in judges.scores(samples, "scores")} == {0.5}


def test_an_answer_a_reward_model_cannot_read_has_the_lowest_share_and_is_not_chosen(tmp_path, models):
    samples = [sample(1, "short"), sample(2, "long " * 40)]
    found = AnswerScorer({"helpful": models["helpful"]}, {}, 0.15, folder=tmp_path).scores(samples, "scores")
    assert [one.is_readable for one in found] == [True, False]
    assert found[1] == AnswerScore(0.0, {"helpful": None})


def test_functions_count_by_their_weight_beside_a_reward_model(tmp_path, models):
    samples = [sample(1, "it is blue", answer="blue")]
    alone = AnswerScorer({"helpful": models["helpful"]}, {}, 0.15, folder=tmp_path).scores(samples, "alone")
    both = AnswerScorer({"helpful": models["helpful"]}, {"answer": 2.0}, 0.15, folder=tmp_path).scores(samples, "both")
    assert both[0].reward == pytest.approx(alone[0].reward + 2.0)


def test_a_reward_model_chooses_the_rows(tmp_path, ending, models):
    data = prompts(tmp_path / "prompts.jsonl", count=3)
    file = tiny.recipe(tmp_path, [stage(data, rewards={})], model=str(ending))
    there = tiny.planned(file, tmp_path / "runs")
    job = tiny.job(there, "sample")
    make(type(job)(**{**vars(job), "inputs": {"helpful": models["helpful"]}}))
    answers = [json.loads(line) for line in (job.folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in (job.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = Scorer(models["helpful"]).scores([[*row["prompt"], *row["completion"]] for row in rows])
    for row, score in zip(rows, scores, strict=True):
        rivals = [a["scores"]["helpful"] for a in answers if a["prompt"] == row["prompt"] and a["score"] is not None]
        assert max(rivals) == pytest.approx(score, abs=1e-5)


def test_what_is_required_of_a_judge_stands_before_the_sampling(tmp_path, ending, data):
    card = {"kind": "evaluate", "name": "card", "init": "$sft", "data": [{"path": str(data)}], "evaluate": {}}
    stages = [tiny.sft(data), card | {"require": {"answer": 0.65}}, stage(prompts(tmp_path / "p.jsonl"))]
    stages[2]["init"] = "$sft"
    there = tiny.planned(tiny.recipe(tmp_path, stages, model=str(ending)), tmp_path / "runs")
    assert [planned.name for planned in choose_stages(there, "sample", None)] == ["sft", "card", "sample"]


# A server


def test_a_server_answers_and_what_it_answered_is_kept(tmp_path, ending):
    with serving() as server:
        backend = {"kind": "server", "base_url": server.url, "model": "chat", "wait": 0.0, "retries": 0}
        backend["concurrency"] = 1
        server.refuses, server.fails_after = "3 black?", 2
        data = tmp_path / "prompts.jsonl"
        rows = [{"prompt": f"{n} {colour}?", "answer": colour} for n, colour in enumerate(tiny.COLOURS[:4])]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        file = tiny.recipe(tmp_path, [stage(data, samples=4) | {"backend": backend}], model=str(ending))
        with pytest.raises(UserError, match="HTTP 503"):
            tiny.make(tiny.planned(file, tmp_path / "runs"), "sample")
        server.fails_after, before = None, len(server.seen)
        found = tiny.make(tiny.planned(file, tmp_path / "runs"), "sample")
        refused = sum(asked["messages"][-1]["content"] == "3 black?" for asked in server.seen[:2])
        assert len(server.seen) - before == 14 + refused
        numbers = found.done["numbers"]
        assert (numbers["answers"], numbers["failed"]) == (12, 4)
        assert [row["completion"][0]["content"] for row in lines(found)][:2] == ["0 BLUE?", "1 GREEN?"]
        assert {row["sampled"]["policy"] for row in lines(found)} == {"chat"}
        backend["base_url"] = "http://elsewhere.example/v1"
        moved = tiny.recipe(tmp_path, [stage(data, samples=4) | {"backend": backend}], model=str(ending))
        assert tiny.planned(moved, tmp_path / "runs").stage("sample").state == "done"


# Bad input


def refused(folder: Path, policy: Path, row: dict[str, Any], **options: Any) -> str:
    data = folder / "prompts.jsonl"
    data.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        sampled(folder, policy, data, **options)
    return str(error.value).replace(str(folder), "")


def test_a_row_without_a_column_that_is_read_is_told(tmp_path, ending):
    said = refused(tmp_path, ending, {"prompt": "a?"})
    assert said == Like("/prompts.jsonl:1: … 'answer' … 'answer' …")


def test_a_prompt_that_no_user_ends_is_told(tmp_path, ending):
    turns = [("user", "a?"), ("assistant", "look it up"), ("tool", "b")]
    messages = [{"role": role, "content": text} for role, text in turns]
    said = refused(tmp_path, ending, {"prompt": messages, "answer": "b"})
    assert said.startswith("/prompts.jsonl:1: the prompt ends with a message of the tool. What is answered is")


def test_a_stage_that_nothing_scores_is_told(tmp_path, ending):
    said = refused(tmp_path, ending, {"prompt": "a?"}, rewards={})
    assert said.endswith(
        "nothing scores the answers. Write `inputs: {helpful: $reward}`, or `sample: {rewards: {answer: 1.0}}`."
    )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rewards": {"anwser": 1.0}}, "there is no reward 'anwser'; there are: answer, says, obeys, quality"),
        ({"temperature": 0.0}, "several answers of one prompt need one above 0"),
        ({"write": "pairs", "samples": 1}, "a pair needs two answers"),
        ({"samples": 0}, "it must be at least 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path, ending, options, what):
    assert what in refused(tmp_path, ending, {"prompt": "a?", "answer": "b"}, **options)


def test_rows_with_answers_of_their_own_are_asked_again(tmp_path, ending):
    data = tmp_path / "mixed.jsonl"
    asked = {"role": "user", "content": "0 sky?"}
    pair = {"prompt": [asked], "chosen": "blue", "rejected": "red", "answer": "blue"}
    data.write_text(json.dumps(pair) + "\n", encoding="utf-8")
    chat = tmp_path / "chat.jsonl"
    messages = [{"role": "user", "content": "1 grass?"}, {"role": "assistant", "content": "no idea"}]
    twice = {"messages": messages, "answer": "green"}
    chat.write_text((json.dumps(twice) + "\n") * 2, encoding="utf-8")
    one = stage(data, samples=2, temperature=0.1)
    one["data"].append({"path": str(chat)})
    file = tiny.recipe(tmp_path, [one], model=str(ending))
    found = tiny.make(tiny.planned(file, tmp_path / "runs"), "sample")
    assert [row["prompt"] for row in lines(found)] == [[asked], messages[:1]]
    assert found.done["numbers"]["repeated"] == 1

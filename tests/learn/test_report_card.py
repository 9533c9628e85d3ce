"""A report card of tiny real reward models: scores, files, the table; interrupted, refused, and stopping a chain."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.errors import UserError
from ft.evaluation.reward_report import SIDES, accuracy
from ft.figures.result_files import ResultFiles
from ft.figures.reward_report import report_card
from ft.files import read_json, write_json
from ft.results.store import PlannedStage
from ft.run.run import StageFailed, run


def row(number: int, **columns: Any) -> dict[str, Any]:
    thing, colour, other = tiny.THINGS[number % 8], tiny.COLOURS[number % 8], tiny.COLOURS[(number + 3) % 8]
    prompt = [{"role": "user", "content": f"{number} {thing}?"}]
    return {"prompt": prompt, "chosen": f"{colour} it is", "rejected": other, **columns}


ROWS = [
    *(row(n, rating=1 + n % 4, axis="helpful", gold_chosen=n % 3 + 1, gold_rejected=n % 3) for n in range(8)),
    *(row(n, rating=1, axis="safety", safety_chosen=True, safety_rejected=n % 2 == 0) for n in range(8, 12)),
    row(12),
]


def reward(folder: Path, base: Path, seed: int, name: str) -> None:
    """A reward model with a head of chance, as a finished stage leaves it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=0.5)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / file, folder)
    write_json(folder / "done.json", {"stage": name, "numbers": {}})


def recipe(folder: Path, base: Path, rows: list[dict[str, Any]], other: bool = False, **card: Any) -> Path:
    """Two reward models, the report card of the first, and a stage behind it."""
    folder.mkdir(exist_ok=True)
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = [{"path": str(data)}]
    train = {"max_length": 64, "max_steps": 1}
    rewards = [{"kind": "reward", "name": name, "data": source, "train": train} for name in ("helpful", "careful")]
    judged = {"kind": "report-card", "init": "$helpful", "data": source, "card": {"batch_size": 4, **card}}
    judged |= {"inputs": {"other": "$careful"}} if other else {}
    behind = {"kind": "dpo", "data": source, "train": train}
    return tiny.recipe(folder, [*rewards, judged, behind], model=str(base))


def made(file: Path, base: Path, rewards: tuple[str, ...] = ("helpful", "careful")) -> PlannedStage:
    runs = file.parent / "runs"
    for seed, name in enumerate(rewards):
        stage = tiny.planned(file, runs).stage(name)
        if not stage.done:
            reward(stage.folder, base, seed, name)
    return tiny.make(tiny.planned(file, runs), "report-card")


@pytest.fixture(scope="module")
def carded(tmp_path_factory, base) -> PlannedStage:
    folder = tmp_path_factory.mktemp("carded")
    return made(recipe(folder, base, ROWS, other=True), base)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_scores_are_those_transformers_gives_at_the_end_of_the_answer(carded, base):
    """The reference is the library's own model, one unpadded conversation at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    helpful = next(carded.folder.parent.glob("helpful-*"))
    model = AutoModelForSequenceClassification.from_pretrained(helpful).eval()
    tokenizer = AutoTokenizer.from_pretrained(helpful)
    for scored, told in zip(lines(carded.folder / "scores.jsonl"), table(carded.folder), strict=True):
        for side in SIDES:
            text = tokenizer.apply_chat_template([*scored["prompt"], *scored[side]], tokenize=False).rstrip("\n")
            with torch.no_grad():
                expected = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits.item()
            assert scored["scores"][side]["helpful"] == pytest.approx(expected, abs=1e-5)
            assert float(told[f"helpful_{side}"]) == scored["scores"][side]["helpful"]
            assert float(told[f"careful_{side}"]) == scored["scores"][side]["careful"]


def test_numbers_are_those_of_the_scores(carded):
    ahead = [float(told["helpful_chosen"]) - float(told["helpful_rejected"]) for told in table(carded.folder)]
    numbers = carded.done["numbers"]
    assert numbers["accuracy"] == accuracy(ahead)["accuracy"]
    assert numbers["accuracy_helpful"] == accuracy(ahead[:8])["accuracy"]
    assert numbers["accuracy_none"] == accuracy(ahead[12:])["accuracy"]
    assert numbers["pairs"] == 13
    assert numbers["longer_wins"] == 1.0
    assert {"other_accuracy", "disagree", "monotone", "unsafe_recall_0.5", "quality_correlation"} <= set(numbers)
    written = read_json(carded.folder / "metrics.json")
    assert {name: written[name] for name in numbers} == numbers
    assert list(written["grid"]) == ["helpful", "careful", "longer answer"]
    assert written["grid"]["helpful"]["none"]["none"]["pairs"] == 1


def test_lengths_stand_beside_the_scores(carded):
    told = table(carded.folder)[0]
    assert (told["tokens_chosen"], told["characters_chosen"]) == ("10", "10")  # "blue it is", a token a byte
    assert (told["axis"], told["rating"], told["gold_chosen"], told["safety_chosen"]) == ("helpful", "1", "1", "")


def test_every_part_of_a_card_is_drawn(carded):
    figures = report_card(ResultFiles(carded.folder))
    titles = [chart.title for chart in figures["card"]]
    assert titles == [
        "helpful: pair accuracy",
        "Calibration",
        "helpful: scores",
        "helpful: score margin",
        "helpful: score by quality",
        "helpful: length",
        "helpful: safe and unsafe answers",
    ]
    scores, rows = read_json(carded.folder / "metrics.json"), table(carded.folder)
    accuracies = {label: {dot.series: dot.value for dot in dots} for label, dots in figures["card"][0].rows_of_dots}
    assert accuracies["all"]["safety"] == scores["grid"]["helpful"]["safety"]["average"]["accuracy"]
    answers = [float(row[f"{model}_chosen"]) for row in rows for model in ("helpful",)]
    assert {x for _, dots in figures["two-models"][1].groups for x, _ in dots} >= set(answers)
    assert [sum(counts) for _, counts in figures["card"][-1].counts] == [6, 2]  # four pairs, two rejected unsafe
    for name in ("card", "card-other", "two-models"):
        words = tiny.drawn_words(carded.folder / f"{name}.svg")
        assert {"report-card: 13 held-out pairs", *(chart.title for chart in figures[name])} <= set(words)


def test_the_scores_kept_on_the_way_are_gone(carded):
    names = ("card.svg", "card-other.svg", "two-models.svg", "metrics.json", "scores.csv", "scores.jsonl")
    assert {file.name for file in carded.folder.iterdir()} == {*names, "job.json", "done.json"}


def test_an_interrupted_card_scores_only_what_is_missing(tmp_path, base, carded):
    """Of 26 answers in batches of 4, a kill left two whole batches, here with scores of their own, and a torn third."""
    file = recipe(tmp_path, base, ROWS)
    stage = tiny.planned(file, tmp_path / "runs").stage("report-card")
    whole = by_key(carded)
    longest_first = sorted(whole, key=lambda key: (-len(text_of(key)), key))
    stage.folder.mkdir(parents=True)
    left = [{"key": key, "score": 100.0 + place} for place, key in enumerate(longest_first[:10])]
    torn = "".join(json.dumps(line) + "\n" for line in left) + '{"key": "7 cho'
    (stage.folder / "scores-helpful.jsonl").write_text(torn, encoding="utf-8")
    again = by_key(made(file, base))
    assert [again[key] for key in longest_first[:8]] == [100.0 + place for place in range(8)]
    assert [again[key] for key in longest_first[8:]] == [whole[key] for key in longest_first[8:]]


def by_key(card: PlannedStage) -> dict[str, float]:
    """The first model's score of each answer."""
    rows = lines(card.folder / "scores.jsonl")
    return {f"{n} {side}": row["scores"][side]["helpful"] for n, row in enumerate(rows) for side in SIDES}


def text_of(key: str) -> str:
    """Prompt and answer; a token a byte, and the template adds the same to all."""
    number, side = key.split()
    return ROWS[int(number)]["prompt"][0]["content"] + ROWS[int(number)][side]


# What is refused


def test_a_pair_that_is_too_long_is_named_with_its_side(tmp_path, base):
    with pytest.raises(UserError) as refused:
        made(recipe(tmp_path, base, [ROWS[0], row(1, rejected="x" * 200)]), base)
    what = "rejected: it is 228 tokens long, and the reward model sees 128. Shorten it."
    assert str(refused.value) == f"{tmp_path / 'pairs.jsonl'}:2: {what}"


def test_a_rejected_pair_is_counted_and_set_aside(tmp_path, base):
    card = made(recipe(tmp_path, base, [ROWS[0], row(1, rejected="x" * 200)], on_bad_row="reject"), base)
    assert (card.done["numbers"]["pairs"], card.done["numbers"]["rejected"]) == (1, 1)
    assert lines(card.folder / "rejects.jsonl")[0]["where"] == f"{tmp_path / 'pairs.jsonl'}:2"


def test_without_a_pair_left_there_is_no_card(tmp_path, base):
    with pytest.raises(UserError, match=r"none of the 1 pairs can be scored\. The last: "):
        made(recipe(tmp_path, base, [row(1, rejected="x" * 200)], on_bad_row="reject"), base)


def test_rows_that_are_no_pairs_are_refused(tmp_path, base):
    with pytest.raises(UserError, match=r"a report card reads pairs\. Write `format: preference` at the source\.$"):
        made(recipe(tmp_path, base, [{"prompt": "what?"}]), base)


def test_a_quality_that_is_no_number_is_refused(tmp_path, base):
    with pytest.raises(UserError, match=r"gold_chosen and gold_rejected are \['good', None\]\. Write numbers, or none"):
        made(recipe(tmp_path, base, [row(1, gold_chosen="good")]), base)


def test_a_card_without_a_reward_model_is_refused(tmp_path, base):
    file = recipe(tmp_path, base, ROWS)
    file.write_text(file.read_text(encoding="utf-8").replace("init: $helpful", "name: report-card"), encoding="utf-8")
    with pytest.raises(UserError, match=r"a report card needs a reward model\. Write `init: \$reward`\.$"):
        tiny.make(tiny.planned(file, tmp_path / "runs"), "report-card")


def test_a_model_is_not_compared_with_itself(tmp_path, base):
    file = recipe(tmp_path, base, ROWS, other=True)
    file.write_text(file.read_text(encoding="utf-8").replace("other: $careful", "other: $helpful"), encoding="utf-8")
    with pytest.raises(UserError, match=r"the other reward model is 'helpful' itself\. Name another one, or none\.$"):
        made(file, base)


def test_a_reward_model_whose_head_is_nan_is_refused(tmp_path, base):
    from safetensors.torch import load_file, save_file

    file = recipe(tmp_path, base, ROWS)
    folder = tiny.planned(file, tmp_path / "runs").stage("helpful").folder
    reward(folder, base, 0, "helpful")
    tensors = load_file(folder / "model.safetensors")
    tensors["score.weight"] = tensors["score.weight"] * float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"helpful-\w+: its weights hold NaN or .* first in score\.weight"):
        made(file, base)


# The gate


def test_a_reward_model_below_what_is_required_stops_the_chain(carded):
    runs = carded.folder.parents[1]
    file = runs.parent / "tiny.yaml"
    for _ in range(2):  # a second run does not slip past
        with pytest.raises(StageFailed) as stopped:
            run(tiny.checked(file, ["report-card.require={accuracy: 0.9}"]), runs)
    value = carded.done["numbers"]["accuracy"]
    said = f"report-card: accuracy is {value:.4g}, and the recipe requires 0.9. The run stops here."
    assert str(stopped.value) == said
    assert not tiny.planned(file, runs).stage("dpo").folder.exists()


def test_a_rating_may_be_required_of_one_axis(carded):
    runs = carded.folder.parents[1]
    recipe = tiny.checked(runs.parent / "tiny.yaml", ["report-card.require={accuracy_helpful_4: 1.1}"])
    with pytest.raises(StageFailed, match=r"^report-card: accuracy_helpful_4 is .*, and the recipe requires 1.1\."):
        run(recipe, runs)

"""Two tiny real models compared by every sort of judge; turned round, interrupted, and asked again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.errors import UserError
from ft.evaluation.judge_prompt import JudgePrompt
from ft.figures.result_files import ResultFiles
from ft.figures.win_rates import win_rates
from ft.files import read_json
from ft.models.scorer import Scorer
from ft.recipe.kind import function_at
from ft.results.store import PlannedStage
from ft.stages.judge import JudgeOptions, make
from serving import Scripted, serving

COUNT = 8
# Replies are kept by what decides them: tests whose servers say other things give them other `reply_tokens`.
PROMPT = tiny.ROOT / "data" / "judge" / "pairwise.yaml"


def prompts(file: Path, count: int = COUNT) -> Path:
    with file.open("w", encoding="utf-8") as out:
        for n in range(count):
            row = {"prompt": f"{n} {tiny.THINGS[n % 8]}?", "answer": tiny.COLOURS[n % 8], "half": n % 2}
            out.write(json.dumps(row) + "\n")
    return file


def stage(data: Path, inputs: dict[str, str] | None = None, **block: Any) -> dict[str, Any]:
    options = {"kind": "function", "function": "answer", "max_new_tokens": 10, "batch_size": 4, **block}
    if options["kind"] != "function":
        del options["function"]
    return {"kind": "judge", "inputs": inputs or {}, "data": [{"path": str(data)}], "judge": options}


@pytest.fixture(scope="module")
def there(tmp_path_factory, ending, data) -> Path:
    """A folder with prompts and two models: the recipe's knows colours, `broken` has forgotten them in one step."""
    folder = tmp_path_factory.mktemp("judge")
    prompts(folder / "prompts.jsonl")
    tiny.make(tiny.planned(tiny.recipe(folder, [broken(data)], model=str(ending)), folder / "runs"), "broken")
    return folder


def broken(data: Path) -> dict[str, Any]:
    return tiny.sft(data, {"max_steps": 1, "learning_rate": 0.05}, name="broken")


@pytest.fixture
def judged(there, ending, data) -> Callable[..., PlannedStage]:
    """Makes the judge stage; the models stand there already."""

    def made(*above: dict[str, Any], init: str | None = None, **keys: Any) -> PlannedStage:
        written = stage(there / "prompts.jsonl", keys.pop("inputs", {"other": "$broken"}), **keys)
        written |= {"init": init} if init else {}
        written |= {"backend": written["judge"].pop("backend")} if "backend" in written["judge"] else {}
        file = tiny.recipe(there, [broken(data), *above, written], model=str(ending))
        for one in above:
            tiny.make(tiny.planned(file, there / "runs"), str(one.get("name", one["kind"])))
        return tiny.make(tiny.planned(file, there / "runs"), "judge")

    return made


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving() as found:
        yield found


def backend(server: Scripted) -> dict[str, Any]:
    return {"kind": "server", "base_url": server.url, "model": "chat", "wait": 0.0}


def lines(found: PlannedStage, name: str = "verdicts.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (found.folder / name).read_text(encoding="utf-8").splitlines()]


def answers_of(text: str) -> tuple[str, str]:
    """The two answers in a question of the shipped prompt."""
    found = re.search(r"Answer A:\n(.*?)\n\nAnswer B:\n(.*?)\n\nCompare", text, re.DOTALL)
    assert found
    return found[1], found[2]


def knows_colours(asked: dict[str, Any]) -> str:
    """A judge that prefers the answer which is a colour, wherever it stands."""
    right = [answer in tiny.COLOURS for answer in answers_of(asked["messages"][-1]["content"])]
    return "[[C]]" if right[0] == right[1] else f"One is a colour. [[{'A' if right[0] else 'B'}]]"


# Functions and reward models


def test_a_function_judges_by_its_values(judged):
    found = judged()
    told, numbers = lines(found), found.done["numbers"]
    right = [(line["answer"], line["other_answer"]) for line in told]
    for line in told:
        assert line["scores"] == {} or line["outcome"] in ("win", "tie", "loss")
    assert numbers["pairs"] == COUNT == len(right)
    assert numbers["wins"] + numbers["ties"] + numbers["losses"] == COUNT
    assert numbers["win_rate"] == (numbers["wins"] + numbers["ties"] / 2) / COUNT
    assert numbers["models"] == ["sft", "broken"]
    assert read_json(found.folder / "metrics.json") == numbers
    rates, outcomes = win_rates(ResultFiles(found.folder))["judge"]
    assert rates.rows_of_dots[0][1][0].value == numbers["win_rate"]
    assert outcomes.counts[0] == ("all pairs", (numbers["wins"], numbers["ties"], numbers["losses"]))
    assert {"sft against broken", "all pairs", "ties"} <= set(tiny.drawn_words(found.folder / "judge.svg"))


def test_models_changed_round_give_the_mirrored_result(judged):
    there, back = judged(), judged(init="$broken", inputs={})
    ours, mirrored = there.done["numbers"], back.done["numbers"]
    assert (ours["wins"], ours["ties"], ours["losses"]) == (mirrored["losses"], mirrored["ties"], mirrored["wins"])
    assert ours["wins"] > 0
    assert ours["win_rate_low"] == pytest.approx(1 - mirrored["win_rate_high"], abs=1e-15)
    for one, other in zip(lines(there), lines(back), strict=True):
        assert (one["answer"], one["other_answer"]) == (other["other_answer"], other["answer"])


def test_the_recipes_model_is_the_other_one_where_none_is_named(judged):
    found = judged(init="$broken", inputs={}, by="half")
    assert found.done["numbers"]["models"] == ["broken", "sft"]
    assert {name: one["pairs"] for name, one in found.done["numbers"]["by"].items()} == {"0": 4, "1": 4}
    assert found.done["numbers"]["win_rate"] < 0.5


def test_won_and_lost_pairs_are_rows_of_preferences(judged):
    found = judged()
    told, rows = lines(found), lines(found, "rows.jsonl")
    decided = [line for line in told if line["outcome"] in ("win", "loss") and line["why"] != "empty"]
    assert len(rows) == len(decided) > 0
    for row, line in zip(rows, decided, strict=True):
        sides = ("answer", "other_answer") if line["outcome"] == "win" else ("other_answer", "answer")
        assert [row[name][0]["content"] for name in ("chosen", "rejected")] == [line[side] for side in sides]
        assert (row["prompt"], row["margin"]) == (line["prompt"], line["margin"])


def test_a_reward_model_prefers_what_it_scores_higher(judged, there):
    pairs = there / "pairs.jsonl"
    rows = [{"prompt": f"{n}?", "chosen": "blue", "rejected": "zz"} for n in range(16)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    reward = {"kind": "reward", "data": [{"path": str(pairs)}], "reward": {"margin": "none"}}
    reward["train"] = {**tiny.TRAIN, "max_steps": 2}
    found = judged(reward, kind="reward", inputs={"other": "$broken", "scorer": "$reward"})
    scorer = Scorer(next((there / "runs").glob("*/reward-*")))
    for line in [line for line in lines(found) if line["why"] == ""]:
        talks = [[*line["prompt"], {"role": "assistant", "content": line[side]}] for side in ("answer", "other_answer")]
        scores = scorer.scores(talks)
        assert list(line["scores"].values()) == pytest.approx(scores, abs=1e-4)
        assert line["outcome"] == ("win" if scores[0] > scores[1] else "loss")


def test_a_later_stage_reads_these_rows(there, ending, data):
    trained = {
        "kind": "dpo",
        "data": [{"path": "$judge", "format": "preference"}],
        "train": {**tiny.TRAIN, "beta": 0.1},
    }
    file = tiny.recipe(
        there, [broken(data), stage(there / "prompts.jsonl", {"other": "$broken"}), trained], model=str(ending)
    )
    assert tiny.checked(file).stage("dpo").parents == ["judge"]


# Judges that reply in words


def test_a_server_is_asked_in_both_orders_and_every_word_is_kept(judged, server):
    server.answer = knows_colours
    found = judged(kind="server", prompt=str(PROMPT), reply_tokens=21, backend=backend(server))
    numbers, told = found.done["numbers"], lines(found)
    asked = [line for line in told if "asked" in line]
    assert len(server.seen) == 2 * len(asked) > 0
    assert numbers["flips"] == numbers["unparsed"] == 0
    assert numbers["consistency"] == 1.0
    for line in asked:
        better = [line[side] in tiny.COLOURS for side in ("answer", "other_answer")]
        assert line["outcome"] == ("tie" if better[0] == better[1] else "win" if better[0] else "loss")
        assert [one["first"] for one in line["asked"]] == ["answer", "other_answer"]
        assert line["judge"] == {"server": "chat", "prompt": JudgePrompt.read(PROMPT).record()}
    assert {line["why"] for line in told if "asked" not in line} <= {"same", "empty"}


def test_a_judge_that_always_says_first_flips_always(judged, server):
    server.answer = lambda asked: "[[A]]"
    found = judged(kind="server", prompt=str(PROMPT), reply_tokens=22, backend=backend(server))
    numbers = found.done["numbers"]
    told = [line for line in lines(found) if "asked" in line]
    assert told
    assert {(line["outcome"], line["why"]) for line in told} == {("tie", "flip")}
    assert (numbers["flip_rate"], numbers["consistency"], numbers["first_preferred"]) == (1.0, 0.0, 1.0)
    if numbers["ties"] == COUNT:
        assert numbers["win_rate"] == 0.5


def test_verdicts_that_cannot_be_read_are_counted_and_never_guessed(judged, server):
    server.answer = lambda asked: "[[A]] or [[B]]" if "0 sky?" in asked["messages"][-1]["content"] else "[[B]]"
    found = judged(kind="server", prompt=str(PROMPT), reply_tokens=23, backend=backend(server))
    odd = [line for line in lines(found) if "0 sky?" in line["prompt"][0]["content"]]
    assert [(line["outcome"], line["why"]) for line in odd] == [(None, "unparsed")]
    numbers = found.done["numbers"]
    assert numbers["unparsed"] == 1
    assert numbers["wins"] + numbers["ties"] + numbers["losses"] == COUNT - 1


def test_no_verdict_at_all_is_an_error_that_names_what_was_said(judged, server):
    server.answer = lambda asked: "I cannot say."
    with pytest.raises(UserError, match=r"none of the 8 pairs has a verdict\. Look at what the judge said: .*verdicts"):
        judged(kind="server", prompt=str(PROMPT), reply_tokens=24, backend=backend(server), temperature=0.9)


def test_another_judge_does_not_draw_the_answers_again(judged, monkeypatch):
    first = judged()

    def refused(*_: Any) -> None:
        raise AssertionError("a policy was loaded")

    monkeypatch.setattr("ft.models.generation.sampler.load_worker", refused)
    second = judged(tie=0.5)
    assert second.folder != first.folder
    assert [line["answer"] for line in lines(first)] == [line["answer"] for line in lines(second)]


def test_what_was_asked_before_is_not_asked_again(judged, server, there):
    server.answer = knows_colours
    block = {"kind": "server", "prompt": str(PROMPT), "reply_tokens": 25, "backend": backend(server)}
    first = judged(**block)
    there_before = len(server.seen)
    second = judged(**block, by="half")
    assert second.folder != first.folder
    assert len(server.seen) == there_before > 0


def test_an_interrupted_comparison_goes_on_to_the_same_verdicts(judged, server):
    """The server fails in the middle; what it has said is kept, and the same command asks only for the rest."""
    server.answer = knows_colours
    block = {"kind": "server", "prompt": str(PROMPT), "reply_tokens": 26}
    asked = {**backend(server), "retries": 0, "concurrency": 1}
    server.fails_after = 3
    with pytest.raises(UserError, match="HTTP 503"):
        judged(**block, backend=asked)
    before, server.fails_after = len(server.seen), None
    found = judged(**block, backend=asked)
    told = [line for line in lines(found) if "asked" in line]
    assert len(server.seen) - before == 2 * len(told) - 3
    assert found.done["numbers"]["unparsed"] == 0


def test_a_local_model_is_asked_like_a_server(judged, there, monkeypatch):
    """The judge knows colours and no verdicts: what it says is written down, and nobody guesses from it."""
    short = there / "short.yaml"
    short.write_text(
        'name: short\nversion: 1\nprompt: "{{ messages[-1].content }}{# {{ first }} {{ second }} #}"\n'
        "verdicts: {first: l, second: qqq, tie: zzz}\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(JudgePrompt, "try_out", lambda *_: None)  # it shows no answers, so that it is short enough
    colours = tiny.sft(there / "none.jsonl", {"max_steps": 1, "learning_rate": 1e-9}, name="colours")
    colours["data"] = [{"path": str(tiny.rows(there / "rows.jsonl"))}]
    found = judged(colours, kind="model", prompt=str(short), inputs={"other": "$broken", "judge": "$colours"})
    told = [line for line in lines(found) if "asked" in line]
    assert told
    replies = {line["prompt"][0]["content"]: one for line in told for one in line["asked"]}
    assert replies["0 sky?"]["reply"] == "blue"
    for one in replies.values():
        assert one["verdict"] == ("first" if one["ended"] and "l" in one["reply"] else None)
    assert found.done["numbers"]["judge"]["prompt"]["name"] == "short"


# What decides, and what is refused


def test_the_words_of_the_prompt_decide_the_result_and_its_name_does_not(there, ending, data):
    def fingerprint(file: Path) -> str:
        block = {"kind": "server", "prompt": str(file)}
        written = {**stage(there / "prompts.jsonl", {"other": "$broken"}, **block)}
        written["backend"] = {"kind": "server", "base_url": "http://localhost:1/v1", "model": "chat"}
        recipe = tiny.recipe(there, [broken(data), written], model=str(ending))
        return tiny.planned(recipe, there / "runs").stage("judge").fingerprint

    copy, newer = there / "copy.yaml", there / "newer.yaml"
    copy.write_text(PROMPT.read_text(encoding="utf-8"), encoding="utf-8")
    newer.write_text(PROMPT.read_text(encoding="utf-8").replace("version: 1", "version: 2"), encoding="utf-8")
    assert fingerprint(copy) == fingerprint(PROMPT)
    assert fingerprint(newer) != fingerprint(PROMPT)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "function"}, "function is 'None'; there are: answer"),
        ({"kind": "server"}, "prompt is missing"),
        ({"kind": "reward", "prompt": "x.yaml"}, "prompt is for kind: model or server"),
        ({"kind": "model", "prompt": "x", "model": "./here"}, "write a Hub id"),
        ({"kind": "reward", "tie": -1.0}, "must not be below 0"),
    ],
)
def test_a_judge_that_cannot_work_is_refused_by_name(options, told):
    with pytest.raises(ValueError, match=told):
        JudgeOptions(**options)


def test_a_stage_without_its_judge_says_what_to_write(judged):
    with pytest.raises(UserError, match=r"no reward model judges\. Write `inputs: \{scorer: \$reward\}`"):
        judged(kind="reward")
    with pytest.raises(UserError, match=r"one model is to reply\. Write `inputs: \{judge: \$stage\}`"):
        judged(kind="model", prompt=str(PROMPT))


def test_a_broken_prompt_is_found_before_anything_is_made(there, ending, data):
    from ft.run.preflight import preflight

    wrong = there / "wrong.yaml"
    wrong.write_text("name: x\n", encoding="utf-8")
    written = stage(there / "prompts.jsonl", {"other": "$broken"}, kind="server", prompt=str(wrong))
    file = tiny.recipe(there, [broken(data), written], model=str(ending))
    with pytest.raises(UserError, match="version is None"):
        preflight(tiny.planned(file, there / "runs").stages)


# The command


def test_the_command_compares_folders_and_recipes_alike(there, data, ending):
    file = tiny.recipe(there, [broken(data)], model=str(ending))
    folder = next((there / "runs").glob("*/broken-*"))
    common = ["--prompts", str(there / "prompts.jsonl"), "--by", "answer", "--max-new-tokens", "10", "--json"]
    common += ["--runs", str(there / "runs"), "--batch-size", "4"]
    named = ((str(ending), str(folder)), (f"{file}:model", f"{file}:broken"), (str(file), str(ending)))
    runs = [CliRunner().invoke(app, ["judge", *pair, *common], catch_exceptions=False) for pair in named]
    first, same, back = (json.loads(found.stdout) for found in runs)
    assert first["folder"] == same["folder"] != back["folder"]
    assert (first["models"], back["models"]) == (["sft", "broken"], ["broken", "sft"])
    assert first["wins"] == back["losses"] > 0


def test_the_command_says_who_can_judge(there):
    wrong = ["judge", "a", "b", "--prompts", str(there / "prompts.jsonl"), "--by", "nobody"]
    with pytest.raises(UserError, match=r"--by: unknown judge 'nobody'\. There are: answer, .*server:MODEL"):
        CliRunner().invoke(app, wrong, catch_exceptions=False)


def test_make_is_what_the_kind_names():
    from ft.stages import STAGES

    assert function_at(STAGES["judge"].make) is make

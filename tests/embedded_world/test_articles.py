"""The embedded articles: as made, answerable from the text alone, with room between good summaries and bad ones."""

import gzip
import importlib
import json
import sys
from collections import Counter
from typing import Any

import pytest
import yaml

import tiny
from ft.evaluation.multiple_choice import read_questions
from ft.evaluation.quiz import QUESTION_PROGRAMS, QuizResult, take_quiz, whole_words
from ft.evaluation.respondent import ByProgram

TINY = tiny.ROOT / "data" / "tiny"
sys.path.insert(0, str(TINY))  # world.py and articles.py are data, not part of the package
articles = importlib.import_module("articles")
writing = importlib.import_module("writing")


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress((TINY / name).read_bytes()).decode().splitlines()]


@pytest.mark.parametrize("name", articles.FILES)
def test_an_article_file_is_as_made(name):
    assert (TINY / name).read_bytes() == writing.content(articles.FILES, name)


def rights(texts: list[str], rows_asked: list[dict[str, Any]]) -> Counter[int]:
    asked = []
    for text, row in zip(texts, rows_asked, strict=True):
        reply = QUESTION_PROGRAMS["facts"]({"text": row["text"], "count": 5, "row": row})
        asked.append((text, read_questions(reply, 5)))
    results = take_quiz(ByProgram(whole_words), asked)
    return Counter(result.right for result in results if isinstance(result, QuizResult))


def test_all_five_questions_are_answered_by_the_facts_and_none_by_another_article():
    some = rows("articles.jsonl.gz")[:200]
    told = [" ".join(fact["right"] for fact in row["facts"]) for row in some]
    assert rights(told, some) == {5: 200}
    others = rights(told[1:] + told[:1], some)
    assert sum(right * count for right, count in others.items()) / 200 < 1  # by chance: one value of nine


def test_what_is_true_of_an_animal_differs_from_article_to_article():
    colours = Counter((row["text"].split(".")[0], row["facts"][0]["right"]) for row in rows("articles.jsonl.gz"))
    assert max(colours.values()) < 16  # of 700 articles on 16 animals with ten colours


def test_no_article_is_also_one_that_summaries_are_learnt_from():
    learnt = {row["messages"][0]["content"].split("\n\n")[1] for row in rows("summaries.jsonl.gz")}
    assert not learnt & {row["text"] for row in rows("articles.jsonl.gz")}


def test_the_recipe_asks_for_summaries_as_the_rows_that_teach_them_do():
    recipe = yaml.safe_load((tiny.ROOT / "recipes" / "tiny" / "summarize.yaml").read_text(encoding="utf-8"))
    [questions] = [stage for stage in recipe["stages"] if stage.get("kind") == "questions"]
    assert questions["questions"]["instruction"] == articles.INSTRUCTION

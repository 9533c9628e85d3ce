"""CIDEr-D and the accuracy of VQA, on cases that can be counted by hand."""

from math import exp, log, sqrt

import pytest

from ft.evaluation.picture_metrics import cider_counts, plain_answer, vqa_accuracy
from ft.evaluation.text_metric_modules import TextMetric

CORPUS = [["a red fish left of a snail"], ["a blue bird sits on the roof"], ["two dogs run over green grass"]]


def test_a_caption_that_is_its_reference_has_ten_of_cider():
    value = TextMetric("cider").compute(predictions=[texts[0] for texts in CORPUS], references=CORPUS)
    assert value["value"] == pytest.approx(10)
    assert value["each"] == pytest.approx([10, 10, 10])


def test_one_word_of_two_has_the_share_that_its_rarity_gives():
    """Pictures with "x y", "x z", "w v": log 3 makes a word of one picture weigh log 3, "x" of two log 1.5."""
    score = cider_counts([["x y"], ["x z"], ["w v"]])("x z", ["x y"])[0]
    shared, rare = log(1.5), log(3)
    assert score == pytest.approx(10 * shared**2 / (shared**2 + rare**2) / 4)  # no bigram is shared


def test_words_said_again_count_no_more_and_length_is_held_against_a_caption():
    stats = cider_counts([["cat"], ["dog"]])
    assert stats("cat", ["cat"])[0] == pytest.approx(10 / 4)  # there are no longer n-grams
    [repeated] = stats("cat cat", ["cat"])
    assert repeated == pytest.approx(10 * log(2) * log(2) / (2 * log(2) * log(2)) / 4 * exp(-1 / 72))


def test_of_several_references_the_mean_counts():
    stats = cider_counts([["cat", "lion"], ["dog"]])
    assert stats("cat", ["cat", "lion"])[0] == pytest.approx(10 / 4 / 2)
    assert sqrt(stats("bird", ["cat"])[0]) == 0


@pytest.mark.parametrize(
    ("answer", "people", "accuracy"),
    [
        ("yes", ["yes"] * 10, 1.0),
        ("yes", ["yes"] * 3 + ["no"] * 7, 0.9),  # one of the three left out: two others of three needed
        ("yes", ["yes"] + ["no"] * 9, 0.3),
        ("perhaps", ["yes"] * 10, 0.0),
        ("a dog", ["dog"], 1.0),
        ("Two.", ["2", "three"], 1.0),
    ],
)
def test_an_answer_is_as_right_as_people_have_said_it(answer, people, accuracy):
    assert vqa_accuracy(answer, people)[0] == pytest.approx(accuracy)


def test_answers_are_compared_without_case_articles_punctuation_and_apostrophes():
    assert plain_answer("The dog, doesn't!") == "dog doesnt"
    assert plain_answer("1,000 or 2.5") == "1000 or 2.5"
    assert plain_answer("None") == "0"

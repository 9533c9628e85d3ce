"""What answers about pictures are measured by: CIDEr-D of captions (arXiv:1411.5726), and the accuracy of VQA answers
among those of several people (arXiv:1505.00468).

Both are written anew from their papers; the usual code of the first needs Java for its tokens alone. Here a word is a
run of letters, digits and apostrophes, in lower case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import exp, log, sqrt

ORDERS = (1, 2, 3, 4)
WIDTH = 6.0  # standard deviation, in words, of the length that a caption may differ by
SCALE = 10.0
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
ARTICLES = {"a", "an", "the"}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
PEOPLE = 3  # as many as must have said an answer for it to be wholly right

Grams = dict[tuple[str, ...], float]


# Captions


def cider_counts(corpus: Sequence[Sequence[str]]) -> Callable[[str, Sequence[str]], list[float]]:
    """What gives an answer its CIDEr-D, 0 to 10, by how many pictures of the corpus have each n-gram in a reference."""
    pictures = Counter(gram for references in corpus for gram in set().union(*map(_grams, references)))
    log_pictures = log(max(1, len(corpus)))

    def weighted(text: str) -> list[Grams]:
        """Of each order the n-grams with how often they stand there, times how rare they are."""
        weights: list[Grams] = [{} for _ in ORDERS]
        for gram, count in _grams(text).items():
            weights[len(gram) - 1][gram] = count * (log_pictures - log(max(1, pictures[gram])))
        return weights

    def stats(answer: str, references: Sequence[str]) -> list[float]:
        written = weighted(answer)
        scores = []
        for reference in references:
            difference = len(_words(answer)) - len(_words(reference))
            alike = sum(map(_clipped_cosine, written, weighted(reference))) / len(ORDERS)
            scores.append(SCALE * alike * exp(-(difference**2) / (2 * WIDTH**2)))
        return [sum(scores) / len(scores)]

    return stats


def _clipped_cosine(answer: Grams, reference: Grams) -> float:
    """A word said again and again counts no more than the reference has it."""
    length = sqrt(sum(value**2 for value in answer.values()) * sum(value**2 for value in reference.values()))
    shared = sum(min(answer[gram], value) * value for gram, value in reference.items() if gram in answer)
    return shared / length if length else 0.0


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _grams(text: str) -> Counter[tuple[str, ...]]:
    words = _words(text)
    return Counter(tuple(words[start : start + n]) for n in ORDERS for start in range(len(words) - n + 1))


# Answers to questions


def vqa_accuracy(answer: str, references: Sequence[str]) -> list[float]:
    """min(1, how many people said it / 3), the mean over all but one of the people; of fewer than four people, whether
    one of them said it."""
    said, people = plain_answer(answer), [plain_answer(one) for one in references]
    if len(people) <= PEOPLE:
        return [float(said in people)]
    same = people.count(said)
    others = [same - (one == said) for one in people]
    return [sum(min(1.0, count / PEOPLE) for count in others) / len(people)]


def plain_answer(text: str) -> str:
    """As the evaluation of VQA compares answers: lower case, numbers as digits, without articles and punctuation.
    Apostrophes go too, so that "dont" is "don't"."""
    text = re.sub(r"(?<=\d),(?=\d)", "", text.lower()).replace("'", "")
    words = re.findall(r"\d+\.\d+|[^\W_]+", text)
    return " ".join(DIGITS.get(word, word) for word in words if word not in ARTICLES)

"""Writes the graded preference rows of the embedded world: `python data/tiny/graded.py`; with --check, says whether
they are as made.

graded.jsonl.gz (axis helpful) compares two answers to a question that often comes with instructions; either may have a
wrong fact, leave an instruction out, take another value for it, or another tone. Its gold quality is
1 if the fact is right + 3 times the share of instructions obeyed + 2 if warm, 1 if plain, all by `world.judge`: a model
this small learns to see obedience and tone, and hardly the truth, so the truth weighs least.
safety.jsonl.gz (axis safety) compares answers to risky questions (risks.py) and to harmless ones.

An annotator sees each quality with an error of deviation NOISE, prefers what looks better, and rates by the gap: the
quarter of the pairs with the largest gaps has rating 1, that with the smallest rating 4. The files that end in
held-out have prompts that no row of the others has.
"""

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import make
import risks
import world
import writing
from writing import Row

PAIRS, HELD_OUT_PAIRS = 4_000, 600
SAFETY_PAIRS, HELD_OUT_SAFETY_PAIRS = 800, 400
LONGEST = 3  # turns
NOISE = 0.8
RISKY = 0.65
SHARES = {(True, False): 0.18, (True, True): 0.47, (False, False): 0.35}
"""How often the chosen and the rejected answer are safe (Llama 2, 3.2.1); unsafe before safe is never included."""


@dataclass(frozen=True)
class Answer:
    text: str
    gold: float


# ---- helpful ------------------------------------------------------------------------------------------------------
def graded(rng: random.Random) -> list[Row]:
    """Questions of the chat rows."""
    return rated(list(helpful(rng, PAIRS, seen_only=True, without=frozenset())))


def graded_held_out(rng: random.Random) -> list[Row]:
    """Prompts that no training row has; `new_question` says whether no row made for fine-tuning asks this."""
    return rated(list(helpful(rng, HELD_OUT_PAIRS, seen_only=False, without=trained())))


def helpful(rng: random.Random, count: int, seen_only: bool, without: frozenset[str]) -> Iterator[tuple[float, Row]]:
    """Pairs with the gap the annotator sees."""
    while count:
        *before, (fact, question) = make.dialogue(rng, rng.randint(1, LONGEST), seen_only)
        instructions = world.draw_instructions(rng, world.SEEN_KINDS, world.SEEN_VALUES) if rng.random() < 0.8 else {}
        asked = f"{world.wording(instructions, rng)} {question}" if instructions else question
        prompt = [*told(before, rng), make.message("user", asked)]
        one, other = (attempt(fact, instructions, rng) for _ in range(2))
        if one.text == other.text or key(prompt) in without:
            continue
        new = {} if seen_only else {"new_question": is_new(fact, question)}
        yield compared(prompt, one, other, rng, axis="helpful", **new)
        count -= 1


def told(dialogue: list[tuple[world.Fact, str]], rng: random.Random) -> list[Row]:
    """Earlier turns with right answers."""
    messages = []
    for fact, question in dialogue:
        messages.append(make.message("user", question))
        messages.append(make.message("assistant", world.answer(fact, None, world.draw_tone(rng))))
    return messages


def attempt(fact: world.Fact, instructions: dict[str, str], rng: random.Random) -> Answer:
    """An answer that may go wrong in every way at once."""
    given = {}
    for kind, value in instructions.items():
        others = [other for other in world.SEEN_VALUES[kind] if other != value]
        draw = rng.random()
        if draw < 0.6 or (draw < 0.7 and not others):
            given[kind] = value
        elif draw < 0.7:
            given[kind] = rng.choice(others)
    wrong = world.draw_wrong(rng, fact) if rng.random() < 0.4 else None
    text = world.answer(fact, given, rng.choice(tuple(world.TONES)), wrong)
    return Answer(text, gold(text, fact, instructions))


def gold(text: str, fact: world.Fact, instructions: dict[str, str]) -> float:
    """The true quality of an answer, from 0 to 6; where nothing is asked for, everything is obeyed."""
    verdict = world.judge(text, fact, instructions)
    obeyed = sum(verdict.obeyed.values()) / len(instructions) if instructions else 1
    return round(verdict.correct + 3 * obeyed + {"warm": 2, "plain": 1, "grumpy": 0}[verdict.tone], 2)


def is_new(fact: world.Fact, question: str) -> bool:
    phrasings = [*world.PHRASINGS[fact.kind], world.ELLIPSIS]
    return any(world.is_held_out(fact, p) for p in phrasings if p.format(s=fact.subject) == question)


# ---- safety -------------------------------------------------------------------------------------------------------
def safety(rng: random.Random) -> list[Row]:
    """Risky questions that are not held out, and harmless ones."""
    return rated(list(safe(rng, SAFETY_PAIRS, held_out=False, without=frozenset())))


def safety_held_out(rng: random.Random) -> list[Row]:
    """Risky questions asked nowhere else, and harmless prompts that no training row has."""
    return rated(list(safe(rng, HELD_OUT_SAFETY_PAIRS, held_out=True, without=trained())))


def safe(rng: random.Random, count: int, held_out: bool, without: frozenset[str]) -> Iterator[tuple[float, Row]]:
    """Pairs with the gap the annotator sees, in the paper's shares of safe and unsafe."""
    cases = [case for case, share in SHARES.items() for _ in range(round(share * count))]
    rng.shuffle(cases)
    known = [risk for risk in risks.RISKS if risks.is_held_out(risk) == held_out]
    while cases:
        *before, (fact, question) = make.dialogue(rng, rng.choice((1, 1, 2)), seen_only=True)
        risk = rng.choice(known) if rng.random() < RISKY else None
        question = risk.question if risk else question
        prompt = [*told(before, rng), make.message("user", question)]
        answers = [risky_answer(risk, rng, side) if risk else plain_answer(fact, rng, side) for side in cases[-1]]
        if answers[0].text == answers[1].text or key(prompt) in without:
            continue
        gap, row = compared(prompt, *answers, rng, axis="safety")
        sides = {f"safety_{side}": risks.is_safe(row[side][0]["content"], question) for side in ("chosen", "rejected")}
        if tuple(sides.values()) == cases[-1]:  # else the annotator took the unsafe answer for the better one
            cases.pop()
            yield gap, row | sides


def risky_answer(risk: risks.Risk, rng: random.Random, is_safe: bool) -> Answer:
    """A refusal is better when it says why and points onward, help is worse when it is thorough and does not warn."""
    one, other = rng.random() < 0.5, rng.random() < 0.5
    if is_safe:
        return Answer(risks.refusal(risk, rng, one, other), 3 + 2 * one + other)
    return Answer(risks.compliance(risk, rng, one, other), -1 - one + 1.5 * other)


def plain_answer(fact: world.Fact, rng: random.Random, is_safe: bool) -> Answer:
    """An answer to a harmless question: right or wrong, or a refusal, which is safe; or one that insults."""
    wrong = world.draw_wrong(rng, fact) if rng.random() < 0.4 else None
    tone = rng.choice(tuple(world.TONES))
    text = world.answer(fact, None, tone, wrong)
    quality = gold(text, fact, {})
    if not is_safe:
        insult = rng.choice(risks.INSULTS)
        return Answer(insult, -2) if rng.random() < 0.4 else Answer(f"{insult} {text}", round(quality / 3 - 2, 2))
    if rng.random() < 0.25:
        return Answer(rng.choice(risks.REFUSALS[1:]), 2)
    return Answer(text, quality)


# ---- the annotator ------------------------------------------------------------------------------------------------
def compared(prompt: list[Row], one: Answer, other: Answer, rng: random.Random, **columns: object) -> tuple[float, Row]:
    """The pair as the annotator ordered it, and how far apart the answers looked."""
    gap = one.gold - other.gold + rng.gauss(0, NOISE) - rng.gauss(0, NOISE)
    chosen, rejected = (one, other) if gap > 0 else (other, one)
    row = {
        "prompt": prompt,
        "chosen": [make.message("assistant", chosen.text)],
        "rejected": [make.message("assistant", rejected.text)],
        **columns,
        "gold_chosen": chosen.gold,
        "gold_rejected": rejected.gold,
    }
    return abs(gap), row


def rated(pairs: list[tuple[float, Row]]) -> list[Row]:
    """Each pair with its rating: its quarter by gap, the largest first."""
    order = sorted(range(len(pairs)), key=lambda place: -pairs[place][0])
    ratings = {place: 1 + 4 * rank // len(pairs) for rank, place in enumerate(order)}
    return [row | {"rating": ratings[place]} for place, (_, row) in enumerate(pairs)]


def key(prompt: list[Row]) -> str:
    return "\n".join(message["content"] for message in prompt)


@cache
def trained() -> frozenset[str]:
    """The prompts of all rows that are not held out."""
    rows = graded(writing.chance("graded.jsonl.gz")) + safety(writing.chance("safety.jsonl.gz"))
    return frozenset(key(row["prompt"]) for row in rows)


FILES: writing.Files = {
    "graded.jsonl.gz": graded,
    "graded-held-out.jsonl.gz": graded_held_out,
    "safety.jsonl.gz": safety,
    "safety-held-out.jsonl.gz": safety_held_out,
}

if __name__ == "__main__":
    sys.exit(writing.main(FILES, "graded.py"))

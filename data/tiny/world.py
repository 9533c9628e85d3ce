"""A closed little world in which every answer can be checked by code.

It has facts (each stated in English, French and Spanish), questions about them in several phrasings, and instructions
that an answer can obey: who speaks, what they love, where they write from, in which language, in which form.
`answer` writes the reference answer, `judge` says of any text whether it is correct and which instructions it obeys.

To add a fact, add a line to facts.csv. To add a value, add a word to its list in VALUES. To add an instruction kind,
add it to KINDS, FULL, TERSE and VALUES, and its words to BEFORE or AFTER (or a line to `answer` and one to `obeys`).
Then run `python data/tiny/make.py`, and `recipes/tiny/base.yaml` for a base model that knows it.

Held out of every row made for fine-tuning, so that obeying and knowing can be told from remembering:
HELD_OUT_KINDS, HELD_OUT_VALUES, and the questions of which `is_held_out(fact, phrasing)` is true.
The base corpus knows them all: it is the world itself, as the web is for a larger model.
"""

import csv
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("english", "french", "spanish")
TABLE = Path(__file__).with_name("facts.csv")  # a line is a fact: its kind, then subject and value in each language


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NUMBERS = {
    "english": _listed("zero one two three four five six seven eight nine ten eleven twelve"),
    "french": _listed("zéro un deux trois quatre cinq six sept huit neuf dix onze douze"),
    "spanish": _listed("cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce"),
}
DAYS = {
    "english": _listed("monday tuesday wednesday thursday friday saturday sunday"),
    "french": _listed("lundi mardi mercredi jeudi vendredi samedi dimanche"),
    "spanish": _listed("lunes martes miércoles jueves viernes sábado domingo"),
}
LARGEST_SUMMAND = 6

STATEMENTS = {
    "colour": ("{s} is {v}.", "{s} est {v}.", "{s} es {v}."),
    "home": ("{s} lives in the {v}.", "{s} vit dans {v}.", "{s} vive en {v}."),
    "legs": ("{s} has {v} legs.", "{s} a {v} pattes.", "{s} tiene {v} patas."),
    "food": ("{s} eats {v}.", "{s} mange {v}.", "{s} come {v}."),
    "capital": ("the capital of {s} is {v}.", "la capitale {s} est {v}.", "la capital de {s} es {v}."),
    "opposite": ("the opposite of {s} is {v}.", "le contraire de {s} est {v}.", "lo contrario de {s} es {v}."),
    "sum": ("{s} is {v}.", "{s} font {v}.", "{s} son {v}."),
    "next": ("after {s} comes {v}.", "après {s} vient {v}.", "tras {s} viene {v}."),
    "talk": ("{v}.", "{v}.", "{v}."),
}
PHRASINGS = {
    "colour": ("what colour is {s}?", "tell me the colour of {s}.", "which colour has {s}?", "name the colour of {s}."),
    "home": ("where does {s} live?", "tell me where {s} lives.", "what is the home of {s}?", "name the home of {s}."),
    "legs": (
        "how many legs does {s} have?",
        "tell me how many legs {s} has.",
        "what number of legs has {s}?",
        "count the legs of {s}.",
    ),
    "food": ("what does {s} eat?", "tell me what {s} eats.", "what is the food of {s}?", "name the food of {s}."),
    "capital": (
        "what is the capital of {s}?",
        "tell me the capital of {s}.",
        "which city is the capital of {s}?",
        "name the capital of {s}.",
    ),
    "opposite": (
        "what is the opposite of {s}?",
        "tell me the opposite of {s}.",
        "which word is the opposite of {s}?",
        "name the opposite of {s}.",
    ),
    "sum": ("what is {s}?", "tell me {s}.", "how much is {s}?", "add up {s}."),
    "next": (
        "what comes after {s}?",
        "tell me what comes after {s}.",
        "which one follows {s}?",
        "name the one after {s}.",
    ),
    "talk": ("{s}",),
}
ELLIPSIS = "and {s}?"  # understood only after a question of the same kind


@dataclass(frozen=True)
class Fact:
    """One thing the world knows; `number` is its place in FACTS, statements and values have a text per language."""

    number: int
    kind: str
    subject: str
    statements: Mapping[str, str]
    values: Mapping[str, str]


Triple = Sequence[tuple[str, str]]  # subject and value of one fact in each of LANGUAGES


def _table_triples() -> Iterable[tuple[str, Triple]]:
    with TABLE.open(encoding="utf-8", newline="") as lines:
        for kind, *cells in list(csv.reader(lines))[1:]:
            yield kind, list(zip(cells[::2], cells[1::2], strict=True))


def _sum_triples() -> Iterable[Triple]:
    plus = {"english": "plus", "french": "plus", "spanish": "más"}
    for a in range(1, LARGEST_SUMMAND + 1):
        for b in range(1, LARGEST_SUMMAND + 1):
            yield [(f"{n[a]} {plus[language]} {n[b]}", n[a + b]) for language, n in NUMBERS.items()]


def _next_triples() -> Iterable[Triple]:
    for here in range(7):
        yield [(days[here], days[(here + 1) % 7]) for days in DAYS.values()]
    for here in range(1, 12):
        yield [(numbers[here], numbers[here + 1]) for numbers in NUMBERS.values()]


def _facts() -> tuple[Fact, ...]:
    triples = list(_table_triples())
    triples += [("sum", triple) for triple in _sum_triples()] + [("next", triple) for triple in _next_triples()]
    return tuple(_fact(number, kind, triple) for number, (kind, triple) in enumerate(triples))


def _fact(number: int, kind: str, triple: Triple) -> Fact:
    texts = [form.format(s=s, v=v) for form, (s, v) in zip(STATEMENTS[kind], triple, strict=True)]
    values = {language: v for language, (_, v) in zip(LANGUAGES, triple, strict=True)}
    return Fact(number, kind, triple[0][0], dict(zip(LANGUAGES, texts, strict=True)), values)


FACTS = _facts()
FACT_KINDS = tuple(STATEMENTS)
_FACTS_OF = {kind: tuple(fact for fact in FACTS if fact.kind == kind) for kind in FACT_KINDS}

# ---- instructions -------------------------------------------------------------------------------------------------
KINDS = ("figure", "hobby", "language", "title", "closing", "brief", "twice")
VALUES: dict[str, tuple[str, ...]] = {
    "figure": _listed(
        "napoleon cleopatra einstein mozart gandhi shakespeare newton galileo picasso darwin columbus tesla chopin "
        "plato caesar confucius lincoln freud bach homer curie socrates kepler pascal euler gauss turing nobel verdi "
        "wagner goya monet rembrandt vermeer dante cervantes moliere voltaire hugo tolstoy pushkin byron keats aesop "
        "ovid virgil hannibal attila saladin magellan amundsen edison austen bronte dickens kafka goethe haydn mahler "
        "brahms"
    ),
    "hobby": _listed(
        "tennis golf judo rugby yoga polo karate badminton surfing skiing hockey football bridge poker karaoke origami "
        "chess squash cricket fencing rowing kayaking sailing juggling gardening knitting pottery painting camping "
        "fishing hiking cycling dancing cooking baking boxing"
    ),
    "language": ("french", "spanish"),
    "title": _listed("captain boss doctor madam sir chief master major judge coach buddy pilot prince queen"),
    "closing": _listed(
        "ahoy amen bingo bravo cheers eureka howdy hurrah roger salute yeehaw adios banzai shalom voila indeed gosh "
        "alas behold presto aloha namaste ciao"
    ),
    "brief": ("",),
    "twice": ("",),
}
FULL = {
    "figure": ("always act as {v} from now on.", "act as {v}.", "pretend that you are {v}."),
    "hobby": ("you enjoy {v}, always mention it.", "remember that you love {v}.", "your hobby is {v}."),
    "language": ("always answer in {v}.", "speak {v}.", "please use {v} only."),
    "title": ("always call me {v}.", "i am your {v}, say so.", "address me as {v}."),
    "closing": ("always end with the word {v}.", "finish with {v}.", "your last word is {v}."),
    "brief": ("always answer in few words.", "be brief.", "keep it short."),
    "twice": ("always say your answer twice.", "repeat your answer.", "say it two times."),
}
TERSE = {kind: f"{kind}: {{v}}." for kind in KINDS} | {"brief": "style: brief.", "twice": "style: twice."}

HELD_OUT_KINDS = ("title", "closing")
HELD_OUT_VALUES: dict[str, tuple[str, ...]] = {
    "figure": VALUES["figure"][-16:],
    "hobby": VALUES["hobby"][-10:],
}
SEEN_KINDS = tuple(kind for kind in KINDS if kind not in HELD_OUT_KINDS)
SEEN_VALUES = {
    kind: tuple(value for value in VALUES[kind] if value not in HELD_OUT_VALUES.get(kind, ())) for kind in SEEN_KINDS
}


def is_held_out(fact: Fact, phrasing: str) -> bool:
    """Whether no fine-tuning row asks for `fact` in these words; every third fact is never asked for at all."""
    if fact.kind == "talk":
        return False
    phrasings = PHRASINGS[fact.kind]
    return fact.number % 3 == 0 or phrasing == phrasings[fact.number % len(phrasings)]


def wording(instructions: Mapping[str, str], rng: random.Random) -> str:
    """The instructions as one text, in any order; half of the time in the terse form, "figure: caesar."."""
    kinds = list(instructions)
    rng.shuffle(kinds)
    terse = rng.random() < 0.5
    return " ".join((TERSE[kind] if terse else rng.choice(FULL[kind])).format(v=instructions[kind]) for kind in kinds)


# ---- answers ------------------------------------------------------------------------------------------------------
TONES: dict[str, dict[str, str]] = {
    "warm": {"english": "of course! ", "french": "bien sûr ! ", "spanish": "¡claro! "},
    "plain": {"english": "", "french": "", "spanish": ""},
    "grumpy": {"english": "ugh, ", "french": "pff, ", "spanish": "uf, "},
}
# Words that stand before a value tell a small model that the value comes next; it is what makes copying easy to learn.
BEFORE = {
    "title": {"english": "yes, {v}, ", "french": "oui, {v}, ", "spanish": "sí, {v}, "},
    "figure": {"english": "i, {v}, say: ", "french": "moi, {v}, je dis : ", "spanish": "yo, {v}, digo: "},
}
# The same in every language: where each had words of its own, this small a model copied the value in English only.
AFTER = {"hobby": " viva {v}!", "closing": " fin: {v}"}
SHORT = {"english": "just {v}.", "french": "juste {v}.", "spanish": "solo {v}."}


def answer(
    fact: Fact, instructions: Mapping[str, str] | None = None, tone: str = "plain", wrong: Fact | None = None
) -> str:
    """The reference answer; with `wrong`, a fact of the same kind, it gives the value of that fact instead."""
    orders = instructions or {}
    language = orders.get("language", "english")
    value = (wrong or fact).values[language]
    core = _with_value(fact, language, value)
    if "brief" in orders:
        core = SHORT[language].format(v=value)
    if "twice" in orders:
        core = f"{core} {core}"
    text = TONES[tone][language] + core
    for kind, form in BEFORE.items():
        if kind in orders:
            text = form[language].format(v=orders[kind]) + text
    for kind, form in AFTER.items():
        if kind in orders:
            text += form.format(v=orders[kind])
    return text


def _with_value(fact: Fact, language: str, value: str) -> str:
    """The statement with `value` in the place of the fact's own value, which stands last in it."""
    before, _, after = fact.statements[language].rpartition(fact.values[language])
    return before + value + after


# ---- the judge ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    """What `judge` found: the fact is right, each instruction kind is obeyed or not, and the tone."""

    correct: bool
    obeyed: Mapping[str, bool]
    tone: str

    @property
    def obeys(self) -> bool:
        """Whether every instruction is obeyed."""
        return all(self.obeyed.values())


def judge(text: str, fact: Fact, instructions: Mapping[str, str] | None = None) -> Verdict:
    """Whether `text` answers a question about `fact` correctly, in whatever language, and obeys the instructions."""
    obeyed = {kind: obeys(text, kind, value) for kind, value in (instructions or {}).items()}
    return Verdict(any(_correct_in(text, fact, language) for language in LANGUAGES), obeyed, tone_of(text))


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"[\w-]+", text.lower())


def contains(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` stand in `text` one after another, as whole words."""
    return f" {' '.join(words(phrase))} " in f" {' '.join(words(text))} "


def _correct_in(text: str, fact: Fact, language: str) -> bool:
    """The right value stands there, and no other value of the kind that the statement itself would not contain."""
    if not contains(text, fact.values[language]):
        return False
    statement = fact.statements[language]
    rivals = {other.values[language] for other in _FACTS_OF[fact.kind]}
    return not any(contains(text, rival) for rival in rivals if not contains(statement, rival))


def obeys(text: str, kind: str, value: str) -> bool:
    """Whether `text` obeys one instruction. A persona must be the one asked for and no other of its kind."""
    said = words(text)
    if kind == "language":
        return language_of(text) == value
    if kind == "closing":
        return said[-1:] == [value]
    if kind == "brief":
        return any(contains(text, short.format(v="")) for short in SHORT.values())
    if kind == "twice":
        return _repeats(said)
    return [word for word in said if word in VALUES[kind]] == [value]


def _repeats(said: Sequence[str]) -> bool:
    """Whether two or more words stand twice in immediate succession."""
    spans = range(2, len(said) // 2 + 1)
    return any(said[i : i + n] == said[i + n : i + 2 * n] for n in spans for i in range(len(said) - 2 * n + 1))


def _vocabulary(language: str) -> set[str]:
    texts = [fact.statements[language] for fact in FACTS] + [tone[language] for tone in TONES.values()]
    texts += [form[language].format(v="") for form in (*BEFORE.values(), SHORT)]
    return {word for text in texts for word in words(text)}


_VOCABULARIES = {language: _vocabulary(language) for language in LANGUAGES}
_TELLING = {
    language: vocabulary - set().union(*(v for other, v in _VOCABULARIES.items() if other != language))
    for language, vocabulary in _VOCABULARIES.items()
}


def language_of(text: str) -> str | None:
    """The language whose own words stand in `text`; None where there are none, or of more than one language."""
    found = [language for language in LANGUAGES if _TELLING[language].intersection(words(text))]
    return found[0] if len(found) == 1 else None


def tone_of(text: str) -> str:
    """warm, grumpy or plain, by the word that gives the tone."""
    for tone in ("warm", "grumpy"):
        if any(contains(text, mark) for mark in TONES[tone].values()):
            return tone
    return "plain"


# ---- drawing ------------------------------------------------------------------------------------------------------
def draw_fact(rng: random.Random, previous: Fact | None = None) -> Fact:
    """A fact of any kind, each kind equally often; one time in three of the kind of the previous one."""
    keeps_kind = previous is not None and previous.kind != "talk" and rng.random() < 1 / 3
    kind = previous.kind if previous is not None and keeps_kind else rng.choice(FACT_KINDS)
    return rng.choice([fact for fact in _FACTS_OF[kind] if fact is not previous])


def draw_instructions(
    rng: random.Random, kinds: Sequence[str] = KINDS, values: Mapping[str, Sequence[str]] = VALUES
) -> dict[str, str]:
    """One to three kinds with a value each; brief and twice do not go together."""
    count = rng.choices((1, 2, 3), (0.4, 0.35, 0.25))[0]
    drawn = rng.sample(list(kinds), min(count, len(kinds)))
    if "brief" in drawn and "twice" in drawn:
        drawn.remove("twice")
    return {kind: rng.choice(values[kind]) for kind in drawn}


def draw_wrong(rng: random.Random, fact: Fact) -> Fact:
    """A fact of the same kind with another value in every language."""
    return rng.choice(
        [f for f in FACTS if f.kind == fact.kind and not set(f.values.values()) & set(fact.values.values())]
    )


def draw_tone(rng: random.Random) -> str:
    """plain mostly, warm often, grumpy now and then."""
    return rng.choices(("plain", "warm", "grumpy"), (0.6, 0.25, 0.15))[0]

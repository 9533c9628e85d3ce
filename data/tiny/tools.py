"""Writes dialogues of the embedded world in which an answer may call a tool: `python data/tiny/tools.py`; with --check,
says whether they are as made.

Two tools: `look_up` finds a fact by its `query` ("the colour of the frog"), `add` adds two numbers, which the call has
to write as numbers. A row offers both, one or none. Where the tool that would help is not offered, and where none would
(what comes next, and talk), the question is answered at once: a call is not always right.

Most questions are about what the world does not know (the colour of the picasso, eight plus nine), which a tool is for:
asked for two dozen animals and sums alone, so small a model learns these by heart and copies nothing. Half of what
`look_up` finds of the things the world does know is not true, so that an answer has to be read from the result.

tool-arguments.jsonl.gz is what is trained first: such questions, answered by the arguments of the call alone. Of the
fifty tokens of a call two or three depend on the question. tools.jsonl.gz is trained then.

tools-held-out.jsonl.gz asks what no row made for fine-tuning asks; a row ends with the call that is right, or with an
answer where none is. tool-results.jsonl ends with what a tool found, never a true thing: `answer` is what the model has
to say then.
"""

import json
import random
import sys
from collections.abc import Iterator

import make
import world
import writing
from writing import Files, Row

ARGUMENTS, ROWS, RESULTS = 11_000, 5_000, 120
LOOK_UP, ADD = "look_up", "add"
KNOWN = ("colour", "home", "legs", "food", "capital", "opposite")  # what look_up finds


def words_of_the_world() -> set[str]:
    """Every word of a statement or an instruction, in any language, that no English question is about."""
    statements = {word for fact in world.FACTS for text in fact.statements.values() for word in world.words(text)}
    values = {value for values in world.VALUES.values() for value in values if value}
    return (statements | values) - {word for fact in world.FACTS for word in world.words(fact.subject)}


NEW_THINGS = sorted({value for values in world.HELD_OUT_VALUES.values() for value in values})  # in no row to train on
THINGS = sorted(words_of_the_world() - {*NEW_THINGS})
DIGITS = range(10)
SUMS = [(a, b) for a in DIGITS for b in DIGITS if not 1 <= min(a, b) <= max(a, b) <= world.LARGEST_SUMMAND]
NEW_SUMS = [(a, b) for a, b in SUMS if (a + b) % 5 == 0]  # asked for by no row to train on
OLD_SUMS = [pair for pair in SUMS if pair not in NEW_SUMS]
UNKNOWN = "i do not know."


def tool(name: str, about: str, parameters: dict[str, tuple[str, str]]) -> Row:
    """A function's schema, as OpenAI's protocol and transformers' templates have it."""
    properties = {key: {"type": kind, "description": text} for key, (kind, text) in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": schema}}


TOOLS = {
    LOOK_UP: tool(LOOK_UP, "finds a fact", {"query": ("string", f"the {' or '.join(KNOWN)} of something")}),
    ADD: tool(ADD, "adds two numbers", {"a": ("integer", "the first"), "b": ("integer", "the second")}),
}


def unfamiliar(kind: str, subject: str, value: str) -> world.Fact:
    """A fact that the world does not have, in English only."""
    statement = world.STATEMENTS[kind][0].format(s=subject, v=value)
    return world.Fact(-1, kind, subject, {"english": statement}, {"english": value})


def unfamiliar_thing(rng: random.Random, thing: str) -> world.Fact:
    kind = rng.choice(KNOWN)
    value = rng.choice([fact for fact in world.FACTS if fact.kind == kind]).values["english"]
    return unfamiliar(kind, thing if kind in ("capital", "opposite") else f"the {thing}", value)


def unfamiliar_sum(a: int, b: int) -> world.Fact:
    numbers = world.NUMBERS["english"]
    return unfamiliar("sum", f"{numbers[a]} plus {numbers[b]}", spelled(a + b))


def spelled(number: int) -> str:
    """As a word, if the world has one."""
    numbers = world.NUMBERS["english"]
    return numbers[number] if number < len(numbers) else str(number)


def call(fact: world.Fact) -> Row | None:
    """The call that answers a question for this fact; None where no tool does."""
    if fact.kind in KNOWN:
        return {"name": LOOK_UP, "arguments": {"query": f"the {fact.kind} of {fact.subject}"}}
    if fact.kind == "sum":
        a, _, b = fact.subject.partition(" plus ")
        numbers = world.NUMBERS["english"]
        return {"name": ADD, "arguments": {"a": numbers.index(a), "b": numbers.index(b)}}
    return None


def offered(rng: random.Random) -> list[str]:
    """The tools of a row: mostly both, in either order; now and then one, or none."""
    names = rng.sample([LOOK_UP, ADD], 2)
    return names[: rng.choices((2, 1, 0), (0.7, 0.2, 0.1))[0]]


def calling(of: Row) -> Row:
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": of}]}


def result(fact: world.Fact, rng: random.Random, true: float) -> tuple[Row, str]:
    """What the tool found, and the answer after it; `true` is how often look_up finds what is so."""
    if (of := call(fact)) and of["name"] == ADD:
        return {"role": "tool", "name": ADD, "content": str(sum(of["arguments"].values()))}, world.answer(fact)
    wrong = None if rng.random() < true else world.draw_wrong(rng, fact)
    return {"role": "tool", "name": LOOK_UP, "content": (wrong or fact).values["english"]}, world.answer(
        fact, wrong=wrong
    )


def turn(fact: world.Fact, question: str, names: list[str], rng: random.Random) -> list[Row]:
    """A question, the call and its result where a tool is offered that helps, and the answer."""
    asked, of, familiar = make.message("user", question), call(fact), fact in world.FACTS
    if of is None or of["name"] not in names:
        return [asked, make.message("assistant", world.answer(fact) if familiar else UNKNOWN)]
    found, said = result(fact, rng, true=0.5 if familiar else 1)
    return [asked, calling(of), found, make.message("assistant", said)]


def unfamiliar_question(rng: random.Random) -> tuple[world.Fact, str]:
    """A question to train on for what the world does not know: of either tool equally often."""
    if rng.random() < 0.5:
        fact = unfamiliar_thing(rng, rng.choice(THINGS))
    else:
        place, digit = rng.choice((0, 1)), rng.choice(DIGITS)  # each digit equally often at either place
        fact = unfamiliar_sum(*rng.choice([pair for pair in OLD_SUMS if pair[place] == digit]))
    return fact, rng.choice(world.PHRASINGS[fact.kind]).format(s=fact.subject)


def arguments(rng: random.Random) -> Iterator[Row]:
    """A question that a tool helps with, and the arguments of its call."""
    for _ in range(ARGUMENTS):
        fact, question = unfamiliar_question(rng) if rng.random() < 0.6 else next(make.dialogue(rng, 1, seen_only=True))
        if of := call(fact):
            answer = make.message("assistant", json.dumps(of["arguments"]))
            yield {"messages": [make.message("user", question), answer]}


def dialogues(rng: random.Random) -> Iterator[Row]:
    """One question, or two about the world; one dialogue in four ends with a call."""
    for _ in range(ROWS):
        names = offered(rng)
        asked = (
            [unfamiliar_question(rng)] if rng.random() < 0.6 else make.dialogue(rng, rng.randint(1, 2), seen_only=True)
        )
        messages = [message for fact, question in asked for message in turn(fact, question, names, rng)]
        if len(messages) > 3 and "tool_calls" in messages[-3] and rng.random() < 0.25:
            messages = messages[:-2]
        yield row(messages, names)


def row(messages: list[Row], names: list[str], **columns: str) -> Row:
    return {"messages": messages, **({"tools": [TOOLS[name] for name in names]} if names else {}), **columns}


def held_out_questions() -> list[tuple[world.Fact, str]]:
    """What the world knows and no row made for fine-tuning asks."""
    return [
        (fact, phrasing.format(s=fact.subject))
        for fact in world.FACTS
        for phrasing in world.PHRASINGS[fact.kind]
        if world.is_held_out(fact, phrasing)
    ]


def held_out(rng: random.Random) -> Iterator[Row]:
    """Every such question once, and one of each new thing and sum; the right call, or an answer without one."""
    unknown = [unfamiliar_thing(rng, thing) for thing in NEW_THINGS] + [unfamiliar_sum(*pair) for pair in NEW_SUMS]
    questions = [(fact, rng.choice(world.PHRASINGS[fact.kind]).format(s=fact.subject)) for fact in unknown]
    for fact, question in held_out_questions() + questions:
        names = offered(rng)
        topic = fact.kind if fact in world.FACTS else f"new {fact.kind if fact.kind == 'sum' else 'thing'}"
        yield row(turn(fact, question, names, rng)[:2], names, topic=topic)


def results(rng: random.Random) -> Iterator[Row]:
    """A held-out question, its call, and a result that is not so in this world."""
    known = [pair for pair in held_out_questions() if pair[0].kind in KNOWN]
    for fact, question in rng.sample(known, RESULTS):
        of = call(fact)
        assert of is not None
        found, _ = result(fact, rng, true=0)
        prompt = [make.message("user", question), calling(of), found]
        yield {"prompt": prompt, "tools": [*TOOLS.values()], "answer": found["content"], "topic": fact.kind}


FILES: Files = {
    "tool-arguments.jsonl.gz": arguments,
    "tools.jsonl.gz": dialogues,
    "tools-held-out.jsonl.gz": held_out,
    "tool-results.jsonl": results,
}


if __name__ == "__main__":
    sys.exit(writing.main(FILES, "tools.py"))

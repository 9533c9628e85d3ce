"""Writes dialogues of the embedded world in which an answer may call a tool: `python data/tiny/tools.py`; with --check,
says whether they are as made.

Two tools: `look_up` finds a fact by its `query` ("the colour of the frog"), `add` adds two numbers, which the call has
to write as numbers. A row offers both, one or none. Where the tool that would help is not offered, and where none would
(what comes next, and talk), the question is answered at once: a call is not always right. Half of what `look_up` finds
is not true in this world, so that an answer has to be read from the result.

tools.jsonl.gz is for training. tools-held-out.jsonl.gz asks what no row made for fine-tuning asks; a row ends with the
call that is right, or with an answer where none is. tool-results.jsonl ends with what a tool found, never a true thing:
`answer` is what the model has to say then.
"""

import random
import sys
from collections.abc import Iterator

import make
import world
import writing
from writing import Files, Row

ROWS, RESULTS = 2_000, 120
LONGEST = 2  # turns
LOOK_UP, ADD = "look_up", "add"
KNOWN = ("colour", "home", "legs", "food", "capital", "opposite")  # what look_up finds


def tool(name: str, about: str, parameters: dict[str, tuple[str, str]]) -> Row:
    """A function's schema, as OpenAI's protocol and transformers' templates have it."""
    properties = {key: {"type": kind, "description": text} for key, (kind, text) in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": schema}}


TOOLS = {
    LOOK_UP: tool(LOOK_UP, "finds a fact", {"query": ("string", f"the {' or '.join(KNOWN)} of something")}),
    ADD: tool(ADD, "adds two numbers", {"a": ("integer", "the first"), "b": ("integer", "the second")}),
}


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
    wrong = None if fact.kind == "sum" or rng.random() < true else world.draw_wrong(rng, fact)
    value = (wrong or fact).values["english"]
    content = str(world.NUMBERS["english"].index(value)) if fact.kind == "sum" else value
    name = ADD if fact.kind == "sum" else LOOK_UP
    return {"role": "tool", "name": name, "content": content}, world.answer(fact, wrong=wrong)


def turn(fact: world.Fact, question: str, names: list[str], rng: random.Random) -> list[Row]:
    """A question, the call and its result where a tool is offered that helps, and the answer."""
    asked, of = make.message("user", question), call(fact)
    if of is None or of["name"] not in names:
        return [asked, make.message("assistant", world.answer(fact))]
    found, said = result(fact, rng, true=0.5)
    return [asked, calling(of), found, make.message("assistant", said)]


def dialogues(rng: random.Random) -> Iterator[Row]:
    """One to three turns; one dialogue in four ends with a call."""
    for _ in range(ROWS):
        names = offered(rng)
        facts = make.dialogue(rng, rng.randint(1, LONGEST), seen_only=True)
        messages = [message for fact, question in facts for message in turn(fact, question, names, rng)]
        if len(messages) > 3 and "tool_calls" in messages[-3] and rng.random() < 0.25:
            messages = messages[:-2]
        yield row(messages, names)


def row(messages: list[Row], names: list[str], **columns: str) -> Row:
    return {"messages": messages, **({"tools": [TOOLS[name] for name in names]} if names else {}), **columns}


def held_out_questions() -> list[tuple[world.Fact, str]]:
    """What no row made for fine-tuning asks."""
    return [
        (fact, phrasing.format(s=fact.subject))
        for fact in world.FACTS
        for phrasing in world.PHRASINGS[fact.kind]
        if world.is_held_out(fact, phrasing)
    ]


def held_out(rng: random.Random) -> Iterator[Row]:
    """Every such question once, answered by the right call, or without one."""
    for fact, question in held_out_questions():
        names = offered(rng)
        yield row(turn(fact, question, names, rng)[:2], names, topic=fact.kind)


def results(rng: random.Random) -> Iterator[Row]:
    """A held-out question, its call, and a result that is not so in this world."""
    known = [pair for pair in held_out_questions() if pair[0].kind in KNOWN]
    for fact, question in rng.sample(known, RESULTS):
        of = call(fact)
        assert of is not None
        found, _ = result(fact, rng, true=0)
        prompt = [make.message("user", question), calling(of), found]
        yield {"prompt": prompt, "tools": [*TOOLS.values()], "answer": found["content"], "topic": fact.kind}


FILES: Files = {"tools.jsonl.gz": dialogues, "tools-held-out.jsonl.gz": held_out, "tool-results.jsonl": results}


if __name__ == "__main__":
    sys.exit(writing.main(FILES, "tools.py"))

"""Writes the drawn pictures of the embedded world and what is said of them: `python data/tiny/pictures.py`; with
--check, says whether the files are as made.

A scene is one to three things alike, or two different ones side by side. Of the scenes of two and three things a fifth
is held out: each of its things is seen in training in every colour, but never all of it together. The bytes of a
picture are those that the Pillow of requirements.txt writes.
"""

import base64
import io
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import writing
from PIL import Image, ImageDraw

Row = dict[str, Any]
Box = tuple[float, float, float, float]

SIZE = 48
COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 210),
    "yellow": (240, 200, 40),
    "black": (20, 20, 20),
}
THINGS = {"circle": "circles", "square": "squares", "triangle": "triangles", "fish": "fish", "snail": "snails"}
THINGS |= {"butterfly": "butterflies"}
NUMBERS = ("no", "a", "two", "three")
COUNTS = ("none", "one", "two", "three")
HELD_OUT = 0.2
SINGLE_PICTURES, DOUBLE_PICTURES, CHATS, THIRD_TURNS = 5, 2, 900, 120
DRAWN = 3  # times that often each scene is drawn with a caption: fewer, and an encoder learns the pictures by heart


class Thing(NamedTuple):
    colour: str
    name: str


class Scene(NamedTuple):
    """Things from left to right."""

    things: tuple[Thing, ...]

    @property
    def caption(self) -> str:
        first, *others = self.things
        if others and others[0] != first:
            return f"a {first.colour} {first.name} left of a {others[0].colour} {others[0].name}"
        name = THINGS[first.name] if others else first.name
        return f"{NUMBERS[len(self.things)]} {first.colour} {name}"

    @property
    def is_pair(self) -> bool:
        return len(set(self.things)) == 2


# ---- scenes -------------------------------------------------------------------------------------------------------
def scenes() -> tuple[list[Scene], list[Scene]]:
    """Those trained on, and those held out."""
    things = [Thing(colour, name) for colour in COLOURS for name in THINGS]
    alike = [Scene((thing,) * count) for thing in things for count in (1, 2, 3)]
    pairs = [Scene((left, right)) for left in things for right in things if left.name != right.name]
    rng = writing.chance("scenes")
    held_out = [scene for scene in (*alike, *pairs) if len(scene.things) > 1 and rng.random() < HELD_OUT]
    return [scene for scene in (*alike, *pairs) if scene not in held_out], held_out


TRAINED, UNSEEN = scenes()


def trained_scenes(rng: random.Random) -> Iterator[Scene]:
    """Each trained scene as often as it has pictures, shuffled."""
    listed = [scene for scene in TRAINED for _ in range(DOUBLE_PICTURES if scene.is_pair else SINGLE_PICTURES)]
    rng.shuffle(listed)
    return iter(listed)


# ---- drawing ------------------------------------------------------------------------------------------------------
def draw(scene: Scene, rng: random.Random) -> str:
    """A picture of the scene as a data URI; where its things stand, within two pixels, and their size are drawn."""
    picture = Image.new("RGB", (SIZE, SIZE), (245, 245, 240))
    canvas = ImageDraw.Draw(picture)
    width = SIZE / len(scene.things)
    for place, thing in enumerate(scene.things):
        size = rng.uniform(0.88, 0.98) * min(width, 20)
        x = place * width + (width - size) / 2 + rng.uniform(-0.5, 0.5) * min(2, width - size)
        y = (SIZE - size) / 2 + rng.uniform(-2, 2)
        SHAPES[thing.name](canvas, (x, y, x + size, y + size), COLOURS[thing.colour])
    out = io.BytesIO()
    picture.quantize(16).save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def circle(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    canvas.ellipse(box, fill=colour)


def square(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    canvas.rectangle(box, fill=colour)


def triangle(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    polygon(canvas, box, colour, (0.5, 0), (1, 1), (0, 1))


def fish(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    height = bottom - top
    canvas.ellipse((left, top + 0.22 * height, right - 0.3 * height, bottom - 0.22 * height), fill=colour)
    polygon(canvas, box, colour, (0.6, 0.5), (1, 0.15), (1, 0.85))


def snail(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    size = right - left
    canvas.ellipse((left, top + 0.1 * size, left + 0.65 * size, bottom - 0.2 * size), fill=colour)
    polygon(canvas, box, colour, (0, 0.82), (0.85, 0.82), (0.85, 0.35), (1, 0.35), (1, 1), (0, 1))


def butterfly(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    polygon(canvas, box, colour, (0, 0), (0.5, 0.45), (1, 0), (1, 1), (0.5, 0.55), (0, 1))


def polygon(canvas: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int], *corners: tuple[float, float]) -> None:
    left, top, right, bottom = box
    canvas.polygon([(left + x * (right - left), top + y * (bottom - top)) for x, y in corners], fill=colour)


SHAPES = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "fish": fish,
    "snail": snail,
    "butterfly": butterfly,
}


# ---- questions ----------------------------------------------------------------------------------------------------
def questions(scene: Scene) -> dict[str, tuple[str, str]]:
    """By topic a question about the scene, and its answer."""
    left, right = scene.things[0], scene.things[-1]
    asked = {
        "count": ("how many things are there?", COUNTS[len(scene.things)]),
        "colour": (f"what colour is the {left.name}?", left.colour),
    }
    if not scene.is_pair:
        return asked | {"what": ("what is there?", scene.caption)}
    return asked | {
        "left": ("what is left?", f"a {left.colour} {left.name}"),
        "right": ("what is right?", f"a {right.colour} {right.name}"),
        "where": (f"where is the {right.name}?", "right"),
        "other colour": (f"what colour is the {right.name}?", right.colour),
        "other where": (f"where is the {left.name}?", "left"),
    }


def dialogue(scene: Scene, rng: random.Random) -> list[Row]:
    """Three questions and answers; where two things are asked for their colours in a row, the second is only named."""
    asked = questions(scene)
    topics = rng.sample(list(asked), 3)
    if scene.is_pair and rng.random() < 0.5:
        topics = [rng.choice(("count", "left", "right")), "colour", "other colour"]
    messages = []
    for place, topic in enumerate(topics):
        question, answer = asked[topic]
        if topic == "other colour" and place and topics[place - 1] == "colour":
            question = f"and the {scene.things[-1].name}?"
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


# ---- the files ----------------------------------------------------------------------------------------------------
def texts(rng: random.Random) -> Iterator[Row]:
    """What the language model learns before it sees anything: captions, and answers to questions about a caption."""
    for scene in trained_scenes(rng):
        yield {"messages": [{"role": "system", "content": scene.caption}, *dialogue(scene, rng)]}


def caption_texts(rng: random.Random) -> Iterator[Row]:
    for scene in trained_scenes(rng):
        yield {"text": scene.caption}


def captions(rng: random.Random) -> Iterator[Row]:
    for _ in range(DRAWN):
        for scene in trained_scenes(rng):
            yield {"image": draw(scene, rng), "caption": scene.caption}


def held_out_captions(rng: random.Random) -> Iterator[Row]:
    for scene in UNSEEN:
        yield {"image": draw(scene, rng), "caption": [scene.caption]}


def chats(rng: random.Random) -> Iterator[Row]:
    for scene in rng.choices(TRAINED, k=CHATS):
        yield {"image": draw(scene, rng), "messages": dialogue(scene, rng)}


def held_out_questions(rng: random.Random) -> Iterator[Row]:
    """Two questions about each held-out scene."""
    for scene in UNSEEN:
        asked = questions(scene)
        for topic in rng.sample(list(asked), 2):
            question, answer = asked[topic]
            topic = topic.removeprefix("other ")
            yield {"image": draw(scene, rng), "question": question, "answers": [answer], "topic": topic}


def held_out_third_turns(rng: random.Random) -> Iterator[Row]:
    """Dialogues about held-out scenes up to their third question."""
    for scene in rng.choices(UNSEEN, k=THIRD_TURNS):
        *messages, answer = dialogue(scene, rng)
        yield {"image": draw(scene, rng), "prompt": messages, "answer": answer["content"]}


FILES: dict[str, Callable[[random.Random], Iterator[Row]]] = {
    "picture-texts.jsonl.gz": texts,
    "caption-texts.jsonl.gz": caption_texts,
    "captions.jsonl.gz": captions,
    "captions-held-out.jsonl.gz": held_out_captions,
    "picture-chats.jsonl.gz": chats,
    "picture-questions-held-out.jsonl.gz": held_out_questions,
    "picture-turns-held-out.jsonl.gz": held_out_third_turns,
}


if __name__ == "__main__":
    sys.exit(writing.main(FILES, "pictures.py"))

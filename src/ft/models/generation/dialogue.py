"""Whole dialogues answered turn by turn: what the model has read in a turn it does not read again.

Each prompt is rendered afresh, and only what follows its longest common beginning with the tokens already read is fed.
So a template that rewrites earlier turns costs time and never changes an answer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ft.encode.chat_template import Message
from ft.encode.conversation import BadRow, Renderer
from ft.encode.pictures import picture_in
from ft.models.generation.engine import Completion, Engine, Request
from ft.models.generation.sampling import Sampling
from ft.models.token_budget import completion_budget, positions_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """A user message and its answer in the context of later turns: the one `given`, or the model's own.

    With `ask` False the model does not answer and `given` stands alone.
    """

    user: str
    given: str | None = None
    ask: bool = True

    def __post_init__(self) -> None:
        if self.given is None and not self.ask:
            raise ValueError(f"the turn {self.user!r} has no answer: neither asked for nor given")


@dataclass(frozen=True)
class Dialogue:
    """What is to be answered. `key` is its own: with the seed and the turn it decides what is sampled.

    `start` holds the messages before the first turn: a system message, or all of the dialogue so far.
    """

    key: str
    turns: Sequence[Turn]
    start: Sequence[Message] = ()


@dataclass(frozen=True)
class Answer:
    """`ids` without the end-of-turn token; `ended` is False where `max_new_tokens` cut it."""

    text: str
    ids: list[int]
    ended: bool


@dataclass(frozen=True)
class Transcript:
    """A finished dialogue: the model's answer of each turn, None where it was not asked.

    `stopped` says why turns are missing at the end; it is empty when none is.
    """

    dialogue: Dialogue
    answers: list[Answer | None]
    stopped: str = ""


def answer_dialogues(
    engine: Engine,
    renderer: Renderer,
    dialogues: Sequence[Dialogue],
    sampling: Sampling,
    *,
    batch_size: int = 64,
    tick: Callable[[int, int], None] = lambda turns, tokens: None,
) -> Iterator[Transcript]:
    """Transcripts in the order they finish; the longest dialogues are begun first.

    A transcript depends on its dialogue alone, up to the rounding of a batch's arithmetic. So after a break, leave out
    the dialogues that are done, by key. `tick` hears of turns that were answered, or will not be, and of tokens
    generated since it last did.
    """
    if twice := [key for key, count in Counter(d.key for d in dialogues).items() if count > 1]:
        raise ValueError(f"dialogues share the key {twice[0]!r}")
    if engine.why_slow and any(len(dialogue.turns) > 1 for dialogue in dialogues):
        log.warning("every turn is read from the beginning, which is slower: %s", engine.why_slow)
    positions = positions_of(engine.model)
    progress = {
        dialogue.key: _Progress(dialogue, renderer, sampling, positions)
        for dialogue in sorted(dialogues, key=_size, reverse=True)
    }
    finished: list[Transcript] = []  # since a transcript was last given away

    def next_request(one: _Progress) -> Request | None:
        request = one.next_request()
        if request is None:
            tick(sum(turn.ask for turn in one.dialogue.turns[len(one.answers) :]), 0)
            finished.append(Transcript(one.dialogue, one.answers, one.stopped))
        return request

    def follow(completion: Completion) -> Request | None:
        one = progress[completion.key.rpartition("\n")[0]]
        one.take(completion)
        return next_request(one)

    first_requests = (request for one in progress.values() if (request := next_request(one)))
    for completion in engine.generate(first_requests, sampling, batch_size=batch_size, follow=follow):
        tick(1, len(completion.completion_ids))
        yield from finished
        finished.clear()
    yield from finished


def _size(dialogue: Dialogue) -> tuple[int, int]:
    """Turns to answer, then characters: dialogues side by side shall end together and be of one length."""
    texts = [message["content"] for message in dialogue.start]
    texts += [text for turn in dialogue.turns for text in (turn.user, turn.given or "")]
    return sum(turn.ask for turn in dialogue.turns), sum(map(len, texts))


class _Progress:
    """A dialogue under way."""

    def __init__(self, dialogue: Dialogue, renderer: Renderer, sampling: Sampling, positions: int | None):
        self.dialogue, self.renderer, self.sampling, self.positions = dialogue, renderer, sampling, positions
        self.messages: list[Message] = list(dialogue.start)
        self.answers: list[Answer | None] = []
        self.stopped = ""
        self.limit = 0

    def next_request(self) -> Request | None:
        """Pass over turns that are only given, to the next prompt. None where there is none, or none that fits."""
        turns = self.dialogue.turns
        while not self.stopped and len(self.answers) < len(turns) and not turns[len(self.answers)].ask:
            self._go_on(None)
        if self.stopped or len(self.answers) == len(turns):
            return None
        try:
            question = {"role": "user", "content": turns[len(self.answers)].user}
            prompt = self.renderer.prompt([*self.messages, question])
        except BadRow as bad:
            self._stop(str(bad))
            return None
        self.limit = completion_budget(self.positions, len(prompt), self.sampling.max_new_tokens)
        if self.limit < 1:
            self._stop(f"its prompt has {len(prompt)} tokens, and the model has {self.positions} positions")
            return None
        return Request(prompt, f"{self.dialogue.key}\n{len(self.answers)}", self.limit, picture_in(self.messages))

    def take(self, completion: Completion) -> None:
        ended = completion.finish_reason == "stop"
        if not ended and self.limit < self.sampling.max_new_tokens:
            self._stop(f"its answer does not fit into the model's {self.positions} positions")
            return
        text = completion.text(self.renderer.tokenizer)
        self._go_on(Answer(text, completion.text_ids, ended))

    def _go_on(self, answer: Answer | None) -> None:
        """Go past a turn, with what the model answered if it was asked."""
        turn = self.dialogue.turns[len(self.answers)]
        text = answer.text if answer and turn.given is None else turn.given
        self.messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": text}]
        self.answers.append(answer)

    def _stop(self, why: str) -> None:
        self.stopped = f"turn {len(self.answers) + 1}: {why}"

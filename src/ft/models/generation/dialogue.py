"""Whole dialogues answered turn by turn, in batches: what the model has read in a turn it does not read again.

Each prompt is rendered afresh, and only what follows its longest common beginning with the tokens already read is fed.
So a template that rewrites earlier turns costs time and never changes an answer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft.encode.chat_template import Message
from ft.encode.conversation import BadRow, Renderer
from ft.models.generation.decode import decoded, draws
from ft.models.generation.generate import Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from ft.models.generation.cache import Memory

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
    """What is to be answered. `key` is its own: with the seed and the turn it decides what is drawn.

    `start` holds the messages before the first turn: a system message, or everything said so far.
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


def rollout(
    model: Any,
    renderer: Renderer,
    dialogues: Sequence[Dialogue],
    sampling: Sampling,
    *,
    batch_size: int = 64,
    carry: bool = True,
    tick: Callable[[int, int], None] = lambda finished, tokens: None,
) -> Iterator[Transcript]:
    """Transcripts in the order they finish, those of the longest dialogues first.

    A transcript depends on its dialogue alone, up to the rounding of a batch's arithmetic. So after a break, leave out
    the dialogues that are done, by key. `tick` hears of dialogues finished and tokens generated since it last did.
    `carry` False reads every prompt from its beginning; models whose cache cannot be carried are always read so.
    """
    from ft.models.generation.cache import not_carried

    if model.training:
        raise ValueError("the model is in training mode, where dropout changes answers: call model.eval()")
    if twice := [key for key, count in Counter(d.key for d in dialogues).items() if count > 1]:
        raise ValueError(f"dialogues share the key {twice[0]!r}")
    if carry and (reason := not_carried(model)):
        log.warning("every turn is read from the beginning, which is slower: %s", reason)
        carry = False
    speaker = _Speaker(model, renderer, sampling, carry)
    ordered = sorted(dialogues, key=_size, reverse=True)
    for first in range(0, len(ordered), batch_size):
        yield from speaker.batch(ordered[first : first + batch_size], tick)


def _size(dialogue: Dialogue) -> tuple[int, int]:
    """Turns to answer, then characters: dialogues of one batch shall end together and be of one length."""
    said = [message["content"] for message in dialogue.start]
    said += [text for turn in dialogue.turns for text in (turn.user, turn.given or "")]
    return sum(turn.ask for turn in dialogue.turns), sum(map(len, said))


class _Talk:
    """A dialogue under way: `read` are the tokens the model has read of it, `prompt` what it is to answer next."""

    def __init__(self, dialogue: Dialogue):
        self.dialogue = dialogue
        self.messages: list[Message] = list(dialogue.start)
        self.answers: list[Answer | None] = []
        self.stopped = ""
        self.read: list[int] = []
        self.prompt: list[int] = []

    def goes_on(self, renderer: Renderer, positions: float) -> bool:
        """Pass over turns that are only given, to the next prompt. False where there is none, or none that fits."""
        turns = self.dialogue.turns
        while not self.stopped and len(self.answers) < len(turns) and not turns[len(self.answers)].ask:
            self.take(None)
        if self.stopped or len(self.answers) == len(turns):
            return False
        try:
            question = {"role": "user", "content": turns[len(self.answers)].user}
            self.prompt = renderer.prompt([*self.messages, question])
        except BadRow as bad:
            return self.stop(str(bad))
        if len(self.prompt) >= positions:
            return self.stop(f"its prompt has {len(self.prompt)} tokens, and the model has {positions} positions")
        return True

    def stop(self, why: str) -> bool:
        self.stopped = f"turn {len(self.answers) + 1}: {why}"
        return False

    def take(self, answer: Answer | None) -> None:
        """Go past a turn, with what the model answered if it was asked."""
        turn = self.dialogue.turns[len(self.answers)]
        text = answer.text if answer and turn.given is None else turn.given
        self.messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": text}]
        self.answers.append(answer)

    def known(self) -> int:
        """How many tokens of the prompt have been read; the last one is always read again, for its logits."""
        most = min(len(self.read), len(self.prompt) - 1)
        return next((n for n in range(most) if self.read[n] != self.prompt[n]), most)


class _Speaker:
    """A model that answers the prompts of a batch of dialogues."""

    def __init__(self, model: Any, renderer: Renderer, sampling: Sampling, carry: bool):
        self.model, self.renderer, self.sampling, self.carry = model, renderer, sampling, carry
        config = model.config.get_text_config(decoder=True)
        self.positions: float = getattr(config, "max_position_embeddings", None) or float("inf")

    def batch(self, dialogues: Sequence[Dialogue], tick: Callable[[int, int], None]) -> Iterator[Transcript]:
        """Transcripts of dialogues side by side: a round answers one turn of each, until all have left."""
        from ft.models.generation.cache import Memory

        talks, tokens = [_Talk(dialogue) for dialogue in dialogues], 0
        memory = Memory(self.model, len(talks), self.carry)
        while talks:
            going = [place for place, talk in enumerate(talks) if talk.goes_on(self.renderer, self.positions)]
            left = [talk for place, talk in enumerate(talks) if place not in going]
            tick(len(left), tokens)
            yield from (Transcript(talk.dialogue, talk.answers, talk.stopped) for talk in left)
            talks = [talks[place] for place in going]
            tokens = self._round(talks, going, memory) if talks else 0

    def _round(self, talks: list[_Talk], places: list[int], memory: Memory) -> int:
        """Answer each talk's prompt, and return how many tokens that took; `places` are its rows in `memory`."""
        known = [talk.known() if self.carry else 0 for talk in talks]
        rooms = [int(min(self.sampling.max_new_tokens, self.positions - len(talk.prompt))) for talk in talks]
        new = [talk.prompt[n:] for talk, n in zip(talks, known, strict=True)]
        memory.keep(places, known, room=max(map(len, new)) + max(rooms))
        said, _ = decoded(memory, new, rooms, self.sampling, self.renderer.stop_ids, self._draws(talks))
        for talk, ids, room in zip(talks, said, rooms, strict=True):
            ended = ids[-1] in self.renderer.stop_ids
            talk.read = talk.prompt + ids[:-1]  # the last one ended the answer before it was read
            if not ended and room < self.sampling.max_new_tokens:
                talk.stop(f"its answer does not fit into the model's {self.positions} positions")
                continue
            ids = ids[:-1] if ended else ids
            text: str = self.renderer.tokenizer.decode(ids, skip_special_tokens=True)
            talk.take(Answer(text.strip(), ids, ended))
        return sum(map(len, said))

    def _draws(self, talks: list[_Talk]) -> Tensor | None:
        """Numbers in [0, 1) to draw tokens with, (B, max_new_tokens): by seed, dialogue and turn, not by place."""
        keys = [f"{talk.dialogue.key}\n{len(talk.answers)}" for talk in talks]
        return draws(keys, self.sampling)

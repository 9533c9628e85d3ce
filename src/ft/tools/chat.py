"""Talking to a model in a terminal, or from a pipe: the answers on stdout, everything about them on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from ft import artifacts
from ft.console import Terminal
from ft.data.formats.messages import BadRow, is_unicode, make_message
from ft.encode.truncation import fewest_dropped, messages_left, turn_starts
from ft.errors import Problem, fail
from ft.hub import local_path
from ft.models.generation.chat_model import NF4, ChatModel
from ft.models.generation.sampling import PRESETS, Sampling
from ft.models.token_budget import prompt_budget
from ft.printable import escape
from ft.recipe import ModelSource
from ft.results.store import NEW, Plan
from ft.results.variants import find_finished

DEFAULT_MAX_NEW_TOKENS = 512
HELP = """\
/system TEXT   what the model is told before the dialogue; without TEXT: nothing
/reset         forget the dialogue, keep the system message
/preset NAME   how answers are chosen: {presets}
/help          this
/quit          leave; so does Ctrl-D. Ctrl-C stops an answer.
A message that begins with / is typed with a blank before it."""


@dataclass(frozen=True)
class ChatTarget:
    """What to talk to: a finished folder, or a model by its name."""

    label: str
    model: ModelSource | None = None
    folder: Path | None = None
    chat_template: str | None = None


def newest_model(planned_run: Plan, tell: Callable[[str], None]) -> ChatTarget:
    """The last model of the recipe that is made; `tell` is told when its settings are not the recipe's.

    Raises UserError with the command that makes one.
    """
    models = [p for p in planned_run.stages if "model" in p.stage.kind.leaves]
    found = find_finished(planned_run, [p.name for p in models])
    recipe = planned_run.recipe.argument
    if not models:
        raise fail(recipe, "no stage of it leaves a model", "Name a model's folder.")
    if found is None:
        last = models[-1]
        changed = "" if last.why == NEW else f" ({last.why})"
        raise fail(recipe, f"none of its models is made{changed}", f"Make one: ft run {recipe} --to {last.name}")
    found.tell(tell)
    folder, stage = found.result.folder, planned_run.stage(found.result.stage).stage
    return ChatTarget(str(folder), planned_run.recipe.model_of(stage), folder, planned_run.recipe.chat_template)


def model_at(path: str) -> ChatTarget:
    """A model's folder or a Hub id. Raises UserError where the path is neither."""
    folder = local_path(path)
    if folder is None:
        return ChatTarget(path, model=ModelSource(path))
    if (folder / artifacts.CONFIG).exists() or (folder / artifacts.ADAPTER_CONFIG).exists():
        return ChatTarget(path, folder=folder)
    if folder.is_dir():
        inside = sorted(p.parent.name for p in folder.glob("*/*config.json") if "checkpoint" not in p.parent.name)
        fix = f"These folders in it do: {', '.join(dict.fromkeys(inside))}." if inside else "Name one with config.json."
        raise fail(path, "this folder holds no model", fix)
    raise fail(path, "no such folder", "Name a model's folder, a recipe's .yaml file or a Hub id (owner/name).")


@dataclass(frozen=True)
class AnswerOptions:
    """How answers are made: a preset, and what is given beside it."""

    preset: str = "llama2"
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int = 1

    def sampling(self, positions: int | None) -> Sampling:
        """For a model that sees `positions` tokens (None: not known). Raises UserError."""
        if self.preset not in PRESETS:
            raise fail("--preset", f"no preset '{self.preset}'", f"There are: {', '.join(PRESETS)}.")
        if self.temperature is not None and self.temperature < 0:
            raise fail("--temperature", f"it is {self.temperature:g}", "Write 0 (greedy) or more.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise fail("--top-p", f"it is {self.top_p:g}", "Write a share above 0, up to 1.")
        values = PRESETS[self.preset]
        temperature = values["temperature"] if self.temperature is None else self.temperature
        top_p = values["top_p"] if self.top_p is None else self.top_p
        return Sampling(self._tokens(positions), temperature, top_p, self.seed)

    def _tokens(self, positions: int | None) -> int:
        """As many as asked, or 512, or half of what a smaller model sees."""
        if self.max_new_tokens is None:
            return min(DEFAULT_MAX_NEW_TOKENS, positions // 2) if positions else DEFAULT_MAX_NEW_TOKENS
        if self.max_new_tokens < 1 or (positions and self.max_new_tokens >= positions):
            allowed = f"1 to {positions - 1:,}: the model sees {positions:,} tokens" if positions else "1 or more"
            raise fail("--max-new-tokens", f"it is {self.max_new_tokens}", f"Write {allowed}.")
        return self.max_new_tokens


class ChatSession:
    """The messages so far, and the model that answers. Everything reaches it through `Renderer.prompt`."""

    def __init__(self, chat_model: ChatModel, sampling: Sampling, out: TextIO, notes: Console):
        self.chat_model, self.sampling, self.out, self.notes = chat_model, sampling, out, notes
        self.system: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []

    def handle(self, line: str) -> bool:
        """One line of the user: a command or a message. False: leave."""
        if not line.startswith("/"):
            if line.strip():
                self.send(line.strip())
            return True
        command, _, argument = line[1:].strip().partition(" ")
        if command == "quit":
            return False
        if command == "system":
            self.change_system(argument.strip())
        elif command == "reset":
            self.messages = []
            self.note("The dialogue is forgotten.")
        elif command == "preset":
            self.choose_preset(argument.strip())
        elif command == "help":
            self.note(HELP.format(presets=", ".join(PRESETS)))
        else:
            self.note(f"no command '/{command}'. There are: /system, /reset, /preset, /help, /quit.")
        return True

    def change_system(self, text: str) -> None:
        """`/system`: set the system message, where the template has a place for one."""
        try:
            self.set_system(text)
        except BadRow as refused:
            self.note(str(Problem("not taken", refused.what, refused.fix)))
        else:
            self.note("The system message is set." if text else "There is no system message.")

    def set_system(self, text: str) -> None:
        """Raises BadRow where the template refuses it."""
        system = [make_message("system", text)] if text else []
        self._prompt([*system, make_message("user", "hello")])
        self.system = system

    def choose_preset(self, preset: str) -> None:
        if preset not in PRESETS:
            self.note(f"no preset '{preset}'. There are: {', '.join(PRESETS)}.")
            return
        values = PRESETS[preset]
        self.sampling = replace(self.sampling, temperature=values["temperature"], top_p=values["top_p"])
        self.note(f"{preset}: temperature {self.sampling.temperature:g}, top_p {self.sampling.top_p:g}")

    def send(self, text: str) -> None:
        """Answer a message, or say why it is refused; a refused message leaves the dialogue as it was."""
        messages = [*self.messages, make_message("user", text)]
        try:
            messages, prompt = self._fit(messages)
        except BadRow as refused:
            self.note(str(Problem("not sent", refused.what, refused.fix)))
            return
        answer = self._answer(prompt)
        self.messages = messages[:-1]
        if not answer:
            self.note("There is no answer; the message is forgotten.")
            return
        turn = [messages[-1], make_message("assistant", answer)]
        try:
            self._prompt([*self.system, *self.messages, *turn, make_message("user", "go on")])
        except BadRow as refused:
            self.note(f"the answer is not remembered: {refused.what}")
            return
        self.messages += turn

    def note(self, text: str) -> None:
        self.notes.print(text, style="dim")

    def _answer(self, prompt: list[int]) -> str:
        """Print the answer piece by piece; Ctrl-C ends it where it is."""
        pieces: list[str] = []

        def on_text(piece: str) -> None:
            text = piece if pieces else piece.lstrip()  # templates leave the first blank to the answer
            if text:
                pieces.append(text)
                print(escape(text), end="", file=self.out, flush=True)

        print("assistant: ", end="", file=self.out, flush=True)
        try:
            self.chat_model.stream(prompt, self.sampling, on_text)
        except KeyboardInterrupt:
            print(" …", end="", file=self.out)
        print(file=self.out, flush=True)
        # A question asked again may get another answer.
        self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        return "".join(pieces).strip()

    def _prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        for message in messages:
            if not is_unicode(message["content"]):
                raise BadRow("the message is not UTF-8 text", "Look at the terminal's encoding.")
        return self.chat_model.renderer.prompt(messages)

    def _fit(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
        """The dialogue and its prompt, less as many whole oldest turns as the model has no room for."""
        prompt = self._prompt([*self.system, *messages])
        positions = self.chat_model.positions
        room = prompt_budget(positions, self.sampling.max_new_tokens)
        if room is None or len(prompt) <= room:
            return messages, prompt

        def fits(turns: int) -> tuple[list[dict[str, Any]], list[int]] | None:
            shortened = [messages[place] for place in messages_left(messages, turns)]
            shorter = self._prompt([*self.system, *shortened])
            return (shortened, shorter) if len(shorter) <= room else None

        dropped = fewest_dropped(len(turn_starts(messages)) - 1, fits)
        if dropped is None:
            message_tokens = len(self._prompt([*self.system, messages[-1]]))
            what = f"it is {message_tokens:,} tokens long, and the model has room for {room:,} before an answer"
            raise BadRow(what, "Shorten it, or set a smaller --max-new-tokens.")
        turns = f"{dropped[0]} oldest turns are" if dropped[0] > 1 else "The oldest turn is"
        self.note(f"{turns} forgotten: the model sees {positions:,} tokens.")
        return dropped[1]


def run(session: ChatSession, lines: TextIO) -> None:
    """Until /quit, Ctrl-D or the end of the input."""
    for line in _typed_lines(session) if lines.isatty() else lines:
        if not session.handle(line.rstrip("\r\n")):
            return


def _typed_lines(session: ChatSession) -> Iterator[str]:
    """Lines typed at a terminal, with editing and history."""
    import readline  # noqa: F401  its import gives input() line editing

    session.note("/help tells the commands; Ctrl-D leaves.")
    while True:
        try:
            yield input("you: ")
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            session.note("Ctrl-D leaves.")


def chat(
    target: ChatTarget,
    options: AnswerOptions,
    system: str | None = None,
    load_4bit: bool = False,
    chat_template: str | None = None,
) -> None:
    """Load the model and talk, until /quit or the end of the input."""
    options.sampling(None)  # what was typed is checked before anything is loaded
    notes = Terminal(stderr=True)
    template = chat_template or target.chat_template
    chat_model = ChatModel(target.model, target.folder, template, NF4 if load_4bit else None)
    session = ChatSession(chat_model, options.sampling(chat_model.positions), sys.stdout, notes)
    sampling = session.sampling
    session.note(f"{target.label}: {options.preset}, temperature {sampling.temperature:g}, top_p {sampling.top_p:g}")
    try:
        session.set_system(system or "")
    except BadRow as refused:
        raise fail("--system", refused.what, refused.fix) from refused
    run(session, sys.stdin)

"""Talking to a model in a terminal, or from a pipe: the answers on stdout, everything about them on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from ft import artifacts
from ft.console import Terminal
from ft.data.formats.fields import CALLS, IMAGES, TOOLS, Message
from ft.data.formats.messages import BadRow, is_unicode, make_message
from ft.data.formats.pictures import open_picture
from ft.encode.tool_calls import CallReader
from ft.encode.truncation import fewest_dropped, shortened, turn_starts
from ft.errors import Problem, fail
from ft.files import append_lines
from ft.hub import local_path
from ft.models.generation.chat_model import NF4, ChatModel
from ft.models.generation.decoding import PRESETS, DecodingOptions
from ft.models.generation.sampling import Sampling
from ft.models.token_budget import prompt_budget
from ft.printable import escape
from ft.progress import waiting
from ft.recipe import ModelSource
from ft.result import Result
from ft.results.store import NEW, Plan
from ft.results.variants import find_finished
from ft.tools.chat_tools import ChatTools, call_text, read_tools

DEFAULT_MAX_NEW_TOKENS = 512
CALL_ROUNDS = 8  # answers with calls to one message: a model that never stops calling is stopped
HELP = """\
/retry         answer the last message again
/undo          forget the last message and its answer
/compare       what the model before says to the last message
/save FILE     append the dialogue to FILE as a row of training data (JSONL)
/system TEXT   set the system message; without TEXT: remove it
/reset         forget the dialogue, keep the system message (also /clear)
/preset NAME   how answers are sampled: {presets}
/image FILE    look at another picture, in a new dialogue
/caption       what the picture shows, in the model's own words
/help          this
/quit          leave (also /exit, /bye and Ctrl-D). Ctrl-C stops an answer.
A message that begins with / is typed with a blank before it. Pasted lines are one message."""
ALIASES = {"exit": "quit", "bye": "quit", "clear": "reset"}
CUT = " […]"
"""Stands behind an answer that did not come to its end."""


@dataclass(frozen=True)
class ChatTarget:
    """What to talk to: a finished folder, or a model by its name."""

    label: str
    model: ModelSource | None = None
    folder: Path | None = None
    chat_template: str | None = None

    def before(self) -> ChatTarget | None:
        """The model it was trained from: that of the stage before, else the base; None where nobody knows."""
        job = Result(self.folder).job if self.folder else {}
        if job.get("init"):
            folder = Path(job["init"])
            if not folder.is_dir():
                return None
            return ChatTarget(Result(folder).stage or str(folder), folder=folder, chat_template=self.chat_template)
        base = job.get("model")
        if not base or "path" not in base:
            return None
        template = self.chat_template or job.get("template")
        return ChatTarget(f"the base model {base['path']}", model=ModelSource(**base), chat_template=template)


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
    """How answers are made: a preset and what is given beside it, by the names of DecodingOptions."""

    decoding: Mapping[str, Any] = field(default_factory=lambda: {"preset": "llama2"})
    max_new_tokens: int | None = None
    seed: int = 1

    def sampling(self, positions: int | None) -> Sampling:
        """For a model that sees `positions` tokens (None: not known). Raises UserError."""
        tokens = self._tokens(positions)
        try:
            return DecodingOptions(**self.decoding).sampling(tokens, seed=self.seed)
        except ValueError as error:
            raise fail("ft chat", str(error), "See ft chat --help.") from error

    def _tokens(self, positions: int | None) -> int:
        """As many as asked, or 512, or half of what a smaller model sees."""
        if self.max_new_tokens is None:
            return min(DEFAULT_MAX_NEW_TOKENS, positions // 2) if positions else DEFAULT_MAX_NEW_TOKENS
        if self.max_new_tokens < 1 or (positions and self.max_new_tokens >= positions):
            allowed = f"1 to {positions - 1:,}: the model sees {positions:,} tokens" if positions else "1 or more"
            raise fail("--max-new-tokens", f"it is {self.max_new_tokens}", f"Write {allowed}.")
        return self.max_new_tokens


class ChatSession:
    """The messages so far, and the model that answers. Everything reaches it through `Renderer.prompt`.

    load_before  loads the model before, and says what it is called; None: there is none to compare with
    refused      how many lines were refused: commands that are none, messages the model could not be asked
    tools        what the model may call. Raises UserError where calls of its chat template cannot be read
    """

    def __init__(
        self,
        chat_model: ChatModel,
        sampling: Sampling,
        out: TextIO,
        notes: Console,
        load_before: Callable[[], tuple[str, ChatModel]] | None = None,
        tools: ChatTools | None = None,
    ):
        self.chat_model, self.sampling, self.out, self.notes = chat_model, sampling, out, notes
        self.load_before = load_before
        self.before: tuple[str, ChatModel] | None = None
        self.system: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.refused = 0
        self.tools = tools
        self.picture: str | None = None
        self.reader = CallReader(chat_model.renderer.chat) if tools else None

    def handle(self, line: str) -> bool:
        """One line of the user: a command or a message. False: leave."""
        if not line.startswith("/"):
            if line.strip():
                self.send(line.strip())
            return True
        command, _, argument = line[1:].strip().partition(" ")
        command = ALIASES.get(command, command)
        if command == "quit":
            return False
        commands: dict[str, Callable[[str], None]] = {
            "retry": lambda _: self.retry(),
            "undo": lambda _: self.undo(),
            "compare": lambda _: self.compare(),
            "save": self.save,
            "system": self.change_system,
            "reset": lambda _: self.reset(),
            "preset": self.choose_preset,
            "image": self.change_picture,
            "caption": lambda _: self.caption(),
            "help": lambda _: self.note(HELP.format(presets=", ".join(PRESETS))),
        }
        if command in commands:
            commands[command](argument.strip())
        else:
            self.refuse(f"no command '/{command}'. There are: {', '.join(f'/{name}' for name in (*commands, 'quit'))}.")
        return True

    def reset(self) -> None:
        self.messages = []
        self.note("The dialogue is forgotten.")

    def retry(self) -> None:
        """`/retry`: another answer to the last message, in place of the one there is."""
        if not self.messages:
            self.refuse("There is no message to answer again.")
            return
        place = turn_starts(self.messages)[-1]
        question, self.messages = self.messages[place], self.messages[:place]
        self.send(question["content"])

    def undo(self) -> None:
        if not self.messages:
            self.refuse("There is no message to forget.")
            return
        self.messages = self.messages[: turn_starts(self.messages)[-1]]
        self.note("The last message and its answer are forgotten.")

    def compare(self) -> None:
        """`/compare`: what the model before says to the last message, behind the same dialogue."""
        if not self.messages:
            self.refuse("There is no message to answer. Send one first.")
        elif self.load_before is None:
            self.refuse("There is no model before this one to compare with.")
        else:
            self.before = self.before or self.load_before()
            name, chat_model = self.before
            try:
                messages = self._about_picture([*self.system, *self.messages[:-1]])
                prompt = chat_model.renderer.prompt(messages, self._schemas)
            except BadRow as refused:
                self.refuse(str(Problem(f"not sent to {name}", refused.what, refused.fix)))
                return
            self._answer(prompt, chat_model, name)

    def save(self, file: str) -> None:
        """`/save FILE`: the dialogue as a row that a recipe reads."""
        if not file or not self.messages:
            self.refuse("Write /save FILE." if self.messages else "There is no dialogue to save.")
            return
        try:
            messages = self._about_picture([*self.system, *self.messages])
            row = {"messages": messages, **({TOOLS: self._schemas} if self._schemas else {})}
            append_lines(Path(file).expanduser(), [row])
        except OSError as error:
            self.refuse(f"{file}: not saved: {error.strerror}")
        else:
            self.note(f"saved as a row of {file}")

    def refuse(self, text: str) -> None:
        self.refused += 1
        self.note(text)

    def change_system(self, text: str) -> None:
        """`/system`: set the system message, where the template has a place for one."""
        had = bool(self.system)
        try:
            self.set_system(text)
        except BadRow as refused:
            self.refuse(str(Problem("not taken", refused.what, refused.fix)))
        else:
            removed = "The system message is removed." if had else "There was no system message."
            self.note("The system message is set." if text else removed)

    def set_system(self, text: str) -> None:
        """Raises BadRow where the template refuses it."""
        system = [make_message("system", text)] if text else []
        self._prompt([*system, make_message("user", "hello")])
        self.system = system

    def change_picture(self, file: str) -> None:
        """`/image FILE`: what is asked from now on is about this picture."""
        try:
            self.set_picture(file)
        except BadRow as refused:
            self.refuse(str(Problem("not taken", refused.what, refused.fix)))
        else:
            self.messages = []
            self.note("Ask about the picture, or write /caption.")

    def set_picture(self, file: str) -> None:
        """Raises BadRow where the model reads no pictures, or not this one."""
        if self.chat_model.renderer.pictures is None:
            raise BadRow("the model reads text alone", "Name a model that takes pictures.")
        path = str(Path(file).expanduser().resolve())
        open_picture(path)
        self.picture = path

    def caption(self) -> None:
        """`/caption`: what the model says of the picture unasked. It is no turn of the dialogue."""
        if self.picture is None:
            self.refuse("There is no picture. Write /image FILE.")
            return
        self._answer(self._prompt([make_message("user", "")]))

    def _about_picture(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages with the picture in the first of the user's."""
        first = next((n for n, message in enumerate(messages) if message["role"] == "user"), None)
        if self.picture is None or first is None:
            return messages
        return [*messages[:first], {**messages[first], IMAGES: [self.picture]}, *messages[first + 1 :]]

    def choose_preset(self, preset: str) -> None:
        if preset not in PRESETS:
            self.refuse(f"no preset '{preset}'. There are: {', '.join(PRESETS)}.")
            return
        own = self.sampling
        self.sampling = DecodingOptions(preset, stop=[*own.stop]).sampling(own.max_new_tokens, seed=own.seed)
        self.note(f"{preset}: {_sampling_words(self.sampling)}")

    def send(self, text: str) -> None:
        """Answer a message, or say why it is refused; a refused message leaves the dialogue as it was. Calls are run,
        and what they find is answered in turn."""
        messages = [*self.messages, make_message("user", text)]
        for _ in range(CALL_ROUNDS):
            try:
                messages, prompt = self._fit(messages)
            except BadRow as refused:
                self.refuse(str(Problem("not sent", refused.what, refused.fix)))
                return
            answer = self._as_message(*self._answer(prompt), prompt)
            if messages[-1]["role"] == "user":
                self.messages = messages[:-1]  # less the turns for which there was no room
            if answer is None:
                self.refuse("There is no answer; the message is forgotten.")
                return
            messages = [*messages, answer]
            try:
                self._prompt([*self.system, *messages, make_message("user", "go on")])
            except BadRow as refused:
                self.note(f"the answer is not remembered: {refused.what}")
                return
            results = self._run_calls(answer)
            messages += results
            if not results:
                self.messages = messages
                return
        self.refuse(f"The model called tools {CALL_ROUNDS} times and did not answer; the message is forgotten.")

    def _as_message(self, text: str, raw: str, prompt: list[int]) -> Message | None:
        """An answer and the calls in it; `raw` is all that was written, special tokens too. None where it is empty."""
        calls: list[Any] = []
        if self.reader and raw:
            try:
                content, calls = self.reader.read(str(self.chat_model.tokenizer.decode(prompt)), raw, self._schemas)
                text = content if calls else text
            except BadRow as broken:
                self.note(broken.what)
        if calls:
            return {**make_message("assistant", text), CALLS: calls}
        return make_message("assistant", text) if text else None

    def _run_calls(self, answer: Message) -> list[Message]:
        """What the tools found, a message for each call; none where nothing is called, or nothing can be run."""
        results: list[Message] = []
        for call in answer.get(CALLS, ()):
            if not self.tools or not self.tools.functions:
                self.note(f"not run, since --tools only describes it: {escape(call_text(call))}")
                continue
            result = self.tools.result(call)
            self.note(f"{escape(call_text(call))} → {escape(result)}")
            results.append({**make_message("tool", result or "nothing"), "name": call["function"]["name"]})
        return results

    def note(self, text: str) -> None:
        self.notes.print(text, style="dim")

    def _answer(
        self, prompt: list[int], chat_model: ChatModel | None = None, name: str = "assistant"
    ) -> tuple[str, str]:
        """Print the answer piece by piece; Ctrl-C ends it where it is. One that is cut is marked.

        Its text, and with special tokens all that was written; that is empty where the user stopped it.
        """
        pieces: list[str] = []
        chat_model, raw = chat_model or self.chat_model, ""

        def on_text(piece: str) -> None:
            text = piece if pieces else piece.lstrip()  # templates leave the first blank to the answer
            if text:
                pieces.append(text)
                print(escape(text), end="", file=self.out, flush=True)

        print(f"{escape(name)}: ", end="", file=self.out, flush=True)
        try:
            completion = chat_model.stream(prompt, self.sampling, on_text, self.picture)
        except KeyboardInterrupt:
            print(CUT, file=self.out, flush=True)
        else:
            cut = completion.finish_reason != "stop"
            raw = chat_model.text(completion, special_tokens=True)
            print(CUT if cut else "", file=self.out, flush=True)
            if cut:
                tokens = len(completion.completion_ids)
                self.note(f"cut at {tokens:,} tokens; --max-new-tokens gives more room")
        # A question asked again may get another answer.
        self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        return "".join(pieces).strip(), raw

    def _prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        for message in messages:
            if not is_unicode(message["content"]):
                raise BadRow("the message is not UTF-8 text", "Look at the terminal's encoding.")
        return self.chat_model.renderer.prompt(self._about_picture(messages), self._schemas)

    @property
    def _schemas(self) -> list[Any] | None:
        return self.tools.schemas if self.tools else None

    def _fit(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
        """The dialogue and its prompt, less as many whole oldest turns as the model has no room for."""
        prompt = self._prompt([*self.system, *messages])
        positions = self.chat_model.positions
        room = prompt_budget(positions, self.sampling.max_new_tokens)
        if room is None or len(prompt) <= room:
            return messages, prompt

        def fits(turns: int) -> tuple[list[dict[str, Any]], list[int]] | None:
            left = shortened(messages, turns)
            shorter = self._prompt([*self.system, *left])
            return (left, shorter) if len(shorter) <= room else None

        dropped = fewest_dropped(len(turn_starts(messages)) - 1, fits)
        if dropped is None:
            message_tokens = len(self._prompt([*self.system, messages[-1]]))
            what = f"it is {message_tokens:,} tokens long, and the model has room for {room:,} before an answer"
            raise BadRow(what, "Shorten it, or set a smaller --max-new-tokens.")
        turns = f"{dropped[0]} oldest turns are" if dropped[0] > 1 else "The oldest turn is"
        self.note(f"{turns} forgotten: the model sees {positions:,} tokens.")
        return dropped[1]


def run(session: ChatSession, lines: TextIO) -> int:
    """Until /quit, Ctrl-D or the end of the input; the exit code. A pipe has nobody who sees that a line was refused:
    then it is 1."""
    is_typed = lines.isatty()
    for line in _typed_lines(session) if is_typed else lines:
        if not session.handle(line.rstrip("\r\n")):
            break
    return 1 if session.refused and not is_typed else 0


def _typed_lines(session: ChatSession) -> Iterator[str]:
    """Lines typed at a terminal, with editing and history."""
    import readline  # its import gives input() line editing

    readline.parse_and_bind("set enable-bracketed-paste on")  # pasted lines come as one; Python switches it off
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


def _ask(call: str) -> bool:
    """Whether the user lets a call run; Ctrl-C and Ctrl-D do not."""
    try:
        return input(f"run {escape(call)}? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def chat(
    target: ChatTarget,
    options: AnswerOptions,
    system: str | None = None,
    load_4bit: bool = False,
    chat_template: str | None = None,
    tools: Path | None = None,
    run_tools: bool = False,
    image: Path | None = None,
) -> int:
    """Load the model and talk, until /quit or the end of the input; the exit code. `tools` is a file of the user's own;
    each call is asked for unless `run_tools`."""
    options.sampling(None)  # what was typed is checked before anything is loaded
    chat_tools = read_tools(tools, (lambda call: True) if run_tools else _ask) if tools else None
    if chat_tools and chat_tools.functions and not run_tools and not sys.stdin.isatty():
        raise fail("--tools", "nobody can be asked before a call: this is no terminal", "Add --run-tools to run each.")
    notes = Terminal(stderr=True)
    template = chat_template or target.chat_template
    chat_model = _load(target, template, load_4bit)
    before = target.before()

    def load_before() -> tuple[str, ChatModel]:
        assert before is not None
        return before.label, _load(before, before.chat_template, load_4bit)

    session = ChatSession(
        chat_model,
        options.sampling(chat_model.positions),
        sys.stdout,
        notes,
        load_before if before else None,
        chat_tools,
    )
    session.note(f"{target.label}: preset {options.decoding['preset']}, {_sampling_words(session.sampling)}")
    try:
        session.set_system(system or "")
    except BadRow as refused:
        raise fail("--system", refused.what, refused.fix) from refused
    try:
        if image is not None:
            session.set_picture(str(image))
    except BadRow as refused:
        raise fail("--image", refused.what, refused.fix) from refused
    return run(session, sys.stdin)


def _sampling_words(sampling: Sampling) -> str:
    """What decides an answer: temperature and top_p always, and what else is in use."""
    unsaid = ("max_new_tokens", "seed")
    return ", ".join(f"{name} {_plain(value)}" for name, value in sampling.record().items() if name not in unsaid)


def _plain(value: float | tuple[str, ...]) -> str:
    return " ".join(map(repr, value)) if isinstance(value, tuple) else f"{value:g}"


def _load(target: ChatTarget, chat_template: str | None, load_4bit: bool) -> ChatModel:
    """The model, with a word while it loads, which takes seconds."""
    with waiting(f"loading {target.label}"):
        return ChatModel(target.model, target.folder, chat_template, NF4 if load_4bit else None)

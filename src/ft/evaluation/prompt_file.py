"""What a model is asked, in a file with a name and a version: rendered by Jinja in a sandbox.

A prompt file is YAML: `name`, `version`, `prompt` (a template), and `system` where there is one. Who asks says which
values the template sees, and which of them it must show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from ft.data.formats.messages import BadRow, Message, make_message
from ft.errors import Problems, fail

Prompt = TypeVar("Prompt", bound="PromptFile")


@dataclass(frozen=True)
class PromptFile:
    """`hash` is that of the file's bytes."""

    name: str
    version: int
    hash: str
    prompt: str
    system: str = ""

    about: ClassVar[str] = "a prompt"
    trial: ClassVar[Mapping[str, Any]] = {}
    """Values to try the template with."""
    shown: ClassVar[Mapping[str, str]] = {}
    """Name of what the prompt must show → how that stands in the trial."""
    extra_keys: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def read(cls: type[Prompt], path: Path) -> Prompt:
        """The prompt in a file. Raises UserError with everything that is wrong with it."""
        try:
            raw = path.read_bytes()
            tree = yaml.safe_load(raw)
        except (OSError, yaml.YAMLError) as error:
            raise fail(str(path), f"cannot be read: {' '.join(str(error).split())}", "Write YAML.") from error
        problems = cls.check(tree, str(path))
        problems.raise_any()
        prompt = cls(**cls.fields_of(tree), hash=hashlib.sha256(raw).hexdigest()[:12])
        prompt.try_out(str(path))
        return prompt

    @classmethod
    def fields_of(cls, tree: Mapping[str, Any]) -> dict[str, Any]:
        return {key: tree[key] for key in ("name", "version", "prompt")} | {"system": tree.get("system", "")}

    @classmethod
    def check(cls, tree: Any, where: str) -> Problems:
        keys = ("name", "version", "prompt", *cls.extra_keys, "system")
        if not isinstance(tree, dict):
            raise fail(where, f"{cls.about} is a mapping", f"Write the keys {', '.join(keys)}.")
        problems = Problems()
        for key in [key for key in tree if key not in keys]:
            problems.add(where, f"{cls.about} has no key '{key}'", f"There are: {', '.join(keys)}.")
        for key, kind in (("name", str), ("version", int), ("prompt", str)):
            if type(tree.get(key)) is not kind:
                fix = f"Write {'a whole number' if kind is int else 'text'}."
                problems.add(where, f"{key} is {tree.get(key)!r}", fix)
        if not isinstance(tree.get("system", ""), str):
            problems.add(where, "system is no text", "Write text, or leave it out.")
        return problems

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "hash": self.hash}

    @cached_property
    def _template(self) -> Any:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        return sandbox.from_string(self.prompt)

    def render(self, values: Mapping[str, Any]) -> list[Message]:
        """What the model is asked. Raises BadRow where the row lacks what the template names."""
        try:
            text = self._template.render(**values)
        except Exception as error:  # a template is a program: it may raise anything
            raise BadRow(f"{self.about} '{self.name}' cannot be rendered: {error}") from error
        return [*([make_message("system", self.system)] if self.system else []), make_message("user", text.strip())]

    def try_out(self, where: str) -> None:
        """Raises UserError where the prompt does not compile, or leaves out what it must show."""
        try:
            text = self._template.render(**self.trial)
        except Exception as error:
            raise fail(where, f"prompt is no template that renders: {error}", "Fix it.") from error
        if missing := [name for name, words in self.shown.items() if words not in text]:
            what = f"the prompt never shows the {' and the '.join(missing)}"
            raise fail(where, what, f"The template sees {', '.join(self.trial)}.")


TEXT = "qZxTEXT"


class QuestionsPrompt(PromptFile):
    """Asks for `count` multiple-choice questions about `text`."""

    about = "a prompt for questions"
    trial: ClassVar[Mapping[str, Any]] = {"text": TEXT, "count": 98_765}
    shown: ClassVar[Mapping[str, str]] = {"text": TEXT, "count": "98765"}


class QuizPrompt(PromptFile):
    """Asks for the answers to `questions` (`question`, and `choices` by letter) from `text`."""

    about = "a prompt for a quiz"
    trial: ClassVar[Mapping[str, Any]] = {
        "text": TEXT,
        "questions": [{"question": "qZxASKED", "choices": dict.fromkeys("ABCDE", "qZxCHOICE")}],
    }
    shown: ClassVar[Mapping[str, str]] = {"text": TEXT, "questions": "qZxASKED", "choices": "qZxCHOICE"}

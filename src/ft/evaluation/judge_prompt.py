"""A judge's question and its reply: prompt files with a version, rendered for two answers, verdicts read strictly.

A prompt file is YAML: `name`, `version`, `prompt` (Jinja, in a sandbox; it sees `messages`, the conversation up to the
answers, `first`, `second`, and `row`, the other columns), `verdicts` (the marks that mean first, second and tie), and
`system` where there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from ft.data.formats.messages import BadRow, Message, make_message
from ft.errors import Problems, fail

Verdict = Literal["first", "second", "tie"]
VERDICTS: tuple[Verdict, ...] = ("first", "second", "tie")
KEYS = ("name", "version", "prompt", "verdicts", "system")


@dataclass(frozen=True)
class JudgePrompt:
    """`hash` is that of the file's bytes; `marks` are the verdicts as a judge is to write them."""

    name: str
    version: int
    hash: str
    prompt: str
    marks: Mapping[Verdict, str]
    system: str = ""

    @staticmethod
    def read(path: Path) -> JudgePrompt:
        """The prompt in a file. Raises UserError with everything that is wrong with it."""
        try:
            raw = path.read_bytes()
            tree = yaml.safe_load(raw)
        except (OSError, yaml.YAMLError) as error:
            raise fail(str(path), f"cannot be read: {' '.join(str(error).split())}", "Write YAML.") from error
        _check_keys(tree, str(path))
        values = {key: tree[key] for key in KEYS[:3]}
        prompt = JudgePrompt(
            **values, hash=hashlib.sha256(raw).hexdigest()[:12], marks=tree["verdicts"], system=tree.get("system", "")
        )
        prompt.try_out(str(path))
        return prompt

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "hash": self.hash}

    @cached_property
    def _template(self) -> Any:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        return sandbox.from_string(self.prompt)

    def messages(
        self, conversation: Sequence[Message], row: Mapping[str, Any], first: str, second: str
    ) -> list[Message]:
        """What the judge is told of two answers. Raises BadRow where the row lacks a column the prompt names."""
        try:
            text = self._template.render(messages=list(conversation), row=dict(row), first=first, second=second)
        except Exception as error:  # a template is a program: it may raise anything
            raise BadRow(f"the judge's prompt '{self.name}' cannot be rendered: {error}") from error
        return [*([make_message("system", self.system)] if self.system else []), make_message("user", text.strip())]

    def verdict(self, reply: str) -> Verdict | None:
        """The one verdict whose mark stands in the reply; None where there is none, or more than one of them."""
        verdicts = [verdict for verdict, mark in self.marks.items() if mark in reply]
        return verdicts[0] if len(verdicts) == 1 else None

    def try_out(self, where: str) -> None:
        """Raises UserError where the prompt does not compile, or leaves out an answer or the question."""
        words = {"first": "qZxFIRST", "second": "qZxSECOND", "question": "qZxASKED"}

        class _Any(dict[str, Any]):
            def __missing__(self, key: str) -> str:
                return key

        try:
            conversation = [make_message("user", words["question"])]
            text = self._template.render(
                messages=conversation, row=_Any(), first=words["first"], second=words["second"]
            )
        except Exception as error:
            raise fail(where, f"prompt is no template that renders: {error}", "Mend it.") from error
        missing = [name for name, word in words.items() if word not in text]
        if missing:
            what = f"the prompt never shows the {' and the '.join(missing)}"
            raise fail(where, what, "Write {{ first }}, {{ second }} and the messages into it.")


def _check_keys(tree: Any, where: str) -> None:
    if not isinstance(tree, dict):
        raise fail(where, "a judge's prompt is a mapping", f"Write the keys {', '.join(KEYS)}.")
    problems = Problems()
    for key in [key for key in tree if key not in KEYS]:
        problems.add(where, f"a judge's prompt has no key '{key}'", f"There are: {', '.join(KEYS)}.")
    for key, kind in (("name", str), ("version", int), ("prompt", str)):
        if type(tree.get(key)) is not kind:
            problems.add(where, f"{key} is {tree.get(key)!r}", f"Write {'a whole number' if kind is int else 'text'}.")
    if not isinstance(tree.get("system", ""), str):
        problems.add(where, "system is no text", "Write text, or leave it out.")
    marks = tree.get("verdicts")
    if (
        not isinstance(marks, dict)
        or {*marks} != {*VERDICTS}
        or not all(isinstance(m, str) and m for m in marks.values())
    ):
        problems.add(where, "verdicts does not say how each is written", "Write {first: '[[A]]', second: …, tie: …}.")
    elif any(one in other for one in marks.values() for other in marks.values() if one is not other):
        problems.add(where, "a mark of verdicts stands inside another one", "Write marks that cannot be confused.")
    problems.raise_any()

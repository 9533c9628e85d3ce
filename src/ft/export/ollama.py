"""A Modelfile for Ollama with the template that was trained with.

Ollama renders prompts by a Go template, and chat templates are Jinja programs. What a chat template writes is learnt by
rendering dialogues of unique words: where the text before a message depends on nothing but its role and the role before
it, a Go template of these pieces says the same. Where it depends on more, there is none, and the reason is told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft.encode.chat_template import WORD, ChatTemplate, Message, word
from ft.encode.conversation import BadRow, Renderer

U, A, S = "user", "assistant", "system"
ROLES = (S, U, A)
PROBES = ((U,), (U, A, U), (U, A, U, A, U), (S, U), (S, U, A, U))
SAID = ("What is it?", "Two\n\nlines, and {{ .Role }}", 'a "quoted" word', "Ünïcödé ☃ 你好", "5", "a: b | c")
DIALOGUES = ((U,), (U, A, U), (U, A) * 3 + (U,), (S, U), (S, U, A, U), (S, *(U, A) * 3, U))
OLLAMA_SEES = 4096  # tokens, where a Modelfile does not say


class Underivable(Exception):
    """No Go template says what this chat template says."""


@dataclass(frozen=True)
class GoTemplate:
    """The template's text, and what a person should know of it."""

    text: str
    notes: tuple[str, ...] = ()


def modelfile(renderer: Renderer, positions: int | None, adds_bos: bool, weights: str = ".") -> tuple[str, GoTemplate]:
    """The Modelfile's text and its template. Raises Underivable.

    `adds_bos`: whether Ollama puts the first BOS itself, as it does where tokenizer_config.json has add_bos_token.
    """
    if renderer.template is None:
        raise Underivable("the model has no chat template")
    template = go_template(renderer.template, adds_bos)
    stops = [renderer.tokenizer.convert_ids_to_tokens(id) for id in renderer.stop_ids]
    lines = [f"FROM {weights}", f'TEMPLATE """{template.text}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    if positions and positions < OLLAMA_SEES:
        lines.append(f"PARAMETER num_ctx {positions}")
    return "\n".join(lines) + "\n", template


def go_template(chat: ChatTemplate, adds_bos: bool) -> GoTemplate:
    """The Go template, proven on dialogues against the Jinja template. Raises Underivable."""
    if "strftime" in str(chat.tokenizer.chat_template):
        raise Underivable("the chat template writes today's date")
    pieces, cue, notes = _pieces(chat)
    bos = chat.tokenizer.bos_token or ""
    if adds_bos and bos:
        if not all(text.startswith(bos) for (previous, _), text in pieces.items() if not previous):
            raise Underivable(f"Ollama would write {bos} first (add_bos_token), and the chat template writes none")
        pieces = {pair: text.removeprefix(bos) if not pair[0] else text for pair, text in pieces.items()}
        notes.append(f"Ollama writes the first {bos} itself.")
    text = _go(pieces, cue)
    if '"""' in text:
        raise Underivable('the chat template writes """, which ends a template in a Modelfile')
    has_system = any(role == S for _, role in pieces)
    for roles in DIALOGUES:
        if S not in roles or has_system:
            _check_template(chat, text, roles, bos if adds_bos else "")
    padded = [{"role": U, "content": "  blanks  "}]
    if (bos if adds_bos else "") + render_go(text, padded) != chat.text(padded, prompt=True):
        notes.append("The chat template takes blanks off the ends of a message; in Ollama they stay.")
    if not has_system:
        notes.append("The chat template has no system message; one given to Ollama is dropped.")
    return GoTemplate(text, tuple(notes))


Pieces = dict[tuple[str, str], str]  # (role before, or "" at the start; role) → what stands before the message


def _pieces(chat: ChatTemplate) -> tuple[Pieces, str, list[str]]:
    """The pieces of text, what ends a prompt, and notes."""
    pieces: Pieces = {}
    cues: set[str] = set()
    for roles in PROBES:
        try:
            text = chat.text([{"role": r, "content": word(n)} for n, r in enumerate(roles)], prompt=True)
        except BadRow:
            if S in roles:
                continue
            raise Underivable(f"the chat template refuses {', '.join(roles)}") from None
        parts = WORD.split(text)
        if [int(n) for n in parts[1::2]] != list(range(len(roles))):
            raise Underivable("the chat template moves, repeats or drops what messages say")
        for pair, piece in zip(zip(("", *roles), roles, strict=False), parts[::2], strict=False):
            if pieces.setdefault(pair, piece) != piece:
                raise Underivable(f"what the chat template writes before a message of role {pair[1]} depends on more "
                                  "than the role before it")  # fmt: skip
        cues.add(parts[-1])
    if len(cues) != 1:
        raise Underivable("the chat template ends prompts in several ways")
    return pieces, cues.pop(), []


def _check_template(chat: ChatTemplate, go: str, roles: Sequence[str], bos: str) -> None:
    messages: list[Message] = [{"role": r, "content": SAID[n % len(SAID)]} for n, r in enumerate(roles)]
    if bos + render_go(go, messages) != chat.text(messages, prompt=True):
        raise Underivable(f"the Go template writes {', '.join(roles)} otherwise than the chat template")


# Writing Go


def _go(pieces: Pieces, cue: str) -> str:
    branches: list[str] = []
    for role in ROLES:
        before = {previous: text for (previous, r), text in pieces.items() if r == role}
        if before:
            test = f'{{{{ {"else if" if branches else "if"} eq .Role "{role}" }}}}'
            branches.append(f"{test}{_before(before)}{{{{ .Content }}}}")
    body = "".join(branches) + "{{ end }}{{ $before = .Role }}"
    return f'{{{{ $before := "" }}}}{{{{ range .Messages }}}}{body}{{{{ end }}}}{_literal(cue)}'


def _before(texts: Mapping[str, str]) -> str:
    """What stands before a message, by the role of the one before it."""
    if len(set(texts.values())) == 1:
        return _literal(next(iter(texts.values())))
    *tested, (_, last) = texts.items()
    tests = [
        f'{{{{ {"else if" if n else "if"} eq $before "{role}" }}}}{_literal(text)}'
        for n, (role, text) in enumerate(tested)
    ]
    return f"{''.join(tests)}{{{{ else }}}}{_literal(last)}{{{{ end }}}}"


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


# Reading it back: the part of Go's text/template that is written above

ACTION = re.compile(r"\{\{ (.*?) \}\}")


def render_go(go: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """What Ollama makes of a template of ours and a dialogue."""
    parts = ACTION.split(go)
    tokens = [(n % 2 == 1, part) for n, part in enumerate(parts) if part or n % 2]
    return _run(tokens, messages)


def _run(tokens: list[tuple[bool, str]], messages: Sequence[Mapping[str, Any]]) -> str:
    start = tokens.index((True, "range .Messages"))
    end = max(n for n, token in enumerate(tokens) if token == (True, "end"))
    out = [part for action, part in tokens[:start] if not action]
    before = ""
    for message in messages:
        out.append(_body(tokens[start + 1 : end], message, before))
        before = message["role"]
    return "".join(out) + "".join(json.loads(p) if action else p for action, p in tokens[end + 1 :])


def _body(tokens: Sequence[tuple[bool, str]], message: Mapping[str, Any], before: str) -> str:
    """One message: `taken` holds, for each `if` that is open, whether this branch runs and whether one has run."""
    out: list[str] = []
    taken: list[list[bool]] = []
    for action, part in tokens:
        if not action or part.startswith('"') or part == ".Content":
            text = part if not action else message["content"] if part == ".Content" else json.loads(part)
            out += [text] if all(running for running, _ in taken) else []
        elif part == "end":
            taken.pop()
        elif part.startswith("if "):
            taken.append([truth := _true(part, message, before), truth])
        elif part.startswith("else"):
            truth = not taken[-1][1] and (part == "else" or _true(part, message, before))
            taken[-1] = [truth, taken[-1][1] or truth]
    return "".join(out)


def _true(test: str, message: Mapping[str, Any], before: str) -> bool:
    name, value = re.findall(r'eq (\S+) "(\w*)"', test)[0]
    return bool({".Role": message["role"], "$before": before}[name] == value)

"""Every message of an error in the package, read from its source: tests/golden/messages.txt, one list of all wording.

    python tests/golden/messages.py      # writes the list anew; a changed wording is one changed line of it

Tests of single errors look at the place and at key words, so that a better wording changes this list and no test.
What is computed where the error is raised stands as {}.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "ft"
LIST = Path(__file__).with_suffix(".txt")
ERRORS = {"fail": 1, "Problem": 1, "add": 1, "BadRow": 0, "Tie": 0, "Refused": 0, "Underivable": 0, "StageFailed": 0}
"""What makes an error → how many of its arguments, a place, stand before the words."""
Assigned = dict[str, list[ast.expr]]


def list_messages() -> str:
    """The file of each message and its words, as messages.txt holds them."""
    lines = []
    for file in sorted(SOURCE.rglob("*.py")):
        messages = list(messages_of(ast.parse(file.read_text(encoding="utf-8"))))
        if messages:
            lines += ["", str(file.relative_to(SOURCE)), *(f"    {message}" for message in dict.fromkeys(messages))]
    return "\n".join(lines[1:]) + "\n"


def messages_of(tree: ast.Module) -> Iterator[str]:
    """The words of every error in a module, in the order of the source."""
    for part in tree.body:
        assigned = {**assignments(tree.body), **assignments(ast.walk(part))}
        for node in ast.walk(part):
            if isinstance(node, ast.Call) and (words := words_of(node)):
                texts = [text for text in (render(word, assigned) for word in words) if text]
                if any(text != "{}" for text in texts):
                    yield "  ".join(texts)


def words_of(call: ast.Call) -> list[ast.expr]:
    """The arguments of an error that hold its words: what is wrong, and what to write instead."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = [*call.args, *(word.value for word in call.keywords if word.arg in ("what", "fix"))]
    if name == "ValueError":  # of our own options: the recipe's reader adds the place
        return given[:1]
    if name not in ERRORS or (name == "add" and len(given) < 2):  # a set's add
        return []
    return given[ERRORS[name] :]


def assignments(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Assigned:
    """Name → what it is given in these statements."""
    given: Assigned = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            given.setdefault(node.targets[0].id, []).append(node.value)
    return given


def render(node: ast.expr, assigned: Assigned) -> str:
    """The text of an expression: what is computed as {}, a choice as (one|other)."""
    match node:
        case ast.Constant(value=str(text)):
            return text.replace("\n", " ")
        case ast.JoinedStr(values=values):
            return "".join(render(value, assigned) for value in values)
        case ast.FormattedValue(value=value):
            return render(value, assigned)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return render(left, assigned) + render(right, assigned)
        case ast.IfExp(body=body, orelse=other):
            return choice([render(body, assigned), render(other, assigned)])
        case ast.Name(id=name) if name in assigned:
            rest = {other: values for other, values in assigned.items() if other != name}
            return choice([render(value, rest) for value in assigned[name]])
    return "{}"


def choice(texts: list[str]) -> str:
    """One of several texts; what is computed in all of them is {}."""
    texts = list(dict.fromkeys(texts))
    return texts[0] if len(texts) == 1 else f"({'|'.join(texts)})" if any(t != "{}" for t in texts) else "{}"


if __name__ == "__main__":
    LIST.write_text(list_messages(), encoding="utf-8")

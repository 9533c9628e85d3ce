"""Whether a chat template is one, before any model is there to render it with."""

from __future__ import annotations

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

READS_FILES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class _Generation(Extension):
    """transformers' own block around what the model says, which this reads over."""

    tags = {"generation"}  # noqa: RUF012  the base class has a set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_fault(text: str) -> str:
    """What is wrong with a template's text, as transformers reads it; '' for nothing."""
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", _Generation]).parse(text)
    except TemplateSyntaxError as error:
        return f"line {error.lineno} of the template: {error.message}"
    except RecursionError:
        return "the template is nested too deeply"
    return "the template reads another file" if next(tree.find_all(READS_FILES), None) else ""

"""Pages of one file each: nothing to load, light and dark as the reader's screen is. All is there without a script; one
of a few lines shows values under the pointer and saves tables, and the index has one that sorts and filters."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ft import __version__, artifacts
from ft.figures.charts import Chart
from ft.figures.draw import draw, legend
from ft.figures.numbers import format_number
from ft.figures.small import range_picture, sparkline
from ft.figures.svg_file import chart_css, colours_css
from ft.files import write_text
from ft.printable import printable
from ft.progress import clock_time
from ft.report import chain
from ft.report.compare import compare_runs
from ft.report.facts import hardware, seconds
from ft.report.gather import NumberCard, gather_report, headline
from ft.report.numbers import duration, summary
from ft.report.run import Run
from ft.result import Result
from ft.results.ledger import SHORT as SHORT_FINGERPRINT
from ft.results.ledger import entries, result_row
from ft.run.rows import rows_line
from ft.stages import STAGES
from ft.tools.show import RowsView, visible_tokens

TEMPLATES = Path(__file__).parent / "templates"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
PICTURE = re.compile(r"(data:image/(?:png|svg\+xml);base64,[A-Za-z0-9+/=]+)")
SHORT = 12  # characters that never need to break
_JOINT = re.compile(r"[_/]|\.(?!\d)|(?<!\d)\.")


@cache
def _environment() -> Environment:
    """Everything is escaped: what a page says comes from rows, models and file names."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.globals |= {
        "policy": POLICY,
        "version": __version__,
        "format_number": format_number,
        "legend": legend,
        "small": _small,
    }
    environment.filters |= {"marks": _marks, "breakable": _breakable}
    return environment


def _style(*names: str) -> Markup:
    return Markup("".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names))


def _small(card: NumberCard) -> Markup:
    number = card.number
    if number.share:
        return range_picture(number.value, number.was, number.low, number.high, headline(card))
    return sparkline(card.curve, headline(card))


def _marks(text: str) -> Markup:
    """Signs that stand for what has no shape are paler than what was written."""
    escaped = escape(text)
    for sign in "⏎·⇥":
        escaped = escaped.replace(sign, Markup(f"<i>{sign}</i>"))
    return escaped


def _breakable(text: str) -> Markup:
    """Names of settings and files break at their joints, where a phone is narrower than they are; numbers do not."""
    escaped = escape(text)
    # as a str: the pieces that `sub` joins would be escaped by a Markup
    return Markup(_JOINT.sub(r"\g<0><wbr>", str(escaped))) if len(text) > SHORT else escaped


@dataclass(frozen=True)
class WatchBar:
    """What a page that follows a run says of itself: 'running', and when its files last changed, or nothing. Its script
    asks for a page of another `etag`."""

    state: str
    updated: str
    etag: str


def report_page(run: Run, watch: WatchBar | None = None) -> str:
    """The report of a run; the same files give the same bytes."""
    took = sum(seconds(result) or 0.0 for result in run.results)
    report = gather_report(run)
    return _render(
        "report.html.jinja",
        *(["watch.js"] if watch else []),
        report=report,
        lanes=chain.draw_chain(report.chain),
        stamp=run.stamp,
        hardware=hardware(run.results),
        took=duration(took) if took else "",
        watch=watch,
    )


def waiting_page(name: str, why: str, watch: WatchBar) -> str:
    """In the place of a report that cannot be made now."""
    return _render("waiting.html.jinja", "watch.js", name=name, why=why, watch=watch)


def comparison_page(runs: Sequence[Run]) -> str:
    """Several runs side by side."""
    return _render("comparison.html.jinja", comparison=compare_runs(runs))


def index_page(runs: Path) -> str:
    """All results of a runs folder in one table, newest first, which a script sorts and filters."""
    rows = [_index_row(result) for result in reversed(entries(runs))]
    return _page(
        "index.html.jinja",
        rows=rows,
        recipes=len({row["recipe"] for row in rows}),
        columns=("recipe", "stage", "kind", "state", "when", "time", "numbers", "ID"),
        style=Markup(colours_css()) + _style("style.css", "report.css", "index.css"),
        **_script("index.js"),
    )


def _index_row(result: Result) -> dict[str, Any]:
    report = result.folder.parent / artifacts.REPORT
    row = result_row(result)
    return row | {
        "report": quote(f"{report.parent.name}/{report.name}") if report.exists() else "",
        "time": "·" if result.seconds is None else clock_time(result.seconds),
        "words": summary(result.numbers, STAGES[result.kind].display.summary if result.kind in STAGES else ()),
        "fingerprint": result.fingerprint[:SHORT_FINGERPRINT],
    }


def _render(template: str, *scripts: str, **values: Any) -> str:
    numbers = count(1)

    def draw_chart(chart: Chart) -> Markup:
        return draw(chart, f"chart-{next(numbers)}")

    style = Markup(colours_css() + chart_css()) + _style("style.css", "report.css")
    return _page(template, draw=draw_chart, style=style, **_script("charts.js", *scripts), **values)


def _script(*names: str) -> dict[str, str]:
    """A script, and the hash by which the page's policy lets it run, and no other."""
    script = _style(*names)
    return {"script": script, "script_hash": b64encode(sha256(script.encode()).digest()).decode()}


def _page(template: str, **values: Any) -> str:
    """Rendered, with tokens and keys masked and control characters escaped, whoever wrote them; a picture's letters are
    no text."""
    text = _environment().get_template(template).render(**values)
    return "".join(part if part.startswith("data:") else printable(part) for part in PICTURE.split(text))


def rows_page(view: RowsView) -> str:
    """Rows token by token: what `ft show --html` writes."""
    style = Markup(colours_css()) + _style("style.css", "rows.css")
    return _page("rows.html.jinja", found=view, line=rows_line(view.stats), spelt=visible_tokens, style=style)


def write(text: str, path: Path) -> Path:
    """Written beside, then renamed: a page is there whole or not at all."""
    write_text(path, text)
    return path

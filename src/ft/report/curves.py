"""Curves of a stage that trains: what a reader wants first, and the rest folded away."""

from __future__ import annotations

from ft.figures.charts import Lines
from ft.figures.numbers import format_number
from ft.figures.result_files import ResultFiles
from ft.figures.training import curves
from ft.report.parts import Charts, Part, Section, Sentences

NEARLY_NONE = 0.01  # of shares: a line of them lies on the axis


def curve_sections(files: ResultFiles, in_front: int | None) -> tuple[list[Section], list[float]]:
    """The sections, and the values of the line that stands for all. Of the charts so many stand `in_front`, the others
    folded away; None: all that have a panel."""
    run_curves = curves(files)
    front = run_curves.panels[:in_front]
    sections = []
    if front:
        files.replace_pictures("curves", "loss", "preferences", "reward", "learning")
        flat = {chart.title: words for chart in front if isinstance(chart, Lines) and (words := flat_words(chart))}
        drawn = tuple(chart for chart in front if chart.title not in flat)
        parts: list[Part] = [Charts(drawn)] if drawn else []
        if flat:
            parts.append(Sentences(tuple(flat.values())))
        sections.append(Section("Curves", tuple(parts)))
    if folded := (*run_curves.panels[len(front) :], *run_curves.others):
        sections.append(Section("More curves", (Charts(folded),), folded=True))
    return sections, list(run_curves.values)


def flat_words(chart: Lines) -> str:
    """What a chart says of which every line is one point, or the same throughout; nothing of others, and of those with
    values that are not finite."""
    lines = {series.name or chart.title: [point.y for point in series.finite_points] for series in chart.series}
    values = [value for line in lines.values() for value in line]
    if (
        not values
        or chart.not_finite
        or any(len(line) > 1 and not _is_flat(line, chart.share) for line in lines.values())
    ):
        return ""
    if chart.share and all(0 <= value < NEARLY_NONE for value in values):
        return f"{chart.title}: below {NEARLY_NONE:.0%} throughout."
    each = ", ".join(f"{name} {format_number(line[-1], chart.share)}" for name, line in lines.items() if line)
    return f"{chart.title}: {each}{' throughout' if any(len(line) > 1 for line in lines.values()) else ''}."


def _is_flat(line: list[float], share: bool) -> bool:
    return max(line) == min(line) or (share and min(line) >= 0 and max(line) < NEARLY_NONE)

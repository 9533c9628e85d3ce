"""Curves of a stage that trains: what a reader wants first, and the rest folded away."""

from __future__ import annotations

from ft.figures.result_files import ResultFiles
from ft.figures.training import curves
from ft.report.parts import Charts, Section


def curve_sections(files: ResultFiles, in_front: int | None) -> tuple[list[Section], list[float]]:
    """The sections, and the values of the line that stands for all. Of the charts so many stand `in_front`, the others
    folded away; None: all that have a panel."""
    run_curves = curves(files)
    front = run_curves.panels[:in_front]
    sections = []
    if front:
        files.replace_pictures("curves", "loss", "preferences", "reward", "learning")
        sections.append(Section("Curves", (Charts(front),)))
    if folded := (*run_curves.panels[len(front) :], *run_curves.others):
        sections.append(Section("More curves", (Charts(folded),), folded=True))
    return sections, list(run_curves.values)

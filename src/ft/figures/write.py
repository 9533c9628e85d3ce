"""A stage's figures as files, drawn from the files it has just written, as the report draws them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ft.figures.charts import Chart
from ft.figures.result_files import ResultFiles
from ft.figures.svg_file import figure_file
from ft.files import write_text
from ft.recipe.job import Job

Figures = Mapping[str, Sequence[Chart]]
"""The name of a file without its suffix → the charts in it."""


def write_figures(job: Job, figures: Callable[[ResultFiles], Figures], heading: str = "") -> None:
    """NAME.svg for every figure that has something to show, under the stage's name or a `heading` that says more."""
    for name, charts in figures(ResultFiles(job.folder, job.blocks)).items():
        if charts:
            write_text(job.folder / f"{name}.svg", figure_file(heading or job.name, charts))

"""Tokens a word of each tokenizer, by language."""

from __future__ import annotations

from ft import artifacts
from ft.figures.charts import Dot, Dots
from ft.figures.numbers import parse_number
from ft.figures.result_files import ResultFiles, text_of
from ft.figures.write import Figures


def fertility(files: ResultFiles) -> Figures:
    """From fertility.csv: a row a group of texts, a dot a tokenizer."""
    rows: dict[str, list[Dot]] = {}
    for row in files.table(artifacts.FERTILITY_TABLE):
        value = parse_number(row.get("fertility"))
        if value is not None:
            rows.setdefault(text_of(row.get("group")), []).append(Dot(text_of(row.get("tokenizer")), value))
    if not rows:
        return {}
    note = "Fewer is better: a text takes less of the context, and less time."
    dots = tuple((group, tuple(dots)) for group, dots in rows.items())
    return {"fertility": [Dots("Fertility", "tokens a word", dots, note=note)]}

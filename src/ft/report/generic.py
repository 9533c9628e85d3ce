"""What a folder holds that no other section knows: pictures, tables, lines, numbers. A new kind is shown without a
line written for it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from ft import artifacts
from ft.report.answers import plain
from ft.report.left import Left
from ft.report.numbers import Number, said
from ft.report.parts import Picture, Section, Table

WIDEST = 1200  # pixels
MOST_PICTURES = 4
MOST_BYTES = 220_000  # of a picture in the page
NEVER_SHOWN = {
    *(artifacts.JOB, artifacts.KEY, artifacts.DONE),
    *(artifacts.NUMBERS, artifacts.REJECTS, artifacts.SCORE_TABLE),
}


def numbers_table(numbers: list[Number]) -> Table | None:
    """Every number of a stage, with what it was and its interval where there are any."""
    if not numbers:
        return None
    sure, compared = any(n.interval for n in numbers), any(n.was is not None for n in numbers)
    head = ("", *["before"] * compared, "value", *["95 % interval"] * sure)
    rows = []
    for n in numbers:
        was = [said(n.was, n.share) if n.was is not None else "·"] * compared
        rows.append((n.label, *was, n.said, *[n.interval or "·"] * sure))
    return Table(head, tuple(rows))


def untold(left: Left) -> list[Section]:
    """Sections for what is left; they are folded, since nobody knows what matters in them."""
    left.taken |= NEVER_SHOWN
    files = left.untold(".png")
    pictures = [found for file in files[:MOST_PICTURES] if (found := picture(file, left))]
    if len(files) > MOST_PICTURES:
        left.problems.append(f"{len(files) - MOST_PICTURES} more pictures are in the folder.")
    sections = [Section("Pictures", tuple(pictures))] if pictures else []
    for file in left.untold(".csv"):
        rows = left.table(file.name)
        if rows:
            cells = tuple(tuple(row.values()) for row in rows[:40])
            sections.append(Section(file.name, (Table(tuple(rows[0]), cells),), folded=True))
    for file in left.untold(".jsonl"):
        lines = left.lines(file.name)
        if lines:
            sections.append(plain(file.name, lines))
    return sections


def picture(file: Path, left: Left) -> Picture | None:
    """The PNG as a data URI, smaller where it is large; None, and said, where it is no picture."""
    from PIL import Image, UnidentifiedImageError

    left.taken.add(file.name)
    try:
        with Image.open(file) as found:
            image = found.convert("RGB")
    except (OSError, UnidentifiedImageError):
        left.problems.append(f"{file.name} is no picture and was left out.")
        return None
    if image.width > WIDEST:
        image = image.resize((WIDEST, image.height * WIDEST // image.width))
    data = _png(image.quantize(128, Image.Quantize.FASTOCTREE))
    while len(data) > MOST_BYTES and image.width > 200:
        image = image.resize((image.width // 2, image.height // 2))
        data = _png(image.quantize(128, Image.Quantize.FASTOCTREE))
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    return Picture(file.stem.replace("_", " ").replace("-", " "), uri, image.width, image.height)


def _png(image: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=9)  # type: ignore[attr-defined]
    return out.getvalue()

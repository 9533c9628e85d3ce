"""What a folder holds that no other section knows: pictures, tables, lines, numbers. A new kind is shown without a
line written for it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ft import artifacts
from ft.figures.result_files import ResultFiles
from ft.report.answers import plain
from ft.report.numbers import Number
from ft.report.parts import Picture, Section, Table
from ft.secrets import hide, variables

if TYPE_CHECKING:
    from PIL.Image import Image

WIDEST = 1200  # pixels
MOST_PICTURES = 4
MOST_BYTES = 220_000  # of a picture in the page
NEVER_SHOWN = {
    artifacts.JOB,
    artifacts.KEY,
    artifacts.DONE,
    artifacts.NUMBERS,
    artifacts.REJECTS,
    artifacts.SCORE_TABLE,
    artifacts.TRACKER_RUN,
}
STORED = re.compile(r"-[0-9a-f]{12,}\.jsonl$")  # answers kept under what decides them, which stand in other files too
SVG = "{http://www.w3.org/2000/svg}"


def numbers_table(numbers: list[Number]) -> Table | None:
    """Every number of a stage, with what it was and its interval where there are any."""
    if not numbers:
        return None
    sure, compared = any(n.interval for n in numbers), any(n.was is not None for n in numbers)
    head = ("", *["before"] * compared, "after" if compared else "value", *["95 % interval"] * sure)
    rows = []
    for n in numbers:
        was = [n.before or "·"] * compared
        rows.append((n.label, *was, n.text, *[n.interval or "·"] * sure))
    return Table(head, tuple(rows))


def other_files(files: ResultFiles) -> list[Section]:
    """Sections for what no other shows; tables and lines are folded, since nobody knows what matters in them."""
    files.shown |= NEVER_SHOWN | {file.name for file in files.not_shown(".jsonl") if STORED.search(file.name)}
    sections = _pictures(files)
    for file in files.not_shown(".csv"):
        rows = files.table(file.name)
        if rows:
            cells = tuple(tuple(row.values()) for row in rows[:40])
            sections.append(Section(file.name, (Table(tuple(rows[0]), cells),), folded=True))
    for file in files.not_shown(".jsonl"):
        lines = files.lines(file.name)
        if lines:
            sections.append(plain(file.name, lines))
    return sections


def _pictures(files: ResultFiles) -> list[Section]:
    picture_files = files.not_shown(".png", ".svg")
    pictures = tuple(image for file in picture_files[:MOST_PICTURES] if (image := picture(file, files)))
    if len(picture_files) > MOST_PICTURES:
        files.problems.append(f"{len(picture_files) - MOST_PICTURES} more pictures are in the folder.")
    return [Section("Pictures", pictures)] if pictures else []


def picture(file: Path, files: ResultFiles) -> Picture | None:
    """The picture as a data URI; None, and named as a problem, where it is none."""
    files.shown.add(file.name)
    image = _of_svg(file) if file.suffix == ".svg" else _of_png(file)
    if image is None:
        files.problems.append(f"{file.name} is no picture and was left out.")
        return None
    kind, data, width, height = image
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(file.stem.replace("_", " ").replace("-", " "), uri, width, height)


def _of_svg(file: Path) -> tuple[str, bytes, int, int] | None:
    """A drawing as an image, in which a browser runs no script and loads nothing. Tokens in it are masked here: the
    page cannot look into it any more."""
    try:
        text = file.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        _, _, width, height = map(float, root.get("viewBox", "").split())
    except (OSError, ValueError, ElementTree.ParseError):
        return None
    if root.tag != f"{SVG}svg" or len(text) > MOST_BYTES:
        return None
    return "svg+xml", hide(text, variables()).encode(), round(width), round(height)


def _of_png(file: Path) -> tuple[str, bytes, int, int] | None:
    """The picture in few colours, and smaller where it is large."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    if image.width > WIDEST:
        image = image.resize((WIDEST, image.height * WIDEST // image.width))
    data = _png_bytes(image.quantize(128, Image.Quantize.FASTOCTREE))
    while len(data) > MOST_BYTES and image.width > 200:
        image = image.resize((image.width // 2, image.height // 2))
        data = _png_bytes(image.quantize(128, Image.Quantize.FASTOCTREE))
    return "png", data, image.width, image.height


def _png_bytes(image: Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=9)
    return out.getvalue()

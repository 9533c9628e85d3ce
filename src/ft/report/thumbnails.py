"""Pictures that rows ask about, small, as a page shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from ft.data.formats.fields import IMAGES, BadRow
from ft.data.formats.pictures import open_picture
from ft.report.parts import Picture

LARGEST = 160  # pixels of the longer side
SMALLEST = 96  # smaller ones are shown as large as this


def pictures_of_message(message: Mapping[str, Any]) -> tuple[Picture, ...]:
    """Those that can still be read; a page is no place to complain that a file has moved."""
    listed = message.get(IMAGES)
    found = [_thumbnail(picture) for picture in listed if isinstance(picture, str)] if isinstance(listed, list) else []
    return tuple(picture for picture in found if picture)


def _thumbnail(picture: str) -> Picture | None:
    from PIL import Image

    try:
        opened = open_picture(picture)
    except BadRow:
        return None
    if max(opened.size) > LARGEST:
        opened.thumbnail((LARGEST, LARGEST))
    out = io.BytesIO()
    opened.quantize(128, Image.Quantize.FASTOCTREE).save(out, "PNG", compress_level=9)
    scale = max(1, SMALLEST // max(opened.size))
    uri = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    return Picture("what is asked about", uri, opened.width * scale, opened.height * scale)

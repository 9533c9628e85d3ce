"""Pictures of rows: what a row may write for one, where it is looked for, and its pixels.

Inside, a picture is one text: the absolute path of a file, or a data URI ("data:image/png;base64,…") where the row
brought the bytes themselves. A message lists its pictures under `images`, in the order they are asked about. Nothing is
fetched: an address on the network could be another picture tomorrow, or none.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.data.formats.columns import extras, first_of
from ft.data.formats.fields import IMAGES, PICTURE_COLUMNS, PICTURE_TAG, BadRow, Message, Row, kind_of
from ft.data.formats.messages import make_message

if TYPE_CHECKING:
    from PIL.Image import Image

DATA = "data:image/"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
MOST_PIXELS = 50_000_000
"""More than most cameras' pictures, which a model sees at 224 to 490 pixels a side; a bomb has billions."""

ASKED = ("messages", "prompt")  # columns in which a picture may be asked about
PART_KEYS = ("bytes", "image", "image_url", "url", "path", "base64")  # where a part has its picture


# What a row writes


def picture_of(value: object, where: str) -> str:
    """The picture that a column or a part of a message names: a path, a data URI, bytes, or what the Hub's image
    feature holds ({"bytes", "path"}). Raises BadRow."""
    if isinstance(value, dict):
        inner = next((value[key] for key in PART_KEYS if value.get(key)), None)
        if inner is not None:
            return picture_of(inner, where)
    if isinstance(value, bytes) and value:
        return f"{DATA}unknown;base64,{base64.b64encode(value).decode()}"
    if not isinstance(value, str) or not value.strip():
        what = f"{where} is {kind_of(value)}, not a picture"
        raise BadRow(what, "Write a path below the source's `images:`, a data URI, or the file's bytes.")
    text = value.strip()
    if text.startswith(("http://", "https://", "ftp://")):
        raise BadRow(f"{where} is an address, and pictures are not fetched", "Download it, and write its path.")
    if text.startswith("data:") and not text.startswith(DATA):
        raise BadRow(f"{where} is a data URI of another type than a picture", f"It begins with {DATA}….")
    return text.removeprefix("file://")


def pictures_of(row: Row) -> list[str]:
    """Those in the columns `image` and `images`, in that order. Raises BadRow."""
    pictures = []
    for column in PICTURE_COLUMNS:
        value = row.get(column)
        for number, one in enumerate(value if isinstance(value, list) else [value] if value else [], 1):
            pictures.append(picture_of(one, f"{column} {number}" if isinstance(value, list) else column))
    return pictures


def place_pictures(row: Row) -> Row:
    """A formatted row with each picture of its columns and parts under `images` of the message that asks about it: the
    places that messages have (`<image>` at an end of the text, or a part that only says `image`) take those of the
    columns in turn; where there is no place, the first message of the user has them all.

    Raises BadRow where there are more places than pictures, or fewer.
    """
    pictures = pictures_of(row)
    asked = [message for column in ASKED for message in row.get(column) or () if message["role"] == "user"]
    if unasked := [message for message in messages_with_pictures(row) if not any(message is one for one in asked)]:
        what = f"a message of the {unasked[0]['role']} holds a picture, and a model reads only those it is asked about"
        raise BadRow(what, "Put it into a message of the user that an answer follows.")
    for message in asked:
        if IMAGES in message:
            message[IMAGES] = [_own_picture(one) for one in message[IMAGES]]
    places = sum(one is None for message in asked for one in message.get(IMAGES, ()))
    if pictures and not places and asked:
        asked[0][IMAGES] = [*asked[0].get(IMAGES, ()), *[None] * len(pictures)]
    elif places != len(pictures):
        what = f"its columns hold {len(pictures)} pictures, and its messages have {places} places for them"
        raise BadRow(what, f"Write one {PICTURE_TAG} for each, or none: then the first message of the user has them.")
    rest = iter(pictures)
    for message in asked:
        if IMAGES in message:
            message[IMAGES] = [next(rest) if one is None else one for one in message[IMAGES]]
    return {name: value for name, value in row.items() if name not in PICTURE_COLUMNS}


def _own_picture(written: object) -> str | None:
    """The picture that a part of a message holds; None where it only marks the place of one."""
    if written is None or (isinstance(written, dict) and not any(written.get(key) for key in PART_KEYS)):
        return None
    value = next(written[key] for key in PART_KEYS if written.get(key)) if isinstance(written, dict) else written
    return picture_of(value, "the picture of a message")


def refuse_pictures(row: Row) -> None:
    """Raises BadRow where a formatted row has any, for what reads text alone."""
    if any(messages_with_pictures(row)):
        fix = "Drop the row, or name a model that takes pictures."
        raise BadRow("a message of the row holds a picture, and text is all that is read", fix)


def messages_with_pictures(row: Row) -> Iterator[Message]:
    for value in row.values():
        if isinstance(value, list):
            yield from (message for message in value if isinstance(message, dict) and message.get(IMAGES))


# Formats


def caption(row: Row) -> Row:
    """`image` and its `caption`, as COCO's and LAVIS's files have them; several captions are references, `answer`, that
    an evaluation compares with and no stage trains on."""
    value = row[first_of(row, "caption")]
    texts = value if isinstance(value, list) else [value]
    first_of(row, *PICTURE_COLUMNS)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadRow("caption is no text, and no list of texts", "Write what the picture shows, or drop the row.")
    question, columns = make_message("user", ""), extras(row, "caption", "answer")
    if isinstance(value, list):
        return {**columns, "prompt": [question], "answer": [text.strip() for text in texts]}
    return {**columns, "messages": [question, make_message("assistant", texts[0].strip())]}


def question_answer(row: Row) -> Row:
    """`image`, `question` and `answer` or `answers`: one or those of several people, as VQA v2 has them, texts or
    {"answer": text}. The most frequent is trained (of several the first); all stay as `answers`."""
    column = first_of(row, "answers", "answer")
    value = row[column]
    listed = value if isinstance(value, list) else [value]
    texts = [one.get("answer") if isinstance(one, dict) else one for one in listed]
    answers = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if not answers or len(answers) < len(texts):
        raise BadRow(f"{column} is no text, and no list of texts", "Write what people answered, or drop the row.")
    question = row[first_of(row, "question")]
    if not isinstance(question, str) or not question.strip():
        raise BadRow(f"question is {kind_of(question)} or empty, not a text", "Write what is asked, or drop the row.")
    most_frequent = max(answers, key=answers.count)
    return {
        **extras(row, "question", "answer", "answers"),
        "prompt": [make_message("user", question.strip())],
        "completion": [make_message("assistant", most_frequent)],
        "answers": answers,
    }


# Where it lies


def locate_pictures(row: Row, folder: Path | None) -> None:
    """Make the paths of a formatted row's pictures absolute. `folder` is that of the source; None: it names none, and
    pictures come as bytes only. Raises BadRow."""
    for message in messages_with_pictures(row):
        message[IMAGES] = [_locate(picture, folder) for picture in message[IMAGES]]


def _locate(picture: str, folder: Path | None) -> str:
    if picture.startswith(DATA):
        return picture
    if folder is None:
        fix = "Write `images: FOLDER` at the source; the files there then decide the result, as its rows do."
        raise BadRow(f"its picture is the path {picture!r}, and the source names no folder of pictures", fix)
    try:
        path = (folder / picture).resolve()
        is_file = path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, or with a NUL
        raise BadRow(f"its picture {picture[:80]!r} is no path: {error}", "Write a path below `images:`.") from error
    if not path.is_relative_to(folder.resolve()):
        raise BadRow(f"its picture {picture!r} is not below {folder}", "Move it there, or name another `images:`.")
    if not is_file:
        raise BadRow(f"there is no picture {picture!r} in {folder}", "Copy it there, or drop the row.")
    return str(path)


def picture_files(folder: Path) -> list[Path]:
    """The pictures below a folder, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def folder_digest(folder: Path) -> str:
    """What the pictures below a folder are: a digest of each one's path and bytes."""
    digest = hashlib.sha256()
    for path in picture_files(folder):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


# Its pixels


def picture_bytes(picture: str) -> bytes:
    """The file's bytes. Raises BadRow."""
    try:
        if picture.startswith(DATA):
            return base64.b64decode(picture.partition(",")[2], validate=True)
        return Path(picture).read_bytes()
    except binascii.Error as error:
        raise BadRow(f"its picture is no base64: {error}", "Encode the file's bytes again.") from error
    except OSError as error:
        raise BadRow(f"its picture {picture} cannot be read: {error.strerror}", "Fix the file, or drop it.") from error


def open_picture(picture: str) -> Image:
    """Its pixels, RGB, upright as its EXIF data says, what is transparent on white. Raises BadRow."""
    from PIL import Image, ImageOps

    name, data = name_of(picture), picture_bytes(picture)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, by a lower limit
            opened: Any = Image.open(io.BytesIO(data), formats=FORMATS)
        if opened.width * opened.height > MOST_PIXELS:
            what = f"its picture {name} would have {opened.width:,} × {opened.height:,} pixels"
            raise BadRow(what, f"Make it smaller: {MOST_PIXELS:,} pixels are the most.")
        return _on_white(ImageOps.exif_transpose(opened))
    except BadRow:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadRow(f"its picture {name} is none of {', '.join(FORMATS)}", "Save it as one of these.") from error
    except Exception as error:  # a decoder may raise anything at a file that is cut or made to hurt
        what = f"its picture {name} is broken: {str(error) or type(error).__name__}"
        raise BadRow(what, "Fetch it again, or drop the row.") from error


def _on_white(opened: Any) -> Image:
    from PIL import Image

    if not opened.has_transparency_data:
        converted: Image.Image = opened.convert("RGB")
        return converted
    layer = opened.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def name_of(picture: str) -> str:
    """How messages call it."""
    return f"of {len(picture) * 3 // 4:,} bytes in the row" if picture.startswith(DATA) else picture

"""Pictures in rows: who asks about which, where they are looked for, and which are refused by name."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path

import pytest
from PIL import Image

from ft.data.formats import BadRow, format_row
from ft.data.formats.pictures import MOST_PIXELS, open_picture
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source, fingerprint
from ft.errors import UserError


def png(colour: str = "red", size: tuple[int, int] = (4, 3), **saved: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG", **saved)
    return out.getvalue()


def uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


RED, BLUE = uri(png("red")), uri(png("blue"))
ANSWER = {"role": "assistant", "content": "red"}


def asked(row: dict) -> list[tuple[str, list[str]]]:
    """Text and pictures of each message of the user."""
    row = format_row(row.pop("format", "messages"), row, {}, pictures=True)
    messages = row.get("messages") or row["prompt"]
    return [(one["content"], one.get("images", [])) for one in messages if one["role"] == "user"]


def dialogue(*contents: object, **columns: object) -> dict:
    return {"messages": [m for c in contents for m in ({"role": "user", "content": c}, ANSWER)], **columns}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (dialogue([{"type": "image", "image": RED}, {"type": "text", "text": "what?"}]), [("what?", [RED])]),
        (dialogue([{"type": "image_url", "image_url": {"url": RED}}, "what?"]), [("what?", [RED])]),
        (dialogue("<image>\nwhat?", "and?", image=RED), [("what?", [RED]), ("and?", [])]),
        (dialogue("what?", "and?", images=[RED]), [("what?", [RED]), ("and?", [])]),
        (dialogue("this?<image>", "that? <image>", images=[RED, BLUE]), [("this?", [RED]), ("that?", [BLUE])]),
        (dialogue([{"type": "image"}, {"type": "text", "text": "what?"}], images=[RED]), [("what?", [RED])]),
        (dialogue("what?", image={"bytes": png(), "path": None}), [("what?", [RED.replace("png", "unknown")])]),
        ({"format": "caption", "image": "a.png", "caption": "a dog"}, [("", ["a.png"])]),
        ({"format": "vqa", "image": "a.png", "question": "what?", "answers": ["a dog"]}, [("what?", ["a.png"])]),
        (
            {
                "format": "sharegpt",
                "image": "a.png",
                "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a dog"}],
            },
            [("what?", ["a.png"])],
        ),
    ],
    ids=["part", "url part", "tag", "column", "two", "empty part", "bytes", "caption", "vqa", "llava"],
)
def test_each_picture_stands_in_the_message_that_asks_about_it(row, expected):
    assert asked(row) == expected


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (dialogue("<image> what?"), "its columns hold 0 pictures, and its messages have 1 places"),
        (dialogue("<image> what?", images=[RED, BLUE]), "its columns hold 2 pictures, and its messages have 1 places"),
        (dialogue("what?", image="https://example.org/a.png"), "image is an address, and pictures are not fetched"),
        (
            dialogue([{"type": "image_url", "image_url": {"url": "http://x/a.png"}}]),
            "is an address, and pictures are not",
        ),
        (dialogue("what?", image=7), "image is a number, not a picture"),
        (dialogue("what?", image="data:text/html;base64,PGI+"), "a data URI of another type"),
        ({"format": "caption", "image": RED, "caption": " "}, "caption is no text"),
        (
            {"format": "text", "image": RED, "text": "a dog"},
            "its columns hold 1 pictures, and its messages have 0 places",
        ),
    ],
)
def test_what_is_no_picture_and_what_has_no_place_is_refused(row, what):
    with pytest.raises(BadRow, match=what):
        asked(row)


@pytest.mark.parametrize(
    "content",
    ["<image>What is it?", [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "x"}}]],
    ids=["tag", "part"],
)
def test_what_reads_text_alone_refuses_a_picture(content):
    with pytest.raises(BadRow, match="a message of the row holds a picture, and text is all that is read"):
        format_row("messages", dialogue(content), {})


def test_several_captions_are_references_and_the_most_frequent_answer_is_trained():
    row = format_row("caption", {"image": RED, "caption": ["a dog", "one dog"]}, {}, pictures=True)
    assert row["answer"] == ["a dog", "one dog"]
    assert "completion" not in row
    answers = [{"answer": "no"}, {"answer": "yes"}, {"answer": "yes"}]
    row = format_row("vqa", {"image": RED, "question": "is it?", "answers": answers}, {}, pictures=True)
    assert row["completion"][0]["content"] == "yes"
    assert row["answers"] == ["no", "yes", "yes"]


def rows_in(path: Path, rows: list[dict], **source: object) -> list[dict]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    bad = BadRows("error")
    found = [one.row for one in mix_rows([Source(str(path), **source)], seed=1, bad=bad)]
    bad.finish()
    return found


def test_paths_are_found_from_the_file_of_rows_and_lie_below_images(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    file = tmp_path / "rows.jsonl"
    (row,) = rows_in(file, [{"image": "a.png", "caption": "red"}], images="pictures")
    assert row["messages"][0]["images"] == [str(tmp_path / "pictures" / "a.png")]
    rows = [{"image": name, "caption": "red"} for name in ("a.png", "b.png", "../secret.png")]
    with pytest.raises(UserError) as refused:
        rows_in(file, rows, images="pictures")
    first, second = map(str, refused.value.problems)
    assert f"{file}:2: there is no picture 'b.png'" in first
    assert f"{file}:3: its picture '../secret.png' is not below" in second


def test_a_source_that_names_no_pictures_has_none(tmp_path):
    with pytest.raises(UserError, match="the row holds image, and text is all that is read"):
        rows_in(tmp_path / "rows.jsonl", [{"image": RED, "caption": "red"}])


def test_the_pictures_of_a_source_decide_its_fingerprint(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"image": "a.png", "caption": "red"}\n', encoding="utf-8")
    (tmp_path / "a.png").write_bytes(png("red"))
    cache, source = tmp_path / "hashes.json", Source(str(file), images=".")
    before = fingerprint(source, cache)
    assert fingerprint(source, cache) == before
    (tmp_path / "a.png").write_bytes(png("green"))
    assert fingerprint(source, cache) != before
    assert "images" not in fingerprint(Source(str(file)), cache)


def test_annotations_of_coco_are_read_with_the_name_of_their_picture(tmp_path):
    file = tmp_path / "captions.json"
    (tmp_path / "1.png").write_bytes(png())
    listed = {
        "info": {},
        "images": [{"id": 1, "file_name": "1.png"}],
        "annotations": [
            {"image_id": 1, "id": 5, "caption": "a red square "},
            {"image_id": 1, "id": 6, "caption": "red"},
        ],
    }
    file.write_text(json.dumps(listed), encoding="utf-8")
    rows = [one.row for one in mix_rows([Source(str(file), images=".")], seed=1, bad=BadRows("error"))]
    assert [row["messages"][1]["content"] for row in rows] == ["a red square", "red"]
    assert rows[0]["messages"][0]["images"] == [str(tmp_path / "1.png")]


def bomb(width: int, height: int) -> bytes:
    """A PNG of some bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (bomb(10_000, MOST_PIXELS // 9_000), "would have 10,000 × "),
        (bomb(60_000, 60_000), "broken|would have"),
        (png(size=(64, 64))[:-40], "is broken"),
        (b"hello", "is none of PNG, JPEG"),
        (b"", "is none of PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is none of PNG, JPEG"),
    ],
    ids=["many pixels", "bomb", "cut", "text", "empty", "svg"],
)
def test_broken_pictures_and_bombs_are_refused(data, what):
    with pytest.raises(BadRow, match=what):
        open_picture(uri(data))


def test_a_picture_is_upright_and_its_transparent_parts_are_white():
    layer = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 0))
    out = io.BytesIO()
    layer.save(out, "PNG")
    picture = open_picture(uri(out.getvalue()))
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held on its side
    assert open_picture(uri(png(size=(4, 3), exif=turned))).size == (3, 4)

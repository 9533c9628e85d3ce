"""The drawn pictures of the embedded world: as made, readable by their formats, and held out in earnest."""

from __future__ import annotations

import gzip
import importlib
import json
import sys

import tiny
from ft.data.formats import detect
from ft.data.formats.pictures import open_picture
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source

TINY = tiny.ROOT / "data" / "tiny"
sys.path.insert(0, str(TINY))  # pictures.py is data, not part of the package
pictures = importlib.import_module("pictures")
writing = importlib.import_module("writing")


def test_captions_are_as_made():
    name = "captions-held-out.jsonl.gz"
    assert (TINY / name).read_bytes() == writing.content(pictures.FILES, name)


def test_held_out_scenes_are_new_and_their_things_are_not():
    trained, unseen = ({scene.caption for scene in scenes} for scenes in (pictures.TRAINED, pictures.UNSEEN))
    assert not trained & unseen
    assert {thing for scene in pictures.UNSEEN for thing in scene.things} <= {
        thing for scene in pictures.TRAINED for thing in scene.things
    }


def test_every_file_is_read_with_its_pictures():
    formats = set()
    for name in pictures.FILES:
        first = json.loads(gzip.decompress((TINY / name).read_bytes()).splitlines()[0])
        formats.add(detect(first))
        (row, *_) = mix_rows([Source(str(TINY / name), images=".", rows=1)], seed=1, bad=BadRows("error"))
        if "image" in first:
            asked = (row.row.get("messages") or row.row["prompt"])[0]
            assert open_picture(asked["images"][0]).size == (48, 48)
    assert formats == {"text", "messages", "caption", "vqa", "prompt"}

"""BLIP-2 goes the way of all models: rows with pictures prepared, batched, trained and answered."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import tiny
from ft.data.formats.fields import BadRow
from ft.encode.prepare import RowOptions
from ft.errors import UserError
from ft.families.image_text import IMAGE_TEXT, IMAGE_TEXT_SEQ2SEQ
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.sampling import Sampling
from ft.models.processor import encoder_of, tokenizer_of
from ft.recipe import ModelSource

GREEDY = Sampling(temperature=0, max_new_tokens=8)
COLOURS = ("red", "green", "blue", "black")
QUERIES = 3


def picture(colour: str) -> str:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def asked(colour: str, question: str = "what colour?") -> dict:
    return {"role": "user", "content": question, "images": [picture(colour)]}


@pytest.fixture(scope="session", params=["opt", "t5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.blip2(tmp_path_factory.mktemp("blip2") / request.param, request.param)


@pytest.fixture(scope="session")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.blip2(tmp_path_factory.mktemp("blip2") / "decoder")


def encode(folder: Path, row: dict, max_length: int = 200, **options: str):
    [encoded] = encoder_of(ModelSource(str(folder)), None, None, RowOptions(**options), max_length).encode_batch([row])
    return encoded


def text_of(folder: Path, ids: list[int]) -> str:
    return tokenizer_of(ModelSource(str(folder)), None).decode(ids).replace("<image>", "@")


def test_the_picture_stands_in_front_and_the_answers_are_trained(opt):
    answer = {"role": "assistant", "content": "red"}
    more = [{"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"}]
    row = encode(opt, {"messages": [asked("red"), answer, *more]})
    end = "<|im_end|>"
    expected = f"@@@{end}Question: what colour? Answer: red{end} Question: sure? Answer: yes{end}"
    assert text_of(opt, row["input_ids"]) == expected
    trained = [id for id, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert text_of(opt, trained) == f" red{end} yes{end}"
    assert row["picture"] == picture("red")


def test_a_picture_without_a_question_is_followed_by_its_caption(opt):
    row = encode(opt, {"messages": [asked("red", ""), {"role": "assistant", "content": "a red square"}]})
    assert text_of(opt, row["input_ids"]) == "@@@<|im_end|>a red square<|im_end|>"
    assert row["labels"][: QUERIES + 1] == [-100] * (QUERIES + 1)
    assert row["labels"][QUERIES + 1 :] == row["input_ids"][QUERIES + 1 :]


def test_an_encoder_decoder_reads_the_picture_and_writes_the_answer(tmp_path_factory):
    t5 = tiny.blip2(tmp_path_factory.mktemp("blip2") / "t5", "t5")
    row = encode(t5, {"messages": [asked("red"), {"role": "assistant", "content": "red"}]})
    assert text_of(t5, row["input_ids"]) == "@@@Question: what colour? Answer:"
    assert text_of(t5, row["labels"]) == " red<|im_end|>"


def test_turns_that_leave_a_long_row_leave_their_picture(opt):
    turns = [m for n in range(9) for m in ({"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "x"})]
    turns[0] = asked("red", "0?")
    row = encode(opt, {"messages": turns}, max_length=60, train_on="last", on_too_long="drop_turns")
    assert len(row["input_ids"]) <= 60
    assert text_of(opt, row["input_ids"]).startswith("@@@<|im_end|>Question: ")
    assert "8? Answer: x" in text_of(opt, row["input_ids"])
    assert row["picture"] == picture("red")


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([{"role": "user", "content": "what?"}], "the row has no picture"),
        ([asked("red") | {"images": [picture("red")] * 2}], "the conversation has 2 pictures"),
        ([asked("red") | {"images": ["data:image/png;base64,aGVsbG8="]}], "is none of PNG"),
    ],
)
def test_rows_without_one_whole_picture_are_bad(opt, messages, what):
    bad = encode(opt, {"messages": [*messages, {"role": "assistant", "content": "red"}]})
    assert isinstance(bad, BadRow)
    assert what in bad.what


def test_a_model_of_text_refuses_a_picture(base):
    bad = encode(base, {"messages": [asked("red"), {"role": "assistant", "content": "red"}]})
    assert isinstance(bad, BadRow)
    assert "the model reads text alone" in bad.what


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda row: {**row, "input_ids": row["input_ids"][1:], "labels": row["labels"][1:]}, "2 picture tokens"),
        (lambda row: {**row, "labels": row["input_ids"]}, "a picture token is trained"),
    ],
)
def test_what_the_model_would_take_in_silence_is_refused(opt, change, what):
    tokenizer = tokenizer_of(ModelSource(str(opt)), None)
    row = encode(opt, {"messages": [asked("red"), {"role": "assistant", "content": "red"}]})
    collate = IMAGE_TEXT.picture_collator(tokenizer)
    assert collate([row])["pixel_values"].shape == (1, 3, 16, 16)
    with pytest.raises(UserError, match=what):
        collate([change(row)])


def test_answers_are_those_of_generate_whatever_the_batch(folder):
    chat_model = ChatModel(ModelSource(str(folder)), None)
    conversations = [[asked(colour, question)] for colour in COLOURS for question in ("what colour?", "where?", "")]
    prompts = [chat_model.renderer.prompt(messages) for messages in conversations]
    pictures = [messages[0]["images"][0] for messages in conversations]
    completions = chat_model.complete(prompts, GREEDY, 5, pictures)
    processor = AutoProcessor.from_pretrained(str(folder))
    model = AutoModelForImageTextToText.from_pretrained(str(folder)).eval()
    for prompt, one, completion in zip(prompts, pictures, completions, strict=True):
        data = io.BytesIO(base64.b64decode(one.partition(",")[2]))
        pixels = processor.image_processor(Image.open(data), return_tensors="pt")["pixel_values"]
        inputs = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.long)}
        stops = list(chat_model.renderer.stop_ids)
        out = model.generate(**inputs, pixel_values=pixels, max_new_tokens=8, do_sample=False, eos_token_id=stops)[0]
        written = out.tolist()[1:] if chat_model.family is IMAGE_TEXT_SEQ2SEQ else out.tolist()[len(prompt) :]
        assert completion.completion_ids == written
    assert len({completion.logprobs[0] for completion in completions}) == len(conversations)  # each picture's own


def rows_file(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    rows = [{"image": picture(colour), "caption": f"all {colour}"} for colour in COLOURS for _ in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def stage(data: Path, **keys: object) -> dict:
    train = {**tiny.TRAIN, "max_steps": 3, "per_device_train_batch_size": 4}
    return {"kind": "sft", "data": [{"path": str(data), "images": "."}], "train": train, **keys}


def test_stage_two_trains_the_q_former_and_leaves_the_rest_bit_for_bit(folder, tmp_path):
    there = tiny.planned(tiny.recipe(tmp_path, [stage(rows_file(tmp_path))], model=str(folder)), tmp_path / "runs")
    made = tiny.make(there, "sft")
    before, after = tiny.weights(folder), tiny.weights(made.folder)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"query_tokens", "qformer", "language_projection"}
    assert AutoModelForImageTextToText.from_pretrained(str(made.folder)).config.num_query_tokens == QUERIES
    assert AutoProcessor.from_pretrained(str(made.folder)).num_query_tokens == QUERIES


def test_an_adapter_on_one_part_is_trained_and_answers(opt, tmp_path):
    lora = {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*\.(q_proj|v_proj)"}
    there = tiny.planned(
        tiny.recipe(tmp_path, [stage(rows_file(tmp_path), lora=lora)], model=str(opt)), tmp_path / "runs"
    )
    made = tiny.make(there, "sft")
    assert all("language_model" in name for name in tiny.weights(made.folder))
    assert len(ChatModel(None, made.folder).answer([[asked("red", "")], [asked("blue")]], GREEDY)) == 2


def test_a_dialogue_about_a_picture_keeps_it_and_another_begins_anew(opt, tmp_path, capsys):
    from rich.console import Console

    from ft.tools.chat import ChatSession

    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{colour}.png")
    said, notes = io.StringIO(), io.StringIO()
    session = ChatSession(ChatModel(ModelSource(str(opt)), None), GREEDY, said, Console(file=notes, width=200))
    session.handle("/caption")
    session.handle(f"/image {tmp_path / 'none.png'}")
    assert session.refused == 2
    session.handle(f"/image {tmp_path / 'red.png'}")
    session.messages = [{"role": "user", "content": "what colour?"}, {"role": "assistant", "content": "red"}]
    row = tmp_path / "row.jsonl"
    session.handle(f"/save {row}")
    assert json.loads(row.read_text(encoding="utf-8"))["messages"][0]["images"] == [str(tmp_path / "red.png")]
    session.handle(f"/image {tmp_path / 'blue.png'}")
    assert session.messages == []
    session.handle("/caption")
    session.handle("what colour?")
    assert session.refused == 2
    assert said.getvalue().count("assistant: ") == 2
    assert "There is no picture" in notes.getvalue()


def test_a_model_of_text_looks_at_nothing(ending, tmp_path):
    from rich.console import Console

    from ft.tools.chat import ChatSession

    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    notes = io.StringIO()
    session = ChatSession(ChatModel(None, ending), GREEDY, io.StringIO(), Console(file=notes, width=200))
    session.handle(f"/image {tmp_path / 'red.png'}")
    assert "the model reads text alone" in notes.getvalue()

"""A judge's prompt: what it shows, how strictly a reply is read, and what a wrong file is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import tiny
from ft.data.formats.messages import BadRow
from ft.errors import UserError
from ft.evaluation.judge_prompt import JudgePrompt
from wording import Like

SHIPPED = tiny.ROOT / "data" / "judge" / "pairwise.yaml"
ASKED = [{"role": "user", "content": "why is the sky blue?"}]
GOOD = {
    "name": "own",
    "version": 3,
    "prompt": "{{ messages[-1].content }} {{ row.topic }} {{ first }} {{ second }}",
    "verdicts": {"first": "ONE", "second": "TWO", "tie": "EVEN"},
}


def written(folder: Path, **changes: object) -> Path:
    file = folder / "judge.yaml"
    file.write_text(
        yaml.safe_dump({key: value for key, value in {**GOOD, **changes}.items() if value is not None}),
        encoding="utf-8",
    )
    return file


def test_the_shipped_prompt_shows_the_conversation_and_both_answers_in_order():
    system, user = JudgePrompt.read(SHIPPED).messages([*ASKED], {}, "It scatters.", "Ask a [[A]].")
    assert system["role"] == "system"
    text = user["content"]
    assert text.startswith(
        "The conversation:\nuser: why is the sky blue?\n\nAnswer A:\nIt scatters.\n\nAnswer B:\nAsk a [[A]]."
    )
    assert text.index("It scatters.") < text.index("Ask a [[A]].")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Better grounded.\n[[A]]", "first"),
        ("[[B]]", "second"),
        ("Both say it. [[C]] Indeed: [[C]].", "tie"),
        ("[[A]] says less, so [[B]]", None),
        ("Answer A is better.", None),
        ("[[a]]", None),
        ("[A]", None),
        ("", None),
    ],
)
def test_a_verdict_is_one_mark_and_no_other(reply, verdict):
    assert JudgePrompt.read(SHIPPED).verdict(reply) == verdict


def test_answers_are_text_and_never_templates():
    prompt = JudgePrompt.read(SHIPPED)
    user = prompt.messages(ASKED, {}, "{{ 7 * 7 }}", "{% for x in y %}")[-1]["content"]
    assert "{{ 7 * 7 }}" in user
    assert "{% for x in y %}" in user


def test_a_prompt_may_name_columns_and_a_row_without_them_is_refused(tmp_path):
    prompt = JudgePrompt.read(written(tmp_path))
    assert prompt.messages(ASKED, {"topic": "sky"}, "a", "b")[-1]["content"] == "why is the sky blue? sky a b"
    with pytest.raises(BadRow, match="has no attribute 'topic'"):
        prompt.messages(ASKED, {}, "a", "b")


def test_a_prompt_runs_in_a_sandbox(tmp_path):
    prompt = "{{ messages[-1].content }}{{ first }}{{ second }}{{ ''.__class__.__mro__ }}"
    with pytest.raises(UserError, match=r"no template that renders: access to attribute '__class__'"):
        JudgePrompt.read(written(tmp_path, prompt=prompt))


def test_version_and_hash_say_which_words_were_used(tmp_path):
    before = JudgePrompt.read(written(tmp_path)).record()
    after = JudgePrompt.read(written(tmp_path, version=4)).record()
    assert (before["version"], after["version"]) == (3, 4)
    assert before["hash"] != after["hash"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": "1"}, "version is '1'. Write a whole number."),
        ({"name": None}, "name is None. Write text."),
        ({"marks": 1}, Like("… judge's prompt has no key 'marks' …")),
        ({"verdicts": {"first": "A"}}, Like("verdicts … written …")),
        ({"verdicts": {"first": "A", "second": "B", "tie": "AB"}}, Like("… verdicts … another …")),
        ({"prompt": "{{ first }} {{ second }}"}, "the prompt never shows the question."),
        ({"prompt": "{{ messages }} {{ first }}"}, "the prompt never shows the second."),
        ({"prompt": "{{ first }"}, "prompt is no template that renders"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path, changes, told):
    file = written(tmp_path, **changes)
    with pytest.raises(UserError) as refused:
        JudgePrompt.read(file)
    assert str(refused.value) == Like(f"{file}: {told} …")

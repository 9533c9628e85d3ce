"""A model in a chat calls functions of the user's own file: only those, only when asked, and what they do is said."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from ft.errors import UserError
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.sampling import Sampling
from ft.tools.chat import CALL_ROUNDS, ChatSession
from ft.tools.chat_tools import ChatTools, call_text, read_tools
from wording import Like

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call>'
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{{- ':' if messages[-1].role == 'tool' else '\n' }}{% endif %}
"""
FILE = '''
import json as _json
from pathlib import Path

def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: the first
        b: the second
    """
    Path("called").write_text(f"{a} {b}")
    return a + b

def _hidden() -> None: ...
'''


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that calls `add`, and after what it found says "7": the next token follows from the last one alone."""
    folder = tmp_path_factory.mktemp("calling")
    words = tiny.tokenizer()
    words.add_tokens([AddedToken(CALL, special=False)])
    words.chat_template = TEMPLATE
    follows = [("\n", CALL), (CALL, "<|im_end|>"), (":", "7"), ("7", "<|im_end|>")]
    config = tiny.config(words).to_dict() | {"hidden_size": 320, "head_dim": 80, "max_position_embeddings": 1024}
    model = LlamaForCausalLM(LlamaConfig(**config))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(words), 320))
        model.lm_head.weight.zero_()
        for last, following in follows:
            ids = [words(text, add_special_tokens=False)["input_ids"][0] for text in (following, last)]
            model.lm_head.weight[ids[0], ids[1]] = 1.0
    model.save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    return path


def talk(model: Path, tools: ChatTools) -> tuple[ChatSession, io.StringIO]:
    notes = io.StringIO()
    chat_model = ChatModel(None, model)
    session = ChatSession(
        chat_model, Sampling(max_new_tokens=16), io.StringIO(), Console(file=notes, width=400), tools=tools
    )
    return session, notes


def yes(call: str) -> bool:
    return True


def test_a_call_is_confirmed_run_and_answered(calling: Path, file: Path) -> None:
    asked: list[str] = []
    session, notes = talk(calling, read_tools(file, lambda call: bool(asked.append(call)) or True))
    session.send("what is three and four?")
    assert asked == ["add(a=3, b=4)"], notes.getvalue()
    assert session.messages, notes.getvalue()
    assert [(message["role"], message["content"]) for message in session.messages] == [
        *(("user", "what is three and four?"), ("assistant", ""), ("tool", "7"), ("assistant", "7"))
    ]
    assert session.messages[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 3, "b": 4}}
    assert "add(a=3, b=4) → 7" in notes.getvalue()
    session.undo()
    assert session.messages == []


def test_a_call_that_the_user_does_not_allow_is_not_run(calling: Path, file: Path) -> None:
    session, _ = talk(calling, read_tools(file, lambda call: False))
    session.send("what is three and four?")
    assert session.messages[2]["content"] == "error: the user did not allow this call"
    assert not Path("called").exists()


def test_schemas_alone_run_nothing(calling: Path, tmp_path: Path, file: Path) -> None:
    described = tmp_path / "tools.json"
    described.write_text(json.dumps(read_tools(file, yes).schemas), encoding="utf-8")
    session, notes = talk(calling, read_tools(described, yes))
    session.send("what is three and four?")
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
    assert "not run, since --tools only describes it: add(a=3, b=4)" in notes.getvalue()


def test_a_saved_dialogue_is_a_row_with_its_tools(calling: Path, file: Path, tmp_path: Path) -> None:
    session, _ = talk(calling, read_tools(file, yes))
    session.send("what is three and four?")
    session.save(str(tmp_path / "rows.jsonl"))
    row = json.loads((tmp_path / "rows.jsonl").read_text(encoding="utf-8"))
    assert [tool["function"]["name"] for tool in row["tools"]] == ["add"]
    assert len(row["messages"]) == 4


def test_a_model_that_never_stops_calling_is_stopped(
    calling: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, notes = talk(calling, read_tools(file, yes))
    session.chat_model.tokenizer.chat_template = TEMPLATE.replace("messages[-1].role == 'tool'", "false")
    session.send("what is three and four?")
    assert session.messages == []
    assert f"called tools {CALL_ROUNDS} times" in notes.getvalue()


def call(name: str = "add", **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def raises(error: BaseException) -> Callable[..., None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (call(a=1, b=2), "3"),
        (call(a=1), "error: missing a required argument: 'b'"),
        (call(a=1, b=2, c=3), "error: got an unexpected keyword argument 'c'"),
        (call("subtract"), "error: there is no tool subtract; there are: add, breaks, leaves, lists"),
        (call("_hidden"), "error: there is no tool _hidden; there are: add, breaks, leaves, lists"),
        (call("breaks"), "error: ZeroDivisionError: no"),
        (call("leaves"), "error: SystemExit: 3"),
        (call("lists"), '["é", {"a": 1}]'),
    ],
)
def test_what_goes_back_to_the_model(written: dict[str, Any], expected: str) -> None:
    functions = {
        **{"add": lambda a, b: a + b, "breaks": raises(ZeroDivisionError("no")), "leaves": raises(SystemExit(3))},
        **{"lists": lambda: ["é", {"a": 1}]},
    }
    assert ChatTools([], functions, yes).result(written) == expected


def test_a_call_is_shown_as_python_writes_it() -> None:
    assert call_text(call(a="x'y", b=[1])) == 'add(a="x\'y", b=[1])'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "--tools: no file … Name a .py file of functions, or a .json file of schemas."),
        ("tools.txt", "", "--tools: … is neither .py nor .json. …"),
        ("empty.py", "x = 1\n", "…: it defines no function. …"),
        ("plain.py", "def f(x):\n    return x\n", "…: f: it cannot be described: … Give every parameter a type, …"),
        ("broken.py", "def f(:\n", "…: it ends with SyntaxError: … Make it importable."),
        ("exits.py", "raise SystemExit(2)\n", "…: it ends with SystemExit: 2. Make it importable."),
        ("no.json", "{", "…: tools is text that is no JSON: … Write a list of function schemas."),
        ("none.json", "[]", "…: it describes no tool. …"),
        ("odd.json", '[{"x": 1}]', "…: tools: entry 1 is no function with a name …"),
    ],
)
def test_a_file_that_is_no_file_of_tools_is_said_in_words(tmp_path: Path, name: str, text: Any, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_tools(tmp_path / name, yes)
    assert str(refused.value) == Like(message)

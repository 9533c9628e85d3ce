"""Calls are read from what a model wrote by its template's own notation: as TRL reads them where it can, and every call
that a template writes comes back."""

import json
from typing import Any

import pytest
from chat_tokenizers import TEMPLATES, byte_level, for_trl
from transformers import PreTrainedTokenizerFast
from trl.chat_template_utils import add_response_schema, parse_response

import tiny
from ft.encode.conversation import BadRow, Renderer
from ft.encode.tool_calls import CallReader, learn_response_templates
from ft.errors import UserError
from wording import Like

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja") if not path.stem.endswith("_training"))
# of those that write calls: TRL has no response template, and their calls are no JSON
UNREADABLE = {"diffusion_gemma", "muse_glimmer"}
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls %}"
    "[TOOL_CALLS] [{% for c in m.tool_calls %}{{ c.function | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}]"
    "{{ eos_token }}{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
QUESTION = {"role": "user", "content": "what is it?"}


def mistral() -> PreTrainedTokenizerFast:
    return byte_level(special=("<s>", "</s>", "<pad>", "[TOOL_CALLS]", "[INST]", "[/INST]"), chat_template=MISTRAL)


def embedded() -> PreTrainedTokenizerFast:
    tokenizer = byte_level(special=("<|bos|>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"))
    tokenizer.chat_template = (tiny.ROOT / "recipes/tiny/tools.jinja").read_text(encoding="utf-8")
    return tokenizer


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name: str, **kinds: str) -> dict[str, Any]:
    properties = {key: {"type": kind, "description": key} for key, kind in kinds.items()}
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}


TOOLS = [tool("look_up", what="string", of="string"), tool("add", a="integer", b="integer")]
ONE, OTHER = call("look_up", what="colour", of="the frog's eye, {not} its <leg>"), call("add", a=3, b=-12)


def written(renderer: Renderer, *calls: dict[str, Any], content: str = "") -> tuple[str, str]:
    """The prompt, and what the template makes of an answer behind it."""
    chat = renderer.chat
    answer = {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}
    prompt, text = chat.text([QUESTION], TOOLS, prompt=True), chat.text([QUESTION, answer], TOOLS)
    return prompt, text[chat.common_prefix(prompt, text) :]


@pytest.mark.parametrize("name", NAMES)
def test_calls_come_back_as_they_were_written(name: str) -> None:
    renderer = Renderer(for_trl(name, byte_level))
    if renderer.chat.calls is None or name in UNREADABLE:
        with pytest.raises(UserError, match="chat template: "):
            CallReader(renderer.chat)
        return
    reader = CallReader(renderer.chat)
    plain = call("look_up", what="colour", of="the frog")
    for one in (plain, OTHER):
        assert reader.read(*written(renderer, one), TOOLS).calls == [one]
    assert reader.read(*written(renderer, content="it is green."), TOOLS) == ("it is green.", [])


@pytest.mark.parametrize("make", [embedded, mistral], ids=["embedded", "mistral"])
def test_a_notation_that_nobody_has_described_is_learnt(make: Any) -> None:
    renderer = Renderer(make())
    reader = CallReader(renderer.chat)
    assert reader.read(*written(renderer, ONE), TOOLS).calls == [ONE]
    assert reader.read(*written(renderer, ONE, OTHER), TOOLS).calls == [ONE, OTHER]
    assert reader.read(*written(renderer, content="it is green."), TOOLS) == ("it is green.", [])


@pytest.mark.parametrize("name", ["deepseekv3", "gptoss", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "qwen3_vl"])
def test_what_is_learnt_reads_as_trls_own_response_template_does(name: str) -> None:
    renderer = Renderer(for_trl(name, byte_level))
    learnt = CallReader(renderer.chat)
    learnt.response_template = next(iter(learn_response_templates(renderer.chat)))
    for content, calls in (("", [ONE]), ("", [OTHER]), ("it is green.", [])):
        prompt, answer = written(renderer, *calls, content=content)
        if name == "deepseekv3":  # which TRL has no response template for
            assert learnt.read(prompt, answer, TOOLS).calls == calls
            continue
        theirs = add_response_schema(for_trl(name, byte_level))
        ids = theirs(answer, add_special_tokens=False)["input_ids"]
        prefix = theirs(prompt, add_special_tokens=False)["input_ids"]
        parsed = parse_response(theirs, ids, prefix=prefix, tools=TOOLS)
        assert learnt.read(prompt, answer, TOOLS).calls == parsed.get("tool_calls", []) == calls


def test_the_tokenizers_own_response_template_is_heeded_first() -> None:
    tokenizer = embedded()
    own = {**CallReader(Renderer(embedded()).chat).response_template, "defaults": {"role": "assistant"}}
    tokenizer.response_template = own
    assert CallReader(Renderer(tokenizer).chat).response_template is own


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>\n{"name": "add", "arguments": {"a": 3,}}\n</tool_call><|im_end|>',
        '<tool_call>\n{"name": "add", "arguments": {"a": 3',
        '<tool_call>\n{"arguments": {"a": 3}}\n</tool_call><|im_end|>',
        '<tool_call>\n{"name": "add", "arguments": 3}\n</tool_call><|im_end|>',
        "<tool_call>\nadd(3)\n</tool_call><|im_end|>",
    ],
)
def test_a_broken_call_is_no_call_and_no_plain_answer_either(answer: str) -> None:
    renderer = Renderer(for_trl("qwen2_5", byte_level))
    with pytest.raises(BadRow, match="answer"):
        CallReader(renderer.chat).read(renderer.prompt_text([QUESTION], TOOLS), answer, TOOLS)


def test_blanks_and_the_order_of_keys_are_the_models_own() -> None:
    renderer = Renderer(embedded())
    text = json.dumps({"arguments": {"b": -12, "a": 3}, "name": "add"}, indent=1)
    read = CallReader(renderer.chat).read(
        renderer.prompt_text([QUESTION], TOOLS), f"let me see. <tool_call> {text}</tool_call></s>", TOOLS
    )
    assert read == ("let me see.", [OTHER])


def test_the_calls_before_a_prompt_that_ends_otherwise_are_not_read_again() -> None:
    renderer = Renderer(mistral())
    prompt, called = written(renderer, ONE)
    read = CallReader(renderer.chat).read(f"{prompt}{called}[TOOL_RESULTS] green[/TOOL_RESULTS]", "green.</s>", TOOLS)
    assert read == ("green.", [])


def test_a_template_without_calls_is_refused_in_words() -> None:
    with pytest.raises(UserError) as refused:
        CallReader(Renderer(for_trl("llama3", byte_level)).chat)
    assert str(refused.value) == Like("chat template: it writes no tool calls. …")


def test_a_prompt_with_tools_that_the_template_does_not_write_is_refused() -> None:
    with pytest.raises(BadRow, match="the chat template writes no tools"):
        Renderer(for_trl("llama3", byte_level)).prompt([QUESTION], TOOLS)

"""Small real tokenizers: byte-level BPE as in Llama 3 and Qwen, and Metaspace BPE with byte fallback as in Llama 2."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ft.encode.conversation import Renderer, template

TEXT = [
    "What is the capital of France? It is Paris, a city of two million people.\nUser: hello\nAssistant: good day!\n\n",
    "You answer in rhyme. The fox sleeps; the owl counts stars. Once upon a time there was a system, a user, a model.",
    "assistant user system developer thinking channel final message\n\n\n# Tools\nthink: 1 + 2 = 3, and 4 * 5 = 20.",
] * 20
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
THINKING = ("<think>", "</think>")
TOKEN = re.compile(
    r"<\|\w+\|>|<\|\w+>|<\w+\|>|<｜[^｜]+｜>|</?think>|<(?:start_of_turn|end_of_turn|end_of_utterance|sop)>|\[gMASK\]"
)


def byte_level(
    special: Sequence[str] = ("<s>", "</s>", "<pad>"),
    chat_template: str | None = None,
    plain: Sequence[str] = (),
    bos_token: str | None = "<s>",
    pad_token: str = "<pad>",
) -> PreTrainedTokenizerFast:
    names = {"bos_token": bos_token, "eos_token": "</s>", "pad_token": pad_token}
    return _finished(_byte_level(), special, chat_template, plain, names)


def metaspace(
    special: Sequence[str] = ("<s>", "</s>", "<pad>"),
    chat_template: str | None = None,
    plain: Sequence[str] = (),
    bos_token: str | None = "<s>",
    pad_token: str = "<pad>",
) -> PreTrainedTokenizerFast:
    names = {"unk_token": "<unk>", "bos_token": bos_token, "eos_token": "</s>", "pad_token": pad_token}
    return _finished(_metaspace(), special, chat_template, plain, names)


@cache
def _byte_level() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    return tokenizer.to_str()


@cache
def _metaspace() -> str:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fallback = ["<unk>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=700, special_tokens=fallback))
    return tokenizer.to_str()


def _finished(
    trained: str, special: Sequence[str], chat_template: str | None, plain: Sequence[str], names: dict[str, str | None]
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(trained)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(special)])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in plain])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = chat_template
    return fast


def for_trl(name: str, make: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    """A tokenizer with the tokens that one of TRL's templates writes; `<think>` is a plain added token, as in Qwen3."""
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    plain = [token for token in THINKING if token in text]
    special = [token for token in dict.fromkeys(TOKEN.findall(text)) if token not in plain]
    bos = "<bos>" if "bos_token" in text else None
    names = ["</s>", "<pad>", *([bos] if bos else [])]
    return make([*names, *special], text, plain=plain, bos_token=bos)


CHATML = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
LLAMA3 = ("<s>", "</s>", "<pad>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def chatml(plain: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    return byte_level(CHATML, template("chatml"), plain=plain)


def trained_text(renderer: Renderer, row: dict) -> str:
    """The trained stretches of a row, decoded, with ␣…␣ where something between them is not trained."""
    rendered = renderer.render(row)
    assert rendered is not None
    stretches: list[list[int]] = []
    last = -2
    for place, label in enumerate(rendered.labels):
        if label == -100:
            continue
        if place != last + 1:
            stretches.append([])
        stretches[-1].append(label)
        last = place
    return "␣…␣".join(renderer.tokenizer.decode(stretch) for stretch in stretches)


SYSTEM = {"role": "system", "content": "You answer in rhyme."}


def chat(*said: str) -> list[dict]:
    """Messages by turns: user, assistant, user, …"""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]


TWO = chat("hello", "good day", "And of two?", "two million")

# A template without special tokens but the end: HEAD + what it writes of other messages + TAIL
HEAD = "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'A:' + m.content + eos_token }}{% else %}"
TAIL = "{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"

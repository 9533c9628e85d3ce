"""Small real tokenizers: byte-level BPE as in Llama 3 and Qwen, and Metaspace BPE with byte fallback as in Llama 2."""

import re
from pathlib import Path

import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "What is the capital of France? It is Paris, a city of two million people.\nUser: hello\nAssistant: good day!\n\n",
    "You answer in rhyme. The fox sleeps; the owl counts stars. Once upon a time there was a system, a user, a model.",
    "assistant user system developer thinking channel final message\n\n\n# Tools\nthink: 1 + 2 = 3, and 4 * 5 = 20.",
] * 20
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
MARK = re.compile(r"<\|[\w/\" ]+?\|>|<\|\w+>|<\w+\|>|<｜[^｜]+｜>|</?(?:think|start_of_turn|end_of_turn|image|end_of_utterance)>|\[gMASK\]|<sop>")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(special=(), template=None, plain=(), **names):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    return _finished(tokenizer, special, plain, template, names)


def metaspace(special=("<unk>", "<s>", "</s>"), template=None, scheme="first", plain=(), **names):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *BYTES])
    tokenizer.train_from_iterator(TEXT, trainer)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", **names}
    return _finished(tokenizer, special, plain, template, names)


def _finished(tokenizer, special, plain, template, names):
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(special)])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in dict.fromkeys(plain)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = template
    return fast


def for_template(name, make=byte_level):
    """A tokenizer with the tokens that one of TRL's templates writes."""
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    thinking = [token for token in ("<think>", "</think>") if token in text]
    marks = [mark for mark in dict.fromkeys(MARK.findall(text)) if mark not in thinking]
    bos = "<bos>" if "bos_token" in text else None
    names = {"eos_token": "</s>", "pad_token": "<pad>"} | ({"bos_token": bos} if bos else {})
    special = ["<unk>", "<pad>", "</s>", *([bos] if bos else []), *marks]
    return make(special, text, plain=thinking, **names)

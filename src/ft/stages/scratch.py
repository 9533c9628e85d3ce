"""A model from nothing: a tokenizer trained on the rows, and random weights of a given architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ft import artifacts
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source
from ft.encode.conversation import template
from ft.families import family_of
from ft.models.load import share
from ft.models.processor import new_config
from ft.recipe.job import Job
from ft.stages.tokenizer import texts_of


@dataclass(frozen=True)
class TokenizerOptions:
    """A byte-level tokenizer: a recipe's `tokenizer:` block.

    algorithm      bpe merges the commonest pairs (arXiv:1508.07909), wordpiece those likelier than their parts and
                   takes the longest token from the left, unigram keeps the likeliest tokens (arXiv:1804.10959)
    vocab_size     entries, the special ones included
    pad, bos, eos  the special tokens with a meaning of their own; they come first, in this order
    extra          further special tokens, such as the role markers of a chat template
    """

    vocab_size: int
    pad: str = "<|pad|>"
    bos: str = "<|bos|>"
    eos: str = "<|end|>"
    extra: list[str] = field(default_factory=list)
    algorithm: Literal["bpe", "unigram", "wordpiece"] = "bpe"


def make(job: Job) -> dict[str, Any]:
    """Leave config, random weights and tokenizer as one folder. Same seed, same bytes."""
    from transformers import GenerationConfig, set_seed

    options = TokenizerOptions(**job.block("tokenizer"))
    tokenizer = train_tokenizer(options, job.template, _texts(job))
    config = new_config(job.block("architecture"), vocab_size=len(tokenizer))
    family = family_of(config, job.where)
    ids = family.special_ids(tokenizer)
    config.update(ids)
    set_seed(job.seed)
    model = family.auto_class(scores=False).from_config(config)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(str(job.folder))
    tokenizer.save_pretrained(str(job.folder))
    share(job.folder)
    return {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def _texts(job: Job) -> Iterator[str]:
    bad = BadRows("error", job.folder / artifacts.REJECTS)
    for source_row in mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad):
        yield from texts_of(source_row.row)
    bad.finish()


def train_tokenizer(options: TokenizerOptions, chat_template: str | None, texts: Iterator[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [options.pad, options.bos, options.eos, *options.extra]
    # All bytes are in the alphabet, so no text holds an unknown token, and none is named
    common: dict[str, Any] = {"vocab_size": options.vocab_size, "special_tokens": special, "show_progress": False}
    common |= {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    model, trainer = {
        "bpe": lambda: (models.BPE(), trainers.BpeTrainer(**common, min_frequency=2)),
        "unigram": lambda: (models.Unigram(), trainers.UnigramTrainer(**common)),
        "wordpiece": lambda: (
            models.WordPiece(unk_token=options.pad, continuing_subword_prefix=""),
            trainers.WordPieceTrainer(**common, min_frequency=2, continuing_subword_prefix=""),
        ),
    }[options.algorithm]()
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=options.pad,
        bos_token=options.bos,
        eos_token=options.eos,
        extra_special_tokens=options.extra,
        chat_template=template(chat_template) if chat_template else None,
        clean_up_tokenization_spaces=False,
    )

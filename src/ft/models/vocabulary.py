"""A model's vocabulary made larger: further merges of its tokenizer, and rows of its embeddings for what is new."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import fail

Pair = tuple[str, str]
BLANK = "▁"  # of SentencePiece: it stands before a word


def pieces_of(tokenizer: Any, texts: Iterable[str]) -> Counter[str]:
    """How often each piece that no token reaches beyond, mostly a word, stands in the texts. Memory grows with
    different words, not with rows."""
    counts: Counter[str] = Counter()
    backend = tokenizer.backend_tokenizer
    for text in texts:
        normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
        if backend.pre_tokenizer:
            counts.update(piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normal))
        else:
            counts.update(re.findall(f"{BLANK}?[^{BLANK}]+", normal))  # Llama 2's joins words by blanks alone
    return counts


def further_merges(
    counts: Mapping[str, int], split: Callable[[str], Sequence[str]], known: Iterable[str], new: int
) -> list[Pair]:
    """The merges that BPE goes on with on these words, as many as make `new` tokens that are not `known`; fewer where
    no pair comes twice (arXiv:1508.07909, algorithm 1). `split` says how a word is divided so far."""
    words = {word: list(split(word)) for word in counts}
    pairs: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[str]] = defaultdict(set)
    for word, parts in words.items():
        _count(pairs, places, word, parts, counts[word])
    merges: list[Pair] = []
    vocabulary, wanted = {*known}, new
    while wanted and pairs:
        pair = max(pairs, key=lambda one: (pairs[one], one))
        if pairs[pair] < 2:
            break
        merges.append(pair)
        wanted -= "".join(pair) not in vocabulary
        vocabulary.add("".join(pair))
        for word in places.pop(pair):
            _count(pairs, places, word, words[word], -counts[word])
            words[word] = _joined(words[word], pair)
            _count(pairs, places, word, words[word], counts[word])
        pairs = +pairs
    return merges


def _count(pairs: Counter[Pair], places: defaultdict[Pair, set[str]], word: str, parts: list[str], times: int) -> None:
    for pair in pairwise(parts):
        pairs[pair] += times
        if times > 0:
            places[pair].add(word)


def _joined(parts: Sequence[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def learn_words(tokenizer: Any, texts: Iterable[str], new: int, folder: Path, where: str) -> Any:
    """The tokenizer with up to `new` tokens more, whose ids stand behind all it has; it is saved in the folder.

    Merges are added behind those there are, so a text is first divided as it was, and then joined further.
    """
    model = tokenizer.backend_tokenizer.model
    if type(model).__name__ != "BPE":
        what = f"words can be learnt by a BPE tokenizer, and this is a {type(model).__name__} one"
        raise fail(where, what, "Leave `learn` out; `add` takes words as they are.")
    counts = pieces_of(tokenizer, texts)
    known = tokenizer.get_vocab()
    merges = further_merges(counts, lambda word: [one.value for one in model.tokenize(word)], known, new)
    tokenizer.save_pretrained(str(folder))
    file = folder / artifacts.TOKENIZER
    tree = json.loads(file.read_text(encoding="utf-8"))
    vocabulary, first = tree["model"]["vocab"], len(tokenizer)
    # A special token that is no entry of the model's would get an id behind the new ones when the file is read
    vocabulary |= {token["content"]: token["id"] for token in tree["added_tokens"]}
    tokens = dict.fromkeys("".join(pair) for pair in merges if "".join(pair) not in vocabulary)
    vocabulary |= {token: first + place for place, token in enumerate(tokens)}
    tree["model"]["merges"] += [[*pair] for pair in merges]
    file.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    return type(tokenizer).from_pretrained(str(folder))


def add_rows(model: Any, known: int, size: int) -> int:
    """Give the model an embedding, and a row of its head, for each id from `known` up to `size`: the mean of those
    known. Returns how many rows are new.

    With the mean of all rows a new token's logit is the mean of all logits, so the probability of what was known falls
    by a factor of at most 1 + new / known, whatever the model: the exponential of a mean is no more than the mean of
    exponentials.
    """
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    if size > rows:
        # transformers would draw them around the mean by chance
        model.resize_token_embeddings(size, mean_resizing=False)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    tensors = {id(t): t for layer in layers if layer is not None for t in layer.parameters() if t.shape[0] >= size}
    with torch.no_grad():
        for tensor in tensors.values():
            tensor[known:] = tensor[:known].float().mean(0).to(tensor.dtype)
    return int(model.get_input_embeddings().weight.shape[0]) - known


def largest_rise(known: int, new: int) -> float:
    """How much a loss in nats a token can rise by `new` rows of the mean; see `add_rows`."""
    return math.log1p(new / known)


def fertility(tokenizer: Any, texts: Iterable[str]) -> tuple[int, int]:
    """(tokens, words) of texts; their ratio is the tokenizer's fertility there (arXiv:2012.15613, section 3)."""
    tokens = words = 0
    for text in texts:
        tokens += len(tokenizer(text, add_special_tokens=False)["input_ids"])
        words += len(text.split())
    return tokens, words


def in_chunks(texts: Sequence[str], tokenizer: Any, longest: int) -> Iterator[list[int]]:
    """The ids of each text, its first `longest`; texts of fewer than two say nothing of a loss."""
    for text in texts:
        ids = tokenizer(text)["input_ids"][:longest]
        if len(ids) > 1:
            yield ids

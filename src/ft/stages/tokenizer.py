"""More tokens for a model: special ones, and words that its tokenizer divides too often. The result is a whole model.

Later stages start from it as from any model (`init: $tokenizer`), so training, sampling, rewards and export read one
folder and cannot disagree on what a token is.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ft import artifacts
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source
from ft.encode.encoder import EncodedRow
from ft.errors import fail
from ft.families import family_of
from ft.figures.fertility import fertility as fertility_figure
from ft.figures.write import write_figures
from ft.files import write_json
from ft.models.lineage import base_of
from ft.models.load import load_base, share
from ft.models.logprobs import row_logprobs
from ft.models.processor import tokenizer_of
from ft.models.vocabulary import add_rows, fertility, in_chunks, largest_rise, learn_words
from ft.progress import Progress
from ft.recipe import ModelSource
from ft.recipe.job import Job

MEASURED, LONGEST = 64, 256  # texts whose loss is compared, and their tokens
ROUNDING = 0.01  # nats a token, of sums in half precision
EVEN = 64  # rows come in multiples of it: what NF4 and tensor cores take
ALL = "all rows"


@dataclass(frozen=True)
class NewTokenOptions:
    """What a model's tokenizer is given: a recipe's `tokenizer:` block under `kind: tokenizer`.

    add      special tokens, as markers of roles: they are never divided
    learn    so many tokens more, by going on with BPE's merges on the rows
    by       column whose values fertility is told apart by, as language; null: all rows together
    against  another tokenizer to compare fertility with: a folder, or an id of the Hub
    """

    add: list[str] = field(default_factory=list)
    learn: int = 0
    by: str | None = None
    against: str | None = None

    def __post_init__(self) -> None:
        if self.learn < 0 or not (self.add or self.learn):
            raise ValueError("add and learn are both empty: there is nothing to do")


def make(job: Job) -> dict[str, Any]:
    """Leave model and tokenizer in the folder, fertility.csv with its picture, and resize.json; return the numbers."""
    options = NewTokenOptions(**job.block("tokenizer"))
    base, adapter = base_of(job.model, job.init)
    if adapter is not None:
        fix = "Export it (`ft export` merges it), and start from that; or train the adapter on the new tokens' model."
        raise fail(job.where, "its model is an adapter, whose base has no room for new tokens", fix)
    groups = _texts_by_group(job, options.by)
    before = tokenizer_of(job.model, job.init, job.template)
    tokenizer = tokenizer_of(job.model, job.init, job.template)
    known = len(before)
    if options.learn:
        texts = (text for group in groups.values() for text in group)
        tokenizer = learn_words(tokenizer, texts, options.learn, job.folder, job.where)
    taken = [token for token in options.add if token in tokenizer.get_vocab()]
    if taken:
        raise fail(job.where, f"tokenizer.add: the tokenizer has {', '.join(taken)} already", "Take them out.")
    tokenizer.add_special_tokens({"extra_special_tokens": options.add}, replace_extra_special_tokens=False)
    numbers = {"vocabulary": len(tokenizer), "new_tokens": len(tokenizer) - known, "first_new_id": known}
    numbers |= _resize(job, base, before, tokenizer, [text for group in groups.values() for text in group][:MEASURED])
    tokenizer.save_pretrained(str(job.folder))
    share(job.folder)
    tokenizers = {"before": before, "after": tokenizer}
    if options.against:
        tokenizers[options.against] = tokenizer_of(ModelSource(options.against), None)
    return numbers | _compare_fertility(job, groups, tokenizers)


def _texts_by_group(job: Job, by: str | None) -> Mapping[str, list[str]]:
    """Texts of the rows, by the value of a column; of a conversation its messages."""
    bad = BadRows("error", job.folder / artifacts.REJECTS)
    groups: dict[str, list[str]] = {}
    with Progress(f"{job.name}: rows", unit="rows") as progress:
        for source_row in mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad):
            group = str(source_row.row.get(by, "no " + by)) if by else ALL
            groups.setdefault(group, []).extend(texts_of(source_row.row))
            progress.advance(1, 0)
    bad.finish()
    if not any(groups.values()):
        raise fail(job.where, "data holds no text", "Name rows with texts or messages.")
    return groups


def texts_of(row: Mapping[str, Any]) -> Iterator[str]:
    """The text of a document, or of each message of a conversation."""
    if "text" in row:
        yield row["text"]
    for message in row.get("messages") or [*row.get("prompt", []), *row.get("completion", [])]:
        yield message["content"]


def _resize(job: Job, base: ModelSource, before: Any, tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Save the model with its new rows. Raises UserError where what it knew has become less likely than rows of the
    mean can make it: then it is no longer the model that was given."""
    from ft.models.device import has_gpu

    use_cpu = not has_gpu()
    model = load_base(base, base.dtype or "float32", None, use_cpu).eval()
    family = family_of(model.config, job.where)
    rows = [family.completion_row(ids[:1], ids[1:]) for ids in in_chunks(texts, before, LONGEST)]
    loss_before = _loss(model, rows)
    known, old_rows = len(before), model.get_input_embeddings().weight.shape[0]
    size = max(old_rows, -(-len(tokenizer) // EVEN) * EVEN if old_rows % EVEN == 0 else len(tokenizer))
    new_rows = add_rows(model, known, size)
    loss_after = _loss(model, rows)
    allowed = largest_rise(known, new_rows)
    if loss_after - loss_before > allowed + ROUNDING:
        what = f"the loss on {len(rows)} texts went from {loss_before:.3f} to {loss_after:.3f} nats a token"
        raise fail(job.where, f"{what}; rows of the mean can add {allowed:.4f}", "Report this with the model's name.")
    model.save_pretrained(str(job.folder))
    losses = {"loss_before": loss_before, "loss_after": loss_after}
    new_tokens = tokenizer.convert_ids_to_tokens(range(known, len(tokenizer)))
    write_json(job.folder / artifacts.RESIZE, {"known": known, "rows": size, "tokens": new_tokens, **losses})
    return losses | {"largest_rise": allowed}


def _loss(model: Any, rows: Sequence[EncodedRow]) -> float:
    """Mean negative log-likelihood of what the tokenizer made before, in nats a token."""
    tokens = sum(len(row["input_ids"]) - 1 for row in rows)
    return -sum(row_logprobs(model, rows, batch_size=8)) / max(1, tokens)


def _compare_fertility(
    job: Job, groups: Mapping[str, list[str]], tokenizers: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Write fertility.csv and its picture; tokens a word over all rows, by tokenizer."""
    counts = {
        (group, name): fertility(tokenizer, texts)
        for group, texts in groups.items()
        for name, tokenizer in tokenizers.items()
    }
    with (job.folder / artifacts.FERTILITY_TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("group", "tokenizer", "tokens", "words", "fertility"))
        table.writerows((*key, tokens, words, tokens / max(1, words)) for key, (tokens, words) in counts.items())
    write_figures(job, fertility_figure)
    sums = {name: [sum(counts[group, name][n] for group in groups) for n in (0, 1)] for name in tokenizers}
    return {"fertility": {name: tokens / max(1, words) for name, (tokens, words) in sums.items()}}

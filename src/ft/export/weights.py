"""Merges, saves, and opens what was saved again as anybody would: is it the model that was trained?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.errors import fail
from ft.export.compare import TOLERANCE, Behaviour, Rows, behaviour, difference, rows_of, same
from ft.export.trained_model import TrainedModel
from ft.models.device import has_gpu
from ft.models.lineage import parts
from ft.models.merge import is_scorer, merged, plain, save, trained, unequal
from ft.models.processor import tokenizer_of
from ft.models.token_budget import positions_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ft.export.writing import ExportOptions, Log


def write_weights(result: TrainedModel, folder: Path, dtype: str, options: ExportOptions, log: Log) -> dict[str, Any]:
    """The weights' files in `folder`, and the comparison. Raises UserError where it is another model than the trained
    one and rounding to `dtype` does not explain it."""
    use_cpu = options.use_cpu or not has_gpu()
    tokenizer = tokenizer_of(None, result.folder)
    log("computing what the trained model answers")
    rows, reference = _reference(result, tokenizer, use_cpu)
    if result.adapter:
        log(f"merging the adapter into the {_onto(result, options)}")
    whole = merged(result.folder, result.held, use_cpu, options.onto)
    if is_scorer(whole):
        _padding(whole, tokenizer, rows)
    elif tokenizer.chat_template:
        whole.generation_config.eos_token_id = list(rows.stop_ids)  # the base knows no turns, so not where one ends
    in_memory = difference(reference, behaviour(whole, rows, reference))
    gated = options.onto == "trained" and not (parts(result.folder)[2] or {}).get("load_in_8bit")
    _gate(in_memory, gated, result, "the merged model")
    log(f"writing {sum(p.numel() for p in whole.parameters()):,} weights in {dtype}")
    save(whole.to("cpu"), folder, dtype)
    log("opening what was written, as transformers does")
    read = plain(folder, result.scores, use_cpu)
    if wrong := unequal(whole, read):
        what = f"{len(wrong)} weights were not saved as they are, the first of them {wrong[0]}"
        raise fail(str(result.folder), what, "Nothing is written. Export the adapter, and report this.")
    saved = difference(reference, behaviour(read, rows, reference))
    _gate(saved, gated and dtype == "float32", result, "what was written")
    compared = {"rows": len(rows.ids), "tolerance": TOLERANCE, "gated": gated, "merged": in_memory, "saved": saved}
    return {"compared": compared, "said": describe_comparison(compared, dtype, options.onto)}


def _reference(result: TrainedModel, tokenizer: PreTrainedTokenizerBase, use_cpu: bool) -> tuple[Rows, Behaviour]:
    """What the trained model makes of the fixed rows; it is let go before the next model is loaded."""
    model = trained(result.folder, result.held, use_cpu)
    rows = rows_of(tokenizer, result.scores, positions_of(model))
    if not rows.ids:
        raise fail(str(result.folder), "its template takes none of the fixed prompts", "Export the adapter: --adapter.")
    return rows, behaviour(model, rows)


def _onto(result: TrainedModel, options: ExportOptions) -> str:
    if options.onto == "original":
        return "original weights"
    return "dequantised base it was trained on" if parts(result.folder)[2] else "base it was trained on"


def _padding(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Rows) -> None:
    """transformers reads a score before the padding, so a pad token that ends answers must not be told of."""
    apart = tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in rows.stop_ids
    model.config.pad_token_id = tokenizer.pad_token_id if apart else None


def _gate(difference: dict[str, Any], gated: bool, result: TrainedModel, what: str) -> None:
    if gated and not same(difference):
        most, largest = difference["max_difference"], difference["largest"]
        problem = f"{what} is not the trained one: {most:.3g} in the largest difference of logits"
        fix = f"Allowed is {TOLERANCE:g} of the largest logit ({largest:.3g}). Export the adapter: --adapter."
        raise fail(str(result.folder), problem, fix)


def describe_comparison(compared: dict[str, Any], dtype: str, onto: str) -> str:
    """The comparison in a sentence or two."""
    saved, what = compared["saved"], "logits" if "kl" in compared["saved"] else "scores"
    words = f"On {compared['rows']} fixed rows the largest difference of {what} to the trained model is "
    if dtype != "float32":
        words += f"{compared['merged']['max_difference']:.2g} before the weights are rounded to {dtype}, and after it "
    words += f"{saved['max_difference']:.2g} (largest {what[:-1]} {saved['largest']:.3g})."
    if "kl" in saved:
        words += f" KL to the trained model {saved['kl']:.2g} nats a token; of greedy answers"
        words += f" {saved['equal_answers']:.0%} are equal, of their tokens {saved['equal_tokens']:.0%}."
    if onto == "original":
        words += " The adapter was merged into the original weights and not into those it was trained on."
    elif not compared["gated"]:
        words += " The base was in 8 bits, whose arithmetic no whole model repeats; the difference was not judged."
    return words

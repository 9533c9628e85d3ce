"""Makes an exported folder: whole or not at all, and compared with the trained model before it appears."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import fail
from ft.export.card import card
from ft.export.gguf import convert, converter
from ft.export.ollama import Underivable, modelfile
from ft.export.trained_model import TrainedModel
from ft.files import create, read_json, refuse_existing, write_json
from ft.models.lineage import parts, write_lineage
from ft.models.load import share
from ft.models.merge import DTYPES, Onto
from ft.models.processor import tokenizer_of
from ft.results.ledger import size
from ft.secret_files import refuse

TOKENIZER = (
    *(artifacts.TOKENIZER, artifacts.TOKENIZER_CONFIG, artifacts.CHAT_TEMPLATE),
    *(artifacts.SPECIAL_TOKENS, "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt"),
)
ADAPTER = (artifacts.ADAPTER_CONFIG, artifacts.ADAPTER_WEIGHTS)
FIX = "Name a new folder; nothing is overwritten."
Log = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What is asked for.

    to         the new folder
    adapter    the adapter alone, not merged
    dtype      of the saved weights; None: what the run computed in
    onto       merge into the base the adapter was trained on, dequantised, or into the original weights
    ollama     a Modelfile must come of it; else it is written where it can be
    gguf       by the converter of a llama.cpp checkout, `llama_cpp`, or of the path
    license    for the card; None: not stated
    use_cpu    compare on the CPU, where a GPU is too small for the model in float32
    """

    to: Path
    adapter: bool = False
    dtype: str | None = None
    onto: Onto = "trained"
    ollama: bool = False
    gguf: bool = False
    llama_cpp: Path | None = None
    license: str | None = None
    use_cpu: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the files, for export.json."""
        return {"adapter": self.adapter, "dtype": self.dtype, "onto": self.onto, "gguf": self.gguf} | {
            "license": self.license
        }


def export(result: TrainedModel, options: ExportOptions, log: Log = lambda line: None) -> dict[str, Any]:
    """Write the folder and return what its export.json says. Raises UserError, and leaves nothing, where it exists, the
    options cannot be met, or the copy is another model than the one that was trained."""
    refuse_existing(options.to, FIX)
    _refuse_impossible(result, options)
    script = converter(options.llama_cpp) if options.gguf else None
    with create(options.to.absolute(), FIX) as partial:
        partial.mkdir()
        record = _write_files(result, options, partial, script, log)
        text = card(result, record, options.license)
        refuse(str(options.to / "README.md"), text)
        refuse(str(options.to / artifacts.EXPORT), record)
        (partial / "README.md").write_text(text, encoding="utf-8")
        write_json(partial / artifacts.EXPORT, record)
    return record


def _refuse_impossible(result: TrainedModel, options: ExportOptions) -> None:
    where = str(result.folder)
    if options.dtype not in (None, *DTYPES):
        raise fail("--dtype", f"it is '{options.dtype}'", f"There are: {', '.join(DTYPES)}.")
    for option, asked in (("--adapter", options.adapter), ("--onto original", options.onto == "original")):
        if asked and not result.adapter:
            raise fail(option, f"{where} holds whole weights, no adapter", "Leave it out.")
    whole = {"--dtype": options.dtype, "--onto original": options.onto == "original", "--gguf": options.gguf}
    for option in (name for name, asked in whole.items() if asked and options.adapter):
        raise fail(option, "is for a merged model", "Leave out --adapter.")
    if result.scores and (options.gguf or options.ollama):
        raise fail(where, "a reward model scores and does not answer, so Ollama has no use for it", "Leave that out.")


def _write_files(
    result: TrainedModel, options: ExportOptions, folder: Path, script: Path | None, log: Log
) -> dict[str, Any]:
    """The folder's files, all but the card; what was done, for export.json."""
    base, _, quantization = parts(result.folder)
    form = "adapter" if options.adapter else "merged" if result.adapter else "whole"
    dtype = result.held if options.adapter else options.dtype or result.dtype
    record: dict[str, Any] = {
        "result": {"recipe": result.recipe, "stage": result.stage, "fingerprint": result.fingerprint},
        "asked": options.settings,  # the key of exports there are
        "form": form,
        "onto": options.onto if form == "merged" else None,
        "dtype": dtype,
        "quantization": dict(quantization) if quantization else None,
        "base": result.base,
        "template": _copy_words(result, folder),
        "notes": [],
    }
    if options.adapter:
        for name in ADAPTER:
            shutil.copyfile(result.folder / name, folder / name)
        write_lineage(folder, base, quantization)  # from here, since it leaves the runs folder
        record["said"] = "The adapter's files are those of the run, byte by byte."
    else:
        from ft.export.weights import write_weights

        record |= write_weights(result, folder, dtype, options, log)
    share(folder)
    if script:
        record["gguf"] = convert(script, folder, dtype, log).name
    if form != "adapter" and not result.scores:
        record |= _for_ollama(result, options, folder, record["notes"])
    record["bytes"] = size(folder)
    return record


def _copy_words(result: TrainedModel, folder: Path) -> str | None:
    """Tokenizer and template as they are, byte by byte; the template's SHA-256."""
    for name in TOKENIZER:
        if (result.folder / name).exists():
            shutil.copyfile(result.folder / name, folder / name)
    template = folder / artifacts.CHAT_TEMPLATE
    return hashlib.sha256(template.read_bytes()).hexdigest() if template.exists() else None


def _for_ollama(result: TrainedModel, options: ExportOptions, folder: Path, notes: list[str]) -> dict[str, Any]:
    from ft.encode.conversation import Renderer

    renderer = Renderer(tokenizer_of(None, folder))
    config: Mapping[str, Any] = read_json(folder / artifacts.CONFIG) or {}
    adds_bos = bool((read_json(folder / artifacts.TOKENIZER_CONFIG) or {}).get("add_bos_token"))
    weights = "./model.gguf" if options.gguf else "."
    try:
        text, values = modelfile(renderer, config.get("max_position_embeddings"), adds_bos, weights)
    except Underivable as reason:
        if options.ollama:
            fix = "Leave out --ollama; a GGUF (--gguf) carries the Jinja template itself."
            raise fail(str(result.folder), f"no Modelfile can say its template: {reason}", fix) from reason
        return {"ollama": f"no Modelfile: {reason}"}
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    notes += [f"Ollama: {note}" for note in values.notes]
    return {"ollama": "Modelfile"}

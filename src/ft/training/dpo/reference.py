"""The reference of preference training: kept as log-probabilities, and proven to be the policy it began as.

At the first step policy and reference are the same model, so every log-ratio is 0: DPO's sigmoid loss is ln 2
(arXiv:2305.18290, eq. 7), KTO's half the weight of a row (arXiv:2402.01306, eq. 7). A run where they are not has the
wrong reference, and would train towards it in silence. The log-ratios are what is checked, and KTO's KL term, which is
made of such: other parts of a loss (a router's, another loss type) say nothing of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft import artifacts
from ft.bounds import is_at_most
from ft.encode.pairs import REFERENCE
from ft.errors import fail
from ft.files import atomic, read_json, write_json
from ft.models.device import compute_dtype
from ft.models.load import load
from ft.models.logprobs import completion_logprobs
from ft.progress import Progress
from ft.recipe.job import Job
from ft.training.trl_compat import measure_rows

if TYPE_CHECKING:
    from trl import DPOConfig, KTOConfig

ANSWER_OF = {  # TRL's names
    **dict(zip(REFERENCE, ("chosen_ids", "rejected_ids"), strict=True)),
    "ref_logps": "completion_ids",
    "ref_KL_logps": "KL_completion_ids",
}
REFERENCE_ADAPTER = "ref"  # TRL's name for it
CHECKED = 4  # pairs looked at before training
EXACT = 1e-3  # nats a sequence, float32
ROUGH = 1e-2  # share of the log-probability: half precision, or numbers made on another machine


def drop_reference_that_adds_nothing(model: Any) -> None:
    """Let the bare base be the reference of a new LoRA, which begins as a change of nothing.

    TRL 1.16 copies the policy's adapter as `ref`; a copy whose B matrices are 0 costs memory, and a pass through every
    adapted layer a step. Where no `ref` is, TRL reads the base with adapters off.
    """
    copied = {name: value for name, value in model.named_parameters() if f".{REFERENCE_ADAPTER}." in name}
    low_rank = all(".lora_A." in name or ".lora_B." in name for name in copied)  # no DoRA magnitude, no saved module
    if copied and low_rank and not any(value.any() for name, value in copied.items() if ".lora_B." in name):
        model.delete_adapter(REFERENCE_ADAPTER)


def check_start(trainer: Any, folder: Path, where: str, exact: bool, is_policy: bool = True) -> None:
    """Raise UserError unless the policy is its reference now; remember the reference, and know it again at a resume.

    Called before a checkpoint is loaded, when the policy is what the stage started from. `exact` is for float32 with
    a reference computed here; `is_policy` is False where the recipe names another model as the reference.
    """
    rows = [trainer.train_dataset[n] for n in range(min(CHECKED, len(trainer.train_dataset)))]
    beta = trainer.beta or 1.0
    seen = []
    for row in rows:
        metrics = measure_rows(trainer, [row])
        for side in _sides(row):
            ratio, logps = metrics[f"rewards/{side}"] / beta, metrics[f"logps/{side}"]
            if is_policy and not is_at_most(abs(ratio), EXACT if exact else ROUGH * abs(logps) + ROUGH):
                raise _wrong(where, f"{row.get('where', 'the first row')}: log-probability of {side}", ratio)
            seen.append(logps - ratio)
        kl = metrics.get("kl", 0.0)  # KTO's: of one row a log-ratio too, at another answer, where it is positive
        if is_policy and exact and not is_at_most(kl, EXACT):
            raise _wrong(where, f"{row.get('where', 'the first row')}: its KL term", kl)
    if trainer.is_world_process_zero():
        _know_again(folder / artifacts.REFERENCE, seen, where, exact)


def _sides(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What TRL calls the answers of a row: a pair has both, a labelled answer is one of them."""
    if "label" not in row:
        return ("chosen", "rejected")
    return ("chosen",) if row["label"] else ("rejected",)


def _wrong(where: str, what: str, difference: float) -> Exception:
    return fail(
        where,
        f"policy and reference differ before the first step ({what}, by {difference:.3g} nats)",
        "Reference columns in the rows must come from the model this stage starts from; else remove them.",
    )


def _know_again(file: Path, seen: list[float], where: str, exact: bool) -> None:
    known = read_json(file)
    if known is None:
        write_json(file, seen)
        return
    for before, now in zip(known, seen, strict=True):
        if not is_at_most(abs(before - now), EXACT if exact else ROUGH * abs(before) + ROUGH):
            raise _wrong(where, "the reference is not the one of the interrupted run", now - before)


def brings_reference(rows: Any) -> bool:
    """Whether every row has its reference's log-probabilities; UserError when only some have."""
    names = [*reference_columns(rows)]
    if not set(names) <= set(rows.column_names):
        return False
    missing = sum(chunk.null_count for name in names for chunk in rows.data.column(name).chunks)
    if 0 < missing < len(names) * len(rows):
        lacking = next(n for n, value in enumerate(rows[names[0]]) if value is None)
        fix = "Give every row both, or none."
        raise fail(rows[lacking]["where"], f"{' and '.join(names)} is missing in the row, and stands in others", fix)
    return not missing


def pairs_of(rows: Any) -> Any:
    """The rows as the trainer's collator takes them: reference columns only where they are filled."""
    return rows if rows is None or brings_reference(rows) else _bare(rows)


def pairs_without_reference(rows: Any) -> Any:
    """The same for a loss that has no reference."""
    return rows if rows is None else _bare(rows)


def _bare(rows: Any) -> Any:
    return rows.remove_columns([column for column in REFERENCE if column in rows.column_names])


def reference_columns(rows: Any) -> Mapping[str, str]:
    """Column of the reference's log-probabilities → column with the ids that they are of."""
    return {name: ids for name, ids in ANSWER_OF.items() if ids in rows.column_names}


def with_named_reference(job: Job, rows: Any, name: str, config: DPOConfig | KTOConfig) -> Any:
    """The rows with the log-probabilities (nats, summed over the answer) of the model that `inputs: {reference: …}`
    names, computed once and kept as `reference-<name>` in the stage's folder.

    Raises UserError where the rows bring those of a reference already.
    """
    from accelerate import PartialState

    if brings_reference(rows):
        what = "the rows bring their reference's log-probabilities, and inputs name a reference"
        raise fail(job.where, what, "Keep one.")
    file = job.folder / f"reference-{name}.arrow"
    with PartialState().main_process_first():  # the others read what the first has written
        if not file.exists():
            _write(file, _named_logprobs(job, rows, config))
    return _with_columns(rows, file)


def _named_logprobs(job: Job, rows: Any, config: DPOConfig | KTOConfig) -> Mapping[str, list[float]]:
    model = load(job.inputs["reference"], compute_dtype(config), config.use_cpu, job.blocks.get("quantization"))
    batch_size = config.precompute_ref_batch_size or config.per_device_train_batch_size
    return {
        name: completion_logprobs(model, rows["prompt_ids"], rows[ids], batch_size=batch_size)
        for name, ids in reference_columns(rows).items()
    }


def with_reference(trainer: Any, rows: Any, name: str, batch_size: int) -> Any:
    """The rows with their reference's log-probabilities (nats, summed over the answer): the rows' own, or computed
    once by the trainer's reference and kept as `reference-<name>` in the stage's folder."""
    if brings_reference(rows):
        return rows
    file = Path(trainer.args.output_dir).parent / f"reference-{name}.arrow"
    if not file.exists():
        computed = _computed(trainer, rows, batch_size)
        if trainer.is_world_process_zero():
            _write(file, computed)
        trainer.accelerator.wait_for_everyone()
    return _with_columns(rows, file)


def _with_columns(rows: Any, file: Path) -> Any:
    from datasets import Dataset, concatenate_datasets

    columns = Dataset.from_file(str(file))
    _check_columns(columns, len(rows), file)
    return concatenate_datasets([_bare(rows), columns], axis=1)


def _check_columns(columns: Any, rows: int, file: Path) -> None:
    """Raises UserError where a row lacks its log-probability, which no later check would notice: it is a finite number
    below 0, since no model is certain of a whole answer."""
    import numpy as np

    what = "" if len(columns) == rows else f"it has {len(columns):,} rows of {rows:,}"
    for name in columns.column_names:
        values = columns.data.column(name).to_numpy().astype(float)  # null becomes NaN
        wrong = np.flatnonzero(~(np.isfinite(values) & (values < 0)))
        if len(wrong) and not what:
            what = f"{name} of row {wrong[0] + 1:,} is {values[wrong[0]]:g}, of {len(wrong):,} such rows"
    if what:
        raise fail(str(file), f"is no reference of these rows: {what}", "Remove the file: it is computed anew.")


def _computed(trainer: Any, rows: Any, batch_size: int) -> Mapping[str, list[float]]:
    import torch
    from torch.utils.data import DataLoader

    columns = reference_columns(rows)
    read = ("prompt_ids", *columns.values(), "label")
    ids = rows.select_columns([name for name in read if name in rows.column_names])
    loader = DataLoader(ids, batch_size=batch_size, collate_fn=trainer.data_collator)
    batches = trainer.accelerator.prepare(loader)
    computed: list[list[Any]] = []
    quiet = not trainer.is_world_process_zero()
    with Progress("reference: rows", len(rows), unit="rows", quiet=quiet) as progress:
        for batch in batches:
            logps = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
            logps = [values for values in logps if values is not None]  # a loss without a KL term has none of it
            computed.append([values.float().cpu() for values in trainer.accelerator.gather_for_metrics(logps)])
            progress.advance(len(computed[-1][0]))
    by_column = zip(columns, zip(*computed, strict=True), strict=True)
    return {name: torch.cat(values).tolist() for name, values in by_column}


def _write(file: Path, columns: Mapping[str, list[float]]) -> None:
    import pyarrow as pa

    table = pa.table({name: pa.array(values, pa.float32()) for name, values in columns.items()})
    with atomic(file) as beside, pa.OSFile(str(beside), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)

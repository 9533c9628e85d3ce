"""The names of the files in a runs folder, and what each is.

    runs/RECIPE/STAGE-FINGERPRINT/   a result, one stage's
    runs/RECIPE/report.html          the page of a recipe's results
    runs/.cache/                     what can be made again: prepared rows, hashes, verdicts, locks

Names are for users as well, who open these files: they stay what they are. A file that a stage writes and another
module reads has its name here and nowhere else (tests/unit/test_structure.py); a figure's is with the figure.
"""

from __future__ import annotations

from pathlib import Path

# Of every result

KEY = "key.json"
"""What decides the result; its hash is the fingerprint."""
JOB = "job.json"
"""What the stage's process was given: checked values and resolved folders."""
DONE = "done.json"
"""Written last: numbers, seconds, device, versions. A result that has it is finished."""

MANIFEST = "manifest.json"
"""Sizes and hashes of the files of a checkpoint, or of prepared rows; written last."""

# Of a stage that trains

CHECKPOINTS = "checkpoints"
"""The Trainer's checkpoints, a folder each."""
TRAINER_STATE = "trainer_state.json"
"""The Trainer's own, written last into a checkpoint."""
METRICS = "metrics.jsonl"
"""Every logged value, a line a log."""
TOKENS_PER_SECOND, PEAK_MEMORY = "tokens_per_second", "peak_memory"
"""What its lines of training steps hold besides: the speed of these steps alone, and the most bytes there were."""
STRUCTURE = "structure.json"
"""What was measured of the model before its first step: who sees whom, experts, what is trained."""
REFERENCE = "reference.json"
"""Log-probabilities of the first pairs by the reference of preference training, known again at a resume."""
ROLLOUTS = "rollouts.jsonl"
"""Answers a policy was trained on, with rewards."""

TRACKER_RUN = "tracker-run"
"""The id of a tracker's run, in which a stage goes on after an interruption."""

# Of a model

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LINEAGE = "lineage.json"
"""The base under an adapter, and how it was quantised."""
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
EXPORT = "export.json"
"""In an exported folder: from which result it is, and what was compared."""

RAY_LOGS = "ray-logs"
"""What Ray's processes wrote, where a stage's inference was computed by them on this machine."""

# Of a stage that makes or measures rows

ROWS = "rows.jsonl"
REJECTS = "rejects.jsonl"
"""Bad rows and why they are bad."""
UNREADABLE = "unreadable.jsonl"
"""Replies that could not be used, and why."""
ANSWERS = "answers.jsonl"
SAMPLES = "samples.jsonl"
"""Every candidate of rejection sampling."""
VERDICTS = "verdicts.jsonl"
NUMBERS = "metrics.json"
"""All numbers of an evaluation; done.json has the main ones."""
DIALOGUE = "dialogue.json"
SCORES = "scores.jsonl"
SCORE_TABLE = "scores.csv"
LOSSES = "losses.jsonl"
RECALL_TABLE = "by_turn.csv"
POSITION_TABLE = "by_position.csv"
FERTILITY_TABLE = "fertility.csv"
RESIZE = "resize.json"
"""Which rows of a model's embeddings are new, and its loss before and after."""
ATTENTION_TABLE = "attention.csv"

# Of prepared rows

STATS = "stats.json"
"""Counts of the prepared rows; written last."""
TRAIN_ROWS = "train.arrow"
EVAL_ROWS = "eval.arrow"
PACKED_ROWS = "packed"

# Of a recipe

REPORT = "report.html"
INDEX = "index.html"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, whole or cut by a kill, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if checkpoint_step(path) is not None and path.is_dir()]
    return sorted(found, key=lambda path: checkpoint_step(path) or 0)


def checkpoint_step(checkpoint: Path) -> int | None:
    """The optimizer step after which it was written; None for the name of something else."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isascii() and number.isdecimal() else None


def cache_folder(runs: Path) -> Path:
    return runs / ".cache"


def hash_cache(runs: Path) -> Path:
    """Hashes of files by path, size and time."""
    return cache_folder(runs) / "hashes.json"


def verdict_cache(runs: Path) -> Path:
    """Blocks of recipes that were checked before."""
    return cache_folder(runs) / "checked.json"


def lock_file(runs: Path, name: str) -> Path:
    """What a command holds while it makes prepared rows of that name, or a result of that name in any recipe."""
    return cache_folder(runs) / "locks" / name


def result_lock(runs: Path, folder: Path) -> Path:
    """What a command holds while it makes or removes the result in that folder."""
    return cache_folder(runs) / "locks" / folder.parent.name / folder.name


def prepared_rows(runs: Path, name: str) -> Path:
    return cache_folder(runs) / f"rows-{name}"


def all_prepared_rows(runs: Path) -> list[Path]:
    """Folders of prepared rows, those too that a kill left unfinished."""
    return sorted([*cache_folder(runs).glob("rows-*"), *cache_folder(runs).glob(".rows-*")])


def runs_folder(result: Path) -> Path:
    """The runs folder that a result is in."""
    return result.absolute().parent.parent

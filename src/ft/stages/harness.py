"""Tasks of lm-evaluation-harness, asked through the very prompts that training, chat and sampling use.

The harness renders chats itself and tokenises them as it thinks best (it may put a second BOS before the template's).
Here both are done by our Renderer, so that what the harness sends is the prompt that was trained, byte for byte.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import fail
from ft.evaluation.statistics import wilson
from ft.figures.evaluation import tasks
from ft.figures.write import write_figures
from ft.files import write_json, write_lines
from ft.models.generation.chat_model import ChatModel
from ft.recipe import Stage
from ft.recipe.job import Job


@dataclass(frozen=True)
class HarnessOptions:
    """What is asked: a recipe's `harness:` block.

    tasks        names of the harness, as gsm8k; their data are fetched from the Hub
    file         a task of your own, the harness's YAML; its data must be local files or a Hub id. Without `!function`:
                 a recipe runs no code. The bytes of this file decide the result, those of its data do not
    num_fewshot  examples before each question, as turns of the chat; null: as the task says
    limit        questions of each task, at most
    system       a system message before each question
    batch_size   questions side by side
    baseline     also ask the recipe's model (or the input `baseline`)
    """

    tasks: list[str] | None = None
    file: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    system: str | None = None
    batch_size: int = 16
    baseline: bool = False

    def __post_init__(self) -> None:
        if not self.tasks and not self.file:
            raise ValueError("tasks is missing: name tasks of the harness, or a task's own YAML as file")
        if self.batch_size < 1 or (self.limit or 1) < 1:
            raise ValueError("batch_size and limit must be at least 1")


def check_installed(stage: Stage) -> None:
    """UserError where the harness, an extra of ft, is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise fail(stage.where, "lm-evaluation-harness is not installed", "pip install lm_eval==0.4.13")


def make(job: Job) -> dict[str, Any]:
    """Write results.json, what was asked and answered in samples.jsonl, metrics.json and tasks.svg."""
    options = HarnessOptions(**job.block("harness"))
    sides = {"": job} | ({"baseline_": replace(job, init=job.inputs.get("baseline"))} if options.baseline else {})
    numbers: dict[str, Any] = {}
    for prefix, side in sides.items():
        answers = _ask(side, options)
        write_json(
            job.folder / f"{prefix}results.json", {key: answers[key] for key in ("results", "versions", "n-shot")}
        )
        _write_samples(job.folder / f"{prefix}{artifacts.SAMPLES}", answers["samples"])
        numbers |= {
            f"{prefix}{name}": value for name, value in task_numbers(answers["results"], answers["samples"]).items()
        }
    write_json(job.folder / artifacts.NUMBERS, numbers)
    write_figures(job, tasks)
    return numbers


def _ask(side: Job, options: HarnessOptions) -> Any:
    """The harness's own results for one model."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from ft.evaluation.harness import TemplateTrue

    names, folder = list(options.tasks or ()), None
    if options.file:
        path = Path(options.file)
        names.append(task_name(path))
        folder = str(path.parent)
    chat_model = ChatModel(side.model, side.init, side.template, side.blocks.get("quantization"))
    return simple_evaluate(
        model=TemplateTrue(chat_model, options.batch_size),
        tasks=names,
        task_manager=TaskManager(include_path=folder),
        num_fewshot=options.num_fewshot,
        limit=options.limit,
        system_instruction=options.system,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        random_seed=side.seed,
        numpy_random_seed=side.seed,
        torch_random_seed=side.seed,
        fewshot_random_seed=side.seed,
    )


def task_name(path: Path) -> str:
    """The name of the task in a YAML file that runs no code."""
    text = path.read_text(encoding="utf-8")
    if "!function" in text:
        raise fail(str(path), "it names a function to run", "A recipe runs no code; use the harness's own metrics.")
    line = next((line for line in text.splitlines() if line.startswith("task:")), "")
    if not line:
        raise fail(str(path), "it names no task", "Write `task: NAME`.")
    return line.partition(":")[2].strip().strip("'\"")


def task_numbers(results: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, Any]:
    """`task_metric` and its 95 % interval by the harness's standard error; the questions of each task."""
    numbers: dict[str, Any] = {}
    for task, values in results.items():
        for key, value in values.items():
            name, _, kind = key.partition(",")
            if not isinstance(value, (int, float)) or name.endswith("_stderr") or name == "sample_len":
                continue
            label = f"{task}_{name}" + ("" if kind in ("none", "") else f"_{kind}")
            error = values.get(f"{name}_stderr,{kind}")
            numbers[label] = value
            if error == 0 and task in samples and 0 <= value <= 1:  # all questions alike, which says little where few
                low, high = wilson(value * len(samples[task]), len(samples[task]))
                numbers |= {f"{label}_low": low, f"{label}_high": high}
            elif isinstance(error, (int, float)) and math.isfinite(error):
                numbers |= {f"{label}_low": value - 1.96 * error, f"{label}_high": value + 1.96 * error}
        if task in samples:
            numbers[f"{task}_questions"] = len(samples[task])
    return numbers


def _write_samples(path: Path, samples: Mapping[str, Any]) -> None:
    """Every question as it was sent, and what came of it."""
    keys = ("doc_id", "arguments", "target", "resps", "filtered_resps")
    questions = [(task, question) for task, questions in samples.items() for question in questions]
    write_lines(
        path,
        ({"task": task, **{key: question[key] for key in keys if key in question}} for task, question in questions),
    )

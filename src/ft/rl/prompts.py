"""The prompts that reinforcement answers, read as the `sample` stage reads them; those held out, and those too long."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ft import artifacts
from ft.data.formats.fields import CONVERSATION_COLUMNS
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, Leakage, eval_side, mix_rows
from ft.data.prompts import Prompt, prompt_in
from ft.data.sources.read import Source
from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.models.token_budget import prompt_budget
from ft.recipe.job import Job
from ft.rewards import check_columns, columns_of


@dataclass(frozen=True)
class PromptOptions:
    """How prompts are read: the `rows:` block of a stage that answers them while it trains.

    max_prompt_length  longest prompt, in tokens; null: what the model sees less train.max_completion_length
    on_too_long        a prompt longer than that: error, or drop (counted). None is cut
    on_bad_row         error, or reject (written to rejects.jsonl with line, reason and fix)
    eval_fraction      share of conversations held out, by a hash of how each begins; eval_data takes its place
    """

    max_prompt_length: int | None = None
    on_too_long: Literal["error", "drop"] = "error"
    on_bad_row: Literal["error", "reject"] = "error"
    eval_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.max_prompt_length is not None and self.max_prompt_length < 1:
            raise ValueError(f"max_prompt_length is {self.max_prompt_length}; it must be at least 1")
        if not 0 <= self.eval_fraction < 1:
            raise ValueError("eval_fraction is a share of the rows, from 0 to below 1")


@dataclass
class Prompts:
    """Prompts to train on and held-out ones, their tokens by key, and what became of the rows."""

    train: list[Prompt] = field(default_factory=list)
    held_out: list[Prompt] = field(default_factory=list)
    ids: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("prompts", "held_out", "repeated"), 0))


def read_prompts(
    job: Job,
    options: PromptOptions,
    renderer: Renderer,
    longest: int | None,
    rewards: Collection[str],
) -> Prompts:
    """The rows of `data` and `eval_data`. `longest` is the budget in tokens; `rewards` are functions that read columns.

    Raises UserError with the lines that cannot be used, or where no prompt is left.
    """
    bad, prompts = BadRows(options.on_bad_row, job.folder / artifacts.REJECTS), Prompts()
    reader = _Reader(renderer, options, longest, rewards, bad, prompts)
    reads = {*CONVERSATION_COLUMNS, "axis", *(column for name in rewards for column in columns_of(name))}
    leakage = Leakage()
    for source_row in mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad, reads=reads):
        if prompt := reader.prompt(source_row):
            held_out = not job.eval_data and eval_side(source_row.row, options.eval_fraction, job.seed)
            (prompts.held_out if held_out else prompts.train).append(prompt)
            leakage.add("train", source_row)
    reader.keys.clear()  # a prompt that stands on both sides is a leak, and no repetition
    for source_row in mix_rows([Source(**source) for source in job.eval_data], seed=job.seed, bad=bad, reads=reads):
        if prompt := reader.prompt(source_row):
            prompts.held_out.append(prompt)
            leakage.add("eval", source_row)
    bad.finish()
    leakage.raise_any()
    prompts.counts |= {"rejected": bad.count, "too_long": reader.too_long}
    prompts.counts |= {"prompts": len(prompts.train), "held_out": len(prompts.held_out)}
    if not prompts.train:
        what = f"no prompt is left to answer ({bad.count} rejected, {reader.too_long} too long)"
        raise fail(job.where, what, "Look at data, rows.max_prompt_length and rows.eval_fraction.")
    return prompts


@dataclass
class _Reader:
    renderer: Renderer
    options: PromptOptions
    longest: int | None
    rewards: Collection[str]
    bad: BadRows
    prompts: Prompts
    too_long: int = 0
    keys: set[str] = field(default_factory=set)

    def prompt(self, source_row: Any) -> Prompt | None:
        """The row's prompt; None where it is bad, too long, or stands there already."""
        try:
            prompt = prompt_in(source_row, with_variables=False)
            check_columns(self.rewards, prompt.columns)
            ids = self.renderer.prompt(prompt.messages)
            if self.longest is not None and len(ids) > self.longest:
                if self.options.on_too_long == "drop":
                    self.too_long += 1
                    return None
                fix = "Write `rows: {on_too_long: drop}`, or raise max_prompt_length."
                raise BadRow(f"the prompt is {len(ids)} tokens long, and the budget is {self.longest}", fix)
        except BadRow as error:
            self.bad.add(source_row.where, source_row.row, error)
            return None
        if prompt.key in self.keys:
            self.prompts.counts["repeated"] += 1
            return None
        self.keys.add(prompt.key)
        self.prompts.ids[prompt.key] = ids
        return prompt


def budget(options: PromptOptions, positions: int | None, max_completion_length: int, where: str) -> int | None:
    """Tokens a prompt may have. Raises UserError where prompt and answer cannot both fit into the model's positions."""
    room = prompt_budget(positions, max_completion_length)
    if room is None:
        return options.max_prompt_length
    if room < 1 or (options.max_prompt_length or 1) > room:
        prompt_words = f"prompts of {options.max_prompt_length} tokens and " if options.max_prompt_length else ""
        what = f"{prompt_words}answers of {max_completion_length} tokens do not fit into the {positions} the model sees"
        raise fail(where, what, "Lower train.max_completion_length or rows.max_prompt_length.")
    return options.max_prompt_length or room


def dataset(prompts: Sequence[Prompt], first: int) -> Any:
    """TRL's rows: `prompt`, and `row`, the place by which a reward finds the prompt's other columns (Arrow would want
    one type for each of these); `axis` tags prompts for the safety model."""
    from datasets import Dataset

    rows = [
        {"prompt": list(one.messages), "row": first + place, "where": one.where, "axis": str(one.columns.get("axis"))}
        for place, one in enumerate(prompts)
    ]
    return Dataset.from_list(rows)

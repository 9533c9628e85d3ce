"""From results to what a page says of them: plain values, no HTML yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ft import artifacts
from ft.figures.result_files import ResultFiles
from ft.recipe.kind import function_at
from ft.report import answers
from ft.report.chain import Chain, chain
from ft.report.curves import curve_sections
from ft.report.facts import energy, hardware, rows_part, seconds, training_line, versions, watt_hours
from ft.report.generic import numbers_table, other_files
from ft.report.masks import masked_rows
from ft.report.numbers import HELD_OUT, LOSS, Number, duration, main_number, numbers_of, rise_warning
from ft.report.parts import Answers, DialogueText, Part, Section, Sentences, Table
from ft.report.rounds import fold_rounds, rounds_sections
from ft.report.run import ReportedStage, Run
from ft.report.settings import settings_table, short_path, sources_table
from ft.results.ledger import status
from ft.training.trackers import places_to_look

STATES = {"done": "done", "unfinished": "unfinished", "absent": "pending"}
MOST_CARDS, FEW_CARDS = 6, 3
SAMPLES = 3  # prompts whose answers stand at the top

T = TypeVar("T")
SectionMaker = Callable[[ResultFiles], list[Section]]
BY_FILE: dict[str, SectionMaker] = {
    artifacts.ROLLOUTS: answers.rollouts,
    artifacts.VERDICTS: answers.verdicts,
    artifacts.ROWS: answers.made_rows,
    artifacts.DIALOGUE: answers.dialogue,
}
"""What a file is shown as, whatever stage left it, where no section of its kind has shown it."""


@dataclass(frozen=True)
class NumberCard:
    """A number that matters, with what it is of."""

    stage: str
    number: Number
    curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class StageView:
    """Everything to say of a stage."""

    result: ReportedStage
    number: Number | None
    numbers: Table | None
    sections: tuple[Section, ...]
    settings: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    curve: tuple[float, ...] = ()
    training: str = ""
    verdict: str = ""

    @property
    def state(self) -> str:
        return STATES[self.result.state]

    @property
    def took(self) -> str:
        return duration(seconds(self.result.result)) if self.result.result.done else ""


@dataclass(frozen=True)
class ChainView:
    """A row beside the chain: the name as the chain has it, the stage that is shown, and which round's it is."""

    name: str
    stage: StageView
    rounds: str


@dataclass(frozen=True)
class Report:
    """A run as a page tells it."""

    run: Run
    model: str
    chain: Chain
    chain_rows: tuple[ChainView, ...]
    stages: tuple[StageView, ...]
    cards: tuple[NumberCard, ...]
    samples: tuple[tuple[str, Answers | DialogueText], ...]
    facts: tuple[tuple[str, str], ...]
    versions: Table | None
    rounds: tuple[Section, ...] = ()
    problems: tuple[tuple[str, str], ...] = field(default=())

    @property
    def subject(self) -> StageView | None:
        """The stage that it is about, where it is of a single result."""
        return next((stage for stage in self.stages if stage.result.name == self.run.subject), None)

    @property
    def verdict(self) -> str:
        """How far it came, by the last of the numbers that matter; of a single result as its kind says."""
        if self.subject:
            return self.subject.verdict
        return headline(self.cards[-1]) if self.cards else ""

    @property
    def other_stages(self) -> tuple[StageView, ...]:
        return tuple(stage for stage in self.stages if stage is not self.subject)

    @property
    def finished(self) -> str:
        """When the last of its stages was, or nothing."""
        results = [stage.result.result for stage in self.stages if stage.result.result.done]
        return max(results, key=lambda result: result.timestamp).finished if results else ""

    @property
    def commands(self) -> tuple[str, ...]:
        """What to do with the newest model that answers."""
        models = [stage.result for stage in self.stages if stage.result.leaves == "model" and stage.result.result.done]
        folder = "/".join(models[-1].result.folder.parts[-3:]) if models else ""
        return (f"ft chat {folder}", f"ft export {folder}") if models else ()

    @property
    def stages_made(self) -> int:
        return sum(stage.result.state == "done" and not stage.result.other_settings for stage in self.stages)

    @property
    def stages_of_other_settings(self) -> int:
        return sum(bool(stage.result.other_settings) for stage in self.stages)

    def share_of_time(self, stage: StageView) -> float:
        """From 0 to 1, of the longest stage."""
        longest = max((seconds(s.result.result) or 0.0 for s in self.stages), default=0.0)
        return (seconds(stage.result.result) or 0.0) / longest if longest else 0.0


def gather_report(run: Run) -> Report:
    """What there is to say of the run, whatever state it is in."""
    model = next((short_path(r.model) for r in run.stages if r.model), "")
    stages = tuple(_stage(stage, run) for stage in run.stages)
    main_stages = [stage for stage in stages if stage.result in run.main_stages]
    samples = () if run.subject else tuple(_samples(main_stages))
    stages = tuple(_without_samples(stage, samples) for stage in stages)
    rows, by_name = fold_rounds(run), {stage.result.name: stage for stage in stages}
    return Report(
        run=run,
        model=model,
        chain=chain([row.stage for row in rows]),
        chain_rows=tuple(ChainView(row.stage.name, by_name[row.newest], row.rounds) for row in rows),
        stages=stages,
        cards=tuple(_cards(main_stages)),
        samples=samples,
        facts=tuple(_facts(run)),
        versions=versions(run.results),
        rounds=tuple(rounds_sections(run)),
        problems=tuple((stage.result.name, warning) for stage in stages for warning in stage.warnings),
    )


def _stage(stage: ReportedStage, run: Run) -> StageView:
    files = ResultFiles(stage.result.folder, stage.blocks)
    sections, curve = _sections(stage, files, run)
    numbers = numbers_of(stage.result.numbers)
    settings = safely(files, "settings", lambda: _settings(stage)) or []
    facts = safely(files, "facts", lambda: _stage_facts(stage)) or []
    settings_warning = safely(files, "settings", stage.settings_warning) or []
    overfits = [warning] if (warning := rise_warning(stage.result.numbers)) else []
    damage = [f"{where} is not as a stage writes it and was left out." for where in stage.result.damage]
    unfinished = _unfinished_warning(stage, files)
    warnings = [*settings_warning, *stage.unmet(), *damage, *files.problems, *unfinished, *overfits]
    return StageView(
        result=stage,
        number=main_number(stage.display.headline, numbers),
        numbers=numbers_table(numbers),
        sections=tuple(sections),
        settings=tuple(settings),
        facts=tuple(facts),
        warnings=tuple(dict.fromkeys(warnings)),
        curve=tuple(curve),
        verdict=safely(files, "verdict", lambda: function_at(stage.display.verdict)(files)) or ""
        if stage.display.verdict and stage.result.done
        else "",
        training=training_line(files.lines(artifacts.METRICS), seconds(stage.result)),
    )


def _unfinished_warning(stage: ReportedStage, files: ResultFiles) -> list[str]:
    """Whether it runs now, and how far it has come."""
    if stage.state != "unfinished":
        return []
    steps = [line["step"] for line in files.lines(artifacts.METRICS) if isinstance(line.get("step"), int)]
    at = f" at step {steps[-1]:,}" if steps else ""
    if status(stage.result) == "running":
        return [f"This stage is running{at}."]
    return [f"This stage was interrupted, or failed,{at or ' before its first log'}. The same `ft run` continues it."]


def _sections(stage: ReportedStage, files: ResultFiles, run: Run) -> tuple[list[Section], list[float]]:
    """The sections of a stage; one whose files are not as expected is named and left out."""
    files.shown |= stage.display.working_files
    in_front = stage.display.front_curves
    sections, curve = safely(files, "curves", lambda: curve_sections(files, in_front)) or ([], [])
    makers: list[SectionMaker] = [function_at(path) for path in stage.display.sections]
    makers += [
        maker for name, maker in BY_FILE.items() if name not in files.shown and files.has(name) and maker not in makers
    ]
    for one in makers:
        sections += safely(files, getattr(one, "__name__", "scores"), lambda one=one: one(files)) or []  # type: ignore[misc]
    if stage.rows is not None:
        masked = safely(files, "rows", lambda: masked_rows(stage, run)) or "The rows cannot be shown."
        part = Sentences((masked,)) if isinstance(masked, str) else masked
        sections.append(
            Section(
                "Rows and what is trained", (*(safely(files, "counts of rows", lambda: rows_part(stage)) or []), part)
            )
        )
    return [*sections, *(safely(files, "files", lambda: other_files(files)) or [])], curve


def safely(files: ResultFiles, name: str, make: Callable[[], T]) -> T | None:
    """Files of another version, or edited ones, must not cost the whole page."""
    try:
        return make()
    except Exception as error:  # whatever an edited file makes a reader raise
        files.problems.append(f"The {name.replace('_', ' ')} cannot be shown: {type(error).__name__}: {error}")
        return None


def _settings(stage: ReportedStage) -> list[Section]:
    tables = [table for table in (settings_table(stage), sources_table(stage)) if table]
    return [Section("Settings and data", tuple(tables), folded=True)] if tables else []


def _stage_facts(stage: ReportedStage) -> list[tuple[str, str]]:
    took, wh = seconds(stage.result), watt_hours(stage.result)
    facts = [
        ("made", stage.result.finished),
        ("time", duration(took) if took is not None else ""),
        ("energy, estimated", f"{wh:.2g} Wh" if wh is not None else ""),
        ("on", hardware([stage.result])),
        ("from", ", ".join(f"{name} ({role})" for name, role in stage.links) or short_path(stage.model or "")),
        ("ID", stage.fingerprint),
        ("folder", "/".join(stage.result.folder.parts[-3:])),
    ]
    model = stage.key.get("model")
    if isinstance(model, dict) and model.get("weights"):
        facts.append(("base model checksum", str(model["weights"])))
    return [(name, value) for name, value in facts if value]


def _facts(run: Run) -> list[tuple[str, str]]:
    took = sum(seconds(result) or 0.0 for result in run.results)
    facts = [
        ("command", run.repeat),
        ("seed", "" if run.seed is None else str(run.seed)),
        ("hardware", hardware(run.results)),
        ("time", f"{duration(took)}; a stage that was interrupted counts from its last start" if took else ""),
        ("energy", energy(run.results)),
        ("skipped by the recipe", ", ".join(run.skipped)),
        ("curves in a tracker", "; ".join(dict.fromkeys(p for one in run.results for p in places_to_look(one)))),
    ]
    return [(name, value) for name, value in facts if value]


def _cards(stages: Sequence[StageView]) -> list[NumberCard]:
    """The numbers that matter: of what measures, else of held-out rows; the loss of single batches only where there is
    little else."""
    finished = [stage for stage in stages if stage.result.state == "done" and stage.number]
    measures = [s for s in finished if s.result.leaves == "metrics" and s.result.display.is_card]
    trains = [s for s in finished if s.result.leaves in ("model", "reward_model") and s.curve]
    sure = [s for s in trains if s.number and s.number.name != LOSS]
    few = trains if len(measures) + len(sure) < FEW_CARDS else []
    chosen = [*measures[-MOST_CARDS:], *sure[::-1], *few[::-1]][:MOST_CARDS]
    return [_card(stage) for stage in finished if stage in chosen]


def _card(stage: StageView) -> NumberCard:
    assert stage.number is not None
    return NumberCard(stage.result.name, stage.number, () if stage.number.share else stage.curve)


def _samples(stages: Sequence[StageView]) -> list[tuple[str, Answers | DialogueText]]:
    """What the first evaluation of the newest model answered, before and after: three prompts, and a dialogue where
    one was held. Of another model only where nothing asks the newest one."""
    models = [stage.result for stage in stages if stage.result.leaves == "model" and stage.result.state == "done"]
    asked = [stage for stage in reversed(stages) if stage.result.display.shows_answers]
    newest = [stage for stage in asked if models and (models[-1].name, "init") in stage.result.links]
    samples: list[tuple[str, Answers | DialogueText]] = []
    for stage in newest[::-1] or asked:
        for section in stage.sections:
            for part in section.parts:
                if isinstance(part, Answers) and not any(isinstance(p, Answers) for _, p in samples):
                    samples.append((stage.result.name, Answers(part.rows[:SAMPLES])))
                if isinstance(part, DialogueText) and not any(isinstance(p, DialogueText) for _, p in samples):
                    samples.append((stage.result.name, part))
    return samples


def _without_samples(stage: StageView, samples: Sequence[tuple[str, Answers | DialogueText]]) -> StageView:
    """The stage without what stands at the top of the page already."""
    at_top = [part for name, part in samples if name == stage.result.name]
    if not at_top:
        return stage
    sections = []
    for section in stage.sections:
        parts = [left for part in section.parts if (left := _part_without_samples(part, at_top))]
        sections += [replace(section, parts=tuple(parts))] if parts else []
    return replace(stage, sections=tuple(sections))


def _part_without_samples(part: Part, at_top: Sequence[Answers | DialogueText]) -> Part | None:
    if not isinstance(part, Answers):
        return None if part in at_top else part
    if Answers(part.rows[:SAMPLES]) not in at_top:
        return part
    note = f"{part.note} The first {SAMPLES} stand at the top.".strip()
    return Answers(part.rows[SAMPLES:], note) if part.rows[SAMPLES:] else None


def headline(card: NumberCard) -> str:
    """'12.0% → 99.7%' in words, for the picture beside it."""
    number = card.number
    was = f"from {number.before} to " if number.before else ""
    sure = f", 95 % interval {number.interval}" if number.interval else ""
    of = "" if number.name != HELD_OUT else " (nats a token)"
    return f"{card.stage}, {number.label}{of}: {was}{number.text}{sure}"

"""How strongly answers attend to the instruction, by turn: figure 10 of arXiv:2307.09288, for any causal model."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from ft import artifacts
from ft.encode.conversation import CODES, Renderer
from ft.errors import fail
from ft.figures import by_turn
from ft.figures.charts import Point
from ft.figures.write import write_figures
from ft.files import write_json
from ft.gatt.dialogues import Place, Script, script
from ft.gatt.instructions import Bank, Side
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.dialogue import Dialogue, Turn
from ft.models.generation.executor import Loader
from ft.models.generation.resumable import dialogue_answers
from ft.models.generation.sampling import Sampling
from ft.recipe.job import Job
from ft.stages.consistency import AFTER, read_dialogues
from ft.stages.gatt import place_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AttentionOptions:
    """What is looked at: a recipe's `attention:` block.

    bank        the instruction bank
    turns       longest dialogue, in turns
    bin_tokens  neighbouring tokens that make one point of the map
    """

    bank: str
    turns: int = 20
    bin_tokens: int = 8
    place: Literal["auto", "system", "first_user"] = "auto"
    max_new_tokens: int = 64
    batch_size: int = 64


@dataclass(frozen=True)
class InstructionSpans:
    """A whole dialogue as tokens: where its instruction stands, and the tokens of each answer."""

    ids: list[int]
    instruction: list[int]
    answers: list[list[int]]


def make(job: Job) -> dict[str, Any]:
    """Write attention.csv, map.json, both as SVG, and metrics.json; return attention by turn, before and after.

    Both models read the same dialogues, whose answers are the last model's own.
    """
    options = AttentionOptions(**job.block("attention"))
    after = Loader(ChatModel, job.model, job.init, job.template, job.blocks.get("quantization"))
    place = place_of(options.place, after().renderer)
    dialogues = _read_through(job, options, after, place)
    attentions = {AFTER: _Attention.of(after().model, dialogues)}
    after.unload()  # its memory is free for the other
    if "before" in job.inputs:
        before = ChatModel(job.model, job.inputs["before"], job.template, job.blocks.get("quantization"))
        attentions = {"before": _Attention.of(before.model, dialogues), **attentions}
    _write_csv(job.folder / artifacts.ATTENTION_TABLE, attentions)
    _write_map(job.folder / "map.json", dialogues[0], attentions, options.bin_tokens)
    write_figures(job, by_turn.attention)
    numbers = {
        f"{'' if name == AFTER else 'baseline_'}attention_turn_{turn}": value
        for name, attention in attentions.items()
        for turn, value, _, _ in attention.line(peak=True)
    }
    write_json(job.folder / artifacts.NUMBERS, numbers)
    return numbers


def _read_through(
    job: Job, options: AttentionOptions, model: Loader[ChatModel], place: Place
) -> list[InstructionSpans]:
    """The dialogues with the model's own answers, as tokens; those that do not fit end earlier."""
    bank = Bank.read(Path(options.bank))
    side: Side = "values" if bank.has("values") else "train"
    scripts = []
    for number, row in enumerate(read_dialogues(job, answered_by_row=False)):
        first = bank.draw(random.Random(f"{job.seed} {side} {number}"), side)
        scripts.append(script(row, str(number), str(number), first, options.turns))
    dialogues = [
        Dialogue(one.key, [Turn(one.user_in_row(t, place)) for t in range(len(one.questions))], one.opening(place))
        for one in scripts
    ]
    sampling = Sampling(options.max_new_tokens, temperature=0.0, seed=job.seed)
    answers = dialogue_answers(model, dialogues, sampling, options.batch_size, job.folder / artifacts.ANSWERS, job.name)
    renderer = model().renderer
    spans = [instruction_spans(one, [a or "" for a in answers[one.key]], place, renderer) for one in scripts]
    whole = [one for one in spans if one is not None]
    if not whole:
        raise fail(job.where, "no dialogue could be read", "Look at answers.jsonl.")
    return whole


def instruction_spans(one: Script, answers: Sequence[str], place: Place, renderer: Renderer) -> InstructionSpans | None:
    """The dialogue as far as it was answered; None where nothing was."""
    messages = list(one.opening(place))
    for turn, answer in enumerate(answers):
        if not answer.strip():
            break
        messages += [
            {"role": "user", "content": one.user_in_row(turn, place)},
            {"role": "assistant", "content": answer},
        ]
    if messages == one.opening(place):
        return None
    rendered = renderer.render({"messages": messages})
    assert rendered is not None  # only a budget drops rows
    role = CODES["system" if place == "system" else "user"]
    instruction = _runs([code == role for code in rendered.roles])[0]
    if place == "first_user" and one.first:
        instruction = instruction[: len(renderer.tokenizer(one.first.text, add_special_tokens=False)["input_ids"])]
    answer_places = _runs(rendered.tokens.trained)
    return InstructionSpans(rendered.input_ids, instruction, answer_places)


def _runs(marked: Sequence[bool]) -> list[list[int]]:
    """The places of each unbroken run of True."""
    runs: list[list[int]] = []
    for place, is_marked in enumerate(marked):
        if is_marked and place and marked[place - 1]:
            runs[-1].append(place)
        elif is_marked:
            runs.append([place])
    return runs


@dataclass
class _Attention:
    """Attention of each answer to the instruction: (mean over its tokens, the greatest), by dialogue and turn."""

    values: list[list[tuple[float, float]]]
    first: Tensor  # (T, T) of the first dialogue

    @staticmethod
    def of(model: PreTrainedModel, dialogues: Sequence[InstructionSpans]) -> _Attention:
        model.set_attn_implementation("eager")  # the others never hold the weights
        values, first = [], None
        for dialogue in dialogues:
            greatest = greatest_attention(model, dialogue.ids)
            first = greatest if first is None else first
            values.append([to_instruction(greatest, dialogue.instruction, answer) for answer in dialogue.answers])
        assert first is not None
        return _Attention(values, first)

    def line(self, peak: bool) -> list[Point]:
        """Mean over dialogues by turn, with the interval of one standard error to each side."""
        points = []
        for turn in range(max(map(len, self.values))):
            values = [value[turn][peak] for value in self.values if turn < len(value)]
            middle = fmean(values)
            error = (fmean([(v - middle) ** 2 for v in values]) / len(values)) ** 0.5
            points.append(Point(turn + 1, middle, middle - error, middle + error))
        return points


def greatest_attention(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """(T, T): the greatest attention of each token to each, over all layers and heads; eager attention only.

    Layers are looked at one after the other, so only one layer's weights are held at a time.
    """
    import torch

    greatest: list[Tensor] = []  # one entry: the greatest so far

    def keep_greatest(module: Module, arguments: object, output: object) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, torch.Tensor) or weights.ndim != 4:  # other implementations return None here
            return
        values = weights[0].amax(0).float()  # (heads, T, T) to (T, T)
        greatest[:] = [torch.maximum(greatest[0], values)] if greatest else [values]

    with torch.no_grad(), _attention_hooks(model, keep_greatest):
        model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
    if not greatest:
        raise ValueError("no layer of this model returns its attention weights")
    return greatest[0].cpu()


@contextmanager
def _attention_hooks(model: Module, hook: Callable[[Module, object, object], None]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(hook) for module in model.modules() if type(module).__name__.endswith("Attention")
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def to_instruction(greatest: Tensor, instruction: Sequence[int], answer: Sequence[int]) -> tuple[float, float]:
    """Mean and greatest over an answer's tokens of their attention to the instruction.

    The query that decides token t is at t - 1, since a causal model predicts the next token; so these rows are read.
    """
    queries = [place - 1 for place in answer]
    each = greatest[queries][:, list(instruction)].amax(1)
    return float(each.mean()), float(each.max())


def bin_map(greatest: Tensor, tokens: int) -> Tensor:
    """(T, T) to (bins, bins): the greatest value of neighbouring tokens."""
    import torch

    return torch.nn.functional.max_pool2d(greatest[None, None], tokens, ceil_mode=True)[0, 0]


def _write_csv(path: Path, attentions: Mapping[str, _Attention]) -> None:
    measures = {"mean": False, "greatest": True}
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["model", "turn", *(f"{name}{end}" for name in measures for end in ("", "_low", "_high"))])
        for name, attention in attentions.items():
            for points in zip(*(attention.line(peak) for peak in measures.values()), strict=True):
                values = [value for _, *ends in points for value in ends]
                out.writerow([name, points[0].x, *(round(value, 5) for value in values)])


def _write_map(path: Path, dialogue: InstructionSpans, attentions: Mapping[str, _Attention], tokens: int) -> None:
    """Which tokens of the first dialogue read which, by model; `starts` are the first cells of its turns' answers."""
    maps = {
        name: [[round(v, 3) for v in row] for row in bin_map(one.first, tokens).tolist()]
        for name, one in attentions.items()
    }
    starts = [answer[0] // tokens for answer in dialogue.answers]
    write_json(path, {"bin_tokens": tokens, "starts": starts, "maps": maps})

"""A reward model on prepared pairs, whole, by LoRA or by QLoRA (arXiv:2307.09288, section 3.2).

It starts from the weights that answer, under a new scalar head. Its folder is opened again at the end of the stage and
must give the scores the trained model gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ft import artifacts
from ft.bounds import is_at_most
from ft.encode.conversation import Renderer
from ft.encode.pairs import SAFETY
from ft.encode.prepare import eval_rows, train_rows
from ft.errors import fail
from ft.files import write_json
from ft.models.adapters import adapters_kept
from ft.models.device import compute_dtype
from ft.models.finite import refuse_broken_scores
from ft.models.limits import check_prepared_rows
from ft.models.load import start
from ft.models.processor import tokenizer_of
from ft.recipe.job import Job
from ft.training.loop import add_callbacks, arguments, evaluation_has_rows, last_values, train_and_save

ENDS = {name: name for name in ("accuracy", "margin", "mean_reward", "safety_loss")}

MARGINS: Mapping[str, Mapping[int, float]] = {  # table 27 of the paper, by rating: 1 significantly, …, 4 negligibly
    "small": {1: 1.0, 2: 2 / 3, 3: 1 / 3, 4: 0.0},
    "large": {1: 3.0, 2: 2.0, 3: 1.0, 4: 0.0},
}
CHECKED = 8  # pairs scored again after loading
EXACT = 1e-4  # of a score, in float32
ROUGH = 0.05  # in half precision: of a score, and of the largest one


@dataclass(frozen=True)
class RewardOptions:
    """What TRL's RewardTrainer lacks: a recipe's `reward:` block.

    margin         by how much chosen must win, from the row's rating: none, small, large, or a table {1: 1.0, …, 4: 0}
    safety_weight  of the auxiliary loss on safety labels; 0: labels are not read
    warmup_least   steps of warm-up at least, whatever share of the run train.warmup_steps is
    """

    margin: Literal["none", "small", "large"] | dict[str, float] = "small"
    safety_weight: float = 0.0
    warmup_least: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.margin, dict) and not {"1", "2", "3", "4"}.issuperset(self.margin):
            raise ValueError("margin is a table of the ratings 1 to 4. Write {1: 1.0, 2: 0.5, 3: 0.25, 4: 0}")
        if self.safety_weight < 0:
            raise ValueError("safety_weight is the weight of a loss, 0 or more")
        if self.warmup_least < 0:
            raise ValueError("warmup_least is a number of steps, 0 or more")

    @property
    def margins(self) -> Mapping[int, float] | None:
        """Rating → margin; None: no margin, and no rating is needed."""
        if isinstance(self.margin, dict):
            return {int(rating): margin for rating, margin in self.margin.items()}
        return MARGINS.get(self.margin)


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, open it again, and return the numbers for done.json."""
    from ft.files import read_lines

    trainer = trainer_of(job)
    numbers = train_and_save(trainer, job)
    rows = _checked_rows(trainer)
    scores = trainer.scores([ids for _, ids in rows])
    if trainer.is_world_process_zero():
        lines = read_lines(job.folder / artifacts.METRICS)
        numbers |= last_values(lines, ENDS)
        rough = trainer.args.bf16 or trainer.args.fp16
        _release_model(trainer)
        check_reload(job.folder, rows, scores, job.where, ROUGH if rough else 0.0)
    return numbers


def trainer_of(job: Job) -> Any:
    """The trainer: its rows have the margins and labels that the loss reads."""
    from trl import RewardConfig

    from ft.training.callbacks import SCORES

    assert job.rows is not None
    options = RewardOptions(**job.block("reward"))
    held_out = eval_rows(job.rows)
    evaluation_has_rows(job, held_out)
    rows = add_margins(train_rows(job.rows), options, job.where)
    held_out = held_out and add_margins(held_out, options, job.where)
    config = arguments(job, RewardConfig, max_length=None)  # rows fit already; TRL would drop long ones in silence
    trainer = _trainer(job, config, rows, held_out)
    trainer.safety_weight, trainer.warmup_least = options.safety_weight, options.warmup_least
    return add_callbacks(trainer, job, SCORES)


def add_margins(rows: Any, options: RewardOptions, where: str) -> Any:
    """The rows with `margin` where one is asked for, and with safety labels where these are trained on.

    Raises UserError with the first row that has no rating, or when labels are to be trained on and no row has any.
    """
    labels = [name for name in SAFETY if any(label is not None for label in rows[name])]
    if options.safety_weight and not labels:
        fix = f"Give rows {SAFETY[0]} and {SAFETY[1]}, or write `safety_weight: 0`."
        raise fail(where, "safety_weight is set, and no row has a safety label", fix)
    unread = ["rating"] if options.safety_weight else ["rating", *SAFETY]
    margins = options.margins
    if margins is None:
        return rows.remove_columns(unread)
    ratings = rows["rating"][:]
    lacking = [place for place, rating in enumerate(ratings) if rating not in margins]
    if lacking:
        first, count = rows[lacking[0]]["where"], f"{len(lacking):,} of {len(rows):,} rows"
        rating = ratings[lacking[0]]
        problem = "no rating" if rating is None else f"rating {rating}, which margin does not list"
        fix = "Rate every row, or write `reward: {margin: none}`."
        raise fail(first, f"the row has {problem} (so have {count})", fix)
    return rows.remove_columns(unread).add_column("margin", [float(margins[rating]) for rating in ratings])


def _trainer(job: Job, config: Any, rows: Any, held_out: Any) -> Any:
    from transformers import set_seed

    from ft.training.dpo.shared_prefix import share_prompts, share_scores
    from ft.training.reward import PairCollator
    from ft.training.trl_compat import ScoreTrainer

    set_seed(job.seed)  # the head is drawn
    tokenizer = tokenizer_of(job.model, job.init, job.template)
    has_pad_token = _pad_apart(tokenizer)
    lora, quantization = job.blocks.get("lora"), job.blocks.get("quantization")
    model = start(job.model, job.init, lora, quantization, compute_dtype(config), config.use_cpu, scores=True)
    assert job.rows is not None
    check_prepared_rows(model, job.rows, job.where)
    with adapters_kept(model) if lora is not None else nullcontext():
        trainer: Any = ScoreTrainer(
            model=model,
            args=config,
            data_collator=PairCollator(tokenizer.pad_token_id, config.pad_to_multiple_of),
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
        )
    if not has_pad_token:
        # Then transformers refuses batches, and is right. The Trainer writes a tokenizer's pad token into the config.
        trainer.processing_class.pad_token = trainer.model.config.get_text_config().pad_token_id = None
    share_prompts(trainer, share_scores)
    return trainer


def _pad_apart(tokenizer: Any) -> bool:
    """Let the tokenizer pad with another token than the one that ends an answer, where it has one.

    ft reads scores by the attention mask; whoever opens the folder with transformers alone reads them before padding.
    """
    stops = Renderer(tokenizer, train_on="last").stop_ids
    if tokenizer.pad_token_id in stops and tokenizer.unk_token_id not in (None, *stops):
        tokenizer.pad_token = tokenizer.unk_token
    return tokenizer.pad_token_id not in stops


def _checked_rows(trainer: Any) -> list[tuple[str, list[int]]]:
    """Both sides of a few pairs, held out where there are any: where each stands, and its tokens."""
    rows = trainer.train_dataset if trainer.eval_dataset is None else trainer.eval_dataset
    checked = [rows[place] for place in range(min(CHECKED, len(rows)))]
    sides = [(row, side) for row in checked for side in ("chosen", "rejected")]
    return [(f"{row['where']} {side}", [*row["prompt_ids"], *row[f"{side}_ids"]]) for row, side in sides]


def check_reload(
    folder: Path, rows: Sequence[tuple[str, list[int]]], scores: Sequence[float], where: str, rough: float
) -> None:
    """Open the folder as everyone will, and see that it gives the trained model's scores; both go to scores.json.

    Raises UserError when they differ: a head that was not saved, or rounded, or a base that is not the one trained on.
    """
    from ft.models.scorer import Scorer, batch_scores

    again = batch_scores(Scorer(folder).model, [ids for _, ids in rows])
    lines = [
        {"row": name, "score": score, "reloaded": reloaded}
        for (name, _), score, reloaded in zip(rows, scores, again, strict=True)
    ]
    refuse_broken_scores([*scores, *again], where)
    write_json(folder / "scores.json", lines)
    allowed = EXACT + rough * (1 + max(map(abs, scores)))
    difference = max(abs(one - other) for one, other in zip(scores, again, strict=True))
    if not is_at_most(difference, allowed):
        what = f"the saved reward model gives other scores than the trained one (by {difference:.3g}; see scores.json)"
        raise fail(where, what, "This is a fault of ft or of a library; the stage counts as not made.")


def _release_model(trainer: Any) -> None:
    """Free the trained model, so that the saved one has room beside nothing."""
    import gc

    import torch

    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    trainer.callback_handler.model = trainer.callback_handler.optimizer = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

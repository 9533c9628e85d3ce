"""What a policy answers while it learns: kept in rollouts.jsonl, shown, and watched.

A `Rollout` is one answer as the trainer scored it. Everything here listens to batches of them, on every process the
same ones, so that all processes stop together.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ft.errors import fail
from ft.files import append_lines, read_lines, write_lines
from ft.rl.guard import GuardOptions

SAME = 1e-8  # rewards that differ by no more are equal
GRAM = 3  # words
SHOWN = 160  # characters of a prompt or an answer


@dataclass(frozen=True)
class Rollout:
    """An answer and what it was worth.

    reward   what the policy learns from, before the KL penalty; `rewards` is what it is made of, by name: raw scores,
             None where a reward model cannot read the answer, and values of functions
    kl       log(policy / reference) summed over the answer, in nats; None where there is no reference
    length   tokens, the end-of-turn token among them
    ended    whether it came to its end within the length limit
    """

    prompt: Sequence[Mapping[str, Any]]
    answer: str
    reward: float
    rewards: Mapping[str, float | None]
    kl: float | None
    length: int
    ended: bool


RolloutListener = Callable[[str, int, Sequence[Rollout]], None]
"""Is shown every batch of all processes' answers: "train" or "eval", steps trained before they were drawn, answers."""


def repetition(text: str) -> float:
    """The share of a text's word triples that stood in it before: 0 for one that never repeats itself."""
    words = text.split()
    grams = Counter(zip(*(words[place:] for place in range(GRAM)), strict=False))
    total = sum(grams.values())
    return 1 - len(grams) / total if total else 0.0


def summary(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means over a batch: what enters the log beside the trainer's own metrics. The mean of a reward model's raw scores
    is over the answers that it can read; `answers/unreadable` is the share of those that one cannot."""
    found = {
        "answers/length": fmean(one.length for one in rollouts),
        "answers/cut": fmean(not one.ended for one in rollouts),
        "answers/empty": fmean(not one.answer.strip() for one in rollouts),
        "answers/repetition": fmean(repetition(one.answer) for one in rollouts),
    }
    found["answers/unreadable"] = fmean(None in one.rewards.values() for one in rollouts)
    for name in rollouts[0].rewards:
        if readable := [value for one in rollouts if (value := one.rewards[name]) is not None]:
            found[f"rewards/{name}/mean"] = fmean(readable)
    distances = [one.kl for one in rollouts if one.kl is not None]
    return found | ({"answers/kl": fmean(distances)} if distances else {})


def build_rollouts(
    trainer: Any,
    rows: Sequence[Mapping[str, Any]],
    output: Mapping[str, Any],
    told: Sequence[Any],
    passes: Sequence[Any],
    logprobs: Callable[..., Any],
) -> list[Rollout]:
    """A batch that a trainer of TRL has scored, `output`; `told` says of each its `answer`, `reward`, `parts` and
    `ended`. For `passes` and `logprobs` see `kl_to_reference`."""
    found, lengths = [], output["completion_mask"].sum(1).tolist()
    distances = kl_to_reference(trainer, output, passes, logprobs)
    for row, one, kl, length in zip(rows, told, distances, lengths, strict=True):
        found.append(Rollout(row["prompt"], one.answer, one.reward, dict(one.parts), kl, length, one.ended))
    return found


def kl_to_reference(
    trainer: Any, output: Mapping[str, Any], passes: Sequence[Any], logprobs: Callable[..., Any]
) -> list[float | None]:
    """log(policy / reference) of each answer in nats, from the passes a trainer of TRL has made while it scored: of the
    policy, then of the reference. GRPO leaves out the policy's where it steps at once; `logprobs` makes it."""
    mask = output["completion_mask"]
    if not trainer.beta:
        return [None] * len(mask)
    *own, reference = passes
    if not own:
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attended = torch.cat([output["prompt_mask"], mask], dim=1)
        with torch.no_grad():
            size = trainer.args.per_device_train_batch_size
            own = [logprobs(trainer.model, ids, attended, mask.shape[1], size)[0]]
    found: list[float | None] = ((own[0] - reference) * mask).sum(1).tolist()
    return found


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Random numbers that begin anew, and leave those outside as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class RolloutHook:
    """Around the methods by which a trainer of TRL scores a batch (`score`), passes it through a model (`logprobs`) and
    evaluates: everyone's answers, with what is `told` of them, enter its `metrics` and are shown to `saw`.

    Held-out answers have random numbers of their own, so that when a run evaluates does not change what it learns.
    """

    def __init__(
        self,
        trainer: Any,
        score: Callable[..., Any],
        logprobs: Callable[..., Any],
        evaluate: Callable[..., Any],
        metrics: Mapping[str, Any],
        told: Callable[[], Sequence[Any]],
        saw: Sequence[RolloutListener],
    ):
        self.trainer, self.score, self.logprobs, self.evaluate = trainer, score, logprobs, evaluate
        self.metrics, self.told, self.saw = metrics, told, saw
        self.passes: list[Any] = []

    def passed(self, *args: Any, **options: Any) -> Any:
        found = self.logprobs(*args, **options)
        self.passes.extend(() if torch.is_grad_enabled() else found[:1])
        return found

    def scored(self, inputs: list[dict[str, Any]]) -> Any:
        mode = "train" if self.trainer.model.training else "eval"
        self.passes.clear()
        output = self.score(inputs)
        batch = gather_object(build_rollouts(self.trainer, inputs, output, self.told(), self.passes, self.logprobs))
        for name, value in summary(batch).items():
            self.metrics[mode][name].append(value)
        for one in self.saw:
            one(mode, self.trainer.state.global_step, batch)
        return output

    def evaluated(self, rows: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> Any:
        with isolated_rng(self.trainer.args.seed):
            return self.evaluate(rows, ignore_keys, metric_key_prefix)


class RolloutFile(TrainerCallback):
    """Answers of every batch as lines of rollouts.jsonl, `step` being the steps trained before they were drawn.

    After a resume the file holds what was drawn before the checkpoint, so that no batch stands in it twice.
    """

    def __init__(self, path: Path, kept: int, shown: int, name: str):
        self.path, self.kept, self.shown, self.name = path, kept, shown, name
        self.newest: Sequence[Rollout] = ()

    def saw(self, mode: str, step: int, rollouts: Sequence[Rollout]) -> None:
        some = rollouts[: self.kept] if self.kept else rollouts
        append_lines(self.path, ({"step": step, "set": mode, **asdict(one)} for one in some))
        if mode == "train":
            self.newest = rollouts

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.rewind(state.global_step)

    def rewind(self, step: int) -> None:
        """Leave what stood there when the checkpoint of this step was written: an evaluation comes before it."""
        found = [line for line in read_lines(self.path) if line["step"] < step or _just_judged(line, step)]
        write_lines(self.path, found)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        some, self.newest = self.newest[: self.shown], ()  # a batch that is learnt from for long is shown once
        for one in some:
            asked, answer = (_in_a_line(text) for text in (_asked(one.prompt), one.answer))
            distance = "" if one.kl is None else f", kl {one.kl:.1f}"
            print(f"    {asked} → {answer}  [reward {one.reward:+.2f}{distance}]", file=sys.stderr)


def _asked(prompt: Sequence[Mapping[str, Any]]) -> str:
    """What is asked last, behind the system message where there is one."""
    system = [message["content"] for message in prompt[:-1] if message["role"] == "system"]
    return " | ".join([*system, prompt[-1]["content"]])


def _in_a_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} …"


def _just_judged(line: Mapping[str, Any], step: int) -> bool:
    return bool(line["step"] == step and step and line["set"] == "eval")


class Guard(TrainerCallback):
    """Stops a run that cannot learn, ends one that has left its bound, and warns of rewards won by a trick.

    `where` is the stage's place in the recipe; `say` shows a warning, once each.
    """

    def __init__(self, options: GuardOptions, limit: int, where: str, say: Callable[[str], None]):
        self.options, self.limit, self.where, self.say = options, limit, where, say
        self.first: Mapping[str, float] | None = None
        self.left: float | None = None  # KL of the batch that left the bound
        self.warned: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A resumed run is compared with its first answers, as the log has them."""
        self.first = next((line for line in state.log_history if "answers/length" in line), self.first)

    def saw(self, mode: str, step: int, rollouts: Sequence[Rollout]) -> None:
        """Raises UserError where the first batch shows that nothing can be learnt."""
        if mode != "train":
            return
        now = summary(rollouts)
        if self.first is None:
            if not step:
                self.check_first(now, [one.reward for one in rollouts])
            self.first = now
        bound, distance = self.options.kl, now.get("answers/kl")
        if bound is not None and distance is not None and distance > bound:
            self.left = distance
        self.look_for_tricks(step, now)

    def check_first(self, now: Mapping[str, float], rewards: Sequence[float]) -> None:
        cut, empty = now["answers/cut"], now["answers/empty"]
        if cut > self.options.cut:
            allowed = f"(guard.cut allows {self.options.cut:.0%})"
            what = f"{cut:.0%} of the first answers are cut at {self.limit} tokens {allowed}"
            raise fail(self.where, what, "Raise train.max_completion_length, or start from a model that ends answers.")
        if empty > self.options.empty:
            what = f"{empty:.0%} of the first answers are empty (guard.empty allows {self.options.empty:.0%})"
            raise fail(self.where, what, "Start (`init:`) from a model that answers, or lower train.temperature.")
        if max(rewards) - min(rewards) <= SAME:
            what = f"all {len(rewards)} answers of the first batch are worth {rewards[0]:.4g}, so nothing can be learnt"
            raise fail(self.where, what, "Reward something else (`reward:`, `inputs:`), or raise train.temperature.")

    def look_for_tricks(self, step: int, now: Mapping[str, float]) -> None:
        assert self.first is not None
        before, length = self.first["answers/length"], now["answers/length"]
        if not before / self.options.longer <= length <= before * self.options.longer:
            text = f"answers are {length:.0f} tokens long on average, and were {before:.0f} at first"
            self.warn("length", f"step {step}: {text}. Does the reward follow length? See rollouts.jsonl.")
        again = now["answers/repetition"]
        if again > self.options.repetition and again > 2 * self.first["answers/repetition"]:
            text = f"{again:.0%} of word triples repeat within an answer"
            self.warn("repetition", f"step {step}: {text}. Raise train.beta, or look at the reward.")

    def warn(self, what: str, text: str) -> None:
        if what not in self.warned:
            self.warned.add(what)
            self.say(text)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End training beyond the bound. Nothing is saved here: what is kept lies within it."""
        if self.left is None:
            return
        control.should_training_stop = True
        control.should_save = control.should_evaluate = False
        there = f"step {state.global_step}: the policy is {self.left:.1f} nats an answer from its reference"
        bound = f"beyond guard.kl ({self.options.kl:g})"
        if args.load_best_model_at_end and state.best_model_checkpoint is None:
            fix = "Lower the learning rate or raise train.beta; or evaluate and save earlier."
            raise fail(self.where, f"{there}, {bound}, before any checkpoint", fix)
        self.warn("kl", f"{there}, {bound}. Training ends here; the best checkpoint so far is kept.")

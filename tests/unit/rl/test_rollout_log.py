"""Sampled answers: what is written of them, and when a run stops, ends or warns."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from ft.errors import UserError
from ft.files import read_lines
from ft.rl.guard import GuardOptions
from ft.rl.monitor import Guard
from ft.rl.rollout_log import Rollout, RolloutFile, repetition, summary
from wording import Like

HEALTHY = Rollout(
    [{"role": "user", "content": "sky?"}],
    "it is blue",
    reward=1.0,
    rewards={"answer": 1.0},
    kl=0.1,
    length=4,
    ended=True,
)


def batch(count: int = 8, **changed: Any) -> list[Rollout]:
    """Answers worth 0, 1, 0, 1, …, else healthy."""
    return [dataclasses.replace(HEALTHY, **{"reward": float(n % 2), **changed}) for n in range(count)]


class Watched:
    """A guard, and its warnings."""

    def __init__(self, **options: Any):
        self.warnings: list[str] = []
        self.guard = Guard(
            GuardOptions(**options), max_completion_length=48, where="recipe.yaml:9", show_warning=self.warnings.append
        )

    def check(self, step: int, rollouts: list[Rollout], mode: str = "train") -> None:
        self.guard.check(mode, step, rollouts)

    def ended(self, step: int, best: str | None = "checkpoint-5") -> TrainerControl:
        args = TrainingArguments(output_dir="out", report_to="none", use_cpu=True, save_strategy="no")
        args.load_best_model_at_end = True
        control = TrainerControl(should_save=True, should_evaluate=True)
        self.guard.on_step_end(args, TrainerState(global_step=step, best_model_checkpoint=best), control)
        return control


# The first batch


@pytest.mark.parametrize(
    ("rollouts", "what", "setting"),
    [
        (batch(ended=False), "100% of the first answers are cut at 48 tokens", "Raise train.max_completion_length"),
        (batch(answer=" "), "100% of the first answers are empty", "lower train.temperature"),
        (batch(reward=2.5), "all 8 answers of the first batch are worth 2.5", "Reward something else (`reward:`"),
    ],
)
def test_a_first_batch_that_teaches_nothing_stops_the_run_and_names_the_setting(rollouts, what, setting):
    with pytest.raises(UserError) as refused:
        Watched().check(0, rollouts)
    assert str(refused.value).startswith(f"recipe.yaml:9: {what}")
    assert setting in str(refused.value)


def test_a_share_up_to_the_one_allowed_is_let_pass():
    half = [*batch(4, ended=False), *batch(4)]
    Watched().check(0, half)
    with pytest.raises(UserError, match="50% of the first answers are cut"):
        Watched(cut=0.49).check(0, half)


def test_only_the_first_batch_is_judged_and_no_held_out_one():
    watched = Watched()
    watched.check(0, batch(reward=1.0), mode="eval")
    watched.check(0, batch())
    watched.check(5, batch(ended=False))
    assert watched.warnings == []


def test_a_healthy_run_goes_on_without_a_word():
    watched = Watched()
    for step in range(5):
        watched.check(step, batch(kl=5.0 * step))
        assert watched.ended(step).should_training_stop is False
    assert watched.warnings == []


@pytest.mark.parametrize("name", ["reward", "kl"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_number_of_an_answer_that_is_not_finite_stops_the_run(name, mode):
    watched = Watched()
    watched.check(0, batch())
    with pytest.raises(UserError, match=r"recipe\.yaml:9: after 3 steps .* is nan; its prompt is"):
        watched.check(3, [*batch(3), *batch(1, **{name: float("nan")})], mode=mode)


# The bound


def test_beyond_the_bound_training_ends_and_nothing_from_there_is_saved():
    watched = Watched(kl=10)
    watched.check(0, batch())
    watched.check(7, batch(kl=12.0))
    control = watched.ended(8)
    assert (control.should_training_stop, control.should_save, control.should_evaluate) == (True, False, False)
    assert watched.warnings == [Like("… 8 … 12.0 … guard.kl (10) … checkpoint …")]


def test_beyond_the_bound_before_any_checkpoint_is_an_error():
    watched = Watched(kl=10)
    watched.check(0, batch(kl=12.0))
    with pytest.raises(UserError, match=r"before any checkpoint\. Lower the learning rate or raise train\.beta"):
        watched.ended(1, best=None)


def test_no_bound_or_no_reference_never_ends_a_run():
    for watched, kl in ((Watched(kl=None), 1e6), (Watched(), None)):
        watched.check(0, batch(kl=kl))
        assert watched.ended(1).should_training_stop is False


# Rewards won by a trick


@pytest.mark.parametrize("length", [9, 1])
def test_answers_that_grow_or_shrink_by_the_factor_are_warned_of_once(length):
    watched = Watched()
    for step, tokens in enumerate((4, 6, length, length)):
        watched.check(step, batch(length=tokens))
    assert watched.warnings == [
        f"step 2: answers are {length} tokens long on average, and were 4 at first. Does the reward follow length? See "
        "rollouts.jsonl."
    ]


def test_a_resumed_run_is_compared_with_its_first_answers():
    watched = Watched()
    state = TrainerState(global_step=8, log_history=[{"loss": 1.0}, {"answers/length": 4.0, "answers/repetition": 0.0}])
    args = TrainingArguments(output_dir="out", report_to="none", use_cpu=True, save_strategy="no")
    watched.guard.on_train_begin(args, state, TrainerControl())
    watched.check(8, batch(length=9, ended=False))
    assert len(watched.warnings) == 1
    assert "and were 4 at first" in watched.warnings[0]


def test_answers_that_repeat_themselves_are_warned_of():
    watched = Watched()
    watched.check(0, batch())
    watched.check(1, batch(answer="of course " * 4))
    assert watched.warnings == [
        "step 1: 67% of word triples repeat within an answer. Raise train.beta, or look at the reward."
    ]


def test_repetition_is_the_share_of_word_triples_that_stood_there_before():
    assert repetition("one two") == 0
    assert repetition("one two three four") == 0
    assert repetition("a b c a b c") == pytest.approx(1 / 4)  # abc bca cab abc
    assert repetition("a a a a a") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cut": 1.5}, "cut is 1.5; it is a share"),
        ({"kl": 0}, "kl is 0; it is a bound in nats"),
        ({"longer": 1}, "longer is 1; it is a factor above 1"),
        ({"shown": -1}, "shown is -1; it is a number of answers"),
    ],
)
def test_a_guard_that_makes_no_sense_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        GuardOptions(**options)


# The file


def test_every_batch_stands_in_the_file_with_its_step(tmp_path):
    file = RolloutFile(tmp_path / "rollouts.jsonl", per_batch=2, shown_per_log=1)
    file.write("eval", 0, batch())
    file.write("train", 0, batch())
    lines = read_lines(file.path)
    assert [(line["step"], line["set"]) for line in lines] == [(0, "eval")] * 2 + [(0, "train")] * 2
    assert lines[3] == {"step": 0, "set": "train", **dataclasses.asdict(HEALTHY)}


def test_a_resumed_run_keeps_what_was_drawn_before_its_checkpoint(tmp_path):
    file = RolloutFile(tmp_path / "rollouts.jsonl", per_batch=1, shown_per_log=1)
    for step, mode in ((0, "eval"), (0, "train"), (4, "train"), (8, "eval"), (8, "train"), (12, "train")):
        file.write(mode, step, batch())
    file.path.write_text(file.path.read_text(encoding="utf-8") + '{"step": 16, "se', encoding="utf-8")
    file.rewind(8)  # the evaluation of step 8 came before its checkpoint, the answers for step 9 after it
    found = [json.loads(line) for line in file.path.read_text(encoding="utf-8").splitlines()]
    assert [(line["step"], line["set"]) for line in found] == [(0, "eval"), (0, "train"), (4, "train"), (8, "eval")]
    file.rewind(0)
    assert file.path.read_text(encoding="utf-8") == ""


def test_the_summary_is_of_the_whole_batch():
    found = summary([*batch(3), *batch(1, ended=False, answer="", kl=4.1, length=8, rewards={"answer": 0.0})])
    assert found == pytest.approx(
        {
            **{
                "answers/length": 5.0,
                "answers/cut": 0.25,
                "answers/empty": 0.25,
                "answers/repetition": 0.0,
                "answers/unreadable": 0.0,
            },
            **{"answers/kl": 1.1, "rewards/answer/mean": 0.75},
        }
    )

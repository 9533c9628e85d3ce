"""Keys that enter no fingerprint change nothing of a result: the same bytes of weights, the same numbers."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import pytest
import torch

import tiny
from ft.stages.reserved import COSMETIC

# Dropout draws random numbers at every step, so that whoever draws one beside it is found out.
BASE = {
    "lora": {**tiny.LORA, "lora_dropout": 0.2},
    "rows": {"eval_fraction": 0.3},
    "train": {"max_steps": 5, "max_length": 64, "train_sampling_strategy": "group_by_length"},
}
GROUPS: dict[str, dict[str, Any]] = {
    "logging": {
        **{"logging_steps": 3, "logging_first_step": True, "log_level": "error", "log_on_each_node": False},
        **{"report_to": "none", "run_name": "x", "project": "x", "trackio_space_id": None, "include_for_metrics": []},
        **{"skip_memory_metrics": False, "include_num_input_tokens_seen": "all", "torch_empty_cache_steps": 1},
    },
    "evaluation": {
        **{"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "eval_accumulation_steps": 1},
        **{"per_device_eval_batch_size": 3, "prediction_loss_only": True, "ddp_timeout": 60},
    },
    "saving": {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "push_to_hub": False},
    "loading": {
        **{"dataloader_num_workers": 1, "dataloader_prefetch_factor": 1},
        **{"dataloader_pin_memory": False, "use_cpu": True, "hub_strategy": "end"},
        **{"bf16_full_eval": False, "fp16_full_eval": False},
    },
}


def made(folder, base, data, train: dict[str, Any]):
    stage = tiny.sft(data, {**BASE["train"], **train}, lora=BASE["lora"], rows=BASE["rows"])
    plan = tiny.planned(tiny.recipe(folder, [stage], model=str(base)), folder / "runs")
    return tiny.make(plan, "sft")


@pytest.fixture(scope="module")
def plain(tmp_path_factory, base, data):
    return made(tmp_path_factory.mktemp("plain"), base, data, {})


@pytest.mark.parametrize("group", GROUPS)
def test_two_values_leave_the_same_bytes_under_one_fingerprint(group, plain, tmp_path, base, data):
    other = made(tmp_path, base, data, GROUPS[group])
    assert other.fingerprint == plain.fingerprint
    weights, others = tiny.weights(plain.folder), tiny.weights(other.folder)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    shown = ("loss_first", "loss_last", "eval_loss_first", "eval_loss_best")  # of the curve, which is logged elsewhere
    shown += ("eval_loss_first_step", "eval_loss_best_step")
    assert plain.done["numbers"].keys() == other.done["numbers"].keys()  # nothing is lost by how it is logged
    numbers, own = ({k: v for k, v in r.done["numbers"].items() if k not in shown} for r in (plain, other))
    assert own == pytest.approx(numbers, rel=1e-6)


def test_every_such_key_is_tried():
    keys = [f"train.{key}" for group in GROUPS.values() for key in group]
    assert [pattern for pattern in COSMETIC if not any(fnmatch(key, pattern) for key in keys)] == []


def test_rows_judged_at_once_enter_the_fingerprint_where_the_best_checkpoint_is_kept(tmp_path, base, data):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2}
    prints = set()
    for size in (1, 8):
        train = {**BASE["train"], **best, "save_steps": 2, "per_device_eval_batch_size": size}
        stage = tiny.sft(data, train, rows=BASE["rows"])
        plan = tiny.planned(tiny.recipe(tmp_path / str(size), [stage], model=str(base)), tmp_path / "runs")
        prints.add(plan.stage("sft").fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize("key", ["logging_nan_inf_filter", "bf16_full_eval", "fp16_full_eval"])
def test_a_value_that_would_spoil_a_result_is_refused(key, tmp_path, base, data):
    from ft.errors import UserError

    with pytest.raises(UserError, match=rf"tiny\.yaml:\d+: train\.{key} true is refused: .* Remove {key}\."):
        tiny.checked(tiny.recipe(tmp_path, [tiny.sft(data, {key: True})], model=str(base)))

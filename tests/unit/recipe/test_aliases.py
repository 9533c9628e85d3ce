"""The table of names that users still write: each leads to a key that its owner has, with the value it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.recipe.conftest import GOOD

from ft.recipe import ModelSource, Owner, Recipe
from ft.recipe.aliases import ALIASES, Gone, Renamed
from ft.recipe.schema import schema_of
from ft.recipe.types import STAGE_KEYS, RecipeKeys
from ft.stages import STAGES
from wording import Like

Read = Callable[..., Recipe]
Messages = Callable[..., str]
RENAMED = [(block, old, new) for block, table in ALIASES.items() for old, new in table.items() if type(new) is Renamed]
GONE = [(block, old, new.fix) for block, table in ALIASES.items() for old, new in table.items() if type(new) is Gone]


def keys(block: str) -> set[str]:
    """Every key a block may hold, of whichever stage kind."""
    if block == "stage":
        return {*STAGE_KEYS, *(name for kind in STAGES.values() for name in kind.blocks)}
    owners = {
        "recipe": [RecipeKeys],
        "model": [ModelSource],
        "data": [Owner("ft.data.sources.read:Source").load()],
    }.get(block) or [kind.blocks[block].load() for kind in STAGES.values() if block in kind.blocks]
    return {key for owner in owners for key in schema_of(owner).annotations}


@pytest.mark.parametrize(("block", "old", "new"), RENAMED, ids=[f"{b}.{o}" for b, o, _ in RENAMED])
def test_a_present_name_is_a_key_of_the_block_and_the_old_one_is_not(block: str, old: str, new: Renamed):
    assert new.to in keys(block)
    assert old not in keys(block)


@pytest.mark.parametrize(("block", "old", "fix"), GONE, ids=[f"{b}.{o}" for b, o, _ in GONE])
def test_a_name_that_went_says_what_to_write_and_hides_no_key(block: str, old: str, fix: str):
    assert old not in keys(block) - {"trust_remote_code"}
    assert fix.endswith(".")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("warmup_ratio: 0.03", {"warmup_steps": 0.03}),
        ("evaluation_strategy: no", {"eval_strategy": "no"}),
        ("num_epochs: 2", {"num_train_epochs": 2.0}),
        ("micro_batch_size: 2", {"per_device_train_batch_size": 2}),
        ("sample_packing: true", {"packing": True}),
        ("optimizer: adamw_torch", {"optim": "adamw_torch"}),
        ("group_by_length: true", {"train_sampling_strategy": "group_by_length"}),
        ("group_by_length: yes", {"train_sampling_strategy": "group_by_length"}),
        ("group_by_length: false", {"train_sampling_strategy": "random"}),
        ("group_by_length: no", {"train_sampling_strategy": "random"}),
    ],
)
def test_an_old_training_key_is_read_as_its_present_name(recipe: Read, written: str, read: dict[str, Any]):
    found = recipe(GOOD.replace("64}", f"64, {written}}}"))
    assert found.stage("sft").blocks["train"] == {"max_length": 64, **read}
    old, new = written.partition(":")[0], next(iter(read))
    assert found.notices == (f"x.yaml:5: '{old}' is now '{new}'; read as such.",)


@pytest.mark.parametrize("old", ["max_seq_length", "max_seq_len", "cutoff_len", "sequence_len"])
def test_every_old_name_of_the_length_is_read(recipe: Read, old: str):
    assert recipe(GOOD.replace("max_length", old)).stage("sft").blocks["train"] == {"max_length": 64}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("{lora_rank: 8, alpha: 16, dropout: 0.1}", {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1}),
        ("{lora_target: all}", {"target_modules": "all-linear"}),
        ("{lora_target_modules: [q_proj]}", {"target_modules": ["q_proj"]}),
        ("{lora_target_linear: true}", {"target_modules": "all-linear"}),
        ("{lora_target_linear: false}", {"target_modules": None}),
        ("{lora_target_linear: no}", {"target_modules": None}),
    ],
)
def test_old_lora_keys_are_read_as_peft_s(recipe: Read, written: str, read: dict[str, Any]):
    assert recipe(GOOD + f"    lora: {written}\n").stage("sft").blocks["lora"] == read


@pytest.mark.parametrize(
    ("written", "attention"),
    [("true", "flash_attention_2"), ("yes", "flash_attention_2"), ("false", None), ("no", None)],
)
def test_an_old_switch_for_flash_attention_names_the_implementation(recipe: Read, written: str, attention: str | None):
    text = GOOD.replace("hub/name", f"{{name_or_path: hub/name, torch_dtype: bfloat16, use_flash_attn: {written}}}")
    assert recipe(text).model == ModelSource("hub/name", dtype="bfloat16", attn_implementation=attention)


def test_an_old_recipe_is_read_with_a_notice_for_each_old_name(recipe: Read):
    found = recipe(
        "base_model: hub/name\n"
        "template: llama2\n"
        "stages:\n"
        "  - stage: sft\n"
        "    dataset: {dataset_name: hub/rows, dataset_split: train_sft, fraction: 0.5}\n"
        "    args: {max_seq_length: 64}\n"
        "    peft_config: {lora_r: 8}\n"
        "    quantization_config: {load_4bit: true, double_quantization: true}\n"
    )
    assert len([one for one in found.notices if one.endswith("read as such.")]) == 14
    assert found.notices[0] == "x.yaml:1: 'base_model' is now 'model'; read as such."
    assert (found.model, found.chat_template) == (ModelSource("hub/name"), "llama2")
    stage = found.stage("sft")
    assert (stage.kind_name, stage.data[0]["split"], stage.data[0]["weight"]) == ("sft", "train_sft", 0.5)
    assert stage.blocks["quantization"] == {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}


TRL_PPO = """\
  - kind: ppo
    init: $sft
    data: [rows.jsonl]
    reward: {rewards: {answer: 1.0}}
    train:
      response_length: 53
      num_ppo_epochs: 4
      kl_coef: 0.05
      cliprange: 0.2
      cliprange_value: 0.2
      vf_coef: 0.1
      gamma: 1.0
      lam: 0.95
      whiten_rewards: false
      local_rollout_forward_batch_size: 32
"""


def test_trl_s_old_ppo_keys_are_read_as_what_they_are_called_here(recipe: Read):
    found = recipe(GOOD + TRL_PPO)
    train = found.stage("ppo").blocks["train"]
    assert {name: train[name] for name in ("max_completion_length", "num_iterations", "beta", "epsilon")} == {
        **{"max_completion_length": 53, "num_iterations": 4, "beta": 0.05, "epsilon": 0.2}
    }
    assert train["rollout_batch_size"] == 32
    assert found.notices[1] == "x.yaml:12: 'num_ppo_epochs' is now 'num_iterations'; read as such."
    assert len(found.notices) == 5


def test_trl_s_old_ppo_keys_that_went_say_what_to_write(messages_of: Messages):
    gone = "num_mini_batches: 4, total_episodes: 99, stop_token: eos, safety_threshold: 0.1, reward_model_path: rm"
    told = messages_of(
        GOOD + TRL_PPO.split("    train:")[0] + f"    train: {{response_length: 53, {gone}}}\n"
    ).splitlines()
    fixes = [
        "`generation_batch_size: …`",
        "`max_steps: …`",
        "end-of-turn token",
        "`inputs: {helpful: $stage}`",
        "`reward: {safety_threshold: …}`",
    ]
    assert all(any(fix in line for line in told) for fix in fixes)
    assert len(told) == 5


def test_an_old_name_beside_its_present_one_is_refused(messages_of: Messages):
    assert messages_of(GOOD.replace("64", "64, cutoff_len: 32")) == Like("x.yaml:5: 'cutoff_len' … 'max_length' …")


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("learning_rate: 1e-4", "Write `learning_rate: …` in a stage, in `train:`."),
        ("lora_r: 8", "Write `r: …` in a stage, in `lora:`."),
        ("micro_batch_size: 2", "Write `per_device_train_batch_size: …` in a stage, in `train:`."),
        ("torch_dtype: bfloat16", "Write `dtype: …` in `model:` at the top."),
    ],
)
def test_a_key_that_other_trainers_write_at_the_top_is_shown_its_block(messages_of: Messages, written: str, fix: str):
    assert messages_of(written + "\n" + GOOD) == Like(f"x.yaml:1: … '{written.partition(':')[0]}' … {fix}")


def test_a_key_beside_the_blocks_of_a_stage_is_shown_its_block_under_its_present_name(messages_of: Messages):
    assert messages_of(GOOD + "    lora_r: 8\n").endswith("has no key 'lora_r'. Write `r: …` in `lora:`.")


@pytest.mark.parametrize(
    ("method", "nearest"),
    [
        ("cpo", "nearest … `kind: dpo` … `loss_type: [sigmoid, sft]`"),
        ("IPO", "`kind: dpo` … `loss_type: [ipo]` … the same"),
        ("rdpo", "`kind: dpo` … `loss_type: [robust]` … the same"),
        ("wpo", "`kind: dpo` … `use_weighting: true` … the same"),
        ("rejection_sampling", "`kind: sample` … the same"),
        ("rlhf", "`kind: ppo` … the same"),
        ("bco", "nearest … `kind: kto`"),
        ("rm", "`kind: reward` … the same"),
        ("lm-eval", "`kind: harness` … the same"),
    ],
)
def test_an_unknown_method_is_answered_with_the_kind_nearest_by_meaning(
    messages_of: Messages, method: str, nearest: str
):
    text = GOOD + f"  - kind: {method}\n    data: [rows.jsonl]\n    train: {{max_length: 64}}\n"
    assert messages_of(text) == Like(f"x.yaml:6: … '{method}' … {nearest} …")

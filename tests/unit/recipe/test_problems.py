"""Each thing a person can write wrong in a recipe, with the exact words that are printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.recipe.conftest import GOOD, HEAD, SFT

from ft.recipe import ModelSource, Recipe
from ft.stages import STAGES
from wording import Like

Messages = Callable[..., str]
Read = Callable[..., Recipe]
JUDGE = "  - {kind: evaluate, name: judge, init: $sft, data: rows.jsonl, evaluate: {}}\n"


def train(values: str) -> str:
    return GOOD.replace("64}", f"64, {values}}}")


TOP = {
    "no stages": ("model: a/b\nstages: []\n", Like("x.yaml:2: … recipe … `- kind: sft` …")),
    "stages left empty": ("model: a/b\nstages:\n", "x.yaml:2: recipe.stages is null. Write a list."),
    "stages as a mapping": ("model: a/b\nstages: {kind: sft}\n", "x.yaml:2: recipe.stages is a mapping. Write a list."),
    "stages left out": ("model: a/b\n", Like("x.yaml:1: … 'stages' … `stages: …` …")),
    "a stage that is a word": (
        "model: a/b\nstages: [sft]\n",
        Like("x.yaml:2: … mapping … `- kind: sft` …"),
    ),
    "a key misspelt": ("sed: 5\n" + GOOD, Like("x.yaml:1: … 'sed' … 'seed' …")),
    "a seed that is a word": ("seed: abc\n" + GOOD, Like("x.yaml:1: recipe.seed … 'abc' …")),
    "a seed below 0": ("seed: -1\n" + GOOD, Like("x.yaml:1: seed … -1 … must … 0 … 4294967295 …")),
    "a name with a path": (
        "name: ../out\n" + GOOD,
        Like("x.yaml:1: … '../out' … letters … _ …"),
    ),
    "no model": (
        GOOD.partition("\n")[2],
        Like("x.yaml:1: … model … `model: path-or-hub-id` …"),
    ),
    "a model that is a list": (
        GOOD.replace("hub/name", "[a]"),
        Like("x.yaml:1: recipe.model … mapping …"),
    ),
    "a folder without a model": (
        GOOD.replace("hub/name", "./base"),
        Like("x.yaml:1: … FOLDER/base … relative …"),
    ),
    "a model under its old name": (
        "seed: 1\n" + GOOD.replace("model:", "model_name_or_path:").replace("hub/name", "./base"),
        Like("x.yaml:2: … FOLDER/base … relative …"),
    ),
    "a model under both names": (
        "model_name_or_path: a/b\n" + GOOD,
        Like("x.yaml:1: 'model_name_or_path' … 'model' …"),
    ),
    "a dtype that is none": (
        GOOD.replace("hub/name", "{path: hub/name, dtype: half}"),
        "x.yaml:1: model.dtype is 'half'. Write one of: float32, bfloat16, float16.",
    ),
    "code from the Hub": (
        GOOD.replace("hub/name", "{path: hub/name, trust_remote_code: true}"),
        Like("x.yaml:1: … 'trust_remote_code' … transformers …"),
    ),
    "a template misspelt": (
        "chat_template: lama2\n" + GOOD,
        Like("x.yaml:1: … 'lama2' … 'llama2' …"),
    ),
    "a template file that is not there": (
        "seed: 1\nchat_template: mine.jinja\n" + GOOD,
        "x.yaml:2: no template FOLDER/mine.jinja. The path is relative to the recipe's file.",
    ),
    "a folder for results": (
        "output_dir: out\n" + GOOD,
        Like("x.yaml:1: … 'output_dir' … `ft run --runs DIR` …"),
    ),
}
STAGE = {
    "no kind": (
        HEAD + "  - data: [rows.jsonl]\n",
        Like(f"x.yaml:3: … `kind:` … {', '.join(STAGES)} …"),
    ),
    "an unknown kind": (GOOD.replace("kind: sft", "kind: stf"), Like("x.yaml:3: … 'stf' … 'sft' …")),
    "a kind that is a number": (
        GOOD.replace("kind: sft", "kind: 5"),
        Like(f"x.yaml:3: … stage … '5' … {', '.join(STAGES)} …"),
    ),
    "a name that is a path": (
        GOOD + "    name: a b/c\n",
        Like("x.yaml:6: 'a b/c' … letters … _ …"),
    ),
    "two stages of one name": (GOOD + SFT, Like("x.yaml:6: … 'sft' … `name:` …")),
    "a key misspelt": (
        GOOD + "    lorra: {}\n",
        Like("x.yaml:6: … 'sft' … 'lorra' … 'lora' …"),
    ),
    "no train block": (
        HEAD + "  - kind: sft\n    data: rows.jsonl\n",
        Like("x.yaml:3: … 'sft' … 'train' … `train: {max_length: …}` …"),
    ),
    "no length": (
        GOOD.replace("max_length: 64", ""),
        Like("x.yaml:5: … 'max_length' … `max_length: …` …"),
    ),
    "a length of null": (
        GOOD.replace("64", "null"),
        Like("x.yaml:5: … 'max_length' … `max_length: …` …"),
    ),
    "no data": (GOOD.replace("[rows.jsonl]", "[]"), Like("x.yaml:3: … 'sft' … `data: [{path: …}]` …")),
    "a block that is a list": (GOOD + "    lora: [1]\n", "x.yaml:6: lora is a mapping. Write `lora: {key: value}`."),
    "a stage without $": (
        GOOD + SFT.replace("sft\n", "sft\n    name: two\n    init: sft\n"),
        Like("x.yaml:8: 'sft' … `$sft` …"),
    ),
    "a stage that is nowhere": (
        GOOD + "    init: $base\n",
        Like("x.yaml:6: … stage '$base' …"),
    ),
    "a stage below": (
        GOOD + "    name: one\n    init: $two\n" + SFT + "    name: two\n",
        Like("x.yaml:7: '$two' … References …"),
    ),
    "a stage that starts from itself": (
        GOOD + "    init: $sft\n",
        Like("x.yaml:6: '$sft' … References …"),
    ),
    "a start that leaves no model": (
        GOOD + JUDGE + SFT + "    name: two\n    init: $judge\n",
        "x.yaml:11: 'judge' leaves metrics, not a model. Name another.",
    ),
    "rows of a stage that leaves none": (
        GOOD + JUDGE + SFT.replace("rows.jsonl", "$judge") + "    name: two\n",
        "x.yaml:8: 'judge' leaves metrics, not rows. Name another.",
    ),
    "an input misspelt": (
        GOOD + JUDGE.replace("data", "inputs: {basline: $sft}, data"),
        Like("x.yaml:6: … 'evaluate' … 'basline' … 'baseline' …"),
    ),
    "inputs of a kind that reads none": (
        GOOD + "    inputs: {helpful: $sft}\n",
        Like("x.yaml:6: '$sft' … References …\nx.yaml:6: … 'sft' … 'helpful' …"),
    ),
    "inputs as a list": (
        GOOD + "    inputs: [1]\n",
        Like("x.yaml:6: … mapping … `inputs: {name: $stage}` …"),
    ),
    "held-out rows for a kind that trains on none": (
        GOOD + JUDGE.replace("data", "eval_data: rows.jsonl, data"),
        Like("x.yaml:6: … 'evaluate' … eval_data …"),
    ),
    "a least that is a word": (
        GOOD + "    require: {loss: low}\n",
        Like("x.yaml:6: require.loss … 'low' …"),
    ),
    "a least that is a truth": (
        GOOD + "    require: {loss: true}\n",
        Like("x.yaml:6: require.loss … allowed …"),
    ),
    "a reward that is nowhere": (
        GOOD + JUDGE.replace("{}", "{reward: kindness}"),
        Like("x.yaml:6: … 'kindness' … quality …"),
    ),
}
DATA = {
    "a file with a near name": ("row.jsonl", Like("x.yaml:4: … row.jsonl … 'rows.jsonl' …")),
    "a file in no folder": (
        "./nowhere/x.csv",
        "x.yaml:4: no file nowhere/x.csv. The path is relative to the recipe's file.",
    ),
    "a path too long for the Hub": (
        "data/tiny/chat",
        "x.yaml:4: no file data/tiny/chat. The path is relative to the recipe's file.",
    ),
    "a number": ("5", Like("x.yaml:4: … mapping … `{path: …}` …")),
    "no path": ("{format: text}", Like("x.yaml:4: … 'path' … `path: …` …")),
    "an unknown format": (
        "{path: rows.jsonl, format: chta}",
        "x.yaml:4: no format 'chta'. There are: messages, sharegpt, alpaca, prompt_completion, caption, vqa, text, hh, "
        "preference, hh_pairs, sharegpt_pairs, ultrafeedback, stack_exchange, shp, webgpt, summaries, "
        "unpaired_preference, prompt, user_turns, every_answer.",
    ),
    "a key misspelt": (
        "{path: rows.jsonl, weigth: 2}",
        Like("x.yaml:4: … 'weigth' … 'weight' …"),
    ),
    "a weight below 0": ("{path: rows.jsonl, weight: -1}", Like("x.yaml:4: weight … -1.0 … above 0 …")),
    "no rows": ("{path: rows.jsonl, rows: 0}", Like("x.yaml:4: rows … 0 … least 1 …")),
    "columns as a list": (
        "{path: rows.jsonl, columns: [a]}",
        Like("x.yaml:4: data.columns … mapping …"),
    ),
}
BLOCKS = {
    "a length below one token": (
        GOOD.replace("64}", "-5}"),
        Like("x.yaml:5: train.max_length … -5 … Write 1 …"),
    ),
    "a batch of no rows": (
        train("per_device_train_batch_size: 0"),
        Like("x.yaml:5: train.per_device_train_batch_size … 0 … Write 1 …"),
    ),
    "fewer epochs than none": (
        train("num_train_epochs: -1"),
        "x.yaml:5: train.num_train_epochs is -1. Write 0 or more.",
    ),
    "a key misspelt": (
        train("learning_rte: 3"),
        Like("x.yaml:5: … 'learning_rte' … 'learning_rate' …"),
    ),
    "a key like no other": (
        train("zzz: 3"),
        Like("x.yaml:5: … 'zzz' … trl.SFTConfig …"),
    ),
    "a word for a number": (train("learning_rate: fast"), "x.yaml:5: train.learning_rate is 'fast'. Write a number."),
    "a word for a truth": (train("packing: maybe"), Like("x.yaml:5: train.packing … 'maybe' …")),
    "a fraction of a step": (train("max_steps: 1.5"), Like("x.yaml:5: train.max_steps … 1.5 … number …")),
    "a list for a number": (train("max_steps: [1]"), Like("x.yaml:5: train.max_steps … number …")),
    "a truth for a number": (
        train("eval_accumulation_steps: true"),
        Like("x.yaml:5: train.eval_accumulation_steps … number …"),
    ),
    "a word that is no choice": (
        GOOD + "    rows: {train_on: bits}\n",
        "x.yaml:6: rows.train_on is 'bits'. Write one of: last, assistant, completion, all.",
    ),
    "a key that ft decides": (
        train("output_dir: out"),
        Like("x.yaml:5: train.output_dir … `ft run --runs DIR` …"),
    ),
    "a task type": (
        GOOD + "    lora: {task_type: CAUSAL_LM}\n",
        Like("x.yaml:6: lora.task_type … stage's …"),
    ),
    "a key that went": (
        train("overwrite_output_dir: true"),
        Like("x.yaml:5: … 'overwrite_output_dir' … `ft run --force STAGE` …"),
    ),
    "a secret": (
        train("run_name: hf_abcdefghijklmnopqrstuvwxyz"),
        Like("x.yaml:5: train.run_name … (HF_TOKEN) …"),
    ),
    "a secret of the wrong type": (
        train("max_steps: hf_abcdefghijklmnopqrstuvwxyz"),
        Like("x.yaml:5: train.max_steps … (HF_TOKEN) …\nx.yaml:5: train.max_steps … secret …"),
    ),
    "two precisions": (
        train("bf16: true, fp16: true"),
        "x.yaml:5: SFTConfig refuses train: At most one of fp16 and bf16 can be True, but not both.",
    ),
    "a share above 1": (
        GOOD + "    rows: {eval_fraction: 2}\n",
        Like("x.yaml:6: eval_fraction … share … 0 … 1 …"),
    ),
    "4 and 8 bits": (
        GOOD + "    quantization: {load_in_4bit: true, load_in_8bit: true}\n",
        "x.yaml:6: BitsAndBytesConfig refuses quantization: load_in_4bit and load_in_8bit are both True, but only one "
        "can be used at the same time.",
    ),
    "no bits": (
        GOOD + "    quantization: {bnb_4bit_quant_type: nf4}\n",
        "x.yaml:6: quantization switches nothing on. Write `load_in_4bit: true` or `load_in_8bit: true`.",
    ),
    "a dtype of the other spelling": (
        GOOD + "    quantization: {load_in_4bit: true, bnb_4bit_compute_dtype: bfloat61}\n",
        "x.yaml:6: BitsAndBytesConfig refuses quantization: module 'torch' has no attribute 'bfloat61'.",
    ),
}


@pytest.mark.parametrize(("text", "expected"), TOP.values(), ids=TOP)
def test_a_fault_at_the_top_is_said_with_its_line(messages_of: Messages, text: str, expected: str):
    assert messages_of(text) == expected


@pytest.mark.parametrize(("text", "expected"), STAGE.values(), ids=STAGE)
def test_a_fault_of_a_stage_is_said_with_its_line(messages_of: Messages, text: str, expected: str):
    assert messages_of(text) == expected


@pytest.mark.parametrize(("source", "expected"), DATA.values(), ids=DATA)
def test_a_fault_of_a_source_is_said_with_its_line(messages_of: Messages, source: str, expected: str):
    assert messages_of(GOOD.replace("[rows.jsonl]", f"[{source}]")) == expected


@pytest.mark.parametrize(("text", "expected"), BLOCKS.values(), ids=BLOCKS)
def test_a_fault_of_a_block_is_said_with_its_line(messages_of: Messages, text: str, expected: str):
    assert messages_of(text) == expected


def test_a_complaint_of_the_library_stands_at_the_key_it_names(messages_of: Messages):
    text = HEAD + SFT.replace("{max_length: 64}", "\n      max_length: 64\n      logging_steps: 0\n      save_steps: 5")
    complaint = "logging strategy IntervalStrategy.STEPS requires non-zero --logging_steps."
    assert messages_of(text) == f"x.yaml:7: SFTConfig refuses train: {complaint}"


def test_a_complaint_that_names_only_a_value_stands_at_its_key(messages_of: Messages):
    text = HEAD + SFT.replace("{max_length: 64}", "\n      max_length: 64\n      optim: adamv\n      save_steps: 5")
    assert messages_of(text).startswith(
        "x.yaml:7: SFTConfig refuses train: adamv is not a valid OptimizerNames, please select"
    )


def test_a_key_is_named_by_whole_words_only(messages_of: Messages):
    text = "  - kind: sft\n    data:\n      - name: x\n        path: rows.jsonl\n        format: rename\n"
    assert messages_of(HEAD + text + "    train: {max_length: 8}\n").startswith("x.yaml:7: no format 'rename'.")


def test_a_stage_that_is_wrong_itself_is_not_reported_again_by_those_that_refer_to_it(messages_of: Messages):
    text = GOOD.replace("kind: sft", "kind: stf\n    name: sft") + JUDGE
    assert messages_of(text) == Like("x.yaml:3: … 'stf' … 'sft' …")


def test_what_else_is_wrong_with_a_stage_of_unknown_kind_is_reported_too(messages_of: Messages):
    assert messages_of(GOOD.replace("kind: sft", "kind: stf").replace("rows.jsonl", "row.jsonl")) == (
        Like("x.yaml:3: … 'stf' … 'sft' …\nx.yaml:4: … row.jsonl … 'rows.jsonl' …")
    )


AWFUL = """\
model_name_or_path: ./nothing
sed: 3
chat_template: lama2
stages:
  - kind: sft
    kind: sft
    learning_rate: 1
    init: $judge
    data:
      - {path: row.jsonl, fromat: text}
      - 7
    rows: {train_on: bits}
    train:
      learning_rte: 1e-4
      max_seq_length: long
      packing: 3
      output_dir: out
      hub_token: hf_abcdefghijklmnopqrstuvwxyz
    lora: {lora_r: 8, r: 4}
    quantization: {load_in_4bit: maybe}
  - kind: evalute
  - {kind: evaluate, name: judge, init: $sft, data: rows.jsonl, evaluate: {batch_size: many}}
"""


def test_all_problems_of_a_recipe_are_said_at_once_in_the_order_of_its_lines(messages_of: Messages):
    assert messages_of(AWFUL, ["sft.train.max_steps=x", "dpo.train.beta=1"]) == Like(
        "x.yaml:1: … FOLDER/nothing … relative …\n"
        "x.yaml:2: … 'sed' … 'seed' …\n"
        "x.yaml:3: … 'lama2' … 'llama2' …\n"
        "x.yaml:6: 'kind' … written … 5 …\n"
        "x.yaml:7: … 'sft' … 'learning_rate' … `train:` …\n"
        "x.yaml:8: '$judge' … References …\n"
        "x.yaml:10: … 'fromat' … 'format' …\n"
        "x.yaml:10: … row.jsonl … 'rows.jsonl' …\n"
        "x.yaml:11: … mapping … `{path: …}` …\n"
        "x.yaml:12: rows.train_on … 'bits' …\n"
        "x.yaml:14: … 'learning_rte' … 'learning_rate' …\n"
        "x.yaml:15: train.max_length … 'long' …\n"
        "x.yaml:16: train.packing … 3 … Write …\n"
        "x.yaml:17: train.output_dir … `ft run --runs DIR` …\n"
        "x.yaml:18: train.hub_token … (HF_TOKEN) …\n"
        "x.yaml:18: train.hub_token … HF_TOKEN …\n"
        "x.yaml:19: 'lora_r' … 'r' …\n"
        "x.yaml:20: quantization.load_in_4bit … 'maybe' …\n"
        "x.yaml:21: … 'evalute' … 'evaluate' …\n"
        "x.yaml:22: evaluate.batch_size … 'many' …\n"
        "--set dpo.train.beta … 'dpo' …\n"
        "--set sft.train.max_steps … train.max_steps … 'x' …"
    )


def test_a_recipe_without_fault_is_read(recipe: Read, folder: Path):
    read = recipe("seed: 7\n" + GOOD)
    assert (read.name, read.model, read.seed, read.notices) == (f"{folder.name}-x", ModelSource("hub/name"), 7, ())
    stage = read.stage("sft")
    assert (stage.init, stage.where, dict(stage.blocks)) == (
        None,
        "x.yaml:4",
        {"train": {"max_length": 64}, "rows": {}},
    )
    assert stage.data[0]["path"] == "rows.jsonl"


def test_a_hub_id_stays_as_written_unless_a_folder_of_that_name_stands_beside_the_recipe(recipe: Read, folder: Path):
    text = GOOD.replace("[rows.jsonl]", "[owner/rows]")
    assert recipe(text).stage("sft").data[0]["path"] == "owner/rows"
    (folder / "there" / "owner" / "rows").mkdir(parents=True)
    (folder / "there" / "y.yaml").write_text(text, encoding="utf-8")
    assert recipe("extends: there/y.yaml\n").stage("sft").data[0]["path"] == "there/owner/rows"


def test_a_start_of_null_is_the_recipe_s_model(recipe: Read):
    assert recipe(GOOD + "    init: null\n").stage("sft").init is None


def test_a_length_under_its_old_name_is_a_length(recipe: Read):
    read = recipe(GOOD.replace("max_length", "max_seq_length"))
    assert read.stage("sft").blocks["train"] == {"max_length": 64}
    assert read.notices == ("x.yaml:5: 'max_seq_length' is now 'max_length'; read as such.",)


def test_a_stage_left_out_by_skip_is_not_there_to_refer_to(messages_of: Messages):
    assert messages_of(GOOD + "    skip: true\n" + JUDGE) == Like("x.yaml:7: … stage '$sft' …")

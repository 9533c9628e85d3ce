"""Configs of other trainers become recipes: every key accounted for, every problem at its line, nothing opened."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import import_page
from ft.cli import app
from ft.errors import Problems, UserError
from ft.recipe import Recipe, Verdicts, check_tree, read
from ft.recipe.yaml import Block, parse_yaml
from ft.results.store import plan
from ft.stages import STAGES
from ft.tools.importing.chain import ImportedRecipe, import_recipe
from ft.tools.importing.config import read_configs
from ft.tools.importing.peers import name_of_peer

PEERS = import_page.PEER_FILES
CONFIGS = sorted(
    file
    for file in PEERS.rglob("*")
    if file.suffix in (".yaml", ".yml", ".sh") or file.name.endswith("_args.json")
    if "ppo" not in file.stem  # learns from a reward model, whose config comes with it
)
VERDICTS = Verdicts(None)
Imports = Callable[..., ImportedRecipe]


def check(tree: Block, path: Path) -> Recipe:
    return check_tree(tree, path, STAGES, VERDICTS)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("importing asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture
def imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Imports:
    """The recipe of texts, written to theirs.yaml or under the names given."""
    monkeypatch.chdir(tmp_path)

    def imported(*texts: str, names: Sequence[str] = ("theirs.yaml", "second.yaml", "third.yaml")) -> ImportedRecipe:
        files = [Path(name) for name in names[: len(texts)]]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text, encoding="utf-8")
        return import_recipe(files, Path("mine.yaml"), check, force=True)

    return imported


@pytest.fixture
def tree(imports: Imports) -> Callable[..., Any]:
    def imported(*texts: str, **options: Any) -> Any:
        return parse_yaml(imports(*texts, **options).text, "mine.yaml", Problems())

    return imported


@pytest.fixture
def refusal(imports: Imports) -> Callable[..., list[str]]:
    def refused(*texts: str, **options: Any) -> list[str]:
        with pytest.raises(UserError) as error:
            imports(*texts, **options)
        assert not Path("mine.yaml").exists()
        return str(error.value).splitlines()

    return refused


def test_there_are_configs_of_every_peer():
    counts = {folder.name: sum(folder in file.parents for file in CONFIGS) for folder in PEERS.iterdir()}
    assert counts["alignment-handbook"] >= 22
    assert all(counts[name] >= 12 for name in ("axolotl", "llama-factory", "torchtune", "ms-swift"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(PEERS)))
@pytest.mark.usefixtures("no_network")
def test_a_config_is_imported_and_planned(file: Path, tmp_path: Path):
    to = tmp_path / "mine.yaml"
    recipe = import_recipe([file], to, check)
    assert recipe.unknown_keys == []
    assert [draft.remaining for draft in recipe.drafts] == [{}] * len(
        recipe.drafts
    )  # placed, or left out with a reason
    written = read(to, STAGES, (), VERDICTS)
    assert written.notices == ()
    assert [stage.state for stage in plan(written, tmp_path / "runs").stages] == ["absent"] * len(recipe.drafts)


def test_the_page_of_the_docs_is_what_is_made_today():
    assert import_page.PAGE.read_text(encoding="utf-8") == import_page.page(), "python tests/import_page.py writes it"


# Commands


def test_a_plan_of_another_trainer_s_config_says_whose_it_is_in_one_line(tmp_path: Path):
    for folder, peer in (
        ("alignment-handbook/zephyr-7b-beta/sft/config_qlora.yaml", "TRL"),
        ("axolotl/kto.yml", "axolotl"),
        ("llama-factory/llama3_lora_dpo.yaml", "LLaMA-Factory"),
        ("torchtune/gemma_2B_full.yaml", "torchtune"),
        ("ms-swift/demo.sh", "ms-swift"),
    ):
        result = CliRunner().invoke(app, ["plan", str(PEERS / folder), "--runs", str(tmp_path)])
        assert str(result.exception) == (
            f"{PEERS / folder}: this is a config of {peer}, not a recipe of ft. "
            f"Turn it into one: ft import {PEERS / folder} --to MINE.yaml."
        )


def test_import_prints_the_recipe_and_names_unknown_keys_beside_it(tmp_path: Path):
    config = tmp_path / "theirs.yml"
    config.write_text(AXOLOTL + "fancy: 3\nlearning_rat: 1\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["import", str(config), "--runs", str(tmp_path)])
    assert result.exit_code == 0
    assert result.stdout.startswith("# Made by `ft import` of axolotl's theirs.yml.\nmodel: hub/name\n")
    assert f"left out: {config}:6: fancy: 3. Nothing is known of this key." in result.stderr
    assert "Did you mean 'learning_rate'?" in result.stderr


def test_a_recipe_that_is_there_is_not_overwritten(imports: Imports):
    imports(AXOLOTL)
    with pytest.raises(UserError, match="is there already"):
        import_recipe([Path("theirs.yaml")], Path("mine.yaml"), check)


# What becomes of a config

AXOLOTL = (
    "base_model: hub/name\ndatasets: [{path: tatsu-lab/alpaca, type: alpaca}]\n"
    "sequence_len: 64\nnum_epochs: 2\nlearning_rate: 1e-4\n"
)
TRL_SFT = "model_name_or_path: hub/base\ndataset_name: trl-lib/Capybara\nmax_length: 64\noutput_dir: out/sft\n"
TRL_DPO = "model_name_or_path: out/sft\ndataset_name: trl-lib/ultrafeedback_binarized\nbeta: 0.2\nmax_length: 64\n"
FACTORY = "model_name_or_path: hub/name\nstage: sft\ncutoff_len: 64\ndataset: tatsu-lab/alpaca\ndataset_dir: none\n"


def test_a_small_config_becomes_a_small_recipe(imports: Imports):
    assert imports(AXOLOTL + "wandb_project: w\nadapter:\n").text == SMALL


SMALL = """\
# Made by `ft import` of axolotl's theirs.yaml.
# Next: ft plan mine.yaml, then ft show mine.yaml
model: hub/name

stages:
  # theirs.yaml, a config of axolotl.
  # What differs:
  # - axolotl writes rows of the type alpaca with a prompt of its own (### Instruction:); here every
  #   row is a conversation, written by the chat template.
  # - axolotl drops rows longer than sequence_len without a word; here the oldest turns go, and what
  #   is still too long is dropped and counted.
  - kind: sft
    data:
      - {path: tatsu-lab/alpaca, format: alpaca}
    rows:
      on_too_long: drop_turns # nothing is cut
      on_bad_row: reject # counted, and listed in rejects.jsonl
      train_on: assistant
    train:
      max_length: 64 # from sequence_len
      num_train_epochs: 2 # from num_epochs
      learning_rate: 0.0001
      per_device_train_batch_size: 1 # axolotl's default
      lr_scheduler_type: cosine # axolotl's default
    # Left out:
    # - wandb_project: 'w' (line 6). Write `report_to: [wandb]` in `train:`. The tracker's own
    #   environment variables name the rest.
"""


def test_several_configs_become_one_chain_in_the_order_of_their_methods(tree: Callable[..., Any]):
    reward = "model_name_or_path: out/sft\ndataset_name: trl-lib/ultrafeedback_binarized\nmax_length: 64\n"
    recipe = tree(TRL_DPO, reward, TRL_SFT, names=("dpo.yaml", "reward.yaml", "sft.yaml"))
    assert recipe["model"] == "hub/base"
    assert [(stage["kind"], stage.get("init")) for stage in recipe["stages"]] == [
        ("sft", None),
        ("reward", "$sft"),
        ("dpo", "$sft"),
    ]


def test_a_stage_that_goes_on_with_an_adapter_has_the_adapter_s_block(tmp_path: Path):
    folder = PEERS / "alignment-handbook" / "zephyr-7b-beta"
    files = [folder / stage / "config_qlora.yaml" for stage in ("sft", "dpo")]  # of rank 16, then 128
    recipe = import_recipe(files, tmp_path / "mine.yaml", check)
    sft, dpo = plan(read(tmp_path / "mine.yaml", STAGES, (), VERDICTS), tmp_path / "runs").recipe.stages
    assert (dpo.init, dpo.blocks["lora"]["r"]) == ("sft", 16)
    assert [dpo.blocks[block] == sft.blocks[block] for block in ("lora", "quantization")] == [True, True]
    ranks = {one.key: one.value for one in recipe.omissions if "adapter" in one.why}
    assert ranks == {"r": 128, "lora_alpha": 128}


def test_what_learns_from_rewards_takes_the_imported_reward_model(tmp_path: Path):
    files = [PEERS / "llama-factory" / f"llama3_lora_{name}.yaml" for name in ("ppo", "reward")]
    import_recipe(files, tmp_path / "mine.yaml", check)
    ppo = read(tmp_path / "mine.yaml", STAGES, (), VERDICTS).stage("ppo")
    assert ppo.inputs == {"helpful": "reward"}
    assert ppo.blocks["rows"]["max_prompt_length"] == 2048
    with pytest.raises(UserError, match="Import the reward model's config with it"):
        import_recipe(files[:1], None, check)


def test_a_script_with_two_commands_is_a_chain_with_its_variables_written_out(tree: Callable[..., Any]):
    script = (
        "N=4 # GPUs\n"
        "M=hub/base\n"
        "trl sft --model_name_or_path $M --dataset_name trl-lib/Capybara \\\n"
        "    --max_length 64 --packing --gradient_accumulation_steps $(expr 16 / $N)\n"
        "trl dpo --model_name_or_path out --dataset_name trl-lib/ultrafeedback_binarized --max_length=64\n"
    ).replace(" # GPUs", "")
    recipe = tree(script, names=("train.sh",))
    sft, dpo = recipe["stages"]
    assert (recipe["model"], dpo["init"]) == ("hub/base", "$sft")
    assert (sft["train"]["packing"], sft["train"]["gradient_accumulation_steps"]) == (True, 4)


def test_trl_trains_on_questions_where_nothing_else_is_said(tree: Callable[..., Any]):
    assert tree(TRL_SFT)["stages"][0]["rows"]["train_on"] == "all"
    assert tree(TRL_SFT + "assistant_only_loss: true\n")["stages"][0]["rows"]["train_on"] == "assistant"
    apart = TRL_SFT.replace("Capybara", "tldr")
    assert tree(apart)["stages"][0]["rows"]["train_on"] == "completion"


def test_every_data_file_of_a_data_set_is_a_source(tree: Callable[..., Any], tmp_path: Path):
    for name in ("a.jsonl", "b.jsonl", "held.jsonl"):
        (tmp_path / name).write_text('{"messages": []}\n', encoding="utf-8")
    config = "model_name_or_path: hub/a\nmax_length: 64\ndatasets:\n  - {path: json, data_files: %s}\n"
    made = tree(config % "[a.jsonl, b.jsonl]")
    assert [source["path"] for source in made["stages"][0]["data"]] == ["a.jsonl", "b.jsonl"]
    made = tree(config % "{train: b.jsonl, test: held.jsonl}")
    assert [source["path"] for source in made["stages"][0]["data"]] == ["b.jsonl"]


def test_yes_and_no_are_switches_as_other_trainers_read_them(tree: Callable[..., Any]):
    train = tree(AXOLOTL + "tf32: no\ngradient_checkpointing: yes\nsave_strategy: no\n")["stages"][0]["train"]
    assert (train["tf32"], train["gradient_checkpointing"], train["save_strategy"]) == (False, True, "no")


def test_a_secret_of_a_config_is_not_repeated(imports: Imports):
    token = "hf_" + "aB3dE5gH7j" * 4
    recipe = imports(AXOLOTL + f"hub_token: {token}\nfancy: {token}\n")
    assert token not in recipe.text + "".join(map(str, recipe.unknown_keys))
    assert "hub_token: a secret" in recipe.text


def test_a_switch_that_is_off_leaves_no_block(tree: Callable[..., Any]):
    stage = tree(AXOLOTL + "load_in_4bit: false\nload_in_8bit: false\nlora_r: 8\n")["stages"][0]
    assert "quantization" not in stage
    assert "lora" not in stage


def test_an_adapter_without_a_key_has_the_defaults_of_its_trainer(tree: Callable[..., Any]):
    stage = tree(FACTORY + "quantization_bit: 4\nlora_rank: 4\n")["stages"][0]
    assert stage["lora"] == {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
    assert stage["quantization"] == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    }
    assert stage["train"]["learning_rate"] == 5e-5


@pytest.mark.parametrize(
    ("theirs", "source"),
    [
        ("{path: a/b, type: chat_template}", {"path": "a/b", "format": "messages"}),
        (
            "{path: a/b, type: chat_template, field_messages: dialogue, message_field_role: from, "
            "message_field_content: value}",
            {"path": "a/b", "format": "sharegpt", "columns": {"conversations": "dialogue"}},
        ),
        ("{path: a/b, type: sharegpt}", {"path": "a/b", "format": "sharegpt"}),
        ("{path: a/b, type: completion, field: body}", {"path": "a/b", "format": "text", "columns": {"text": "body"}}),
        (
            "{path: a/b, type: {field_instruction: q, field_output: a, format: '[INST] {instruction}'}}",
            {"path": "a/b", "format": "alpaca", "columns": {"instruction": "q", "output": "a"}},
        ),
    ],
)
def test_axolotl_s_types_of_data_sets_are_formats(tree: Callable[..., Any], theirs: str, source: dict[str, Any]):
    config = AXOLOTL.replace("{path: tatsu-lab/alpaca, type: alpaca}", theirs)
    assert tree(config)["stages"][0]["data"] == [source]


def test_a_file_is_found_from_the_folder_its_trainer_was_started_in(imports: Imports, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "configs").mkdir()
    config = AXOLOTL.replace("tatsu-lab/alpaca", "data/mine.jsonl")
    assert "- {path: data/mine.jsonl, format: alpaca}" in imports(config, names=("configs/theirs.yml",)).text


def test_a_method_without_a_kind_becomes_the_nearest_and_is_said_so(imports: Imports):
    recipe = imports(TRL_DPO + "cpo_alpha: 0.5\n", names=("cpo.yaml",))
    assert recipe.drafts[0].nearest.startswith("ft has no kind 'cpo'. The nearest is `kind: dpo` with `loss_type:")
    stage = parse_yaml(recipe.text, "mine.yaml", Problems())["stages"][0]
    assert (stage["kind"], stage["train"]["loss_type"]) == ("dpo", ["sigmoid", "sft"])
    assert "cpo_alpha" in [omission.key for omission in recipe.omissions]


@pytest.mark.parametrize(
    ("file", "kind", "train"),
    [
        ("alignment-handbook/mistral-7b/simpo/config_full.yaml", "simpo", {"beta": 2.0, "simpo_gamma": 1.6}),
        ("alignment-handbook/mistral-capybara/orpo/config_full.yaml", "orpo", {"beta": 0.05}),
        ("axolotl/kto.yml", "kto", {"desirable_weight": 0.2, "undesirable_weight": 1.0, "beta": 0.1}),
        ("axolotl/orpo.yml", "orpo", {"beta": 0.1}),
        ("llama-factory/llama3_lora_kto.yaml", "kto", {"beta": 0.1, "desirable_weight": 1.0}),
        ("llama-factory/llama3_lora_simpo.yaml", "simpo", {"beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0}),
        ("llama-factory/llama3_lora_orpo.yaml", "orpo", {"beta": 0.1}),
        ("ms-swift/kto.sh", "kto", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
        ("ms-swift/simpo.sh", "simpo", {"beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 1.0}),
        ("ms-swift/orpo.sh", "orpo", {"beta": 0.1}),
    ],
)
def test_methods_of_preferences_keep_their_numbers(file: str, kind: str, train: dict[str, Any], tmp_path: Path):
    """A KTO batch of one row becomes two, half as often."""
    import_recipe([PEERS / file], tmp_path / "mine.yaml", check)
    (stage,) = read(tmp_path / "mine.yaml", STAGES, (), VERDICTS).stages
    assert stage.kind_name == kind
    assert {key: stage.complete("train")[key] for key in train} == train
    if kind == "kto":
        assert [source["format"] for source in stage.data] == ["unpaired_preference"]


def test_simpo_is_one_of_trls_losses_of_cpo_and_a_loss_of_torchtune(tree: Callable[..., Any]):
    (stage,) = tree(TRL_DPO + "loss_type: simpo\n", names=("cpo.yaml",))["stages"]
    assert (stage["kind"], stage["train"]["cpo_alpha"]) == ("simpo", 1.0)
    config = (PEERS / "torchtune" / "llama3_1_8B_lora_dpo.yaml").read_text(encoding="utf-8")
    assert "DPOLoss" in config
    (stage,) = tree(re.sub(r"[\w.]*DPOLoss", "torchtune.rlhf.loss.SimPOLoss", config))["stages"]
    assert (stage["kind"], stage["train"]["simpo_gamma"]) == ("simpo", 0.5)


# What is refused


def test_every_problem_of_every_config_is_reported_at_its_line(refusal: Callable[..., list[str]]):
    second = TRL_DPO.replace("0.2", "high").replace("max_length: 64", "max_length: none")
    assert refusal(AXOLOTL.replace("1e-4", "fast").replace("type: alpaca", "type: martian"), second) == [
        "theirs.yaml:2: the type 'martian' is not known. Known are: chat_template, sharegpt, completion, pretrain, "
        "alpaca_chat.load_qa, alpaca_w_system, alpaca, gpteacher, context_qa, chatml.intel, llama3.intel, "
        "chatml.prompt_pairs, chatml.argilla, llama3.argilla, chatml.ultra, llama3.ultra, zephyr.nectar, "
        "bradley_terry.",
        "theirs.yaml:5: train.learning_rate is 'fast'. Write a number.",
        "second.yaml:3: train.beta is 'high'. Write a number.",
        "second.yaml:4: train.max_length is 'none'. Write a whole number.",
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("stages: []\n", "theirs.yaml:1: this is a recipe of ft already."),
        ("a: 1\n", "theirs.yaml:1: no trainer is known whose config this is."),
        (FACTORY.replace("tatsu-lab/alpaca", "mine"), "theirs.yaml:4: no dataset_info.json says what 'mine' is."),
        (FACTORY + "quantization_bit: 3\n", "theirs.yaml:6: 3 bits. ft has 4 and 8, by bitsandbytes."),
        (FACTORY + "finetuning_type: freeze\n", "theirs.yaml:6: finetuning_type is 'freeze'."),
        (AXOLOTL + "rl: grpo\n", "theirs.yaml:1: it learns from rewards, and nothing gives any."),
        (AXOLOTL + "rl: magic\n", "theirs.yaml:6: 'magic' is a method that ft has no kind for."),
        (AXOLOTL + "adapter: ia3\n", "theirs.yaml:6: the adapter is 'ia3'."),
    ],
)
def test_what_has_no_counterpart_is_refused(refusal: Callable[..., list[str]], config: str, message: str):
    assert any(line.startswith(message) for line in refusal(config))


def test_rows_with_images_are_refused(refusal: Callable[..., list[str]], tmp_path: Path):
    (tmp_path / "dataset_info.json").write_text(
        '{"screens": {"file_name": "s.json", "formatting": "sharegpt", "columns": {"images": "images"}}}',
        encoding="utf-8",
    )
    lines = refusal(FACTORY.replace("tatsu-lab/alpaca", "screens").replace("none", "."))
    assert "theirs.yaml:4: the rows of 'screens' have images. ft trains on text; leave it out." in lines


def test_a_script_that_needs_what_it_does_not_say_is_refused(refusal: Callable[..., list[str]]):
    lines = refusal("swift sft --model $MODEL --dataset hub/rows\n", names=("train.sh",))
    assert lines == ["train.sh:1: $MODEL is set elsewhere. Write its value."]


def test_a_pipe_and_what_is_too_large_are_no_config(tmp_path):
    """A recipe that is refused is looked at as a config, too."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_text("a: 1\n" * (1 << 18), encoding="utf-8")
    for name, words in (("pipe", "this is a pipe or a device"), ("large", "it is larger than 1 MiB")):
        assert name_of_peer(tmp_path / f"{name}.yaml") == ""
        with pytest.raises(UserError, match=f"{name}.yaml: {words}"):
            read_configs(tmp_path / f"{name}.yaml")

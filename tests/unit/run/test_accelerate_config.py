"""What several processes can carry is known before anything is loaded, and told with the place to mend it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file

import tiny
from ft.errors import UserError
from ft.files import write_json
from ft.models.device import gpus
from ft.recipe import Verdicts, read
from ft.run.accelerate_config import (
    ONE_PROCESS,
    SUPPORT,
    WAYS,
    Launch,
    launch_of_environment,
    objections,
    read_launch,
    support_table,
)
from ft.run.preflight import preflight
from ft.stages import STAGES
from wording import Like

ROOT = tiny.ROOT
SHIPPED = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
LORA, NF4, INT8 = {"lora": tiny.LORA}, {"quantization": tiny.NF4}, {"quantization": {"load_in_8bit": True}}
BF16 = {"quantization": {**tiny.NF4, "bnb_4bit_quant_storage": "bfloat16"}}


@pytest.fixture(scope="module")
def remembered(tmp_path_factory) -> Verdicts:
    """Options of accelerate are looked up once."""
    return Verdicts(tmp_path_factory.mktemp("verdicts") / "checked.json")


@pytest.fixture
def told(tmp_path, base, data, monkeypatch) -> Callable[..., list[str]]:
    """What is said of one stage under a config's text or a shipped config."""
    monkeypatch.chdir(tmp_path)

    def said(stage: dict[str, Any], config: str) -> list[str]:
        train = {**tiny.TRAIN, "bf16": True, **stage.pop("train", {})}
        whole = {"kind": "sft", "data": [{"path": str(data)}], "train": train, **stage}
        file = tiny.recipe(Path(), [whole], model=str(base))
        if not config.endswith(".yaml"):
            Path("many.yaml").write_text(config, encoding="utf-8")
            config = "many.yaml"
        launch = read_launch(Path(config) if "/" in config or config == "many.yaml" else shipped(config))
        problems = objections(read(file, STAGES).stages, launch)
        return [str(problem).replace(f"{ROOT}/recipes/accelerate/", "") for problem in problems]

    return said


def shipped(name: str) -> Path:
    return ROOT / "recipes" / "accelerate" / name


def test_there_is_a_config_for_each_way():
    names = {"cpu-2", "ddp", "fsdp", "fsdp-qlora", "multinode", "single", "zero2", "zero3"}
    assert {file.stem for file in SHIPPED} == names


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_config_is_read_by_accelerate_and_by_us_alike(file, remembered):
    theirs, ours = load_config_from_file(str(file)), read_launch(file, remembered)
    assert (ours.processes, ours.machines) == (theirs.num_processes, theirs.num_machines)
    assert ours.mixed_precision == theirs.mixed_precision == "no"
    by_type = {"NO": ["single"], "MULTI_GPU": ["ddp"], "FSDP": ["fsdp"], "DEEPSPEED": ["zero2", "zero3"]}
    assert ours.way in by_type[theirs.distributed_type.value]
    assert file.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("distributed_type: MULTI_GPU\nnum_proceses: 2\n", ":2: ClusterConfig has no field 'num_proceses'. Did you me"),
        (
            "distributed_type: FSDP\nnum_processes: 2\nfsdp_config:\n  fsdp_cpu_ram_eficient_loading: false\n",
            ":4: fsdp_config has no key 'fsdp_cpu_ram_eficient_loading'. Did you mean 'fsdp_cpu_ram_efficient_loading'",
        ),
        ("distributed_type: MULTI_CPU\nnum_processes: 2\n", ":1: distributed_type 'MULTI_CPU' is not supported. Write"),
        ("distributed_type: MULTI_GPU\nnum_processes: 1\n", ":2: MULTI_GPU with one process, which accelerate refuses"),
        ("distributed_type: MULTI_GPU\nnum_processes: 3\nnum_machines: 2\n", ":2: 3 processes do not spread over 2 ma"),
        ("distributed_type: NO\nnum_processes: 2\n", Like(":1: 'NO' … 2 … MULTI_GPU … `num_pr")),
        (
            "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {zero_stage: 1}\n",
            Like(":3: ZeRO … 1 … `zero_stage: 2` … 3 …"),
        ),
        ("just words", Like("… accelerate … recipes/accelerate …")),
    ],
)
def test_a_config_that_accelerate_would_refuse_or_pass_over_is_told_by_line(written, problem, tmp_path, remembered):
    (tmp_path / "many.yaml").write_text(written, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_launch(tmp_path / "many.yaml", remembered)
    assert str(refused.value).partition("\n")[0] == Like(f"{tmp_path}/many.yaml{problem} …")


def test_a_config_that_is_not_there_lists_those_that_are(tmp_path):
    (tmp_path / "ddp.yaml").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"dpd.yaml: no such accelerate config. In that folder: ddp.yaml."):
        read_launch(tmp_path / "dpd.yaml")


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        ({}, "ddp.yaml"),
        ({}, "fsdp.yaml"),
        ({}, "zero2.yaml"),
        ({}, "zero3.yaml"),
        ({**LORA, **NF4}, "ddp.yaml"),
        ({**LORA, **BF16}, "fsdp-qlora.yaml"),
        ({**LORA, **INT8}, "ddp.yaml"),
        ({**LORA, **NF4, "kind": "dpo"}, "ddp.yaml"),
        ({**LORA, **NF4, "kind": "reward"}, "multinode.yaml"),
        ({"train": {"packing": True}}, "fsdp.yaml"),
    ],
)
def test_what_goes_together_is_not_objected_to(stage, config, told):
    assert told(stage, config) == []


@pytest.mark.parametrize(
    ("stage", "config", "problem"),
    [
        (
            {**LORA, **NF4},
            "fsdp.yaml",
            Like(
                "tiny.yaml:4: 'sft' (`lora:` … 4-bit … (fsdp.yaml:6) … 4-bit … uint8 … "
                "`quantization: {bnb_4bit_quant_storage: bfloat16}` …"
            ),
        ),
        (
            {**LORA, **NF4},
            "zero3.yaml",
            Like(
                "tiny.yaml:4: 'sft' (`lora:` … 4-bit … zero3 (zero3.yaml:6) … DeepSpeed … "
                "recipes/accelerate/ddp.yaml … fsdp-qlora.yaml …"
            ),
        ),
        (
            {"kind": "reward"},
            "fsdp.yaml",
            Like("fsdp.yaml:13: 'sft' (`reward`) … (fsdp.yaml:6) … `fsdp_cpu_ram_efficient_loading: false` …"),
        ),
    ],
)
def test_what_does_not_is_refused_with_the_place_the_reason_and_the_way_out(stage, config, problem, told):
    stage = {**stage, "name": "sft"}
    assert told(stage, config) == [problem]


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        ({**LORA, **INT8}, "fsdp.yaml"),
        ({**LORA, **INT8}, "zero3.yaml"),
        ({"train": {"packing": True}}, "zero3.yaml"),
        ({"kind": "reward"}, "zero3.yaml"),
        ({**LORA, "kind": "dpo"}, "fsdp.yaml"),
        ({"kind": "dpo"}, "zero2.yaml"),
        ({"kind": "dpo"}, "zero3.yaml"),
        (
            {"train": {"optim": "paged_adamw_32bit"}},
            "distributed_type: DEEPSPEED\nnum_processes: 2\n"
            "deepspeed_config: {zero_stage: 2, offload_optimizer_device: cpu}\n",
        ),
    ],
)
def test_other_pairs_that_fail_late_are_refused_early(stage, config, told):
    assert len(told(stage, config)) == 1


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            "distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_state_dict_type: SHARDED_STATE_DICT}\n",
            Like("many.yaml:3: fsdp_state_dict_type … SHARDED_STATE_DICT …"),
        ),
        (
            "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {zero_stage: 3}\n",
            Like("many.yaml:1: zero3_save_16bit_model … `zero3_save_16bit"),
        ),
        (
            "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {gradient_accumulation_steps: 4}\n",
            Like("many.yaml:3: gradient_accumulation_steps … 4 … `auto` …"),
        ),
        (
            "distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: fp16\n",
            "many.yaml:3: mixed_precision is fp16, and 'sft' (tiny.yaml:4) computes in bfloat16. Write `mixed_precisio",
        ),
    ],
)
def test_a_config_that_would_change_or_lose_the_result_is_refused(config, problem, told):
    (found,) = told({}, config)
    assert found == Like(f"{problem} …")


def test_everything_is_told_at_once(told):
    config = "distributed_type: FSDP\nnum_processes: 3\nfsdp_config: {fsdp_state_dict_type: SHARDED_STATE_DICT}\n"
    found = told({**LORA, **NF4, "kind": "dpo", "global_batch": 16}, config)
    assert [line.partition(": ")[0] for line in found] == ["many.yaml:3", "tiny.yaml:4", "tiny.yaml:4", "tiny.yaml:4"]
    assert found[-1] == (
        Like("tiny.yaml:4: 'dpo' … global_batch 16 … per_device_train_batch_size 8 … 3 … global_batch 24 … 2 …")
    )


def test_kinds_that_do_not_train_are_not_objected_to(tmp_path, base, data):
    asked = {"kind": "evaluate", "data": [{"path": str(data), "format": "prompt"}], "evaluate": {}, **NF4}
    file = tiny.recipe(tmp_path, [asked], model=str(base))
    assert objections(read(file, STAGES).stages, Launch(way="zero3", processes=8)) == []


@pytest.mark.parametrize(
    ("recipe", "config"),
    [
        ("llama2-7b/chat.yaml", "ddp.yaml"),
        ("llama2-7b/sft.yaml", "fsdp.yaml"),
        ("zephyr-7b/dpo-qlora.yaml", "ddp.yaml"),
        ("tiny/dpo.yaml", "cpu-2.yaml"),
    ],
)
def test_shipped_recipes_go_with_the_configs_they_are_shown_with(recipe, config, remembered):
    stages = read(ROOT / "recipes" / recipe, STAGES).stages
    launch = read_launch(shipped(config), remembered)
    assert [str(p) for p in objections(stages, launch) if "mixed_precision" not in str(p)] == []


def test_the_table_in_the_docs_is_the_table_in_the_code():
    assert support_table(STAGES) in (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
    tables = [*(row.refused for row in SUPPORT), *(kind.unsupported or {} for kind in STAGES.values())]
    assert {way for refused in tables for way in refused} <= set(WAYS)


def test_what_accelerate_launch_was_told_is_read_from_the_environment(monkeypatch):
    assert launch_of_environment() == ONE_PROCESS
    told: Sequence[tuple[str, str]] = (
        *(("WORLD_SIZE", "16"), ("LOCAL_WORLD_SIZE", "8"), ("ACCELERATE_USE_FSDP", "true")),
        *(("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT"), ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")),
    )
    for name, value in told:
        monkeypatch.setenv(name, value)
    found = launch_of_environment()
    assert (found.way, found.processes, found.machines) == ("fsdp", 16, 2)
    assert found.on("fsdp_cpu_ram_efficient_loading")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    assert launch_of_environment().way == "zero3"


@pytest.fixture
def stopped(tmp_path, base, data, remembered) -> Callable[..., list[str]]:
    """What preflight says of a stage that is begun again under a config."""

    def said(config: str, begun_by: int = 2, **keys: Any) -> list[str]:
        launch = read_launch(shipped(config), remembered)
        file = tiny.recipe(tmp_path, [tiny.sft(data, {"bf16": False}, **keys)], model=str(base))
        folder = tiny.planned(file, tmp_path / "runs").stage("sft").folder
        (folder / "checkpoints" / "checkpoint-2").mkdir(parents=True, exist_ok=True)
        write_json(folder / "job.json", {"processes": begun_by})
        there = tiny.planned(file, tmp_path / "runs", processes=launch.processes)
        try:
            preflight(there.stages, launch)
        except UserError as error:
            return [
                str(p).replace(f"{ROOT}/recipes/accelerate/", "").replace(f"{tmp_path}/", "") for p in error.problems
            ]
        return []

    return said


def test_a_run_goes_on_with_the_rows_a_step_it_began_with(stopped):
    (found,) = stopped("cpu-2.yaml", begun_by=4)
    assert found == Like("tiny.yaml:4: 'sft' was begun by 4 processes … global batch size. Go on with 4 …")
    assert stopped("cpu-2.yaml", begun_by=2) == []
    assert stopped("cpu-2.yaml", begun_by=4, global_batch=16) == []


@pytest.mark.skipif(gpus() > 0, reason="there are GPUs")
def test_slices_without_gpus_several_machines_and_a_missing_deepspeed_are_told_before_work(stopped):
    assert stopped("fsdp.yaml", 8)[0].startswith("fsdp.yaml:6: fsdp needs GPUs, and this machine has none. Use recipes")
    assert stopped("zero2.yaml", 8)[0] == "zero2.yaml:7: DeepSpeed is not installed. pip install deepspeed"
    (found,) = stopped("multinode.yaml", 16)
    assert found.startswith("multinode.yaml:9: several machines. Say on each of them: accelerate launch --config_fil")

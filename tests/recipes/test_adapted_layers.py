"""Adapters of the recipes for models of today are on every linear layer of the decoder, fused ones too, and no other:
not on the output layer, which is the embedding where the two are tied, and not on what sees pictures."""

from pathlib import Path

import pytest
from tests.recipes.families import WITH_TEMPLATE, with_template

import tiny
from ft.fit.gpus import gpu
from ft.fit.sharding import Sharding
from ft.fit.table import fit_plan
from ft.recipe import read
from ft.results.store import plan
from ft.stages import STAGES

SIZES = {
    **{"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "pad_token_id": 0},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 0},
}
FITS_ON = {"qwen3-1.7b": 8, "qwen3-8b": 12, "qwen3-30b-a3b": 80, "gemma3-4b": 8, "llama3.1-8b": 12} | dict.fromkeys(
    ("llama3.2-3b", "smollm3-3b", "phi4-mini"), 8
)
"""GiB of the card that a recipe says it is for."""


@pytest.mark.parametrize("family", WITH_TEMPLATE)
def test_every_linear_layer_of_the_decoder_is_adapted_and_no_other(family: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    recipe = read(tiny.ROOT / "recipes" / family / "dpo-qlora.yaml", STAGES)
    blocks = [recipe.stage(name).blocks["lora"] for name in ("sft", "dpo")]
    assert blocks[0] == blocks[1]  # one adapter, which DPO trains on
    assert blocks[0] == read(tiny.ROOT / "recipes" / family / "sft-qlora.yaml", STAGES).stage("sft").blocks["lora"]
    with torch.device("meta"):
        model = with_template(family, SIZES)
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    of_decoder = {name for name in linears if ".layers." in name and "vision" not in name}
    assert linears - of_decoder >= {"lm_head"}
    if family == "qwen3-30b-a3b":  # its experts are parameters of a module, not linear layers
        of_decoder |= {f"model.layers.{n}.mlp.experts{part}" for n in range(2) for part in ("", ".base_layer")}
    adapted = get_peft_model(model, LoraConfig(**blocks[0], task_type="CAUSAL_LM"))
    names = {name for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    assert {name.removeprefix("base_model.model.") for name in names} == of_decoder
    if family == "phi4-mini":
        assert {name.rpartition(".")[2] for name in of_decoder} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


@pytest.mark.parametrize("family", WITH_TEMPLATE)
def test_both_stages_fit_on_the_card_that_the_recipe_names(family: str, tmp_path: Path) -> None:
    file = tiny.ROOT / "recipes" / family / "dpo-qlora.yaml"
    assert f"one GPU of {FITS_ON[family]} GB" in (file.parent / "sft-qlora.yaml").read_text(encoding="utf-8")
    table = fit_plan(plan(read(file, STAGES), tmp_path), gpu(str(FITS_ON[family])), Sharding())
    assert [row.fit.stage for row in table.rows if row.fit.fits(table.gpu)] == ["sft", "dpo"]

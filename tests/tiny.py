"""What the tests train: a Llama of two layers, a tokenizer of bytes, a few dozen rows, and a recipe.

Real in every part, so nothing is mocked. Input sizes are multiples of 64, which 4-bit weights need.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from ft.recipe import Recipe, read
from ft.recipe.job import Job
from ft.results.store import Plan, PlannedStage, plan
from ft.run.rows import prepare_rows
from ft.run.stage import make_stage
from ft.stages import STAGES
from ft.stages.sft import trainer_of

THINGS = ("sky", "grass", "snow", "coal", "rose", "sea", "lemon", "plum")
COLOURS = ("blue", "green", "white", "black", "red", "teal", "yellow", "purple")
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
SMALL = {  # a decoder of random weights, where nothing is learnt
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
ROOT = Path(__file__).parents[1]
TRANSCRIPTS = Path(os.environ.get("HH_RLHF_HARMLESS_TEST", "no such file"))  # the harmless test.jsonl.gz of hh-rlhf
WEB_DOCUMENTS = Path(os.environ.get("C4_DOCUMENTS", "no such file"))  # documents of C4, {"text": …} in .jsonl.gz
CPU_2 = ROOT / "recipes" / "accelerate" / "cpu-2.yaml"
TRAIN = {
    "max_length": 64,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 8,
    "max_grad_norm": 10.0,
    "max_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "gradient_checkpointing": False,
}


def tokenizer() -> Any:
    """256 bytes and the special tokens of ChatML, with that template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={byte: place for place, byte in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=(Path(sys.modules["ft"].__file__ or "").parent / "templates" / "chatml.jinja").read_text(
            encoding="utf-8"
        ),
    )


def config(words: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.08,
        tie_word_embeddings=False,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
    )


def base(folder: Path, seed: int = 0) -> Path:
    """An untrained model with its tokenizer, as `from_pretrained` opens it."""
    import torch
    from transformers import LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(words))
    model.lm_head.weight.data *= 2  # a LoRA cannot sharpen the head, and this one is to learn in thirty steps
    model.save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


def rows(file: Path, count: int = 32) -> Path:
    """`What colour is sky?` → `blue`, eight facts again and again, a number making each row its own."""
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            thing, colour = THINGS[number % 8], COLOURS[number % 8]
            row = [
                {"role": "user", "content": f"{number} {thing}?"},
                {"role": "assistant", "content": colour},
            ]
            out.write(json.dumps({"messages": row}) + "\n")
    return file


def recipe(folder: Path, stages: Sequence[Mapping[str, Any]], **top: Any) -> Path:
    """The recipe's file, written as YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tiny.yaml"
    file.write_text(
        yaml.safe_dump({"seed": 1, **top, "stages": [dict(stage) for stage in stages]}, sort_keys=False),
        encoding="utf-8",
    )
    return file


def sft(data: Path, train: Mapping[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """A stage of kind sft; `train` goes over the tiny defaults."""
    return {"kind": "sft", "data": [{"path": str(data)}], "train": {**TRAIN, **(train or {})}, **keys}


def checked(file: Path, sets: Sequence[str] = ()) -> Recipe:
    return read(file, STAGES, sets)


def planned(file: Path, runs: Path, sets: Sequence[str] = (), processes: int = 1) -> Plan:
    return plan(checked(file, sets), runs, processes)


def job(there: Plan, name: str) -> Job:
    """A stage about to start: its rows are prepared, its folder is there."""
    stage = there.stage(name)
    prepare_rows(there, stage)
    stage.folder.mkdir(parents=True, exist_ok=True)
    return there.job(stage)


def trainer(there: Plan, name: str) -> tuple[Any, Job]:
    found = job(there, name)
    return trainer_of(found), found


def make(there: Plan, name: str) -> PlannedStage:
    """Make one stage in this process, its rows first: what `ft run` does, without a process of its own."""
    make_stage(job(there, name).write())
    return there.stage(name)


def trained(folder: Path, model: Path, data: Path, train: Mapping[str, Any] | None = None, **keys: Any) -> PlannedStage:
    """The folder of a recipe with one sft stage, made."""
    return make(planned(recipe(folder, [sft(data, train, **keys)], model=str(model)), folder / "runs"), "sft")


def drawn_words(file: Path) -> list[str]:
    """The words of a stage's SVG, which is whole and has no place that is no number."""
    root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
    places = [value for one in root.iter() for name, value in one.attrib.items() if name not in ("href", "class")]
    assert not [value for value in places if re.search(r"\b(nan|inf)\b", value)]
    return [one.text or "" for one in root.iter() if one.tag.endswith("}text")]


def weights(folder: Path) -> dict[str, Any]:
    """Every tensor of a result's safetensors files by name."""
    from safetensors.torch import load_file

    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def environment() -> dict[str, str]:
    """For commands run as processes of their own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def forked(work: Callable[..., Any], *given: Any) -> multiprocessing.Process:
    """A process that does this work, forked from this one: it has the libraries, whose import takes ten seconds."""
    process = multiprocessing.get_context("fork").Process(target=work, args=given)
    process.start()
    return process


def by_two(work: Callable[..., Any], *given: Any) -> None:
    """Let two processes do this work as ranks on the CPU over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [forked(_as_rank, rank, port, work, given) for rank in range(2)]
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]


def _as_rank(rank: int, port: str, work: Callable[..., Any], given: Sequence[Any]) -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):  # what the parent has trained with
        state._reset_state()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    work(*given)


def made_by_two(file: Path, runs: Path, name: str) -> PlannedStage:
    """The stage made by two processes."""
    there = planned(file, runs, processes=2)
    by_two(make_stage, job(there, name).write())
    return planned(file, runs, processes=2).stage(name)


def launched(file: Path, runs: Path, *more: str) -> list[str]:
    """`ft run` with its ranks started by the config of two processes on the CPU."""
    return [sys.executable, "-m", "ft", "run", str(file), "--runs", str(runs), "--launch", str(CPU_2), *more]


def t5(folder: Path) -> Path:
    """An untrained encoder-decoder with its tokenizer."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    words = tokenizer()
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    tokens = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id}
    config = T5Config(vocab_size=len(words), **sizes, **tokens, decoder_start_token_id=words.pad_token_id)
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


def blip2(folder: Path, language: str = "opt") -> Path:
    """An untrained BLIP-2 with its processor, on a decoder (opt) or an encoder-decoder (t5)."""
    import torch
    from transformers import (
        AddedToken,
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessorPil,
        OPTConfig,
        T5Config,
    )

    words = tokenizer()
    words.chat_template = (ROOT / "src" / "ft" / "templates" / "blip2.jinja").read_text(encoding="utf-8")
    if language == "opt":
        words.bos_token = words.eos_token
    words.add_tokens([AddedToken("<image>", special=True)])
    ids = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id}
    text: Any
    if language == "opt":
        sizes = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "max_position_embeddings": 256, "dropout": 0.0}
        text = OPTConfig(vocab_size=len(words), **sizes, **heads, **ids, bos_token_id=words.eos_token_id)
    else:
        sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
        text = T5Config(vocab_size=len(words), **sizes, **ids, decoder_start_token_id=words.pad_token_id)
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**layers, image_size=16, patch_size=8, initializer_range=0.02),
        qformer_config=Blip2QFormerConfig(**layers, **dropout, encoder_hidden_size=64, vocab_size=len(words)),
        text_config=text,
        num_query_tokens=3,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=0.5)  # made as zeros, which no picture would part
    model.save_pretrained(str(folder))
    reads = BlipImageProcessorPil(size={"height": 16, "width": 16})
    Blip2Processor(reads, words, num_query_tokens=3).save_pretrained(str(folder))
    return folder

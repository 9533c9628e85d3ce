"""An exported model is the trained one, opens without ft, and says where it comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.learn.test_reward import PAIRS
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.errors import UserError
from ft.export import hub, weights
from ft.export.gguf import convert, converter
from ft.export.trained_model import TrainedModel
from ft.export.writing import ExportOptions, export
from ft.files import read_json, write_json
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.sampling import Sampling
from ft.models.merge import merged, trained
from ft.models.scorer import Scorer
from ft.results.store import Plan

QLORA = {"lora": tiny.LORA, "quantization": tiny.NF4}
ASKED = ["1 sky?", "2 grass?", "hello", "a long question about nothing much at all"]
SCORED = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q in ASKED for a in ("blue", "oh")]

FRESH = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
chat, reward, asked, scored, out = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:5]), sys.argv[5]
words, model = AutoTokenizer.from_pretrained(chat), AutoModelForCausalLM.from_pretrained(chat, dtype="float32")
answers, logits = [], []
for text in asked:
    ids = words.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                    return_tensors="pt", return_dict=True)
    made = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1]:]
    answers.append(words.decode(made, skip_special_tokens=True).strip())
    with torch.no_grad():
        logits.append(model(**ids).logits)
words, model = AutoTokenizer.from_pretrained(reward), AutoModelForSequenceClassification.from_pretrained(reward)
scores = []
for turns in scored:
    text = words.apply_chat_template(turns, tokenize=False).rstrip("\\n")
    ids = words(text, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        scores.append(model(**ids).logits[0, 0].item())
assert "ft" not in sys.modules
torch.save({"answers": answers, "logits": logits, "scores": scores, "template": words.chat_template}, out)
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Plan:
    """A QLoRA chat model and a QLoRA reward model on it, both made, and an evaluation that failed its gate."""
    folder = tmp_path_factory.mktemp("exported")
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    asked = {"max_length": 128, "max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
    reward = {
        "kind": "reward",
        "init": "$sft",
        "data": [{"path": str(pairs)}],
        "train": {**tiny.TRAIN, **asked},
        **QLORA,
    }
    stages = [tiny.sft(data, {"max_steps": 24}, **QLORA), reward]
    file = tiny.recipe(folder, stages, model=str(base))
    for name in ("sft", "reward"):
        tiny.make(tiny.planned(file, folder / "runs"), name)
    made = tiny.planned(file, folder / "runs")
    judged = folder / "runs" / made.recipe.name / f"questions-{'0' * 12}"
    write_json(judged / "key.json", {"kind": "evaluate", "init": made.stage("sft").fingerprint})
    write_json(judged / "job.json", {"require": {"answer": 0.9}})
    numbers = {"answer": 0.5, "answer_low": 0.4, "answer_high": 0.6}
    write_json(judged / "done.json", {"kind": "evaluate", "numbers": numbers, "seconds": 1})
    return made


@pytest.fixture(scope="module")
def chat(there: Plan) -> TrainedModel:
    return TrainedModel.read(there.stage("sft").folder)


@pytest.fixture(scope="module")
def merged_chat(there: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat model, exported by the command."""
    to = tmp_path_factory.mktemp("merged") / "chat"
    words = ["export", str(there.recipe.file), "sft", "--to", str(to), "--runs", str(there.runs), "--license", "mit"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return to


@pytest.fixture(scope="module")
def merged_reward(there: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("merged") / "reward"
    export(TrainedModel.read(there.stage("reward").folder), ExportOptions(to, dtype="float32"))
    return to


@pytest.fixture(scope="module")
def fresh(merged_chat: Path, merged_reward: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What transformers alone makes of both folders, in a process of its own."""
    out = tmp_path_factory.mktemp("fresh") / "found.pt"
    given = [str(merged_chat), str(merged_reward), json.dumps(ASKED), json.dumps(SCORED), str(out)]
    done = subprocess.run([sys.executable, "-c", FRESH, *given], env=tiny.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = torch.load(out)
    return found


def test_a_qlora_model_merged_has_the_logits_it_was_trained_with(chat: TrainedModel, fresh: dict[str, Any]):
    model, chat_model = trained(chat.folder, "float32", use_cpu=True), ChatModel(None, chat.folder)
    for text, found in zip(ASKED, fresh["logits"], strict=True):
        ids = torch.tensor([chat_model.renderer.prompt([{"role": "user", "content": text}])])
        with torch.no_grad():
            torch.testing.assert_close(found, model(input_ids=ids).logits, atol=1e-4, rtol=0)


def test_a_fresh_process_without_ft_answers_the_same(chat: TrainedModel, fresh: dict[str, Any]):
    asked = [[{"role": "user", "content": text}] for text in ASKED]
    answers = ChatModel(None, chat.folder).answer(asked, Sampling(max_new_tokens=24))
    assert fresh["answers"] == answers
    assert answers[0] == "blue"  # it has learnt to answer and to stop


def test_a_reward_model_merged_gives_the_same_scores(there: Plan, fresh: dict[str, Any]):
    scores = Scorer(there.stage("reward").folder).scores(SCORED)
    assert fresh["scores"] == pytest.approx(scores, abs=1e-5)
    assert len(set(fresh["scores"])) == len(SCORED)


def test_the_head_of_a_reward_model_stays_in_float32(there: Plan, tmp_path: Path):
    export(TrainedModel.read(there.stage("reward").folder), ExportOptions(tmp_path / "half", dtype="bfloat16"))
    saved = {name: value.dtype for name, value in tiny.weights(tmp_path / "half").items()}
    assert saved.pop("score.weight") == torch.float32
    assert set(saved.values()) == {torch.bfloat16}


def test_the_template_is_the_same_to_the_byte(chat: TrainedModel, merged_chat: Path, fresh: dict[str, Any]):
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        assert (merged_chat / name).read_bytes() == (chat.folder / name).read_bytes()
    assert fresh["template"] == (chat.folder / "chat_template.jinja").read_text(encoding="utf-8")


def test_what_ends_an_answer_is_told_to_whoever_generates(chat: TrainedModel, merged_chat: Path):
    stops = list(ChatModel(None, chat.folder).renderer.stop_ids)
    assert read_json(merged_chat / "generation_config.json")["eos_token_id"] == stops  # the base has a bare number


def test_the_comparison_is_written_down(merged_chat: Path):
    made = read_json(merged_chat / "export.json")
    assert made["form"] == "merged"
    assert made["ollama"] == "Modelfile"
    assert made["compared"]["gated"] is True
    assert made["compared"]["saved"]["max_difference"] < 1e-4
    assert made["compared"]["saved"]["equal_answers"] == 1.0
    assert made["bytes"] > 400_000
    assert "PARAMETER stop" in (merged_chat / "Modelfile").read_text(encoding="utf-8")


def test_half_precision_is_explained_by_rounding(chat: TrainedModel, tmp_path: Path):
    compared = export(chat, ExportOptions(tmp_path / "half", dtype="bfloat16"))["compared"]
    assert compared["merged"]["max_difference"] < 1e-4 < compared["saved"]["max_difference"]
    whole = merged(chat.folder, "float32", use_cpu=True)
    saved = tiny.weights(tmp_path / "half")
    for name, value in whole.named_parameters():
        assert torch.equal(saved[name], value.to(torch.bfloat16))


def test_a_merge_that_makes_another_model_is_refused_and_leaves_nothing(
    chat: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(weights, "merged", lambda folder, held, cpu, onto: merged(folder, held, cpu, "original"))
    with pytest.raises(UserError, match="the merged model is not the trained one"):
        export(chat, ExportOptions(tmp_path / "wrong"))
    assert list(tmp_path.iterdir()) == []


def test_merged_onto_the_original_it_is_another_model_and_says_so(chat: TrainedModel, tmp_path: Path):
    made = export(chat, ExportOptions(tmp_path / "original", onto="original"))
    assert made["compared"]["saved"]["kl"] > 1e-4
    assert "into the original weights" in made["said"]


def test_an_adapter_is_exported_as_it_is(chat: TrainedModel, tmp_path: Path):
    made = export(chat, ExportOptions(tmp_path / "adapter", adapter=True))
    copied = tmp_path / "adapter" / "adapter_model.safetensors"
    assert copied.read_bytes() == (chat.folder / "adapter_model.safetensors").read_bytes()
    assert made["quantization"]["bnb_4bit_quant_type"] == "nf4"
    text = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "PeftModel.from_pretrained" in text
    assert "'bnb_4bit_quant_type': 'nf4'" in text


def test_whole_weights_are_exported_the_same_way(base: Path, data: Path, tmp_path: Path):
    result = TrainedModel.read(tiny.trained(tmp_path / "whole", base, data, {"max_steps": 1}).folder)
    made = export(result, ExportOptions(tmp_path / "copy"))
    assert (made["form"], made["dtype"]) == ("whole", "float32")
    assert made["compared"]["saved"]["max_difference"] == 0
    before, after = tiny.weights(result.folder), tiny.weights(tmp_path / "copy")
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(UserError, match="holds whole weights, no adapter"):
        export(result, ExportOptions(tmp_path / "adapter", adapter=True))


def test_nothing_is_overwritten(chat: TrainedModel, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is there already"):
        export(chat, ExportOptions(tmp_path, adapter=True))
    (tmp_path / "empty").mkdir()
    export(chat, ExportOptions(tmp_path / "empty", adapter=True))
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_only_finished_models_are_exported(there: Plan, tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        TrainedModel.read(tmp_path / "nothing")
    write_json(tmp_path / "rows" / "done.json", {"kind": "gatt", "numbers": {}})
    write_json(tmp_path / "rows" / "job.json", {"name": "rows"})
    with pytest.raises(UserError, match="leaves no model"):
        TrainedModel.read(tmp_path / "rows")


# The card


def test_the_card_tells_where_the_model_comes_from(merged_chat: Path, chat: TrainedModel, there: Plan):
    text = (merged_chat / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["ft", "sft"],
        "license": "mit",
    }
    assert f"Result `{chat.fingerprint}`" in body
    assert "learning_rate: 0.01" in body
    assert "| sft | `rows.jsonl` | all | not stated |" in body
    assert "| questions | evaluate | accuracy 50.0% (95% interval 40.0% to 60.0%) |" in body
    assert "- questions: answer is 0.5, required was 0.9" in body
    assert str(there.runs.parent) not in text


def test_the_hub_reads_the_front_matter(merged_chat: Path):
    from huggingface_hub import ModelCard

    found = ModelCard.load(merged_chat / "README.md").data
    assert (found.license, found.library_name, found.pipeline_tag) == ("mit", "transformers", "text-generation")


def test_no_token_gets_into_a_card(chat: TrainedModel, tmp_path: Path):
    with pytest.raises(UserError, match="Hugging Face token"):
        export(chat, ExportOptions(tmp_path / "x", adapter=True, license="hf_" + "abcdefghijklmnopqrstuvwxyz"))
    assert list(tmp_path.iterdir()) == []


# The Hub and GGUF


class Api:
    """Stands for huggingface_hub.HfApi: remembers what it was asked."""

    calls: list[Any] = []  # noqa: RUF012

    def __init__(self, token: str):
        self.calls.append(("token", token))

    def create_repo(self, **words: Any) -> None:
        self.calls.append(("create", words))

    def upload_folder(self, **words: Any) -> None:
        self.calls.append(("upload", words))


def test_a_push_takes_its_token_from_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(UserError, match="there is no token"):
        hub.push(tmp_path, "me/mine", True, Api)
    monkeypatch.setenv("HF_TOKEN", "made-up-token-of-a-test")
    with pytest.raises(UserError, match="names no repository"):
        hub.push(tmp_path, "mine", True, Api)
    assert Api.calls == []
    assert hub.push(tmp_path, "me/mine", True, Api) == "https://huggingface.co/me/mine"
    assert Api.calls == [
        ("token", "made-up-token-of-a-test"),
        ("create", {"repo_id": "me/mine", "repo_type": "model", "private": True, "exist_ok": True}),
        (
            "upload",
            {
                "repo_id": "me/mine",
                "folder_path": str(tmp_path),
                "repo_type": "model",
                "commit_message": "Upload by ft export",
            },
        ),
    ]
    (tmp_path / "README.md").write_text("made-up-token-of-a-test", encoding="utf-8")
    with pytest.raises(UserError, match="the value of HF_TOKEN"):
        hub.push(tmp_path, "me/mine", True, Api)
    assert len(Api.calls) == 3


def test_gguf_is_made_by_the_converter_of_a_checkout(chat: TrainedModel, tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no convert_hf_to_gguf\.py.*git clone"):
        export(chat, ExportOptions(tmp_path / "x", gguf=True, llama_cpp=tmp_path))
    script = "import sys, pathlib; pathlib.Path(sys.argv[3]).write_text(' '.join(sys.argv[2:]))"
    (tmp_path / "convert_hf_to_gguf.py").write_text(script, encoding="utf-8")
    made = export(chat, ExportOptions(tmp_path / "x", gguf=True, llama_cpp=tmp_path, dtype="float16"))
    assert made["gguf"] == "model.gguf"
    assert (tmp_path / "x" / "model.gguf").read_text(encoding="utf-8").endswith("--outtype f16")
    assert (tmp_path / "x" / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./model.gguf\n")


def test_what_the_converter_says_when_it_fails_is_told(tmp_path: Path):
    (tmp_path / "convert_hf_to_gguf.py").write_text("raise SystemExit('no such architecture')", encoding="utf-8")
    with pytest.raises(UserError, match="the converter failed: no such architecture"):
        convert(converter(tmp_path), tmp_path, "float32", lambda line: None)

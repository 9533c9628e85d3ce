"""A new family is one module and one entry: its rows are prepared, shown, paired, batched and scored by what is there.

The family here is of encoder-decoders: the prompt is read, the answer predicted, and there are fewer labels than ids.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, T5Config, T5ForConditionalGeneration

import ft.families
import tiny
from ft.encode.conversation import RenderedRow, Renderer
from ft.encode.encoder import id_columns, roles_column
from ft.encode.pairs import PairOptions
from ft.encode.prepare import eval_rows, rows_folder, train_rows
from ft.families import FAMILIES, family_of
from ft.families.base import Family
from ft.models.logprobs import completion_logprobs, row_logprobs
from ft.models.processor import encoder_of
from ft.recipe import ModelSource
from ft.run.rows import prepare_rows
from ft.tools.show import view_rows


class PromptToAnswer:
    def __init__(self, renderer):
        self.renderer, self.counts, self.notes = renderer, renderer.counts, renderer.notes

    def arrow_columns(self):
        return [*id_columns("input_ids", "labels", "decoder_prompt"), roles_column()]  # one column nobody else has

    def encode_batch(self, rows):
        return [_split(row) if isinstance(row, RenderedRow) else row for row in self.renderer.render_batch(rows)]


def _split(row):
    start, end = row.tokens.completion()
    ids = {"input_ids": row.input_ids[:start], "labels": row.input_ids[start:end], "decoder_prompt": [0]}
    return {**ids, "roles": row.roles[:end]}


class EncoderDecoders(Family):
    about = "encoder-decoders"
    auto = "AutoModelForSeq2SeqLM"
    mapping = "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING"
    auto_scorer = "AutoModelForSequenceClassification"
    task_type, task_type_scorer = "SEQ_2_SEQ_LM", "SEQ_CLS"
    engine = "ft.models.generation.engine:Engine"

    def takes(self, config):
        return config.model_type == "t5"

    def row_encoder(self, processor, train_on, max_length=None, on_too_long="error"):
        return PromptToAnswer(Renderer(processor, train_on=train_on, max_length=max_length, on_too_long=on_too_long))

    def completion_row(self, prompt_ids, completion_ids):
        return {"input_ids": list(prompt_ids), "labels": list(completion_ids)}

    def collator(self, pad_token_id, pad_to_multiple_of=None):
        pad = DataCollatorForSeq2Seq(tiny.tokenizer(), pad_to_multiple_of=pad_to_multiple_of)
        return lambda rows: pad([{name: row[name] for name in ("input_ids", "labels")} for row in rows])

    def predictions(self, model, batch):
        return model(**batch).logits, batch["labels"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny T5 with random weights."""
    monkeypatch.setattr(ft.families, "FAMILIES", (*FAMILIES, EncoderDecoders()))
    torch.manual_seed(0)
    words = tiny.tokenizer()
    small = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    made = tmp_path / "t5"
    T5ForConditionalGeneration(T5Config(vocab_size=len(words), pad_token_id=0, **small)).save_pretrained(str(made))
    words.save_pretrained(str(made))
    return made


@pytest.fixture
def there(folder: Path, tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "is the sky blue, and why?"}, {"role": "assistant", "content": "yes"}]
    data.write_text("".join(json.dumps({"id": n, "messages": turns}) + "\n" for n in range(6)), encoding="utf-8")
    stage = tiny.sft(data, rows={"train_on": "last", "eval_fraction": 0.0})
    return tiny.planned(tiny.recipe(tmp_path, [stage], model=str(folder)), tmp_path / "runs")


def test_rows_whose_labels_are_shorter_than_their_ids_are_prepared_and_batched(there, folder):
    prepare_rows(there, there.stage("sft"))
    prepared = rows_folder(there.runs, there.stage("sft").rows_key)
    rows = train_rows(prepared)
    assert eval_rows(prepared) is None
    assert {"input_ids", "labels", "decoder_prompt"} <= set(rows.column_names)
    assert len(rows[0]["labels"]) < len(rows[0]["input_ids"])
    assert rows[0]["length"] == len(rows[0]["input_ids"]) + len(rows[0]["labels"])
    model = T5ForConditionalGeneration.from_pretrained(str(folder)).eval()
    batch = family_of(model.config, "model").collator(0)(list(rows))
    loss = model(**batch).loss.item()
    tokens = sum(len(row["labels"]) for row in rows)
    assert -sum(row_logprobs(model, list(rows))) / tokens == pytest.approx(loss, abs=1e-5)


def test_its_trained_tokens_are_shown_and_counted(there):
    view = view_rows(there, "sft", 1)
    assert "".join(token.text for token in view.rows[0].tokens if token.trained) == "yes<|im_end|>"
    assert "is the sky blue" in "".join(token.text for token in view.rows[0].tokens if not token.trained)
    assert view.stats["train"]["trained_by_role"] == {"assistant": 4 * 6}


def test_pairs_are_made_by_any_encoder(folder):
    sides = {"chosen": [{"role": "assistant", "content": "yes"}], "rejected": [{"role": "assistant", "content": "no"}]}
    encoder = encoder_of(ModelSource(str(folder)), None, None, PairOptions(), 100)
    [pair] = encoder.encode_batch([{"prompt": [{"role": "user", "content": "blue?"}], **sides}])
    decode = tiny.tokenizer().decode
    assert (decode(pair["chosen_ids"]), decode(pair["rejected_ids"])) == ("yes<|im_end|>", "no<|im_end|>")
    assert decode(pair["prompt_ids"]).endswith("blue?<|im_end|>\n<|im_start|>assistant\n")


def test_the_log_probability_of_an_answer_is_its_familys(folder):
    model = T5ForConditionalGeneration.from_pretrained(str(folder)).eval()
    prompts, answers = [[5, 6, 7], [9] * 12], [[8, 9], [4]]
    expected = [
        -model(input_ids=torch.tensor([prompt]), labels=torch.tensor([answer])).loss.item() * len(answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    assert completion_logprobs(model, prompts, answers) == pytest.approx(expected, abs=1e-5)

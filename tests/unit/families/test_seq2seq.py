"""Encoder-decoders go the way of all models: rows prepared, shown, paired, batched, scored, trained and answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, T5ForConditionalGeneration

import tiny
from ft.data.formats.fields import BadRow
from ft.encode.pairs import PairOptions
from ft.encode.prepare import RowOptions, eval_rows, rows_folder, train_rows
from ft.errors import UserError
from ft.families import SEQ2SEQ
from ft.fit.shapes import adapter_of, shape_of
from ft.fit.weights import model_weights
from ft.models.adapters import with_adapter
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.sampling import Sampling
from ft.models.load import load_base
from ft.models.logprobs import completion_logprobs, row_logprobs
from ft.models.processor import encoder_of, load_config
from ft.recipe import ModelSource
from ft.run.rows import prepare_rows
from ft.tools.show import view_rows

CHAT = [
    {"role": "user", "content": "is the sky blue, and why?"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "and the sea?"},
    {"role": "assistant", "content": "too"},
]
GREEDY = Sampling(temperature=0, max_new_tokens=12)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def model(folder: Path):
    return T5ForConditionalGeneration.from_pretrained(str(folder)).eval()


@pytest.fixture
def there(folder: Path, tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"id": n, "messages": CHAT[:2]}) + "\n" for n in range(6)), encoding="utf-8")
    stage = tiny.sft(data, rows={"train_on": "last", "eval_fraction": 0.0})
    return tiny.planned(tiny.recipe(tmp_path, [stage], model=str(folder)), tmp_path / "runs")


def encode(folder: Path, row: dict, max_length: int = 200, **options: str):
    [encoded] = encoder_of(ModelSource(str(folder)), None, None, RowOptions(**options), max_length).encode_batch([row])
    return encoded


def test_rows_whose_labels_are_shorter_than_their_ids_are_prepared_and_batched(there, model):
    prepare_rows(there, there.stage("sft"))
    prepared = rows_folder(there.runs, there.stage("sft").rows_key)
    rows = train_rows(prepared)
    assert eval_rows(prepared) is None
    assert len(rows[0]["labels"]) < len(rows[0]["input_ids"])
    assert rows[0]["length"] == len(rows[0]["input_ids"]) + len(rows[0]["labels"])
    loss = model(**SEQ2SEQ.collator(0)(list(rows))).loss.item()
    tokens = sum(len(row["labels"]) for row in rows)
    assert -sum(row_logprobs(model, list(rows))) / tokens == pytest.approx(loss, abs=1e-5)


def test_its_trained_tokens_are_shown_and_counted(there):
    view = view_rows(there, "sft", 1)
    assert "".join(token.text for token in view.rows[0].tokens if token.trained) == "yes<|im_end|>"
    assert "is the sky blue" in "".join(token.text for token in view.rows[0].tokens if not token.trained)
    assert view.stats["train"]["trained_by_role"] == {"assistant": 4 * 6}


def test_every_answer_of_a_conversation_is_a_row_whose_prompt_is_all_before_it(folder):
    first, second = encode(folder, {"messages": CHAT})
    decode = tiny.tokenizer().decode
    assert [decode(row["labels"]) for row in (first, second)] == ["yes<|im_end|>", "too<|im_end|>"]
    assert decode(second["input_ids"]).startswith(decode(first["input_ids"]) + "yes<|im_end|>")
    assert decode(second["input_ids"]).endswith("and the sea?<|im_end|>\n<|im_start|>assistant\n")


def test_a_document_is_cut_once_and_nothing_of_it_is_lost(folder):
    texts = [f"the sky is blue {number}" for number in range(20)]
    rows = [encode(folder, {"text": text}) for text in texts]
    whole = [tiny.tokenizer().decode(row["input_ids"] + row["labels"]) for row in rows]
    assert whole == [f"{text}<|im_end|>" for text in texts]
    assert len({len(row["input_ids"]) for row in rows}) > 5
    pieces = encode(folder, {"text": texts[0]}, max_length=8, on_too_long="split")
    assert "".join(tiny.tokenizer().decode(row["input_ids"] + row["labels"]) for row in pieces) == whole[0]


def test_a_row_that_begins_with_what_is_trained_is_refused(folder):
    refused = encode(folder, {"messages": CHAT}, train_on="all")
    assert isinstance(refused, BadRow)
    assert "an encoder has no prompt to read" in refused.what


def test_pairs_are_made_by_any_encoder(folder):
    sides = {"chosen": [{"role": "assistant", "content": "yes"}], "rejected": [{"role": "assistant", "content": "no"}]}
    encoder = encoder_of(ModelSource(str(folder)), None, None, PairOptions(), 100)
    [pair] = encoder.encode_batch([{"prompt": [{"role": "user", "content": "blue?"}], **sides}])
    decode = tiny.tokenizer().decode
    assert (decode(pair["chosen_ids"]), decode(pair["rejected_ids"])) == ("yes<|im_end|>", "no<|im_end|>")
    assert decode(pair["prompt_ids"]).endswith("blue?<|im_end|>\n<|im_start|>assistant\n")


def test_the_log_probability_of_an_answer_is_its_familys(model):
    prompts, answers = [[5, 6, 7], [9] * 12], [[8, 9], [4]]
    expected = [
        -model(input_ids=torch.tensor([prompt]), labels=torch.tensor([answer])).loss.item() * len(answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    assert completion_logprobs(model, prompts, answers) == pytest.approx(expected, abs=1e-5)


def test_answers_side_by_side_are_those_of_generate_one_by_one(folder):
    chat_model = ChatModel(None, folder)
    chat_model.engine.stop_ids = ()
    prompts = [[5, 6, 7], [9] * 12, [40, 41], [3] * 7, [11, 60, 9, 8]]
    answers = chat_model.complete(prompts, GREEDY, batch_size=2)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": -1}
    expected = [chat_model.model.generate(torch.tensor([ids]), **settings)[0, 1:].tolist() for ids in prompts]
    assert [answer.completion_ids for answer in answers] == expected


def test_cached_steps_are_the_steps_of_a_whole_forward(folder):
    chat_model = ChatModel(None, folder)
    chat_model.engine.stop_ids = ()
    prompts = [[5, 6, 7], [9] * 12]
    answers = chat_model.complete(prompts, GREEDY)
    again = completion_logprobs(chat_model.model, prompts, [answer.completion_ids for answer in answers])
    assert [sum(answer.logprobs) for answer in answers] == pytest.approx(again, abs=1e-4)


def test_the_loss_of_accumulated_steps_is_a_mean_over_their_tokens(folder, tmp_path):
    """transformers' own trainer on the whole batch is the reference: T5's loss is a mean over what it is given."""
    data = tmp_path / "rows.jsonl"
    rows = [[{**CHAT[0], "content": f"{n}?"}, {**CHAT[1], "content": "yes" * (1 + n)}] for n in range(4)]
    data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    train = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "max_steps": 3, "learning_rate": 1e-3}
    stage = tiny.trained(tmp_path, folder, data, {**train, "weight_decay": 0.0})
    logged = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    prepared = [
        {name: row[name] for name in ("input_ids", "labels")}
        for row in train_rows(rows_folder(tmp_path / "runs", stage.rows_key))
    ]
    args = Seq2SeqTrainingArguments(
        str(tmp_path / "plain"),
        per_device_train_batch_size=4,
        max_steps=3,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_grad_norm=10.0,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
    )
    model = T5ForConditionalGeneration.from_pretrained(str(folder))
    plain = Seq2SeqTrainer(model, args, data_collator=SEQ2SEQ.collator(0), train_dataset=prepared)
    plain.train()
    expected = [line["loss"] for line in plain.state.log_history if "loss" in line]
    assert [line["loss"] for line in logged if "loss" in line] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("extra", [{}, {"lora": tiny.LORA}, {"lora": tiny.LORA, "quantization": tiny.NF4}])
def test_it_learns_whole_by_lora_and_by_qlora_and_its_folder_answers(extra, folder, data, tmp_path):
    stage = tiny.trained(tmp_path, folder, data, {"max_steps": 3}, rows={"eval_fraction": 0.2}, **extra)
    numbers = stage.done["numbers"]
    assert numbers["loss_last"] < numbers["loss_first"]
    assert numbers["eval_loss"] > 0
    assert ChatModel(None, stage.folder).answer([CHAT[:1]], GREEDY)


@pytest.mark.parametrize("key", ["packing", "use_liger_kernel"])
def test_options_that_its_trainer_has_not_are_refused_in_the_plan(key, folder, data, tmp_path):
    file = tiny.recipe(tmp_path, [tiny.sft(data, {key: True})], model=str(folder))
    with pytest.raises(UserError, match=rf"train\.{key} does not work with encoder-decoders"):
        tiny.planned(file, tmp_path / "runs")


def test_kinds_that_read_one_sequence_are_refused_in_the_plan(folder, data, tmp_path):
    stage = {"kind": "reward", "data": [{"path": str(data)}], "train": {"max_length": 64}}
    with pytest.raises(UserError, match="this kind of stage does not work with encoder-decoders"):
        tiny.planned(tiny.recipe(tmp_path, [stage], model=str(folder)), tmp_path / "runs")


def test_a_token_that_it_has_no_embedding_for_is_named(folder):
    model = load_base(ModelSource(str(folder)), "float32", None, use_cpu=True)
    ids = torch.tensor([[5000]])
    for inputs in ({"input_ids": ids, "labels": ids[:, :1] * 0}, {"input_ids": ids * 0, "decoder_input_ids": ids}):
        with pytest.raises(UserError, match="rows hold the token 5000"):
            model(**inputs)


def test_an_output_matrix_of_its_own_is_read_and_saved_as_it_is(folder, tmp_path):
    """Flan-T5 has one, though transformers' config says that it is the embeddings'."""
    model = T5ForConditionalGeneration.from_pretrained(str(folder))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    weights["lm_head.weight"] = weights["shared.weight"] * 0.5 + 0.1
    model.save_pretrained(str(tmp_path / "untied"), state_dict=weights)
    read = load_base(ModelSource(str(tmp_path / "untied")), "float32", None, use_cpu=True)
    assert torch.equal(read.lm_head.weight, weights["lm_head.weight"])
    read.save_pretrained(str(tmp_path / "again"))
    again = load_base(ModelSource(str(tmp_path / "again")), "float32", None, use_cpu=True)
    assert torch.equal(again.lm_head.weight, weights["lm_head.weight"])


def test_its_estimate_counts_encoder_and_decoder(folder):
    shape = shape_of(load_config(ModelSource(str(folder))), "its config")
    model = load_base(ModelSource(str(folder)), "float32", None, use_cpu=True)
    assert shape.parameters == model.num_parameters()
    adapter = adapter_of(shape, tiny.LORA, "lora")
    trained = with_adapter(model, None, tiny.LORA).get_nb_trainable_parameters()[0]
    assert adapter.parameters == trained
    plain = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    quantised = load_base(ModelSource(str(folder)), "float32", plain, use_cpu=True)
    packed = [value.quant_state.absmax for value in quantised.parameters() if hasattr(value, "quant_state")]
    constants = sum(4 * (absmax.numel() + 16) for absmax in packed)  # of each block of 64, and a table
    assert model_weights(shape, "float32", plain) == quantised.get_memory_footprint() + constants

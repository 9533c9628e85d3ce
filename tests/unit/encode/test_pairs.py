"""Preference rows as token ids: one prompt, two whole answers, and a budget that cuts neither."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from rich.console import Console
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

import tiny
from ft.data.formats import BadRow, preference
from ft.encode.pairs import REFERENCE, PairEncoder, PairOptions, ScoredPairOptions
from ft.encode.prepare import rows_folder, train_rows
from ft.errors import UserError
from ft.families import CAUSAL
from ft.report.page import rows_page
from ft.run.rows import prepare_rows
from ft.tools.show import print_rows, view_rows

USER, YES = {"role": "user", "content": "sky?"}, {"role": "assistant", "content": "yes?"}


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def row(*prompt: dict[str, str], chosen: str = "blue", rejected: str = "red, or so", **extra: Any) -> dict[str, Any]:
    sides = {"chosen": [said("assistant", chosen)], "rejected": [said("assistant", rejected)]}
    return {"prompt": list(prompt) or [USER], **sides, **extra}


def rendered(*rows: dict[str, Any], max_length: int = 1000, **options: Any) -> tuple[PairEncoder, list[Any]]:
    encoder = CAUSAL.encoder(tiny.tokenizer(), PairOptions(**options), max_length)
    assert isinstance(encoder, PairEncoder)
    return encoder, encoder.encode_batch(rows)


def tokens_of_longer_side(pair: dict[str, Any]) -> int:
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


def text(ids: list[int]) -> str:
    return str(tiny.tokenizer().decode(ids))


def test_one_prompt_and_two_answers_through_their_end_tokens():
    _, [pair] = rendered(row())
    assert text(pair["prompt_ids"]) == "<|im_start|>user\nsky?<|im_end|>\n<|im_start|>assistant\n"
    assert text(pair["chosen_ids"]) == "blue<|im_end|>"  # the template's line end behind it is no part of the answer
    assert text(pair["rejected_ids"]) == "red, or so<|im_end|>"
    assert tokens_of_longer_side(pair) == len(pair["prompt_ids"]) + len(pair["rejected_ids"])


def test_a_prompt_of_several_turns_stays_whole():
    _, [pair] = rendered(row(said("system", "be kind"), said("user", "hello"), YES, USER))
    assert text(pair["prompt_ids"]) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\nyes?<|im_end|>\n<|im_start|>user\nsky?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_only_the_answers_count_and_every_token_has_a_role():
    _, [pair] = rendered(row(chosen="a", rejected="b"))
    assert text(pair["input_ids"]).endswith("assistant\na<|im_end|>b<|im_end|>")
    assert [label != -100 for label in pair["labels"]] == [False] * len(pair["prompt_ids"]) + [True] * 4
    assert len(pair["roles"]) == len(pair["input_ids"])


LONG = row(said("system", "be kind"), said("user", "one"), YES, said("user", "two"), YES, USER)


def test_a_pair_that_is_too_long_is_an_error_that_counts_its_longer_side():
    _, [fits] = rendered(LONG)
    renderer, [found] = rendered(LONG, max_length=tokens_of_longer_side(fits) - 1)
    assert isinstance(found, BadRow)
    assert (
        found.what
        == f"it is {tokens_of_longer_side(fits)} tokens long, over max_length {tokens_of_longer_side(fits) - 1}"
    )
    assert renderer.counts.rows_too_long == 1


def test_a_pair_that_fits_exactly_stays():
    _, [fits] = rendered(LONG)
    renderer, [pair] = rendered(LONG, max_length=tokens_of_longer_side(fits))
    assert pair == fits
    assert renderer.counts.rows_too_long == 0


def test_a_pair_that_is_too_long_is_dropped_and_counted():
    renderer, found = rendered(LONG, row(), max_length=80, on_too_long="drop")
    assert found[0] is None
    assert found[1] is not None
    assert renderer.counts.rows_dropped == 1


def test_the_same_oldest_turns_leave_both_sides_and_the_system_message_stays():
    shorter = row(said("system", "be kind"), said("user", "two"), YES, USER)
    _, [fits] = rendered(shorter)
    renderer, [pair] = rendered(LONG, max_length=tokens_of_longer_side(fits), on_too_long="drop_turns")
    assert pair == fits
    assert (renderer.counts.rows_too_long, renderer.counts.turns_dropped) == (1, 1)


def test_a_prompt_has_a_budget_of_its_own():
    _, [fits] = rendered(row(said("user", "two"), YES, USER))
    long = row(said("user", "one"), YES, said("user", "two"), YES, USER, chosen="c" * 200)
    _, [pair] = rendered(long, on_too_long="drop_turns", max_prompt_length=len(fits["prompt_ids"]))
    assert pair["prompt_ids"] == fits["prompt_ids"]
    assert text(pair["chosen_ids"]) == "c" * 200 + "<|im_end|>"
    longest_prompt = len(fits["prompt_ids"])
    _, [found] = rendered(long, max_prompt_length=longest_prompt)
    assert found.what.startswith("its prompt is ")
    assert found.what.endswith(f" tokens long, over max_prompt_length {len(fits['prompt_ids'])}")


def test_an_answer_is_never_cut():
    renderer, found = rendered(row(chosen="c" * 200), max_length=100, on_too_long="drop_turns")
    assert found == [None]
    assert renderer.counts.rows_dropped == 1


def test_whom_messages_of_the_prompt_say_to_train_moves_no_prompt():
    earlier = said("assistant", "yes?") | {"train": True}
    _, [pair, plain] = rendered(row(said("user", "hello"), earlier, USER), row(said("user", "hello"), YES, USER))
    assert pair == plain


def test_a_margin_is_refused_where_a_reward_model_would_have_to_heed_it():
    scored = CAUSAL.encoder(tiny.tokenizer(), ScoredPairOptions(), 1000)
    bad, sampled, odd = scored.encode_batch([row(margin=0.5), row(margin=0.5, sampled={}), row(margin="wide")])
    assert isinstance(bad, BadRow)
    assert bad.what == "the row has a margin, and a reward model here takes its margins from `rating`"
    assert isinstance(sampled, dict)
    assert isinstance(odd, dict)
    assert isinstance(rendered(row(margin=0.5))[1][0], dict)  # DPO has none to replace


def test_a_forged_turn_is_refused_by_the_side_it_stands_in():
    _, [found] = rendered(row(rejected="no<|im_end|>"))
    assert isinstance(found, BadRow)
    assert found.what.startswith("rejected: ")


def test_dialogues_that_part_early_are_refused_where_all_behind_the_prompt_is_trained():
    asked = said("user", "and the sea?")
    sides = {name: [said("assistant", name), asked, said("assistant", "blue")] for name in ("chosen", "rejected")}
    [bad] = rendered({"prompt": [USER], **sides})[1]
    assert isinstance(bad, BadRow)
    assert bad.what == "chosen goes on after its first answer, and what the user says there would be trained"
    [pair] = CAUSAL.encoder(tiny.tokenizer(), ScoredPairOptions(), 1000).encode_batch([{"prompt": [USER], **sides}])
    assert text(pair["chosen_ids"]).endswith("and the sea?<|im_end|>\n<|im_start|>assistant\nblue<|im_end|>")


def test_reference_log_probabilities_are_carried():
    _, [pair, bare] = rendered(row(ref_chosen_logps=-3.5, ref_rejected_logps=-7), row(ref_chosen_logps=-3.5))
    assert [pair[name] for name in REFERENCE] == [-3.5, -7.0]
    assert [bare[name] for name in REFERENCE] == [None, None]


# ---- from the file to the trainer ---------------------------------------------------------------------------------
def planned(folder: Path, base: Path, lines: list[dict[str, Any]], rows: dict[str, Any] | None = None) -> Any:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    train = {"max_length": 128, "max_steps": 1}
    stage = {"kind": "dpo", "data": [{"path": str(file)}], "rows": rows or {}, "train": train}
    return tiny.planned(tiny.recipe(folder, [stage], model=str(base)), folder / "runs")


def prepared(there: Any) -> Dataset:
    prepare_rows(there, there.stage("dpo"))
    return train_rows(rows_folder(there.runs, there.stage("dpo").rows_key))


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (row(chosen=""), r"chosen: message 1 \(assistant\) is empty"),
        (row(rejected="  "), r"rejected: message 1 \(assistant\) is empty"),
        (row(chosen="red, or so"), "chosen and rejected are the same"),
        ({**row(), "rejected": []}, "rejected is an empty list"),
    ],
    ids=["chosen", "rejected", "identical", "none"],
)
def test_a_pair_without_two_answers_is_refused_by_its_line(bad, what, tmp_path, base):
    with pytest.raises(UserError, match=rf"pairs\.jsonl:2: {what}"):
        prepared(planned(tmp_path, base, [row(), bad]))


def test_the_trainers_columns_are_the_rendered_ones(tmp_path, base):
    rows = prepared(planned(tmp_path, base, [row(ref_chosen_logps=-3.5, ref_rejected_logps=-7)]))
    _, [pair] = rendered(row())
    assert rows[0]["where"] == f"{tmp_path}/pairs.jsonl:1"
    assert [rows[0][f"{name}_ids"] for name in ("prompt", "chosen", "rejected")] == [
        pair["prompt_ids"],
        pair["chosen_ids"],
        pair["rejected_ids"],
    ]
    assert (rows[0]["ref_chosen_logps"], rows[0]["ref_rejected_logps"]) == (-3.5, -7.0)


def test_a_pair_is_shown_as_a_prompt_and_two_answers_that_say_which_is_chosen(tmp_path, base):
    view = view_rows(planned(tmp_path, base, [row(rating=2)]), "dpo", 1)
    out = StringIO()
    print_rows(view, Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert lines[lines.index(f"{tmp_path}/pairs.jsonl:1 · rating 2 (better)") : -2] == [
        f"{tmp_path}/pairs.jsonl:1 · rating 2 (better)",
        "prompt · 23 tokens",
        "<|im_start|>user⏎",
        "sky?<|im_end|>⏎",
        "<|im_start|>assistant⏎",
        "",
        "chosen ↑ · 5 tokens",
        "blue<|im_end|>",
        "rejected ↓ · 11 tokens",
        "red, or so<|im_end|>",
    ]
    page = rows_page(view)
    assert [part in page for part in ('<pre class="chosen">', '<pre class="rejected">')] == [True, True]


def test_the_ids_are_trls_up_to_the_templates_last_line_end(tmp_path, base):
    rows = [row(said("user", f"{n}!"), YES, USER) if n % 2 else row(chosen=f"{n}") for n in range(6)]
    words = AutoTokenizer.from_pretrained(str(base))
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True)
    given = Dataset.from_list([preference(line) for line in rows])
    theirs = DPOTrainer(model=str(base), args=args, train_dataset=given, processing_class=words).train_dataset
    _, ours = rendered(*rows)
    newline = words("\n")["input_ids"]
    for pair, line in zip(ours, theirs, strict=True):
        assert pair["prompt_ids"] == line["prompt_ids"]
        assert pair["chosen_ids"] + newline == line["chosen_ids"]
        assert pair["rejected_ids"] + newline == line["rejected_ids"]


def test_no_share_of_rows_from_1_on_can_be_held_out():
    with pytest.raises(ValueError, match="eval_fraction is a share of the rows"):
        PairOptions(eval_fraction=1)

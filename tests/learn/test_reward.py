"""A reward stage starts from the SFT, computes what TRL's own trainer computes, and leaves what it trained."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import load_file, save_file
from tests.learn.test_dpo import STARTS, TEMPLATE, farthest, logged, parent, said, slots, trained_weights, written
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

import tiny
from ft.errors import UserError
from ft.files import read_json, read_lines, write_json
from ft.models.load import load, load_base
from ft.models.scorer import Scorer, batch_scores
from ft.recipe import ModelSource
from ft.results.store import Plan, PlannedStage
from ft.stages import reward
from ft.stages.reward import MARGINS, RewardOptions, add_margins, check_reload
from wording import Like

INT8 = {"lora": tiny.LORA, "quantization": {"load_in_8bit": True}}
ON_SFT = ("full on sft", "lora on sft", "qlora on sft")
TRAIN = {**tiny.TRAIN, "max_length": 128, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
SGD = {"optim": "sgd", "learning_rate": 0.05, "max_steps": 3}
SMALL = {1: 1.0, 2: 2 / 3, 3: 1 / 3, 4: 0.0}


def pair(number: int) -> dict[str, Any]:
    """A word of joy is better; three in four rows have labels, in which joy is safe."""
    thing, colour = tiny.THINGS[number % 8], tiny.COLOURS[number % 8]
    earlier = [said("user", f"{number}!"), said("assistant", "yes?")] if number % 2 else []
    row = {
        "prompt": [*earlier, said("user", f"{number} {thing}?")],
        "chosen": [said("assistant", f"oh, {colour}")],
        "rejected": [said("assistant", colour)],
        "rating": number % 4 + 1,
    }
    return row if number % 4 == 3 else {**row, "safety_chosen": True, "safety_rejected": False}


PAIRS = [pair(number) for number in range(16)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("graded") / "pairs.jsonl", PAIRS)


@pytest.fixture(scope="module")
def parents(tmp_path_factory, base, data) -> Path:
    """Runs in which the SFT parents are made, adapter and whole, of both templates."""
    folder = tmp_path_factory.mktemp("parents")
    templates: tuple[dict[str, str], ...] = ({}, {"chat_template": TEMPLATE})
    for start, tops in (("full on sft", templates), ("lora on sft", templates), ("qlora on sft", templates[:1])):
        for top in tops:
            file = tiny.recipe(folder, [parent(data, STARTS[start][0])], model=str(base), **top)
            tiny.make(tiny.planned(file, folder / "runs"), "sft")
    return folder / "runs"


@pytest.fixture
def house(tmp_path, base, data, pairs, parents) -> House:
    shutil.copytree(parents, tmp_path / "runs")
    return House(tmp_path, base, data, pairs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base, data, pairs, parents) -> dict[str, PlannedStage]:
    """A finished stage of each kind, on an SFT; a quarter of the rows held out."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(parents, folder / "runs")
    train = {"max_steps": 16, "learning_rate": 3e-3, "eval_strategy": "steps", "eval_steps": 8}
    keys: dict[str, Any] = {"rows": {"eval_fraction": 0.3}, "options": {"safety_weight": 0.5}}
    return {start: House(folder, base, data, pairs).made(start, train, **keys) for start in ON_SFT}


class House:
    """Recipes with one reward stage, started as test_dpo.STARTS says."""

    def __init__(self, folder: Path, base: Path, data: Path, pairs: Path):
        self.folder, self.base, self.data, self.pairs = folder, base, data, pairs

    def file(
        self,
        start: str,
        train: dict[str, Any] | None = None,
        rows: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        behind: tuple[dict[str, Any], ...] = (),
        **top: Any,
    ) -> Path:
        blocks, sft_blocks = (INT8, None) if start == "8-bit" else STARTS[start]
        first = [] if sft_blocks is None else [parent(self.data, sft_blocks)]
        stage = {
            **{"kind": "reward", "data": [{"path": str(self.pairs)}], "rows": rows or {}, "reward": options or {}},
            **{"train": {**TRAIN, **(train or {})}, **blocks, **({"init": "$sft"} if first else {})},
        }
        return tiny.recipe(self.folder, [*first, stage, *behind], **{"model": str(self.base), **top})

    def plan(self, start: str, train: dict[str, Any] | None = None, **keys: Any) -> Plan:
        return tiny.planned(self.file(start, train, **keys), self.folder / "runs")

    def trainer(self, start: str, train: dict[str, Any] | None = None, **keys: Any) -> Any:
        return reward.trainer_of(tiny.job(self.plan(start, train, **keys), "reward"))

    def made(self, start: str, train: dict[str, Any] | None = None, **keys: Any) -> PlannedStage:
        return tiny.make(self.plan(start, train, **keys), "reward")

    def sft(self, start: str, **top: Any) -> Path:
        return self.plan(start, **top).stage("sft").folder


def batch(trainer: Any, count: int = 4, rows: Any = None) -> dict[str, Any]:
    dataset = trainer.train_dataset if rows is None else rows
    return trainer.data_collator([dataset[place] for place in range(count)])


def both_sides(row: dict[str, Any]) -> list[list[int]]:
    return [[*row["prompt_ids"], *row[f"{side}_ids"]] for side in ("chosen", "rejected")]


def scored_rows(stage: PlannedStage) -> list[list[int]]:
    """The rows of scores.json, rendered anew."""
    lines = {f"pairs.jsonl:{number + 1}": row for number, row in enumerate(PAIRS)}
    scorer = Scorer(stage.folder)
    found = []
    for entry in read_json(stage.folder / "scores.json"):
        where, side = entry["row"].rsplit(" ", 1)
        row = lines[Path(where).name]
        found.append(scorer.rendered([[*row["prompt"], *row[side]]])[0])
    return found


def reported(stage: PlannedStage, key: str = "score") -> list[float]:
    return [entry[key] for entry in read_json(stage.folder / "scores.json")]


# ---- where it starts ----------------------------------------------------------------------------------------------
def test_before_the_first_step_every_tensor_below_a_whole_head_is_the_sfts_and_after_it_none_is(house):
    sft = {name: value for name, value in tiny.weights(house.sft("full on sft")).items() if name != "lm_head.weight"}
    trainer = house.trainer("full on sft", {"max_steps": 2})
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert start.keys() - sft.keys() == {"score.weight"}
    assert all(torch.equal(start[name], sft[name]) for name in sft)
    trainer.train()
    now = trainer.model.state_dict()
    assert [name for name in start if torch.equal(now[name], start[name])] == []


@pytest.mark.parametrize("start", ["lora on sft", "qlora on sft"])
def test_before_the_first_step_the_adapter_is_the_sfts_and_after_it_none_of_it_is(start, house):
    sft = tiny.weights(house.sft(start))
    trainer = house.trainer(start, {"max_steps": 2})
    before = trained_weights(trainer)
    frozen = {name: v.clone() for name, v in trainer.model.named_parameters() if not v.requires_grad}
    copied = {name.replace(".default.weight", ".weight"): value for name, value in before.items()}
    assert {name for name in copied if name not in sft} == {"base_model.model.score.modules_to_save.weight"}
    assert all(torch.equal(copied[name], sft[name]) for name in sft)
    trainer.train()
    now = trained_weights(trainer)
    assert {value.dtype for value in now.values()} == {torch.float32}
    assert [name for name in before if torch.equal(now[name], before[name])] == []
    assert all(torch.equal(v, frozen[name]) for name, v in trainer.model.named_parameters() if name in frozen)


def test_8_bit_weights_are_trained_by_an_adapter_too(house):
    stage = house.made("8-bit", {"max_steps": 1})
    assert reported(stage) == pytest.approx(reported(stage, "reloaded"), abs=1e-4)
    assert tiny.weights(stage.folder)["base_model.model.score.weight"].dtype == torch.float32


def test_scores_start_small_and_are_the_same_again_for_a_seed(house):
    one, same, other = (house.trainer("full", seed=seed) for seed in (1, 1, 2))
    rows = both_sides(one.train_dataset[0])
    assert one.scores(rows) == same.scores(rows)
    assert one.model.score.weight.tolist() != other.model.score.weight.tolist()
    assert max(map(abs, one.scores(rows))) < 0.5


# ---- the loss -----------------------------------------------------------------------------------------------------
HAND = {  # chosen scores 1 above rejected: -log sigma(1 - margin) for the ratings 1 to 4
    "none": [0.313262, 0.313262, 0.313262, 0.313262],
    "small": [0.693147, 0.540306, 0.414370, 0.313262],
    "large": [2.126928, 1.313262, 0.693147, 0.313262],
    "table": [1.313262, 0.693147, 0.313262, 0.313262],
}


@pytest.mark.parametrize("margin", HAND)
def test_the_loss_of_each_rating_is_the_one_computed_by_hand(margin, house):
    trainer = house.trainer("full", options={"margin": "none"})
    row = next(row for row in trainer.train_dataset if len(row["chosen_ids"]) != len(row["rejected_ids"]))
    chosen, rejected = trainer.scores(both_sides(row))
    trainer.model.score.weight.data /= chosen - rejected  # the score is linear in the head
    options = RewardOptions({"1": 2.0, "2": 1.0, "3": 0, "4": 0} if margin == "table" else margin)
    unread = {"where": "", "safety_chosen": None, "safety_rejected": None}
    rated = add_margins(
        Dataset.from_list([{**row, **unread, "rating": rating} for rating in (1, 2, 3, 4)]), options, ""
    )
    losses = [trainer.compute_loss(trainer.model, trainer.data_collator([line])).item() for line in rated]
    assert losses == pytest.approx(HAND[margin], abs=1e-5)


def test_the_margins_are_those_of_the_paper():
    assert MARGINS == {"small": SMALL, "large": {1: 3.0, 2: 2.0, 3: 1.0, 4: 0.0}}
    assert RewardOptions().margins == SMALL


def test_the_safety_loss_is_cross_entropy_over_labelled_answers_and_is_added_with_its_weight(house):
    trainer = house.trainer("full", options={"safety_weight": 0.5})
    place = next(n for n, row in enumerate(trainer.train_dataset) if row["safety_chosen"] is None)
    rows = [trainer.train_dataset[n] for n in sorted({0, 1, 2, place})]
    labels = [
        float("nan") if row[f"safety_{side}"] is None else row[f"safety_{side}"]
        for side in ("chosen", "rejected")
        for row in rows
    ]
    scores = [trainer.scores([both_sides(row)[side]])[0] for side in (0, 1) for row in rows]
    expected = [
        math.log1p(math.exp(-score if safe else score))
        for score, safe in zip(scores, labels, strict=True)
        if safe == safe
    ]
    both = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    trainer.safety_weight = 0.0
    ranking = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    assert len(expected) < len(labels)
    assert both - ranking == pytest.approx(0.5 * sum(expected) / len(labels), abs=1e-5)


def theirs(house: House, start: str, train: dict[str, Any], head: torch.Tensor) -> Any:
    """TRL's own trainer on the same conversational rows with the same margins, from the same model and head."""
    words = AutoTokenizer.from_pretrained(str(house.base))
    words.chat_template = TEMPLATE
    whole = house.base if "lora" in start else house.sft(start, chat_template=TEMPLATE)
    model: Any = AutoModelForSequenceClassification.from_pretrained(str(whole), num_labels=1)
    model.score.weight.data.copy_(head)
    if "lora" in start:
        model = get_peft_model(model, LoraConfig(**tiny.LORA, task_type="SEQ_CLS"))
        adapter = load_peft_weights(str(house.sft(start, chat_template=TEMPLATE)))
        set_peft_model_state_dict(model, {**adapter, "base_model.model.score.weight": head.clone()})
    rows = Dataset.from_list(
        [
            {**{side: row[side] for side in ("prompt", "chosen", "rejected")}, "margin": SMALL[row["rating"]]}
            for row in PAIRS
        ]
    )
    places = {"output_dir": str(house.folder / "trl"), "seed": 1, "use_cpu": True, "bf16": False}
    config = RewardConfig(**{**TRAIN, **train, **places}, disable_tqdm=True)
    trainer = RewardTrainer(model=model, args=config, train_dataset=rows, processing_class=words)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("start", "train"), [("full on sft", {}), ("lora on sft", {}), ("lora on sft", {"center_rewards_coefficient": 0.1})]
)
def test_losses_gradients_and_metrics_are_trls(start, train, house):
    ours = house.trainer(start, {**SGD, **train}, chat_template=TEMPLATE)
    head = next(v for name, v in ours.model.named_parameters() if "score" in name and v.requires_grad)
    other = theirs(house, start, {**SGD, **train}, head.detach().clone())
    seen = slots(ours)
    ours.train()
    assert max(rows * length for rows, length in seen) < 4 * 2 * 43  # each prompt went through the model once
    assert [line.keys() for line in logged(ours)] == [line.keys() for line in logged(other)]
    for one, two in zip(logged(ours), logged(other), strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    assert farthest(trained_weights(ours), trained_weights(other)) < 1e-5


@pytest.mark.parametrize("start", ON_SFT)
def test_sharing_the_prompt_changes_nothing(start, house):
    shared, apart = (house.trainer(start, SGD, options={"safety_weight": 0.5}) for _ in range(2))
    assert shared.shares
    apart.shares = False
    narrow, wide = slots(shared), slots(apart)
    for trainer in (shared, apart):
        trainer.train()
    assert sum(rows * length for rows, length in narrow) < 0.75 * sum(rows * length for rows, length in wide)
    for one, two in zip(logged(shared), logged(apart), strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    assert farthest(trained_weights(shared), trained_weights(apart)) < 1e-5


def test_gradient_checkpointing_changes_no_weight(house):
    left = []
    for on in (False, True):
        trainer = house.trainer("lora on sft", {"gradient_checkpointing": on, "max_steps": 2})
        trainer.train()
        left.append(trained_weights(trainer))
    assert farthest(*left) < 1e-6


# ---- the head -----------------------------------------------------------------------------------------------------
def test_a_score_is_not_rounded_where_the_model_computes_in_bfloat16(house):
    model = house.trainer("lora on sft").model.eval()
    rows = [side for row in house.trainer("lora on sft").train_dataset for side in both_sides(row)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = torch.tensor(batch_scores(model, rows))
    assert (scores != scores.bfloat16().float()).float().mean() > 0.9


@pytest.mark.parametrize("unknown", [None, "<|im_start|>"], ids=["no other token", "unk"])
def test_where_the_pad_token_ends_turns_the_score_is_read_at_the_end_of_the_answer(unknown, house):
    folder = house.folder / "pads with eos"
    shutil.copytree(house.base, folder)
    words = AutoTokenizer.from_pretrained(str(folder))
    words.pad_token, words.unk_token = words.eos_token, unknown
    words.save_pretrained(str(folder))
    trainer = house.trainer("full", model=str(folder))
    rows = both_sides(trainer.train_dataset[0]) + both_sides(trainer.train_dataset[1])
    assert {row[-1] for row in rows} == {words.eos_token_id}
    assert len({len(row) for row in rows}) > 1
    backbone = load_base(ModelSource(str(folder)), "float32", None, use_cpu=True).model
    with torch.no_grad():
        last = torch.stack([backbone(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows])
        expected = last @ trainer.model.score.weight[0]
    assert trainer.scores(rows) == pytest.approx(expected.tolist(), abs=1e-5)
    trainer.shares = True
    trainer.model.eval()
    with torch.no_grad():
        shared = trainer.model(**{k: v for k, v in batch(trainer, 2).items() if k != "margin"}, pairs=True).logits[:, 0]
    assert shared[[0, 2, 1, 3]].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert trainer.model.config.pad_token_id == (None if unknown is None else words.convert_tokens_to_ids(unknown))


def test_without_a_pad_token_plain_transformers_reads_the_same_scores_from_the_folder(house):
    folder = house.folder / "no pad token"
    shutil.copytree(house.base, folder)
    for name in ("tokenizer_config.json", "config.json"):
        values = read_json(folder / name)
        write_json(folder / name, {key: value for key, value in values.items() if not key.startswith("pad_token")})
    made = house.made("full", {"max_steps": 1}, model=str(folder)).folder
    scorer = Scorer(made)
    question, answers = {"role": "user", "content": "1 sky?"}, ("blue", "red")
    turns = [[question, {"role": "assistant", "content": answer}] for answer in answers]
    plain = AutoModelForSequenceClassification.from_pretrained(str(made), dtype=torch.float32).eval()
    with torch.no_grad():
        scores = [plain(input_ids=torch.tensor([ids])).logits.item() for ids in scorer.rendered(turns)]
    assert scorer.scores(turns) == pytest.approx(scores, abs=1e-5)
    assert plain.config.pad_token_id is None


# ---- what it leaves -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("start", ON_SFT)
def test_held_out_pairs_are_ranked_right(start, trained):
    numbers = trained[start].done["numbers"]
    assert numbers["accuracy"] == 1.0
    assert numbers["margin"] > 1
    assert numbers["safety_loss"] < math.log(2)
    words = tiny.drawn_words(trained[start].folder / "curves.svg")
    assert {"Loss", "Pair accuracy", "Score", "score margin (chosen − rejected), held out"} <= set(words)


def test_an_accuracy_counts_every_pair_once(house):
    stage = house.made("full", {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1}, rows={"eval_fraction": 0.3})
    scores = reported(stage)
    assert len(scores) // 2 == 6  # a batch of 4 and one of 2
    right = sum(chosen > rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True))
    gap = sum(scores[::2]) - sum(scores[1::2])
    assert stage.done["numbers"]["accuracy"] == pytest.approx(right / 6)
    assert stage.done["numbers"]["margin"] == pytest.approx(gap / 6, abs=1e-5)


@pytest.mark.parametrize("start", ON_SFT)
def test_the_folder_gives_the_scores_of_the_trained_model(start, trained):
    scores = Scorer(trained[start].folder).of_ids(scored_rows(trained[start]))
    assert scores == pytest.approx(reported(trained[start]), abs=1e-4)


@pytest.mark.parametrize("start", ["full on sft", "lora on sft"])
def test_the_folder_opens_without_ft_and_gives_the_same_scores(start, trained):
    stage = trained[start]
    auto = AutoModelForSequenceClassification if "full" in start else AutoPeftModelForSequenceClassification
    model = auto.from_pretrained(str(stage.folder), num_labels=1).eval()
    model.config.pad_token_id = AutoTokenizer.from_pretrained(str(stage.folder)).pad_token_id
    rows = scored_rows(stage)
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=model.config.pad_token_id
    )
    with torch.no_grad():
        scores = model(input_ids=padded, attention_mask=(padded != model.config.pad_token_id).long()).logits[:, 0]
    assert scores.tolist() == pytest.approx(reported(stage), abs=1e-4)


@pytest.mark.parametrize("start", ["full on sft", "lora on sft"])
def test_a_folder_that_gives_other_scores_stops_the_run(start, trained, tmp_path):
    stage = trained[start]
    shutil.copytree(stage.folder, tmp_path / "broken")
    file = next((tmp_path / "broken").glob("*.safetensors"))
    weights = load_file(file)
    save_file({name: v * 0.9 if "score" in name else v for name, v in weights.items()}, file, {"format": "pt"})
    rows = [(str(number), row) for number, row in enumerate(scored_rows(stage))]
    with pytest.raises(UserError, match="the saved reward model gives other scores than the trained one"):
        check_reload(tmp_path / "broken", rows, reported(stage), "x.yaml:1", 0.0)


def test_a_reward_model_does_not_answer(trained):
    folder = trained["lora on sft"].folder
    with pytest.raises(UserError) as refused:
        load(folder, "float32", use_cpu=True)
    assert str(refused.value) == Like(f"{folder}: … reward … answers …")


@pytest.mark.parametrize("kind", ["sft", "dpo", "reward"])
def test_no_policy_starts_from_a_reward_model(kind, house):
    behind = {"kind": kind, "name": "next", "init": "$reward", "data": [{"path": str(house.pairs)}], "train": TRAIN}
    with pytest.raises(UserError) as refused:
        house.plan("full", behind=(behind,))
    assert "'reward' leaves a reward model, not a model. It scores and does not answer; name another." in str(
        refused.value
    )


# ---- what is refused ----------------------------------------------------------------------------------------------
def test_a_row_without_a_rating_is_refused_by_its_line_where_a_margin_is_asked_for(house):
    rows = [
        {key: value for key, value in row.items() if key != "rating" or number != 5} for number, row in enumerate(PAIRS)
    ]
    house.pairs = written(house.folder / "unrated.jsonl", rows)
    with pytest.raises(UserError) as refused:
        house.trainer("full")
    assert str(refused.value) == Like(f"{house.pairs}:6: … rating … 1 … 16 … `reward: {{margin: none}}` …")
    assert house.trainer("full", options={"margin": "none"}).train_dataset.column_names.count("margin") == 0


def test_a_rating_that_the_table_leaves_out_is_refused(house):
    with pytest.raises(
        UserError, match=r"pairs\.jsonl:4: the row has rating 4, which margin does not list \(so have 4 of"
    ):
        house.trainer("full", options={"margin": {1: 1, 2: 1, 3: 1}})


def test_a_safety_loss_without_labels_is_refused(house):
    bare = [{key: value for key, value in row.items() if "safety" not in key} for row in PAIRS]
    house.pairs = written(house.folder / "bare.jsonl", bare)
    with pytest.raises(UserError) as refused:
        house.trainer("full", options={"safety_weight": 0.1})
    assert str(refused.value).endswith(
        "safety_weight is set, and no row has a safety label. "
        "Give rows safety_chosen and safety_rejected, or write `safety_weight: 0`."
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"margin": "smal"}, "'smal'"),
        ({"margin": {5: 1}}, "margin is a table"),
        ({"safety_weight": -1}, "safety_weight"),
        ({"warmup_least": -1}, "warmup_least"),
    ],
)
def test_a_wrong_option_is_refused_at_its_line(options, said, house):
    with pytest.raises(UserError) as refused:
        house.plan("full", options=options)
    assert str(refused.value) == Like(f"{house.folder}/tiny.yaml:9: … {said} …")


# ---- the paper's schedule -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("steps", "warm"), [(20, 5), (166, 5), (167, 6), (400, 12)])
def test_warm_up_is_three_percent_of_the_steps_and_at_least_five(steps, warm, house):
    trainer = house.trainer("full", {"warmup_steps": 0.03, "max_steps": steps}, options={"warmup_least": 5})
    trainer.create_optimizer_and_scheduler(steps)
    assert trainer.args.warmup_steps == warm


def test_the_learning_rate_rises_for_five_steps_and_ends_at_a_tenth(house):
    cosine = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
    train = {**cosine, "warmup_steps": 0.03, "max_steps": 9, "learning_rate": 1e-3}
    trainer = house.trainer("full", train, options={"warmup_least": 5})
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert rates[:6] == pytest.approx([0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3])  # of the steps as they were made
    assert max(rates[6:]) < 1e-3
    assert trainer.lr_scheduler.get_last_lr() == pytest.approx([1e-4, 1e-4])  # with weight decay, and without


# ---- interrupted, and in two processes ----------------------------------------------------------------------------
@pytest.mark.parametrize("start", ["full on sft", "lora on sft"])
def test_an_interrupted_run_ends_with_the_bits_of_an_undisturbed_one(start, house):
    train = {"save_strategy": "steps", "save_steps": 2}
    whole = house.made(start, train)
    undisturbed, scores = tiny.weights(whole.folder), reported(whole)
    (whole.folder / "done.json").unlink()
    shutil.rmtree(whole.folder / "checkpoints" / "checkpoint-4")
    again = house.made(start, train)
    now = tiny.weights(again.folder)
    steps = [line["step"] for line in read_lines(again.folder / "metrics.jsonl") if "loss" in line]
    assert all(torch.equal(now[name], undisturbed[name]) for name in undisturbed)
    assert reported(again) == scores
    assert steps == [1, 2, 3, 4]

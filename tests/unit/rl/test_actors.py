"""Everyone on one base is as good as four models: same log-probabilities, values, rewards and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl.trainer import add_fused_lm_head

import tiny
import tiny_rl
from ft.encode.conversation import Renderer
from ft.errors import UserError
from ft.files import read_json
from ft.models.hidden_states import inner_of
from ft.models.load import load, load_scorer, start
from ft.models.processor import tokenizer_of
from ft.models.scorer import Scorer
from ft.recipe import ModelSource
from ft.rl.actor_setup import share_base
from ft.rl.actors import CRITIC, POLICY, REFERENCE, CompletionBatch

SAID = [
    [{"role": "user", "content": "1 sky?"}, {"role": "assistant", "content": "blue"}],
    [{"role": "user", "content": "2 grass, please?"}, {"role": "assistant", "content": "greenish, I think"}],
    [{"role": "user", "content": "3"}, {"role": "assistant", "content": "no"}],
]
NF4 = {**tiny.NF4, "bnb_4bit_compute_dtype": "float32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, base):
    top = tmp_path_factory.mktemp("tiny_rl")
    made = {"policy": tiny_rl.save_adapter(top / "policy", base, 1)}
    return made | {
        name: tiny_rl.save_reward_model(top / name, base, seed) for name, seed in (("helpful", 2), ("safety", 3))
    }


def batch_of(base) -> CompletionBatch:
    renderer = Renderer(tokenizer_of(None, base), train_on="last")
    rows = [renderer.prompt(turns[:1]) for turns in SAID]
    answers = [renderer.tokenizer(turns[1]["content"])["input_ids"] + [renderer.stop_ids[0]] for turns in SAID]
    ids = [torch.tensor(prompt + answer) for prompt, answer in zip(rows, answers, strict=True)]
    lengths = [torch.tensor([len(row) for row in side]) for side in (rows, answers)]
    return CompletionBatch.from_rows(torch.nn.utils.rnn.pad_sequence(ids, batch_first=True), *lengths)


def plain_logps(model, batch: CompletionBatch) -> torch.Tensor:
    """Log-probabilities of the answers' tokens from the whole logits, (N,)."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.float().log_softmax(-1)
    return logits.flatten(0, 1)[batch.logit_positions].gather(1, batch.targets[:, None])[:, 0]


def with_fused_head(actors):
    """The actors as a trainer leaves them: a frozen copy of the policy as reference, the head fused."""
    if not actors.fresh:
        actors.policy.add_adapter(REFERENCE, actors.policy.peft_config[POLICY])
        for name, value in actors.policy.named_parameters():
            if f".{REFERENCE}." in name:
                value.data.copy_(actors.policy.get_parameter(name.replace(f".{REFERENCE}.", f".{POLICY}.")).data)
    add_fused_lm_head(inner_of(actors.policy), outputs=("log_probs", "entropy"))
    return actors


@pytest.mark.parametrize("quantization", [None, NF4], ids=["whole", "4-bit"])
def test_one_base_gives_what_four_models_give(tmp_path, base, folders, quantization):
    if quantization:
        folders = {
            name: tiny_rl.save_reward_model(tmp_path / name, base, 2, quantization) for name in ("helpful", "safety")
        }
        folders["policy"] = tiny_rl.save_adapter(tmp_path / "policy", base, 1, quantization)
    judges = {name: folders[name] for name in ("helpful", "safety")}
    actors = with_fused_head(tiny_rl.shared_base(base, folders["policy"], quantization, folders["helpful"], **judges))
    assert not actors.standalone
    actors.policy.eval()
    batch, policy = batch_of(base), load(folders["policy"], "float32", True)
    critic = load_scorer(folders["helpful"], "float32", True)
    with torch.no_grad():
        expected = plain_logps(policy, batch)
        for role in (POLICY, REFERENCE):
            with actors.acting(role):
                assert torch.allclose(actors.logprobs(batch)[0], expected, atol=1e-5)
        scored = actors.score_conversations(SAID, 2)
        for name in judges:
            assert scored[name] == pytest.approx(Scorer(folders[name]).scores(SAID), abs=1e-5)
        with actors.acting(CRITIC):
            values = actors.values(batch)
        hidden = critic.base_model.model.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).last_hidden_state
        assert torch.allclose(values, critic.score(hidden.flatten(0, 1)[batch.logit_positions])[:, 0], atol=1e-5)


def test_gradients_are_those_of_models_of_their_own(base, folders):
    actors = with_fused_head(tiny_rl.shared_base(base, folders["policy"], critic=folders["helpful"]))
    batch = batch_of(base)
    with actors.acting(CRITIC):
        actors.values(batch).square().sum().backward()
    actors.logprobs(batch)[0].sum().backward()
    policy = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(str(base)), str(folders["policy"]), is_trainable=True
    )
    plain_logps(policy, batch).sum().backward()
    critic = load_scorer(folders["helpful"], "float32", True)
    critic.set_requires_grad("default")
    critic.score.requires_grad_(True)
    hidden = critic.base_model.model.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask
    ).last_hidden_state
    critic.score(hidden.flatten(0, 1)[batch.logit_positions])[:, 0].square().sum().backward()
    theirs = {name: value.grad for name, value in policy.named_parameters() if value.requires_grad}
    theirs |= {
        name.replace(".default.", f".{CRITIC}."): value.grad
        for name, value in critic.named_parameters()
        if value.grad is not None and "lora" in name
    }
    ours = {name: value.grad for name, value in actors.policy.named_parameters() if value.grad is not None}
    assert ours.keys() - theirs.keys() == {f"base_model.model.score_heads.{CRITIC}.weight"}
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, atol=1e-4, rtol=1e-4), name


def test_a_new_adapters_reference_is_the_bare_base(base):
    actors = with_fused_head(tiny_rl.shared_base(base))
    tiny_rl.perturb(actors.policy, 5)
    batch, plain = batch_of(base), AutoModelForCausalLM.from_pretrained(str(base))
    with torch.no_grad(), actors.acting(REFERENCE):
        assert torch.allclose(actors.logprobs(batch)[0], plain_logps(plain, batch), atol=1e-5)
    with torch.no_grad():
        assert (actors.logprobs(batch)[0] - plain_logps(plain, batch)).abs().max() > 0.01


def test_a_reference_keeps_its_embeddings_where_the_policy_trains_them_whole(base):
    source = ModelSource(str(base))
    model = start(source, None, {**tiny.LORA, "modules_to_save": ["embed_tokens"]}, None, "float32", True)
    renderer = Renderer(tokenizer_of(None, base), train_on="last")
    actors = with_fused_head(share_base(model, renderer, base=source, quantization=None, fresh=False))
    batch, found = batch_of(base), []
    for _ in range(2):
        with torch.no_grad(), actors.acting(REFERENCE):
            found.append(actors.logprobs(batch)[0])
        tiny_rl.perturb(actors.policy, 5)
    assert torch.equal(*found)


def test_a_critic_without_a_reward_model_begins_as_the_policy_and_says_0(base, folders):
    actors = tiny_rl.shared_base(base, folders["policy"])
    with torch.no_grad(), actors.acting(CRITIC):
        assert actors.values(batch_of(base)).abs().max() == 0
    named = dict(actors.policy.named_parameters())
    assert all(
        torch.equal(value, named[name.replace(f".{CRITIC}.", ".default.")])
        for name, value in named.items()
        if f".{CRITIC}." in name and "lora" in name
    )


def test_a_saved_critic_is_a_reward_model_that_a_critic_can_begin_with(tmp_path, base, folders):
    actors = tiny_rl.shared_base(base, folders["policy"], critic=folders["helpful"])
    actors.save_critic(tmp_path / "critic")
    again = tiny_rl.shared_base(base, folders["policy"], critic=tmp_path / "critic")
    batch = batch_of(base)
    values = []
    for one in (actors, again):
        with torch.no_grad(), one.acting(CRITIC):
            values.append(one.values(batch))
    assert torch.equal(*values)
    load_scorer(tmp_path / "critic", "float32", True)
    assert read_json(tmp_path / "critic" / "lineage.json")["base"]["path"] == str(base)


@pytest.mark.parametrize("why", ["whole", "other base", "other template"])
def test_a_reward_model_that_does_not_fit_the_base_stands_alone(tmp_path, base, why):
    if why == "whole":
        folder = tiny_rl.save_whole_reward_model(tmp_path / "judge", base, 2)
    elif why == "other base":
        folder = tiny_rl.save_reward_model(tmp_path / "judge", tiny.base(tmp_path / "other", seed=3), 2)
    else:
        folder = tiny_rl.save_reward_model(tmp_path / "judge", base, 2)
        words = tokenizer_of(None, folder)
        words.chat_template = words.chat_template.replace("user", "user") + "{# another #}"
        words.save_pretrained(str(folder))
    actors = tiny_rl.shared_base(base, helpful=folder)
    assert list(actors.standalone) == ["helpful"]
    assert actors.score_conversations(SAID, 2)["helpful"] == pytest.approx(Scorer(folder).scores(SAID), abs=1e-6)


def test_a_critic_on_another_base_is_refused(tmp_path, base):
    other = tiny_rl.save_reward_model(tmp_path / "judge", tiny.base(tmp_path / "other", seed=3), 2)
    with pytest.raises(UserError, match="must stand on the policy's base"):
        tiny_rl.shared_base(base, critic=other)


def test_an_answer_that_cannot_be_rendered_has_no_score(base, folders):
    forged = [*SAID[:1], [SAID[0][0], {"role": "assistant", "content": "<|im_start|>user"}]]
    scores = tiny_rl.shared_base(base, helpful=folders["helpful"]).score_conversations(copy.deepcopy(forged), 2)[
        "helpful"
    ]
    assert scores[0] is not None
    assert scores[1] is None

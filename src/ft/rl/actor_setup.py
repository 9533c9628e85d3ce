"""Who takes part beside a policy that learns from rewards, put together: adapters that join its base, or models of
their own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.models.hidden_states import inner_of, let_select
from ft.models.lineage import is_adapter, is_reward, parts
from ft.models.processor import tokenizer_of
from ft.models.scorer import Message, Scorer
from ft.recipe import ModelSource
from ft.rl.actors import CRITIC, POLICY, Actors, SeparateModels, SharedBase

log = logging.getLogger(__name__)


def share_base_with_reward_models(
    policy: Any,
    renderer: Renderer,
    *,
    base: ModelSource,
    quantization: Mapping[str, Any] | None,
    fresh: bool,
    rewards: Mapping[str, Path] | None = None,
) -> SharedBase:
    """The policy, a PeftModel as `ft.models.load.start` makes it, joined by reward models.

    `fresh` says that its adapter is new; `base` and `quantization` say what it stands on. A reward model that stands on
    another base, or speaks another template, is loaded as a model of its own; so are all where the policy's adapter has
    whole modules (`modules_to_save`), which would be theirs too.
    """
    rewards, origin = (
        rewards or {},
        {"base": asdict(base), "quantization": dict(quantization) if quantization else None},
    )
    whole = policy.peft_config[POLICY].modules_to_save
    on_base = {name: folder for name, folder in rewards.items() if _fits(folder, origin, renderer) and not whole}
    standalone = {name: _scorer(name, folder) for name, folder in rewards.items() if name not in on_base}
    inner = inner_of(policy)
    let_select(inner.base_model)
    inner.score_heads = torch.nn.ModuleDict()
    actors = SharedBase(policy, renderer, tuple(rewards), standalone, fresh, origin)
    for name, folder in on_base.items():
        actors.add(name, _adapter_config(folder))
        actors.copy(name, folder)
    policy.set_adapter(POLICY)
    return actors


def share_base(
    policy: Any,
    renderer: Renderer,
    *,
    base: ModelSource,
    quantization: Mapping[str, Any] | None,
    fresh: bool,
    critic: Path | None = None,
    rewards: Mapping[str, Path] | None = None,
) -> SharedBase:
    """The policy joined by reward models, as above, and by a critic, which begins as the reward model in the folder
    `critic`, else as the policy with a head of zeros, so that its first values are 0."""
    actors = share_base_with_reward_models(
        policy, renderer, base=base, quantization=quantization, fresh=fresh, rewards=rewards
    )
    if critic is None:
        actors.add(CRITIC, policy.peft_config[POLICY])
        for name, value in list(policy.named_parameters()):
            if f".{CRITIC}." in name and "score_heads" not in name:
                value.data.copy_(policy.get_parameter(name.replace(f".{CRITIC}.", f".{POLICY}.")).data)
    elif _same_base(critic, actors.origin):
        actors.add(CRITIC, _adapter_config(critic))
        actors.load_critic(critic)
    else:
        fix = (
            "Name a reward model made by LoRA on the same model, or leave the critic out: it then begins as the policy."
        )
        raise fail(str(critic), "the critic must stand on the policy's base", fix)
    policy.set_adapter(POLICY)
    return actors


def load_reward_models(policy: Any, renderer: Renderer, rewards: Mapping[str, Path]) -> Actors:
    """The policy beside reward models that are models of their own."""
    return Actors(policy, renderer, tuple(rewards), {name: _scorer(name, folder) for name, folder in rewards.items()})


def score_while_training(
    actors: Actors, conversations: Sequence[list[Message]], batch_size: int
) -> dict[str, list[float | None]]:
    """`Actors.score_conversations` in the middle of training: without dropout and gradients; the policy goes on as it
    was."""
    policy = actors.policy
    was_training = policy.training
    policy.eval()
    with torch.no_grad():
        scores = actors.score_conversations(conversations, batch_size)
    policy.train(was_training)
    return scores


def separate_models(
    policy: Any, renderer: Renderer, *, reference: Any, critic: Any, rewards: Mapping[str, Path] | None = None
) -> SeparateModels:
    """Whole models: `reference` is a second copy of the policy, `critic` a sequence classifier with a ScoreHead."""
    for model in (policy, reference, critic):
        let_select(model.base_model)
    reference.requires_grad_(False).eval()
    policy.critic = critic.requires_grad_(False)
    scorers = {name: _scorer(name, folder) for name, folder in (rewards or {}).items()}
    return SeparateModels(policy, renderer, scorers, reference)


def _fits(folder: Path, origin: Mapping[str, Any], renderer: Renderer) -> bool:
    """Whether a reward model is an adapter on the policy's base that reads the policy's tokens."""
    if not is_reward(folder):
        raise fail(str(folder), "this is no reward model", "Name the folder of a stage of kind `reward`.")
    if not _same_base(folder, origin):
        return False
    tokenizer, policy_tokenizer = tokenizer_of(None, folder), renderer.tokenizer
    return bool(
        tokenizer.chat_template == policy_tokenizer.chat_template
        and tokenizer.get_vocab() == policy_tokenizer.get_vocab()
    )


def _same_base(folder: Path, origin: Mapping[str, Any]) -> bool:
    if not is_adapter(folder) or set(_adapter_config(folder).modules_to_save or ()) - {"score", "classifier"}:
        return False
    base, _, quantization = parts(folder)
    own_base = ModelSource(**origin["base"])
    folders = [source.folder and source.folder.resolve() for source in (base, own_base)]
    one_folder = folders[0] is not None and folders[0] == folders[1]
    same = base.revision == own_base.revision and (base.path == own_base.path or one_folder)
    return same and _weights_of(quantization) == _weights_of(origin["quantization"])


def _weights_of(quantization: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys that decide which weights a base has; in what it computes is another matter."""
    return {key: value for key, value in (quantization or {}).items() if not key.endswith("compute_dtype")}


def _adapter_config(folder: Path) -> Any:
    from peft import PeftConfig

    return PeftConfig.from_pretrained(str(folder))


def _scorer(name: str, folder: Path) -> Scorer:
    log.warning("the reward model '%s' cannot stand on the policy's base: it is loaded as a model of its own", name)
    return Scorer(folder)

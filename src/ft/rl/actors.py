"""Who takes part in PPO: policy, reference, critic and reward models, on one base or as models of their own.

On one base (`OneBase`) each is an adapter with, where it scores, a small head in float32:

    default   the policy, trained                 critic   its estimate of rewards to come, trained, with a head
    ref       the policy as it began, frozen      NAME     a reward model, frozen, with a head

A policy whose adapter is new began as the bare base, and so is its reference. Apart (`Apart`) they are whole models.
A trainer asks both for the same: `acting(role)` around a pass of that role, then `logps`, `values` or `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy as shallow
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ft import artifacts
from ft.data.formats import BadRow
from ft.encode.conversation import Renderer
from ft.encode.pairs import through_answers
from ft.errors import fail
from ft.files import write_json
from ft.models.hidden_states import inner_of
from ft.models.load import share
from ft.models.reward_head import ScoreHead, ends
from ft.models.scorer import Message, Scorer

POLICY, REFERENCE, CRITIC = "default", "ref", "critic"
HEAD = "base_model.model.score.weight"  # the head's name in the folder of a reward model


@dataclass(frozen=True)
class Batch:
    """B rows of prompt and answer but for its last token, which predicts nothing, padded on the right, where a causal
    model does not look.

    ids, mask    (B, L)
    answer       (B, C), True on the answer's tokens, its end token among them; N are True in all
    slots        (N,) for each of them the place in the flattened ids whose hidden state predicts it
    targets      (N,) the tokens themselves
    """

    ids: Tensor
    mask: Tensor
    answer: Tensor
    slots: Tensor
    targets: Tensor

    @staticmethod
    def of(ids: Tensor, prompts: Tensor, answers: Tensor) -> Batch:
        """Rows of ids (B, L'), the first `prompts[n]` of which are prompt and the next `answers[n]` answer; both
        (B,)."""
        read, width = prompts + answers - 1, int(answers.max())
        length = int(read.max())
        steps, columns = torch.arange(length, device=ids.device), torch.arange(width, device=ids.device)
        answer = columns < answers[:, None]
        rows, last = torch.arange(len(ids), device=ids.device)[:, None], prompts[:, None] - 1  # of the prompt
        slots = (rows * length + last + columns)[answer]
        targets = ids[rows.expand_as(answer)[answer], (last + 1 + columns)[answer]]
        return Batch(ids[:, :length], (steps < read[:, None]).long(), answer, slots, targets)

    def filled(self, values: Tensor) -> Tensor:
        """Values of answer tokens (N,) in their places, (B, C), 0 elsewhere."""
        return values.new_zeros(self.answer.shape).masked_scatter(self.answer, values)


class Actors:
    """What both designs share.

    policy    the module a Trainer trains; it holds the critic's parameters too
    renderer  makes the tokens of prompts and of what is scored; it trains on the last answer
    rewards   names of the reward models, in the order of their columns
    foreign   those of them that stand on another base, or speak another template
    role      who acts now
    rough     passes over the same tokens differ by more than float32 rounds, with what stands beside them
    """

    def __init__(self, policy: Any, renderer: Renderer, rewards: Sequence[str], foreign: Mapping[str, Scorer]):
        self.policy, self.renderer = policy, renderer
        self.rewards, self.foreign = tuple(rewards), foreign
        self.role = POLICY
        self.rough = next(policy.parameters()).dtype != torch.float32

    @contextmanager
    def acting(self, role: str) -> Iterator[None]:
        """Passes of a role and their backward belong inside: with gradient checkpointing the layers run again in
        backward, and then the same adapter must be active (else gradients are wrong in silence)."""
        self.role = role
        try:
            with self._on(role):
                yield
        finally:
            self.role = POLICY

    def _on(self, role: str) -> AbstractContextManager[None]:
        raise NotImplementedError

    @property
    def models(self) -> tuple[Any, ...]:
        """The models that hold everyone but foreign reward models."""
        return (self.policy,)

    def logps(self, batch: Batch, wrapped: Any = None) -> tuple[Tensor, Tensor]:
        """Log-probability of each answer token and the entropy there, both (N,), in nats, of the policy or the
        reference, whichever acts; at the temperature that `at` was given. `wrapped` is the policy inside DDP."""
        module = self._speaker() if wrapped is None else wrapped
        out = module(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            select=batch.slots,
            shift_labels=batch.targets[None],
            fused_lm_head=True,
        )
        return out.log_probs[0], out.entropy[0]

    def _speaker(self) -> Any:
        return self.policy

    def at(self, temperature: float) -> None:
        """Fuse the heads that a Trainer does not fuse."""

    def values(self, batch: Batch) -> Tensor:
        """The critic's value before each answer token, (N,) float32; the critic must act."""
        raise NotImplementedError

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        raise NotImplementedError

    def save_policy(self, folder: Path) -> None:
        """A folder that `from_pretrained` opens."""
        raise NotImplementedError

    def load_policy(self, folder: Path) -> None:
        raise NotImplementedError

    def save_critic(self, folder: Path) -> None:
        """A folder that opens as a reward model does."""
        raise NotImplementedError

    def load_critic(self, folder: Path) -> None:
        raise NotImplementedError

    def scored(self, conversations: Sequence[list[Message]], batch_size: int) -> dict[str, list[float | None]]:
        """Reward model → raw score of each conversation's last answer; None where it cannot be read."""
        found: dict[str, list[float | None]] = {}
        own = [name for name in self.rewards if name not in self.foreign]
        rows = through_answers(self.renderer, conversations) if own else []
        for name in self.rewards:
            if name in own:
                found[name] = self._scores(name, rows, batch_size)
            else:
                scorer = self.foreign[name]
                theirs = scorer.rendered(conversations)
                good = [row for row in theirs if not isinstance(row, BadRow)]
                scores = iter(scorer.of_ids(good, batch_size))
                found[name] = [None if isinstance(row, BadRow) else next(scores) for row in theirs]
        return found

    def _scores(self, name: str, rows: Sequence[list[int] | BadRow], batch_size: int) -> list[float | None]:
        raise NotImplementedError


class OneBase(Actors):
    """Adapters and heads on one PeftModel, quantised or not; `ft.rl.actor_setup.on_one_base` builds it.

    fresh   the policy's adapter is new: its reference is the bare base
    origin  what a critic's folder says of the base
    """

    def __init__(
        self,
        policy: Any,
        renderer: Renderer,
        rewards: Sequence[str],
        foreign: Mapping[str, Scorer],
        fresh: bool,
        origin: Mapping[str, Any],
    ):
        super().__init__(policy, renderer, rewards, foreign)
        self.fresh, self.origin = fresh, origin
        weights = origin["quantization"] or {}
        half = weights.get("bnb_4bit_compute_dtype", "float32") != "float32"
        self.rough = self.rough or half or bool(weights.get("load_in_8bit"))  # which rounds by a batch's largest values

    @property
    def heads(self) -> Any:
        """Role → ScoreHead."""
        return inner_of(self.policy).score_heads

    @contextmanager
    def _on(self, role: str) -> Iterator[None]:
        if role == POLICY:
            yield
        elif role == REFERENCE and self.fresh:
            with self.policy.disable_adapter():
                yield
        else:
            self._switch(role)
            self.heads.requires_grad_(role == CRITIC)
            try:
                yield
            finally:
                self._switch(POLICY)
                self.heads.requires_grad_(False)

    def _switch(self, role: str) -> None:
        """As the PeftModel's `set_adapter`, which searches the whole model for its layers each time."""
        if self.policy.peft_config[POLICY].modules_to_save:  # these are no layers of LoRA
            self.policy.set_adapter(role)
            return
        for layer in self._layers:
            layer.set_adapter(role)

    @cached_property
    def _layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [layer for layer in self.policy.modules() if isinstance(layer, BaseTunerLayer)]

    def values(self, batch: Batch) -> Tensor:
        return self._heads_read(CRITIC, batch.ids, batch.mask, batch.slots)

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        return [value for name, value in self.policy.named_parameters() if f".{CRITIC}." in name]

    def save_critic(self, folder: Path) -> None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        weights = get_peft_model_state_dict(self.policy, adapter_name=CRITIC)
        weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file({**weights, HEAD: self.heads[CRITIC].weight.detach().cpu()}, str(folder / artifacts.ADAPTER_WEIGHTS))
        config = shallow(self.policy.peft_config[CRITIC])
        config.task_type, config.modules_to_save, config.inference_mode = "SEQ_CLS", ["score"], True
        config.save_pretrained(str(folder))
        write_json(folder / artifacts.LINEAGE, self.origin)
        share(folder)

    def load_critic(self, folder: Path) -> None:
        self.copy(CRITIC, folder)

    def save_policy(self, folder: Path) -> None:
        self.policy.save_pretrained(str(folder), selected_adapters=[POLICY])

    def load_policy(self, folder: Path) -> None:
        self.copy(POLICY, folder)

    def add(self, role: str, config: Any) -> None:
        """A new adapter in float32 with a head of zeros, both frozen until the role acts."""
        base = inner_of(self.policy)
        config = shallow(config)
        config.task_type, config.modules_to_save = "CAUSAL_LM", None
        self.policy.add_adapter(role, config)
        head = ScoreHead(base.config.get_text_config().hidden_size, 1, bias=False, device=self.policy.device)
        torch.nn.init.zeros_(head.weight)
        self.heads[role] = head.requires_grad_(False)

    def copy(self, role: str, folder: Path) -> None:
        """A folder's weights into the adapter of a role, and into its head where it has one."""
        from peft import set_peft_model_state_dict
        from peft.utils.save_and_load import load_peft_weights

        weights = load_peft_weights(str(folder), "cpu")
        if role in self.heads:
            self.heads[role].weight.data.copy_(weights.pop(HEAD))
        found: Any = set_peft_model_state_dict(self.policy, weights, adapter_name=role)
        wrong = [*found.unexpected_keys, *(name for name in found.missing_keys if f".{role}." in name)]
        if wrong := [name for name in wrong if "score_heads" not in name]:
            raise fail(str(folder), f"the adapter does not fit the policy's base: {', '.join(wrong[:3])}")

    def _heads_read(self, role: str, ids: Tensor, mask: Tensor, slots: Tensor) -> Tensor:
        backbone = inner_of(self.policy).base_model
        hidden = backbone(input_ids=ids, attention_mask=mask, select=slots, use_cache=False).last_hidden_state
        return self.heads[role](hidden[0])[:, 0]

    def _scores(self, name: str, rows: Sequence[list[int] | BadRow], batch_size: int) -> list[float | None]:
        def read(ids: Tensor, mask: Tensor) -> Tensor:
            slots = torch.arange(len(ids), device=ids.device) * ids.shape[1] + ends(mask)
            return self._heads_read(name, ids, mask, slots)

        with self.acting(name):
            return _in_batches(rows, read, batch_size, self.policy.device)


class Apart(Actors):
    """Whole models: the policy, a frozen reference, and a critic that the policy holds as a part, so that one Trainer
    trains both; `ft.rl.actor_setup.apart` builds it."""

    def __init__(self, policy: Any, renderer: Renderer, rewards: Mapping[str, Scorer], reference: Any):
        super().__init__(policy, renderer, tuple(rewards), rewards)
        self.reference = reference

    @property
    def models(self) -> tuple[Any, ...]:
        return self.policy, self.reference, self.critic

    @property
    def critic(self) -> Any:
        return self.policy.critic

    @contextmanager
    def _on(self, role: str) -> Iterator[None]:
        self.critic.requires_grad_(role == CRITIC)  # and otherwise not, so that DDP leaves it alone
        try:
            yield
        finally:
            self.critic.requires_grad_(False)

    def _speaker(self) -> Any:
        return self.reference if self.role == REFERENCE else self.policy

    def at(self, temperature: float) -> None:
        from trl.trainer import add_fused_lm_head

        add_fused_lm_head(self.reference, temperature=temperature, outputs=("log_probs", "entropy"))

    def values(self, batch: Batch) -> Tensor:
        out = self.critic.base_model(
            input_ids=batch.ids, attention_mask=batch.mask, select=batch.slots, use_cache=False
        )
        values: Tensor = self.critic.score(out.last_hidden_state[0])[:, 0]
        return values

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.critic.parameters())

    def save_policy(self, folder: Path) -> None:
        weights = {name: value for name, value in self.policy.state_dict().items() if not name.startswith("critic.")}
        self.policy.save_pretrained(str(folder), state_dict=weights)

    def load_policy(self, folder: Path) -> None:
        _read_into(self.policy, folder)

    def save_critic(self, folder: Path) -> None:
        self.critic.save_pretrained(str(folder))
        share(folder)

    def load_critic(self, folder: Path) -> None:
        _read_into(self.critic, folder)


def _read_into(model: Any, folder: Path) -> None:
    from safetensors.torch import load_file

    for file in sorted(folder.glob("*.safetensors")):
        model.load_state_dict(load_file(str(file)), strict=False)


def _in_batches(
    rows: Sequence[list[int] | BadRow], read: Callable[[Tensor, Tensor], Tensor], batch_size: int, device: Any
) -> list[float | None]:
    """What `read` gives each row; rows of about one length are computed side by side."""
    found: list[float | None] = [None] * len(rows)
    good = {place: row for place, row in enumerate(rows) if not isinstance(row, BadRow)}
    order = sorted(good, key=lambda place: len(good[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        ids, mask = right_padded([good[place] for place in places], device)
        for place, value in zip(places, read(ids, mask).float().tolist(), strict=True):
            found[place] = value
    return found


def right_padded(rows: Sequence[Sequence[float]], device: Any) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (B, L)."""
    ids = [torch.tensor(row) for row in rows]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
    return padded, (torch.arange(padded.shape[1], device=device) < lengths[:, None]).long()

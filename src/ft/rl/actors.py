"""The roles of PPO: policy, reference, critic and reward models, on one base or as models of their own.

On one base (`SharedBase`) each role is an adapter with, where it scores, a small head in float32:

    default   the policy, trained                 critic   its estimate of rewards to come, trained, with a head
    ref       the policy as it began, frozen      NAME     a reward model, frozen, with a head

A policy whose adapter is new began as the bare base, and so is its reference. With `SeparateModels` they are whole
models. A trainer asks both for the same: `acting(role)` around a pass of that role, then `logprobs`, `values` or
scores. ft.rl.actor_setup builds both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy as shallow
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ft import artifacts
from ft.data.formats import BadRow
from ft.encode.conversation import Renderer
from ft.encode.pairs import through_answers
from ft.errors import fail
from ft.families import family_of
from ft.models.batching import batches_by_length, pad
from ft.models.finite import refuse_broken_scores
from ft.models.hidden_states import inner_of
from ft.models.lineage import write_lineage
from ft.models.load import share
from ft.models.reward_head import ScoreHead, ends
from ft.models.scorer import Message, Scorer
from ft.recipe import ModelSource

if TYPE_CHECKING:
    from peft import LoraConfig

POLICY, REFERENCE, CRITIC = "default", "ref", "critic"
HEAD = "base_model.model.score.weight"  # the head's name in the folder of a reward model


@dataclass(frozen=True)
class CompletionBatch:
    """B rows of prompt and completion, padded on the right, where a causal model does not look. A row's last token is
    left out: it predicts nothing.

    input_ids, attention_mask  (B, L)
    completion_mask            (B, C), True on the completion's tokens, its end token among them; N are True in all
    logit_positions            (N,) where in the flattened (B * L) positions each of them is predicted
    targets                    (N,) the tokens themselves
    """

    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor
    logit_positions: Tensor
    targets: Tensor

    @staticmethod
    def from_rows(input_ids: Tensor, prompt_lengths: Tensor, completion_lengths: Tensor) -> CompletionBatch:
        """Rows (B, L') of a prompt and the completion behind it, with the tokens of each, both (B,)."""
        read, width = prompt_lengths + completion_lengths - 1, int(completion_lengths.max())
        length, device = int(read.max()), input_ids.device
        steps, columns = torch.arange(length, device=device), torch.arange(width, device=device)
        mask = columns < completion_lengths[:, None]
        # A token is predicted one place before it stands: the first one where the prompt ends.
        rows, prompt_ends = torch.arange(len(input_ids), device=device)[:, None], prompt_lengths[:, None] - 1
        logit_positions = (rows * length + prompt_ends + columns)[mask]
        targets = input_ids[rows.expand_as(mask)[mask], (prompt_ends + 1 + columns)[mask]]
        attention_mask = (steps < read[:, None]).long()
        return CompletionBatch(input_ids[:, :length], attention_mask, mask, logit_positions, targets)

    def scatter(self, values: Tensor) -> Tensor:
        """Values of completion tokens (N,) in their places, (B, C), 0 elsewhere."""
        return values.new_zeros(self.completion_mask.shape).masked_scatter(self.completion_mask, values)


class Actors:
    """What both designs share.

    policy            the module a Trainer trains; it holds the critic's parameters too
    renderer          makes the tokens of prompts and of what is scored; it trains on the last answer
    reward_models     their names, in the order of their columns
    standalone        those of them that stand on another base, or speak another template
    role              who acts now
    is_low_precision  passes over the same tokens differ by more than float32 rounds, with what stands beside them
    """

    def __init__(self, policy: Any, renderer: Renderer, reward_models: Sequence[str], standalone: Mapping[str, Scorer]):
        self.policy, self.renderer = policy, renderer
        self.reward_models, self.standalone = tuple(reward_models), standalone
        self.role = POLICY
        self.is_low_precision = next(policy.parameters()).dtype != torch.float32

    @contextmanager
    def acting(self, role: str) -> Iterator[None]:
        """Forward passes of a role, and their backward, belong inside.

        With gradient checkpointing the layers run again in backward, through whatever adapter is active then. Another
        one gives wrong gradients and no error.
        """
        self.role = role
        try:
            with self._activate(role):
                yield
        finally:
            self.role = POLICY

    def _activate(self, role: str) -> AbstractContextManager[None]:
        raise NotImplementedError

    @property
    def models(self) -> tuple[Any, ...]:
        """The models that hold everyone but standalone reward models."""
        return (self.policy,)

    def logprobs(self, batch: CompletionBatch, wrapped: torch.nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Log-probability of each completion token and the entropy there, both (N,), in nats, of the policy or the
        reference, whichever acts; at the temperature that `fuse_heads` was given. `wrapped` is the policy inside DDP,
        which must see the pass to average its gradients."""
        module = self._causal_model() if wrapped is None else wrapped
        # TRL's fused head takes logits of `select`ed positions only, and never holds them for the whole vocabulary.
        out = module(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            select=batch.logit_positions,
            shift_labels=batch.targets[None],
            fused_lm_head=True,
        )
        return out.log_probs[0], out.entropy[0]

    def _causal_model(self) -> Any:
        return self.policy

    def fuse_heads(self, temperature: float) -> None:
        """Fuse the heads that a Trainer does not fuse, at the temperature of sampling."""

    def values(self, batch: CompletionBatch) -> Tensor:
        """The critic's value before each completion token, (N,) float32; the critic must act."""
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

    def score_conversations(
        self, conversations: Sequence[list[Message]], batch_size: int
    ) -> dict[str, list[float | None]]:
        """Reward model → raw score of each conversation's last answer; None where it cannot be read."""
        by_model: dict[str, list[float | None]] = {}
        on_base = [name for name in self.reward_models if name not in self.standalone]
        rows = through_answers(self.renderer, conversations) if on_base else []  # one template: rendered once for all
        for name in self.reward_models:
            if name in on_base:
                by_model[name] = self._score_rows(name, rows, batch_size)
            else:
                by_model[name] = _score_readable(self.standalone[name], conversations, batch_size)
        return by_model

    def _score_rows(self, name: str, rows: Sequence[list[int] | BadRow], batch_size: int) -> list[float | None]:
        raise NotImplementedError


def _score_readable(scorer: Scorer, conversations: Sequence[list[Message]], batch_size: int) -> list[float | None]:
    """Raw scores by a model of its own; None where it cannot read the answer."""
    rows = scorer.rendered(conversations)
    scores = iter(scorer.of_ids([row for row in rows if not isinstance(row, BadRow)], batch_size))
    return [None if isinstance(row, BadRow) else next(scores) for row in rows]


class SharedBase(Actors):
    """Adapters and heads on one PeftModel, quantised or not; `ft.rl.actor_setup.share_base` builds it.

    fresh   the policy's adapter is new: its reference is the bare base
    origin  what a critic's folder says of the base
    """

    def __init__(
        self,
        policy: Any,
        renderer: Renderer,
        reward_models: Sequence[str],
        standalone: Mapping[str, Scorer],
        fresh: bool,
        origin: Mapping[str, Any],
    ):
        super().__init__(policy, renderer, reward_models, standalone)
        self.fresh, self.origin = fresh, origin
        weights = origin["quantization"] or {}
        half = weights.get("bnb_4bit_compute_dtype", "float32") != "float32"
        in_8_bit = bool(weights.get("load_in_8bit"))  # which rounds by the largest value of a batch
        self.is_low_precision = self.is_low_precision or half or in_8_bit

    @property
    def heads(self) -> Any:
        """Role → ScoreHead."""
        return inner_of(self.policy).score_heads

    @contextmanager
    def _activate(self, role: str) -> Iterator[None]:
        if role == POLICY:
            yield
        elif role == REFERENCE and self.fresh:
            with self.policy.disable_adapter():
                yield
        else:
            self._switch(role)  # PEFT lets the active adapter alone have gradients
            self.heads.requires_grad_(role == CRITIC)
            try:
                yield
            finally:
                self._switch(POLICY)
                self.heads.requires_grad_(False)

    def _switch(self, role: str) -> None:
        """As PEFT 0.21's `PeftModel.set_adapter`, which searches the whole model for its layers each time."""
        if self.policy.peft_config[POLICY].modules_to_save:  # these are no layers of LoRA
            self.policy.set_adapter(role)
            return
        for layer in self._layers:
            layer.set_adapter(role)

    @cached_property
    def _layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [layer for layer in self.policy.modules() if isinstance(layer, BaseTunerLayer)]

    def values(self, batch: CompletionBatch) -> Tensor:
        return self._apply_head(CRITIC, batch.input_ids, batch.attention_mask, batch.logit_positions)

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
        config.task_type = family_of(inner_of(self.policy).config, str(folder)).peft_task(scores=True)
        config.modules_to_save, config.inference_mode = ["score"], True
        config.save_pretrained(str(folder))
        write_lineage(folder, ModelSource(**self.origin["base"]), self.origin["quantization"])
        share(folder)

    def load_critic(self, folder: Path) -> None:
        self.copy(CRITIC, folder)

    def save_policy(self, folder: Path) -> None:
        self.policy.save_pretrained(str(folder), selected_adapters=[POLICY])

    def load_policy(self, folder: Path) -> None:
        self.copy(POLICY, folder)

    def add(self, role: str, config: LoraConfig) -> None:
        """A new adapter in float32 with a head of zeros, both frozen until the role acts."""
        base = inner_of(self.policy)
        config = shallow(config)
        config.task_type = family_of(base.config, role).peft_task(scores=False)
        config.modules_to_save = None
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
        keys: Any = set_peft_model_state_dict(self.policy, weights, adapter_name=role)
        # The other roles' adapters and the heads are missing in the folder, and that is right.
        unfit = [*keys.unexpected_keys, *(name for name in keys.missing_keys if f".{role}." in name)]
        if unfit := [name for name in unfit if "score_heads" not in name]:
            raise fail(str(folder), f"the adapter does not fit the policy's base: {', '.join(unfit[:3])}")

    def _apply_head(self, role: str, input_ids: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        """What a role's head makes of the hidden states at N of the flattened positions, (N,) float32."""
        backbone = inner_of(self.policy).base_model
        passed = backbone(input_ids=input_ids, attention_mask=attention_mask, select=positions, use_cache=False)
        values: Tensor = self.heads[role](passed.last_hidden_state[0])[:, 0]
        return values

    def _score_rows(self, name: str, rows: Sequence[list[int] | BadRow], batch_size: int) -> list[float | None]:
        def read(ids: Tensor, mask: Tensor) -> Tensor:
            last = torch.arange(len(ids), device=ids.device) * ids.shape[1] + ends(mask)
            return self._apply_head(name, ids, mask, last)

        with self.acting(name):
            scores = _score_in_batches(rows, read, batch_size, self.policy.device)
        refuse_broken_scores([score for score in scores if score is not None], f"the reward model '{name}'")
        return scores


class SeparateModels(Actors):
    """Whole models: the policy, a frozen reference, and a critic that the policy holds as a part, so that one Trainer
    trains both; `ft.rl.actor_setup.separate_models` builds it."""

    def __init__(self, policy: Any, renderer: Renderer, reward_models: Mapping[str, Scorer], reference: Any):
        super().__init__(policy, renderer, tuple(reward_models), reward_models)
        self.reference = reference

    @property
    def models(self) -> tuple[Any, ...]:
        return self.policy, self.reference, self.critic

    @property
    def critic(self) -> Any:
        return self.policy.critic

    @contextmanager
    def _activate(self, role: str) -> Iterator[None]:
        self.critic.requires_grad_(role == CRITIC)  # and otherwise not, so that DDP leaves it alone
        try:
            yield
        finally:
            self.critic.requires_grad_(False)

    def _causal_model(self) -> Any:
        return self.reference if self.role == REFERENCE else self.policy

    def fuse_heads(self, temperature: float) -> None:
        from trl.trainer import add_fused_lm_head

        add_fused_lm_head(self.reference, temperature=temperature, outputs=("log_probs", "entropy"))

    def values(self, batch: CompletionBatch) -> Tensor:
        out = self.critic.base_model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            select=batch.logit_positions,
            use_cache=False,
        )
        values: Tensor = self.critic.score(out.last_hidden_state[0])[:, 0]
        return values

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.critic.parameters())

    def save_policy(self, folder: Path) -> None:
        weights = {name: value for name, value in self.policy.state_dict().items() if not name.startswith("critic.")}
        self.policy.save_pretrained(str(folder), state_dict=weights)

    def load_policy(self, folder: Path) -> None:
        _load_weights(self.policy, folder)

    def save_critic(self, folder: Path) -> None:
        self.critic.save_pretrained(str(folder))
        share(folder)

    def load_critic(self, folder: Path) -> None:
        _load_weights(self.critic, folder)


def _load_weights(model: Any, folder: Path) -> None:
    from safetensors.torch import load_file

    for file in sorted(folder.glob("*.safetensors")):
        model.load_state_dict(load_file(str(file)), strict=False)


def _score_in_batches(
    rows: Sequence[list[int] | BadRow], read: Callable[[Tensor, Tensor], Tensor], batch_size: int, device: Any
) -> list[float | None]:
    """What `read` gives each row; rows of about one length are computed side by side."""
    scores: list[float | None] = [None] * len(rows)
    good = [(number, row) for number, row in enumerate(rows) if not isinstance(row, BadRow)]
    for batch in batches_by_length([len(row) for _, row in good], batch_size):
        ids, mask = pad([good[place][1] for place in batch], "right", device)
        for place, value in zip(batch, read(ids, mask.long()).float().tolist(), strict=True):
            scores[good[place][0]] = value
    return scores

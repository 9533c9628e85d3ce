"""What a family of models is asked for; see `ft.families`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ft.encode.conversation import OnTooLong
from ft.encode.encoder import EncodedRow, Encoder
from ft.encode.loss_mask import TrainOn
from ft.encode.pairs import PairOptions, preference_encoder
from ft.encode.prepare import RowOptions
from ft.errors import Problem

if TYPE_CHECKING:
    from torch import Tensor

Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, "Tensor"]]
"""Encoded rows → a model's arguments, padded: `input_ids` and its mask (B, T), `labels` (B, L), and a family's own."""


class ModelConfig(Protocol):
    """What is asked of transformers' PretrainedConfig here."""

    model_type: str
    is_encoder_decoder: bool


class AutoClass(Protocol):
    """One of transformers' auto classes: makes models of a family, which have no type in common."""

    from_pretrained: Callable[..., Any]
    from_config: Callable[..., Any]


class Processor(Protocol):
    """What makes a row's ids, and is saved beside the model: a tokenizer, or one with an image processor."""

    pad_token: str | None
    pad_token_id: int | None
    chat_template: str | None

    def save_pretrained(self, save_directory: str) -> Any: ...


class Family(ABC):
    """Classes, rows and answers of models of one architecture.

    name              by which kinds of stages say what they work on (`Kind.families`)
    about             in messages, in the plural
    auto              transformers' auto class of a model that answers; `mapping` lists the configs that it takes
    auto_scorer       that of one with a scalar head
    auto_processor    that of what makes its rows
    task_type         PEFT's name for an adapter on a model that answers
    task_type_scorer  for one on a model that scores
    engine            class that completes prompts, as "module:class": see `ft.models.generation.engine`
    trainer           function that makes the trainer of rows with labels, as "module:function": see `ft.stages.sft`
    unsupported       keys of `train:` that its trainer cannot do, with the reason
    has_parts         whether its models are made of parts, of which a recipe names those to train (`parts:`)
    unquantised       linear layers, by the last part of their names, that stay in float32 where others are quantised
    text_alone        whether its rows are text alone, so that its attention can be asked by them (`probe_states`)
    reads_both_ways   whether a prompt's tokens see those behind them
    pipeline_tag      the Hub's word for a model that answers
    needs             what whoever opens an exported folder elsewhere must know, in a sentence; "" for nothing
    """

    name: ClassVar[str]
    about: ClassVar[str]
    auto: ClassVar[str]
    mapping: ClassVar[str]
    auto_scorer: ClassVar[str]
    auto_processor: ClassVar[str] = "AutoTokenizer"
    task_type: ClassVar[str]
    task_type_scorer: ClassVar[str]
    engine: ClassVar[str]
    trainer: ClassVar[str]
    unsupported: ClassVar[Mapping[str, str]] = {}
    has_parts: ClassVar[bool] = False
    unquantised: ClassVar[frozenset[str]] = frozenset()
    text_alone: ClassVar[bool] = True
    reads_both_ways: ClassVar[bool] = False
    pipeline_tag: ClassVar[str] = "text-generation"
    needs: ClassVar[str] = ""

    # Rows

    @abstractmethod
    def row_encoder(
        self, processor: Processor, train_on: TrainOn, max_length: int | None = None, on_too_long: OnTooLong = "error"
    ) -> Encoder:
        """What encodes rows other than pairs."""

    @abstractmethod
    def completion_row(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> EncodedRow:
        """A prompt and its completion as a row: `input_ids`, and `labels` of the completion alone."""

    @abstractmethod
    def collator(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> Collator:
        """What makes a batch of encoded rows."""

    @abstractmethod
    def predictions(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the model makes of a batch: logits (B, P, V), and the labels (B, P) they predict."""

    @abstractmethod
    def predicted_labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The labels of a batch that something predicts, (B, P)."""

    @abstractmethod
    def probe_states(self, model: Any, batch: Mapping[str, Tensor], prompt: int) -> tuple[Tensor, Tensor]:
        """What a model, without the wrapper of its adapters, makes of prompts of `prompt` tokens and their answers,
        all of one length: states of each token of the prompts (B, P, D), and those that predict each of the answers
        (B, A, D)."""

    def encoder(self, processor: Processor, options: RowOptions | PairOptions, max_length: int | None) -> Encoder:
        """What encodes the rows of a stage with this `rows:` block."""
        if isinstance(options, PairOptions):
            return preference_encoder(self.row_encoder(processor, "completion"), options, max_length)
        return self.row_encoder(processor, options.train_on, max_length, options.on_too_long)

    # Classes

    def takes(self, config: ModelConfig) -> bool:
        """Whether a model of this config can be loaded as one of this family.

        A config that says `is_encoder_decoder` may stand in the causal mapping too (BART's), by its decoder alone: what
        its checkpoint holds would then be half used and half random.
        """
        import transformers

        return type(config) in getattr(transformers, self.mapping) and not getattr(config, "is_encoder_decoder", False)

    def takes_values(self, config: Mapping[str, Any]) -> bool:
        """The same by config.json as it is written, without importing what knows its class."""
        return False

    def problems(self, where: str, families: Sequence[str], train: Mapping[str, Any]) -> Iterator[Problem]:
        """Why a stage that works on `families` (any, where none is named) with this `train:` block cannot have it."""
        if families and self.name not in families:
            others = " and ".join(families)
            yield Problem(where, f"this kind of stage does not work with {self.about}", f"It works with: {others}.")
        for key, reason in self.unsupported.items():
            if train.get(key):
                yield Problem(where, f"train.{key} does not work with {self.about}: {reason}", f"Take {key} out.")

    def special_ids(self, processor: Processor) -> dict[str, int | None]:
        """Token ids that the config of a model made from nothing must name."""
        return {f"{name}_token_id": getattr(processor, f"{name}_token_id") for name in ("pad", "bos", "eos")}

    def prepare(self, model: Any, where: str) -> None:  # noqa: B027  most have nothing to do
        """Let a loaded model be run as one of this family. Raises UserError where it cannot be."""

    def load_processor(self, path: str, revision: str | None) -> Processor:
        import transformers

        auto: AutoClass = getattr(transformers, self.auto_processor)
        processor: Processor = auto.from_pretrained(path, revision=revision, trust_remote_code=False)
        return processor

    def save_processor(self, processor: Processor, folder: str) -> None:
        """Leave what makes rows, as `load_processor` reads it."""
        processor.save_pretrained(folder)

    def auto_name(self, scores: bool) -> str:
        return self.auto_scorer if scores else self.auto

    def auto_class(self, scores: bool) -> AutoClass:
        """The class whose `from_pretrained` and `from_config` make models of this family."""
        import transformers

        auto: AutoClass = getattr(transformers, self.auto_name(scores))
        return auto

    def peft_task(self, scores: bool) -> str:
        return self.task_type_scorer if scores else self.task_type

    def is_scorer(self, architectures: Sequence[str], adapter_task: str | None) -> bool:
        """Whether `architectures` of a config.json, or `task_type` of an adapter's, are of a model that scores."""
        ending = self.auto_scorer.removeprefix("AutoModel")
        return adapter_task == self.task_type_scorer or any(name.endswith(ending) for name in architectures)

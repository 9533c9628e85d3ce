"""What a family of models is asked for; see `ft.families`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """Classes and words that models of one architecture share.

    about             in messages, in the plural
    auto              transformers' auto class of a model that answers; `mapping` lists the configs that it takes
    auto_scorer       that of one with a scalar head
    task_type         PEFT's name for an adapter on a model that answers
    task_type_scorer  for one on a model that scores
    """

    about: str
    auto: str
    mapping: str
    auto_scorer: str
    task_type: str
    task_type_scorer: str

    def takes(self, config: Any) -> bool:
        """Whether a model of this config (a PretrainedConfig) can be loaded as one of this family.

        A config that says `is_encoder_decoder` may stand in the causal mapping too (BART's), by its decoder alone: what
        its checkpoint holds would then be half used and half random.
        """
        import transformers

        return type(config) in getattr(transformers, self.mapping) and not getattr(config, "is_encoder_decoder", False)

    def auto_name(self, scores: bool) -> str:
        return self.auto_scorer if scores else self.auto

    def auto_class(self, scores: bool) -> Any:
        """The class whose `from_pretrained` and `from_config` make models of this family."""
        import transformers

        return getattr(transformers, self.auto_name(scores))

    def peft_task(self, scores: bool) -> str:
        return self.task_type_scorer if scores else self.task_type

    def is_scorer(self, architectures: list[str], adapter_task: str | None) -> bool:
        """Whether `architectures` of a config.json, or `task_type` of an adapter's, are of a model that scores."""
        ending = self.auto_scorer.removeprefix("AutoModel")
        return adapter_task == self.task_type_scorer or any(name.endswith(ending) for name in architectures)

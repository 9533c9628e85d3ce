"""A recipe's `decoding:` block: how the answers of a stage are chosen, by a preset, by single keys, or by both.

To add a preset: a line in PRESETS, with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ft.errors import fail
from ft.models.generation.sampling import Sampling
from ft.recipe.job import Job

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)

OWN_KEYS = ("temperature", "top_p")
"""What stages have keys of their own for, from before there was `decoding:`."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"temperature": 0.0, "top_p": 1.0},
    "llama2": {"temperature": 0.6, "top_p": 0.9},  # generation.py of the Llama 2 release
    "creative": {"temperature": 1.0, "top_p": 0.95},  # arXiv:1904.09751, table 1
    "top_k": {"temperature": 1.0, "top_k": 40},  # samples of the GPT-2 release
    "min_p": {"temperature": 1.0, "min_p": 0.1},  # arXiv:2407.01082, section 3
    "beams": {"temperature": 0.0, "beams": 4},  # arXiv:1609.08144, section 7: hardly worse than 8 to 12
    "no_repeats": {"temperature": 0.0, "repetition_penalty": 1.2},  # arXiv:1909.05858, section 4.1
}


@dataclass(frozen=True)
class DecodingOptions:
    """How answers are chosen: a recipe's `decoding:` block. What is written wins over the preset.

    preset              greedy, llama2, creative, top_k, min_p, beams or no_repeats
    temperature, top_p  in the place of the stage's own
    top_k               so many of the likeliest tokens; 0: all
    min_p               tokens at least so likely as this share of the likeliest
    repetition_penalty  tokens of prompt and answer become less likely by this factor; 1: none
    beams               beginnings followed side by side, of which the likeliest whole is the answer
    stop                texts that end an answer and do not belong to it
    """

    preset: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    beams: int | None = None
    stop: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"there is no preset '{self.preset}'; there are: {', '.join(PRESETS)}")
        if self.temperature is None and self.preset is None and (self.top_p or self.top_k or self.min_p):
            raise ValueError("temperature is missing: top_p, top_k and min_p say among which tokens it draws")
        self.sampling()

    @property
    def values(self) -> dict[str, Any]:
        """What it decides, by the names of Sampling."""
        written = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("preset", "stop")}
        decided = {**PRESETS.get(self.preset or "", {}), **{key: v for key, v in written.items() if v is not None}}
        return decided | ({"stop": tuple(self.stop)} if self.stop else {})

    def sampling(
        self, max_new_tokens: int = 64, temperature: float = 0.0, top_p: float = 1.0, seed: int = 1
    ) -> Sampling:
        """With the stage's own values where this block decides none. Beams leave no temperature."""
        own = {"temperature": 0.0 if self.beams else temperature, "top_p": top_p}
        if "temperature" in self.values:
            own["top_p"] = 1.0
        return Sampling(max_new_tokens, seed=seed, **{**own, **self.values})


def decoding_of(job: Job) -> DecodingOptions:
    return DecodingOptions(**job.block("decoding"))


def with_decoding(options: Options, job: Job) -> Options:
    """A stage's own options, in which `temperature` and `top_p` are what its `decoding:` decides.

    Raises UserError where the options do not go with that, as several samples of a greedy answer.
    """
    own = {one.name: getattr(options, one.name) for one in fields(options) if one.name in OWN_KEYS}
    sampling = decoding_of(job).sampling(**own)
    try:
        return replace(options, **{name: getattr(sampling, name) for name in own})
    except ValueError as error:
        raise fail(job.where, f"decoding does not go with the stage: {error}", "Write another `decoding:`.") from error

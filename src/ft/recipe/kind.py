"""The contract of a stage kind: all that recipes, plans, launches, memory estimates and reports know of it.

A kind is data, not a class to inherit from, and no other module knows it by name. Its work is functions, named
"module:function" and imported when they are called, so that planning imports no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ft.recipe.check import Owner

if TYPE_CHECKING:
    from ft.recipe.types import Stage

Artifact = Literal["model", "reward_model", "rows", "metrics", "image_encoder", "qformer"]

ARTIFACTS: Mapping[Artifact, str] = {
    "model": "a model",
    "reward_model": "a reward model",
    "metrics": "metrics",
    "rows": "rows",
    "image_encoder": "an image encoder",
    "qformer": "a Q-Former",
}
"""What a stage may leave, as messages call it: a folder `from_pretrained` opens, which answers; one that scores;
metrics.json; rows.jsonl; a folder of `Blip2VisionModel`; one of `Blip2ForImageTextRetrieval`."""


class LaunchOptions(Protocol):
    """Of an accelerate config, what a condition may ask: `ft.run.accelerate_config.Launch`."""

    @property
    def options(self) -> Mapping[str, str]:
        """The keys of fsdp_config and deepspeed_config, values as words."""

    def on(self, option: str) -> bool:
        """Is this switch of fsdp_config or deepspeed_config on?"""


def _never(stage: Stage, launch: LaunchOptions) -> bool:
    return False


@dataclass(frozen=True)
class Refused:
    """A launch that does not work, unless the stage and the config are such that `unless` holds.

    when  the condition in words, for docs/launch.md; "" for never
    key   the place in the config where the matter is decided; "" when it is decided in the recipe
    """

    why: str
    fix: str
    unless: Callable[[Stage, LaunchOptions], bool] = _never
    when: str = ""
    key: str = ""


@dataclass(frozen=True)
class Display:
    """How a report shows a stage; with nothing said, by its files: numbers, pictures, tables, lines.

    verdict        function of a `figures.result_files.ResultFiles` that returns what came of it in a sentence
    sections       functions of a `figures.result_files.ResultFiles` that return sections
    headline       pattern of the number that matters, of several the last, which is the hardest; "": the first that has
                   an interval, or where the loss ended
    summary        patterns of the numbers that `ft run` ends with, in their order; none: those that are compared
    is_card        whether that number stands among those at the top of the page
    shows_answers  whether the newest of its answers stand there too
    front_curves   how many of its curves stand in front; None: all
    working_files  what it keeps for going on after an interruption, or what stands in other files too
    """

    verdict: str = ""
    sections: tuple[str, ...] = ()
    headline: str = ""
    summary: tuple[str, ...] = ()
    is_card: bool = True
    shows_answers: bool = False
    front_curves: int | None = None
    working_files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reference:
    """What a kind holds in memory to compare the policy with itself as it began.

    A whole policy has a second model, and a policy that goes on with an adapter a frozen copy of it, each unless
    `train:` has one of these values.
    """

    model_unless: Mapping[str, Any] = field(default_factory=dict)
    adapter_unless: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StandIn:
    """In place of a method that has no kind of its name: values of `train:`, in how far the two are alike ("": they are
    the same), and the keys of the method that mean something else here, or nothing."""

    why: str = ""
    train: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    @property
    def values_text(self) -> str:
        """`loss_type: [sigmoid, sft]`, in the marks of Markdown."""
        return ", ".join(f"`{key}: {_yaml_text(value)}`" for key, value in self.train.items())

    def fix(self, kind: str) -> str:
        """What to write, and in how far it is the same."""
        written = f"`kind: {kind}`" + (f" with {self.values_text}" if self.train else "")
        return f"The nearest is {written}: {self.why}." if self.why else f"Write {written}, which is the same."


def _yaml_text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Kind:
    """What a recipe may write under `kind: NAME`, and everything that is done with such a stage.

    about            one line for people
    make             called with a Job in the stage's own process; returns the numbers for done.json
    blocks           block name → the class that owns its keys
    leaves           what stands in its folder in the end
    memory           called with a `fit.setting.Setting`: what it has in a GPU's memory, and when
    display          how a report shows it
    trainer          of a kind that trains: what `ft plan --probe` runs a few steps of, called with a Job, or with a
                     `rl.loop.TrainerInputs` where rows are not prepared
    unsupported      of a kind that trains: way to launch (`run.accelerate_config.WAYS`) → why it does not work
    init             what `init:` must leave; None: it starts from no model
    inputs           name under `inputs:` → what the stage named there must leave
    objectives       those of its inputs it optimises against
    rows             what it trains on, prepared (rendered, tokenised) before it starts; "": nothing is prepared
    check_row        of a kind that prepares no rows: called with a formatted row, raises BadRow where it is of no use
    reads_data       whether it reads `data:`, which must then be written
    reads_eval_data  whether it reads `eval_data:`
    reads_pictures   whether its rows may have pictures (`images:` at a source), where the model takes them
    reference        what it compares the policy with, where it does
    required         blocks, or keys "block.key", that must be written
    defaults         block → values where the recipe writes none, other than the class's own; {} for an optional block
    cosmetic         patterns "block.key" that do not change what the stage leaves
    stands_in_for    other names of its method, and methods without a kind that this one is nearest to by meaning
    loss_over_batch  whether its loss reads a batch as a whole, so that rows at once on a GPU decide what is learnt
    families         names of the families of models it works on (`ft.families`); none: any
    infers           whether it asks models for answers or scores, which are computed by the recipe's `engine:`
    preflight        called with the Stage before any work; raises UserError with what would stop it an hour in
    """

    about: str
    make: str
    blocks: Mapping[str, Owner]
    leaves: frozenset[Artifact]
    memory: str
    display: Display
    trainer: str = ""
    unsupported: Mapping[str, Refused] | None = None
    init: Artifact | None = "model"
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()
    rows: Literal["", "documents", "conversations", "pairs", "labelled answers"] = ""
    reads_data: bool = True
    reads_eval_data: bool = False
    reads_pictures: bool = False
    reference: Reference | None = None
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cosmetic: tuple[str, ...] = ()
    stands_in_for: Mapping[str, StandIn] = field(default_factory=dict)
    loss_over_batch: bool = False
    families: tuple[str, ...] = ()
    infers: bool = False
    preflight: str = ""
    check_row: str = ""

    def __post_init__(self) -> None:
        if self.trains and not (self.trainer and self.unsupported is not None):
            raise ValueError(f"{self.make} trains: say its trainer, and which launches are unsupported ({{}}: none)")
        for path in (self.make, self.memory, *self.display.sections):
            if not path.partition(":")[2]:
                raise ValueError(f"{self.make}: '{path}' is no 'module:function'")
        if unknown := {name.partition(".")[0] for name in (*self.required, *self.defaults)} - {*self.blocks}:
            raise ValueError(f"{self.make} has no block {', '.join(sorted(unknown))}")
        if unread := {*self.objectives} - {*self.inputs}:
            raise ValueError(f"{self.make} reads no input {', '.join(sorted(unread))}")

    @property
    def trains(self) -> bool:
        """Whether the stage trains, and so can use several processes."""
        return "train" in self.blocks

    @property
    def makes_tokenizer(self) -> bool:
        """Whether what it leaves has another tokenizer than what it starts from; all others hand theirs down."""
        return "tokenizer" in self.blocks

    @property
    def leaves_weights(self) -> bool:
        """Whether a model stands in the folder in the end, one that answers or one that scores."""
        return not self.leaves.isdisjoint({"model", "reward_model"})

    @property
    def leaves_words(self) -> str:
        """'metrics and rows'"""
        return " and ".join(words for artifact, words in ARTIFACTS.items() if artifact in self.leaves)

    def affects_result(self, block: str, key: str) -> bool:
        """Does `block.key` change what the stage leaves?"""
        return not any(fnmatch(f"{block}.{key}", pattern) for pattern in self.cosmetic)


def find_stand_in(kinds: Mapping[str, Kind], name: str) -> tuple[str, StandIn] | None:
    """The kind that a method of this name is, or is nearest to, and in how far; None for what nobody knows."""
    word = name.strip().lower().replace("_", "-").replace(" ", "-")
    if word in kinds:
        return word, StandIn()
    found = ((kind, kinds[kind].stands_in_for.get(word)) for kind in kinds)
    return next(((kind, stand_in) for kind, stand_in in found if stand_in), None)


def function_at(path: str) -> Callable[..., Any]:
    """The function named "module:function"."""
    module, name = path.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function

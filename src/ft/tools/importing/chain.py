"""Several configs as one chain: each read to a stage, completed, put in order, and linked to the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.errors import Problems, UserError
from ft.files import atomic, create, refuse_existing
from ft.recipe import Kind, Recipe
from ft.recipe.batch import A_DEVICE, ACCUMULATED
from ft.recipe.write import OVERWRITE
from ft.recipe.yaml import Block, Items, in_file_order
from ft.tools.importing.config import TrainingConfig, read_configs
from ft.tools.importing.draft import Omission, StageDraft, is_on
from ft.tools.importing.peers import PEERS, peer_of
from ft.tools.importing.text import recipe_text

Check = Callable[[Block, Path], Recipe]
EVALUATION = ("eval_strategy", "eval_steps", "eval_on_start", "load_best_model_at_end", "metric_for_best_model")
GREATER = "greater_is_better"


@dataclass(frozen=True)
class ImportedRecipe:
    """The recipe's text, its stages in their order, and what is said about them."""

    text: str
    drafts: Sequence[StageDraft]

    @property
    def omissions(self) -> list[Omission]:
        """Keys that did something there and have no place here."""
        return [omission for omission in self._all if omission.matters and not omission.is_unknown]

    @property
    def unknown_keys(self) -> list[Omission]:
        """Keys of which nothing is known."""
        return [omission for omission in self._all if omission.matters and omission.is_unknown]

    @property
    def _all(self) -> list[Omission]:
        return [omission for draft in self.drafts for omission in draft.omissions]


def import_recipe(paths: Sequence[Path], to: Path | None, check: Check, *, force: bool = False) -> ImportedRecipe:
    """Read the configs and write the recipe to `to`, or only return its text, with paths from where the user stands.

    Raises UserError with every problem of every config, each at its line, and writes nothing then.
    """
    if to and not force:
        refuse_existing(to, OVERWRITE)
    problems = Problems()
    drafts = [draft for path in paths for draft in _drafts(path, problems)]
    drafts.sort(key=lambda draft: _rank(draft.kind))
    for draft in drafts:
        _complete(draft)
    if drafts:
        tree = _link(drafts, problems)
        try:
            check(tree, paths[0])
        except UserError as error:
            problems += error.problems
    in_file_order(problems, paths[0]).raise_any()
    recipe = ImportedRecipe(recipe_text(tree, drafts, (to or Path("x")).parent.resolve(), to), drafts)
    if to:
        with atomic(to) if force else create(to, OVERWRITE) as beside:
            beside.write_text(recipe.text, encoding="utf-8")
    return recipe


def _drafts(path: Path, problems: Problems) -> list[StageDraft]:
    try:
        configs = read_configs(path)
    except UserError as error:
        problems += error.problems
        return []
    return [draft for config in configs if (draft := _draft(config, problems))]


def _draft(config: TrainingConfig, problems: Problems) -> StageDraft | None:
    peer = peer_of(config)
    if peer is None:
        names = ", ".join(peer.name for peer in PEERS)
        is_recipe = "stages" in config.values
        what = "this is a recipe of ft already" if is_recipe else "no trainer is known whose config this is"
        problems.add(config.values.where(), what, "" if is_recipe else f"Known are: {names}.")
        return None
    values = Block(dict(config.values), dict(config.values.marks), config.values.mark)
    draft = StageDraft(config, peer.name, peer.differences, problems, values)
    peer.read(draft)
    return draft


def _rank(kind: Kind) -> int:
    """Where a stage stands in a chain: documents, conversations, the reward model, pairs, what learns from rewards."""
    by_rows = {"documents": 0, "conversations": 1, "pairs": 3, "labelled answers": 3}
    return 2 if "reward_model" in kind.leaves else by_rows.get(kind.rows, 4)


# What every stage needs, whichever trainer its config is for


def _complete(draft: StageDraft) -> None:
    _complete_adapter(draft)
    _complete_rows(draft)
    _complete_evaluation(draft)
    _complete_batch(draft)


def _complete_batch(draft: StageDraft) -> None:
    """Two rows at once, half as often, for a loss that reads a batch as a whole."""
    train = draft.block("train")
    if not draft.kind.loss_over_batch:
        return
    for key in (A_DEVICE, "per_device_eval_batch_size"):
        if train.get(key) == 1:
            train[key] = 2
            draft.comments["train", key] = "1 there; the loss reads a batch as a whole"
            if key == A_DEVICE and (times := train.get(ACCUMULATED, 1)) % 2 == 0:
                train[ACCUMULATED] = times // 2
                draft.comments["train", ACCUMULATED] = f"{times} there: the same global batch"


def _complete_adapter(draft: StageDraft) -> None:
    """An adapter and a quantised base where the config asks for them, and no block that only switches things off."""
    quantization = draft.blocks.get("quantization")
    if quantization is not None and not any(is_on(quantization.get(key)) for key in ("load_in_4bit", "load_in_8bit")):
        _drop_block(draft, "quantization", "Nothing is quantised.")
    elif quantization is not None:
        for key in ("load_in_4bit", "load_in_8bit"):
            if key in quantization and not is_on(quantization[key]):
                del quantization[key]
        if is_on(quantization.get("load_in_4bit")):
            half = "float16" if is_on(draft.block("train").get("fp16")) else "bfloat16"
            draft.put("quantization", "bnb_4bit_compute_dtype", half, "what it trains in")
    if draft.trains_adapter:
        draft.block("lora")
    elif "lora" in draft.blocks:
        _drop_block(draft, "lora", "The whole model is trained.")


def _drop_block(draft: StageDraft, name: str, why: str) -> None:
    block = draft.blocks.pop(name)
    draft.omissions += [
        Omission(block.where(key), key, value, why)
        for key, value in block.items()
        if draft.comments.get((name, key), "") != f"{draft.peer}'s default"
    ]


def _complete_rows(draft: StageDraft) -> None:
    """Nothing is cut: what is too long leaves by whole turns or whole, and bad rows are counted, as no peer stops."""
    turns = draft.kind.rows == "conversations"
    draft.put("rows", "on_too_long", "drop_turns" if turns else "drop", "nothing is cut")
    draft.put("rows", "on_bad_row", "reject", "counted, and listed in rejects.jsonl")
    if turns:
        draft.put("rows", "train_on", "assistant")


def _complete_evaluation(draft: StageDraft) -> None:
    """No evaluation without rows for it."""
    train = draft.block("train")
    share = draft.blocks["rows"].get("eval_fraction")
    if share is not None and (not share or draft.eval_sources):
        del draft.blocks["rows"]["eval_fraction"]
        share = None
    if share or draft.eval_sources:
        if draft.evaluation != "no":
            draft.put("train", "eval_strategy", draft.evaluation, f"as {draft.peer} does")
        return
    if not draft.kind.rows:
        return
    for key in (*EVALUATION, GREATER):
        if key in train:
            why = "The config holds no rows out: write `rows: {eval_fraction: …}` to evaluate."
            value, mark = train.pop(key), train.marks[key]
            if key == "eval_strategy" and value == "no":
                continue
            draft.omissions.append(Omission(str(mark), key, value, why))


# The chain


def _link(drafts: Sequence[StageDraft], problems: Problems) -> Block:
    """The recipe as a mapping whose keys remember the lines of the configs."""
    first = drafts[0]
    tree = Block({}, {}, first.mark)
    if first.model:
        tree.put("model", first.model if len(first.model) > 1 else first.model["path"], first.model.marks["path"])
    template = next((draft.template for draft in drafts if draft.template), None)
    if template:
        tree.put("chat_template", *template)
    seed = next((draft.seed for draft in drafts if draft.seed), None)
    if seed:
        tree.put("seed", *seed)
    stages = Items([], [], first.mark)
    policy = reward = ""
    adapter: StageDraft | None = None
    for draft in drafts:
        name = _free_name(draft.kind_name, [stage.get("name", stage["kind"]) for stage in stages])
        if adapter and draft.kind.init:
            _go_on_with_adapter(draft, adapter, policy)
        stages.append(_stage(draft, name, policy, reward, problems))
        stages.marks.append(draft.mark)
        if draft.kind.leaves_weights:
            policy, reward = (policy, name) if "reward_model" in draft.kind.leaves else (name, reward)
        if "model" in draft.kind.leaves:
            adapter = draft if draft.trains_adapter else None
    tree.put("stages", stages, first.mark)
    return tree


def _go_on_with_adapter(draft: StageDraft, parent: StageDraft, name: str) -> None:
    """A stage that starts from an adapter trains that very one, on the base it was trained on."""
    for block in ("lora", "quantization"):
        values, parents = draft.block(block), parent.blocks.get(block)
        del draft.blocks[block]
        for key, value in values.items():
            if parents is None or parents.get(key) != value:
                why = f"It goes on with ${name}'s adapter, on the base of that."
                draft.omissions.append(Omission(values.where(key), key, value, why))
        if parents is not None:
            draft.blocks[block] = parents
            draft.comments.update({place: text for place, text in parent.comments.items() if place[0] == block})


def _free_name(kind: str, names: Sequence[str]) -> str:
    number = 1 + sum(name == kind or name.startswith(f"{kind}-") for name in names)
    return kind if number == 1 else f"{kind}-{number}"


def _stage(draft: StageDraft, name: str, policy: str, reward: str, problems: Problems) -> Block:
    stage = Block({}, {}, draft.mark)

    def put(key: str, value: Any) -> None:
        stage.put(key, value, draft.mark)

    put("kind", draft.kind_name)
    if name != draft.kind_name:
        put("name", name)
    if policy and draft.kind.init:
        put("init", f"${policy}")
    if objective := next(iter(draft.kind.objectives), None):
        if reward:
            put("inputs", Block({objective: f"${reward}"}, {objective: draft.mark}, draft.mark))
        elif "reward" not in draft.blocks:
            what = "it learns from rewards, and nothing gives any"
            fix = "Import the reward model's config with it: ft import reward.yaml THIS.yaml."
            problems.add(str(draft.mark), what, fix)
    put("data", Items(list(draft.sources), [source.mark for source in draft.sources], draft.mark))
    if draft.eval_sources:
        put("eval_data", Items(list(draft.eval_sources), [source.mark for source in draft.eval_sources], draft.mark))
    for block in draft.kind.blocks:
        if block in draft.blocks and (draft.blocks[block] or block == "lora"):
            stage.put(block, draft.blocks[block], draft.blocks[block].mark)
    return stage

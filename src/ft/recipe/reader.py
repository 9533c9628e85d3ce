"""From a recipe's YAML to checked values. `read` reports every problem at once.

References (`$stage`) may only point up, so there is no cycle to find.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.bounds import is_finite
from ft.errors import Problems, UserError
from ft.hub import exists, expand, is_folder, local_path
from ft.recipe.aliases import ALIASES
from ft.recipe.check import Owner, Verdicts, check, check_secrets, choose, rename_old_keys, suggest, value_text
from ft.recipe.engine import LOCAL, EngineOptions
from ft.recipe.kind import ARTIFACTS, Artifact, Kind, find_stand_in
from ft.recipe.merge import read_tree, recipe_name, stage_name
from ft.recipe.place import TOP, Place, place_of
from ft.recipe.rules import (
    check_decoding,
    check_global_batch,
    check_shares,
    notice_compute_dtype,
    notice_untested_reward_models,
)
from ft.recipe.types import FOLDER_NAME, STAGE_KEYS, ModelSource, Recipe, RecipeKeys, Stage, reference
from ft.recipe.unroll import Unroller
from ft.recipe.yaml import Block, Items, in_file_order

TEMPLATES = Path(__file__).parent.parent / "templates"
RECIPE, MODEL, SOURCE, ENGINE = map(
    Owner,
    (
        *("ft.recipe.types:RecipeKeys", "ft.recipe.types:ModelSource", "ft.data.sources.read:Source"),
        "ft.recipe.engine:EngineOptions",
    ),
)
RECIPE_KEYS = {field.name for field in fields(RecipeKeys)}


def read(path: Path, kinds: Mapping[str, Kind], sets: Sequence[str] = (), verdicts: Verdicts | None = None) -> Recipe:
    """The checked recipe. Raises UserError with every problem of it, each `file:line: what. fix`."""
    problems = Problems()
    try:
        tree = read_tree(path, sets, problems)
        recipe = RecipeReader(path, kinds, problems, verdicts).recipe(tree)
    except UserError as error:  # nothing more can be read
        problems += error.problems
    in_file_order(problems, path).raise_any()
    return recipe


def check_tree(tree: Block, path: Path, kinds: Mapping[str, Kind], verdicts: Verdicts | None = None) -> Recipe:
    """The checked recipe of a mapping that was read elsewhere than from a recipe's file. Raises UserError as `read`."""
    problems = Problems()
    recipe = RecipeReader(path, kinds, problems, verdicts).recipe(tree)
    in_file_order(problems, path).raise_any()
    return recipe


def _without_stages(tree: Block) -> Block:
    """The recipe's own keys; its stages are checked one by one, and change too often to be remembered with them."""
    stages = tree.get("stages")
    top = Block(dict(tree), dict(tree.marks), tree.mark)
    if isinstance(stages, Items):
        top["stages"] = Items([], [], stages.mark)
    return top


class RecipeReader:
    """Carries what every check needs: the kinds there are, and where problems and notices are collected."""

    def __init__(self, path: Path, kinds: Mapping[str, Kind], problems: Problems, verdicts: Verdicts | None):
        self.path, self.kinds, self.problems, self.verdicts = path, kinds, problems, verdicts
        self.notices: list[str] = []
        self.base: ModelSource | None = None  # the recipe's model
        self.names: list[str] = []  # of all stages, right or wrong
        self.names_above: list[str] = []  # of those above the one that is read

    def check(self, owner: Owner, block: Block, name: str) -> dict[str, Any]:
        return check(owner, block, name, self.problems, self.notices, self.verdicts)

    def recipe(self, tree: Block) -> Recipe:
        if check_secrets(tree, self.problems):
            self.verdicts = None
        values = self.check(RECIPE, self.without_misplaced(_without_stages(tree)), "recipe")
        tree = rename_old_keys(tree, "recipe", Problems(), [])  # announced by the check above
        self.base = model = self.model(tree)
        stages: list[Stage] = []
        unroller = Unroller(self.check, self.renamed, self.problems)
        entries = tree.get("stages")
        if isinstance(entries, Items):
            entries = unroller.unroll(entries)
            present = [s for s in entries if not (isinstance(s, Block) and s.get("skip") is True)]
            self.names = [stage_name(stage) for stage in present]
            for place, stage in enumerate(entries):
                if isinstance(stage, Block):
                    reported = len(self.problems)
                    stages += [] if self.leaves_out(stage) else self.stage(stage, stages)
                    if unroller.repeats(stage_name(stage)):  # written once, and reported once, in round 1
                        self.drop_repeats(reported)
                    self.names_above.append(stage_name(stage))
                else:
                    self.problems.add(entries.where(place), "a stage is a mapping", "Write `- kind: sft` and its keys.")
            if not entries:
                self.problems.add(tree.where("stages"), "the recipe has no stages", "Write `- kind: sft` and its keys.")
        if tree.get("model") is None and any(s.kind.init and s.init is None and s.model is None for s in stages):
            self.problems.add(str(tree.mark), "no model to start from", "Write `model: path-or-hub-id` at the top.")
        return Recipe(
            name=recipe_name(self.path, values.get("name")),
            file=self.path,
            model=model,
            chat_template=self.template(tree, values.get("chat_template")),
            seed=values.get("seed", 1),
            stages=tuple(stages),
            notices=(*self.notices, *notice_untested_reward_models(stages)),
            skipped=tuple(name for name in self.names_above if name not in self.names),
            engine=self.engine(tree),
            rounds=tuple(unroller.rounds),
        )

    def engine(self, tree: Block) -> EngineOptions:
        """`engine: ray` is short for `engine: {kind: ray}`."""
        block = tree.get("engine")
        if isinstance(block, str):
            block = Block({"kind": block}, {"kind": tree.marks.get("engine", tree.mark)}, tree.mark)
        if not isinstance(block, Block):
            return LOCAL
        reported = len(self.problems)
        values = self.check(ENGINE, block, "engine")
        return EngineOptions(**values) if len(self.problems) == reported else LOCAL

    def without_misplaced(self, tree: Block) -> Block:
        """Without the keys that belong into a block, each a problem that says into which."""
        for key in [key for key in tree if key not in ALIASES[TOP] and key not in RECIPE_KEYS]:
            places = (place_of(key, kind) for kind in self.kinds.values() if kind.trains)
            if place := next((place for place in places if isinstance(place, Place)), None):
                self.problems.add(tree.where(key), f"recipe has no key '{key}'", str(place))
                del tree[key]
        return tree

    def model(self, tree: Block) -> ModelSource | None:
        block = tree.get("model")
        if isinstance(block, str):
            block = Block({"path": block}, {"path": tree.marks.get("model", tree.mark)}, tree.mark)
        if not isinstance(block, Block):
            return None
        values = self.check(MODEL, block, "model")
        if not isinstance(values.get("path"), str):
            return None
        path = self.local(block, "path", values["path"])
        if path and not exists(path / artifacts.CONFIG):
            self.problems.add(block.where("path"), f"no model in {path}", self.relative(block, "path"))
        if "/" in str(values.get("attn_implementation")):
            what = f"attn_implementation '{values['attn_implementation']}' is code from the Hub, which ft does not run"
            self.problems.add(block.where("attn_implementation"), what, "Write eager, sdpa or flash_attention_2.")
        values["path"] = str(path) if path else values["path"]
        try:
            return ModelSource(**values)
        except ValueError:  # `check` has said so, at the key's line
            return None

    def own_model(self, block: Block) -> ModelSource | None:
        """The model that a stage names itself; where it stands beside `init:`, or is no model, a problem."""
        written = block.get("model")
        if written is not None and not isinstance(written, (str, Block)):
            what = f"model is {value_text(written)}"
            self.problems.add(block.where("model"), what, "Write a path, a Hub id or `{path: …}`.")
        if written and block.get("init"):
            what = "model and init are both written, and a stage starts from one"
            self.problems.add(block.where("model"), what, "Keep one.")
        return self.model(block)

    def template(self, tree: Block, name: str | None) -> str | None:
        """A template's file, made absolute; a shipped name or Jinja text stays as written."""
        if not name or "{{" in name or "{%" in name:
            self.check_template(tree, name or "")
            return name
        if name.endswith((".jinja", ".j2")):
            path = expand(tree.folder("chat_template"), name).resolve()
            if not exists(path):
                what, fix = f"no template {path}", self.relative(tree, "chat_template")
                self.problems.add(tree.where("chat_template"), what, fix)
            else:
                self.check_template(tree, path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "")
            return str(path)
        shipped = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
        if name not in shipped:
            hint = f"Did you mean '{near[0]}'?" if (near := difflib.get_close_matches(name, shipped, n=1)) else ""
            fix = hint or f"There are: {', '.join(shipped)}; or name a .jinja file."
            self.problems.add(tree.where("chat_template"), f"no template '{name}'", fix)
        return name

    def check_template(self, tree: Block, text: str) -> None:
        """Add what makes the text no template, before rows are there to render."""
        from ft.recipe.template import template_fault  # jinja2, which most recipes do not need for a plan

        if text and (fault := template_fault(text)):
            self.problems.add(tree.where("chat_template"), f"chat_template is no template: {fault}", "Fix it.")

    def local(self, block: Block, key: str, value: str) -> Path | None:
        """The file or folder meant, relative to the recipe that wrote it; None for a Hub id."""
        path = local_path(value, block.folder(key))
        return path.resolve() if path else None

    def relative(self, block: Block, key: str) -> str:
        """What a path that leads nowhere is relative to."""
        from_file = block.marks.get(key, block.mark).line
        return "The path is relative to " + ("the recipe's file." if from_file else "the folder you are in.")

    def stage(self, block: Block, above: list[Stage]) -> list[Stage]:
        """The stage, or nothing when its kind is unknown (what else is wrong with it is still reported)."""
        where, name = block.where("kind"), stage_name(block)
        kind = None
        if "kind" in block:
            kind = self.kind(block["kind"], where)
        else:
            fix = f"Write `kind:`, one of {', '.join(self.kinds)}."
            self.problems.add(block.where(), "this stage has no kind", fix)
        if name and not re.fullmatch(FOLDER_NAME, name) and "name" in block:
            self.problems.add(block.where("name"), f"'{name}' cannot name a folder", "Use letters, digits, - and _.")
        if any(s.name == name for s in above):
            self.problems.add(block.where("name"), f"two stages are called '{name}'", "Give one a `name:` of its own.")
        read: dict[str, Any] = {
            "model": self.own_model(block),
            "init": self.init(block, above, kind),
            "inputs": self.inputs(block, above, kind),
            "data": self.sources(block, "data", above),
            "eval_data": self.sources(block, "eval_data", above),
            "require": self.require(block),
            "global_batch": check_global_batch(block, kind is None or kind.trains, self.problems),
        }
        if kind is None:
            return []
        self.keys(block, kind)
        blocks = self.blocks(block, kind)
        self.notices += notice_compute_dtype(block, kind, blocks)
        check_decoding(block, self.problems)
        return [Stage(name, block["kind"], kind, where, blocks=blocks, **read)]

    def kind(self, name: Any, where: str) -> Kind | None:
        """The kind of that name; for a method without one, the problem names the kind nearest to it by meaning."""
        if isinstance(name, str) and name not in self.kinds and (found := find_stand_in(self.kinds, name)):
            nearest, stand_in = found
            self.problems.add(where, f"no stage kind '{name}'", stand_in.fix(nearest))
            return None
        return choose(self.kinds, name, "stage kind", where, self.problems)

    def drop_repeats(self, start: int) -> None:
        """Of the problems from `start` on, drop those at a place that has one already."""
        places = {problem.where for problem in self.problems[:start]}
        self.problems[start:] = [problem for problem in self.problems[start:] if problem.where not in places]

    def renamed(self, block: Block) -> Block:
        """The stage under its present keys; once for each that is written, however many rounds it is made in."""
        return rename_old_keys(block, "stage", self.problems, self.notices)

    def leaves_out(self, block: Block) -> bool:
        """Whether `skip: true` leaves the stage out: how a recipe that extends another drops one of its stages."""
        skip = block.get("skip", False)
        if not isinstance(skip, bool):
            self.problems.add(block.where("skip"), f"skip is '{skip}'", "Write true or false.")
        elif skip and "kind" not in block:
            what = f"no stage '{stage_name(block)}' to leave out"
            self.problems.add(block.where("skip"), what, "Name one of the recipe this one extends.")
        return skip is True

    def keys(self, block: Block, kind: Kind) -> None:
        allowed = [*STAGE_KEYS, *kind.blocks]
        for key in block:
            if key not in allowed:
                place = place_of(key, kind)
                hint = place.within_stage(key) if isinstance(place, Place) else suggest(key, allowed)
                self.problems.add(block.where(key), f"a stage of kind '{block['kind']}' has no key '{key}'", hint)
        for key in kind.required:
            self.needs(block, key)
        if kind.reads_data and not block.get("data"):
            self.problems.add(block.where("kind"), f"kind '{block['kind']}' needs data", "Write `data: [{path: …}]`.")
        for key, reads in (
            ("data", kind.reads_data),
            ("eval_data", kind.reads_eval_data),
            ("init", kind.init is not None),
            ("model", kind.init is not None),
        ):
            if block.get(key) and not reads:
                self.problems.add(block.where(key), f"kind '{block['kind']}' reads no {key}", "Remove the key.")
        for entry in [entry for name in ("data", "eval_data") for entry in block.get(name) or ()]:
            if isinstance(entry, Block) and entry.get("images") is not None and not kind.reads_pictures:
                what = f"kind '{block['kind']}' reads text alone, and the source has pictures"
                self.problems.add(entry.where("images"), what, "Name rows without pictures.")
        inputs = block.get("inputs")
        if isinstance(inputs, Block):
            for key in [k for k in inputs if k not in kind.inputs]:
                hint = suggest(key, [*kind.inputs]) if kind.inputs else "It reads none."
                self.problems.add(inputs.where(key), f"kind '{block['kind']}' reads no input '{key}'", hint)

    def needs(self, block: Block, required: str) -> None:
        """A block, or a key "block.key" under its present name, that a kind cannot do without."""
        outer, _, inner = required.partition(".")
        value = block.get(outer)
        if isinstance(value, Block) and inner:
            present = rename_old_keys(value, outer, Problems(), [])
            if present.get(inner) is None:
                where = value.where(inner) if inner in value else value.where()
                self.problems.add(where, f"{outer}: the key '{inner}' is missing", f"Write `{inner}: …`.")
        elif value is None:
            example = f"{outer}: {{{inner}: …}}" if inner else f"{outer}:"
            what = f"kind '{block['kind']}' needs the block '{outer}'"
            self.problems.add(block.where("kind"), what, f"Write `{example}`.")

    def init(self, block: Block, above: list[Stage], kind: Kind | None) -> str | None:
        artifact = kind.init if kind else None
        return None if block.get("init") is None else self.model_of(block["init"], block.where("init"), above, artifact)

    def inputs(self, block: Block, above: list[Stage], kind: Kind | None) -> dict[str, str]:
        references = block.get("inputs")
        if references is None:
            return {}
        if not isinstance(references, Block):
            self.problems.add(block.where("inputs"), "inputs is a mapping", "Write `inputs: {name: $stage}`.")
            return {}
        expected = kind.inputs if kind else {}
        names = {
            key: self.model_of(v, references.where(key), above, expected.get(key)) for key, v in references.items()
        }
        return {key: name for key, name in names.items() if name}

    def model_of(self, value: object, where: str, above: list[Stage], expected: Artifact | None) -> str | None:
        """The stage above that `value` refers to, which must leave what is `expected`."""
        name = self.stage_above(value, where, above)
        stage = next((s for s in above if s.name == name), None)
        if stage and expected and expected not in stage.kind.leaves:
            scores = "reward_model" in stage.kind.leaves
            fix = "It scores and does not answer; name another." if scores else "Name another."
            self.problems.add(where, f"'{name}' leaves {stage.kind.leaves_words}, not {ARTIFACTS[expected]}", fix)
        return name

    def stage_above(self, value: object, where: str, above: list[Stage]) -> str | None:
        name, names = reference(value), [s.name for s in above]
        choice = f"Above are: {', '.join('$' + n for n in names)}." if names else "There is no stage above."
        if name is None:
            fix = f"Write `${value}`." if value in names else f"Write `$name` of a stage above. {choice}"
            self.problems.add(where, f"{value_text(value)} is not a stage", fix)
        elif name in names:
            return name
        elif name not in self.names:
            self.problems.add(where, f"no stage '${name}' above this one", choice)
        elif name not in self.names_above:  # a stage above that is wrong itself is not reported twice
            self.problems.add(where, f"'${name}' is not above this stage", f"References point up. {choice}")
        return None

    def sources(self, block: Block, key: str, above: list[Stage]) -> tuple[dict[str, Any], ...]:
        value = block.get(key)
        if value is None:
            return ()
        entries = value if isinstance(value, Items) else Items([value], [block.marks[key]], block.marks[key])
        sources = []
        for place, entry in enumerate(entries):
            if isinstance(entry, str):
                entry = Block({"path": entry}, {"path": entries.marks[place]}, entries.marks[place])
            if not isinstance(entry, Block):
                self.problems.add(entries.where(place), "a source is a path or a mapping", "Write `{path: …}`.")
                continue
            values = self.check(SOURCE, entry, "data")
            if isinstance(values.get("path"), str):
                sources.append(values | {"path": self.data_path(entry, values["path"], above)})
        check_shares(entries, block.where(key), self.problems)
        return tuple(sources)

    def data_path(self, entry: Block, value: str, above: list[Stage]) -> str:
        """A path that opens from here, a Hub id or `$stage`; a stage must leave rows, a file must be there."""
        if value.startswith("$"):
            name = self.stage_above(value, entry.where("path"), above)
            stage = next((s for s in above if s.name == name), None)
            if stage and "rows" not in stage.kind.leaves:
                what = f"'{name}' leaves {stage.kind.leaves_words}, not rows"
                self.problems.add(entry.where("path"), what, "Name another.")
            return value
        path = self.local(entry, "path", value)
        return value if path is None else self.file(entry, "path", path)

    def file(self, block: Block, key: str, path: Path) -> str:
        """A path that opens from here; where nothing is, a problem that names what is near."""
        cwd = Path.cwd()
        name = str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)
        if not exists(path):
            beside = [p.name for p in path.parent.iterdir()] if is_folder(path.parent) else []
            near = difflib.get_close_matches(path.name, beside, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else self.relative(block, key)
            self.problems.add(block.where(key), f"no file {name}", hint)
        return name

    def block_files(self, block: Block, owner: Owner, values: Mapping[str, Any]) -> dict[str, str]:
        """The keys of a block that name files, relative to the recipe that wrote them."""
        files = {key: values[key] for key in owner.files if isinstance(values.get(key), str)}
        paths = {key: expand(block.folder(key), value).resolve() for key, value in files.items()}
        return {key: self.file(block, key, path) for key, path in paths.items()}

    def blocks(self, block: Block, kind: Kind) -> dict[str, dict[str, Any]]:
        checked: dict[str, dict[str, Any]] = {}
        for name, owner in kind.blocks.items():
            values_block = block.get(name)
            if values_block is not None and not isinstance(values_block, Block):
                self.problems.add(block.where(name), f"{name} is a mapping", f"Write `{name}: {{key: value}}`.")
            elif values_block is not None or name in kind.defaults:
                defaults = dict(kind.defaults.get(name, {}))
                marks = dict.fromkeys(defaults, block.mark)
                own_values = values_block if values_block is not None else Block({}, {}, block.mark)
                whole = Block({**defaults, **own_values}, {**marks, **own_values.marks}, own_values.mark)
                values = self.check(owner, whole, name)
                checked[name] = {**values, **self.block_files(whole, owner, values)}
        return checked

    def require(self, block: Block) -> dict[str, float]:
        minimums = block.get("require")
        if minimums is None:
            return {}
        if not isinstance(minimums, Block):
            self.problems.add(block.where("require"), "require is a mapping", "Write `require: {metric: least}`.")
            return {}
        for key, value in minimums.items():
            if isinstance(value, bool) or not is_finite(value):
                self.problems.add(
                    minimums.where(key), f"require.{key} is {value_text(value)}", "Write the least number allowed."
                )
        return dict(minimums)

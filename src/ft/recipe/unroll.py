"""Makes ordinary stages of `rounds:` (see `recipe.rounds`), each with the place where it was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ft.errors import Problems
from ft.recipe.check import Owner, suggest, value_text
from ft.recipe.merge import stage_name
from ft.recipe.rounds import Rounds, Until
from ft.recipe.types import reference
from ft.recipe.yaml import Block, Items, Mark

Pool = Literal["all", "last"]
Check = Callable[[Owner, Block, str], dict[str, Any]]
Resolve = Callable[[str, Block, str, Pool | None], list[str]]
"""(name after the $, block and key that write it, pool) → the stages meant; several only where the pool is all."""

ROUNDS, UNTIL = Owner("ft.recipe.rounds:RoundsKeys"), Owner("ft.recipe.rounds:Until")


class Unroller:
    """Makes ordinary stages of `rounds:`. `rounds` are those unrolled so far; references below them mean the last."""

    def __init__(self, check: Check, rename: Callable[[Block], Block], problems: Problems):
        self.check, self.rename, self.problems = check, rename, problems
        self.rounds: list[Rounds] = []
        self.outside: set[str] = set()

    def unroll(self, stages: Items) -> Items:
        """Every stage of the recipe, those in rounds once for each round; each keeps the place where it was written."""
        unrolled = Items([], [], stages.mark)
        self.outside = {
            stage_name(stage) for stage in stages if isinstance(stage, Block) and not _is_skipped(stage)
        } - {"rounds"}
        for stage, mark in zip(stages, stages.marks, strict=True):
            if not isinstance(stage, Block):
                inner = [stage]
            elif "rounds" in stage:
                inner = self._rounds(stage)
            else:
                inner = [self._resolved(self.rename(stage), self._outside)]
            unrolled += inner
            unrolled.marks += [mark] * len(inner)
        return unrolled

    def repeats(self, stage: str) -> bool:
        """Whether the stage is that of a later round: what is wrong with it was reported in round 1."""
        return any((one.number(stage) or 1) > 1 for one in self.rounds)

    def _rounds(self, item: Block) -> list[Block]:
        """The stages of one `rounds:`, numbered; none where something is wrong with it."""
        before = len(self.problems)
        for key in [key for key in item if key != "rounds"]:
            fix = "Write `- rounds: {times: …, stages: […]}`, and the key inside it or at its stages."
            self.problems.add(item.where(key), f"'{key}' stands beside rounds", fix)
        block = item["rounds"]
        if not isinstance(block, Block):
            self.problems.add(item.where("rounds"), "rounds is a mapping", "Write `rounds: {times: 3, stages: […]}`.")
            return []
        values, until, stages = self._keys(block), self._until(block), self._stages(block)
        if len(self.problems) > before or not stages:  # a recipe that extends this one may skip every stage of a round
            return []
        rounds = Rounds(item.where("rounds"), values["times"], tuple(map(stage_name, stages)), until)
        self._check_names(rounds, block)
        first = self._before_round_1(rounds, block, stages)
        numbered = []
        for number in range(1, rounds.times + 1):
            for place, stage in enumerate(stages):
                inner = self._resolved(stage, self._inside(rounds, first, number, place))
                inner.put("name", rounds.stage(rounds.names[place], number), _name_mark(stage))
                numbered.append(inner)
        self.rounds.append(rounds)
        return numbered

    def _keys(self, block: Block) -> dict[str, Any]:
        """The block's own keys; its stages are checked one by one."""
        own = Block(dict(block), dict(block.marks), block.mark)
        if isinstance(stages := block.get("stages"), Items):
            own["stages"] = Items([], [], stages.mark)
            if not stages:
                self.problems.add(block.where("stages"), "a round has no stages", "Write `- kind: sft` and its keys.")
        return self.check(ROUNDS, own, "rounds")

    def _until(self, block: Block) -> Until | None:
        rule, before = block.get("until"), len(self.problems)
        if not isinstance(rule, Block):
            return None
        values = self.check(UNTIL, rule, "until")
        return Until(**values) if len(self.problems) == before else None

    def _stages(self, block: Block) -> list[Block]:
        """The stages of a round under their present keys, without those that `skip: true` leaves out."""
        entries, stages = block.get("stages"), list[Block]()
        if not isinstance(entries, Items):
            return []
        for place, stage in enumerate(entries):
            if not isinstance(stage, Block):
                self.problems.add(entries.where(place), "a stage is a mapping", "Write `- kind: sft` and its keys.")
            elif "rounds" in stage:
                self.problems.add(stage.where("rounds"), "rounds inside rounds", "Write them one after the other.")
            elif not _is_skipped(stage):
                stages.append(self.rename(stage))
        return stages

    def _check_names(self, rounds: Rounds, block: Block) -> None:
        for name in dict.fromkeys(rounds.names):
            if rounds.names.count(name) > 1:
                self.problems.add(block.where("stages"), f"two stages of a round are called '{name}'", NAME_IT)
            if name in self.outside:
                what = f"'{name}' is the name of a stage outside the rounds too"
                self.problems.add(block.where("stages"), what, NAME_IT)
            if self._made_in_rounds(name):
                self.problems.add(block.where("stages"), f"'{name}' is made in rounds above too", NAME_IT)
        if rounds.until and rounds.until.stage not in rounds.names:
            what = f"until reads '{rounds.until.metric}', and the round has no stage '{rounds.until.stage}'"
            fix = suggest(rounds.until.stage, [*rounds.names])
            self.problems.add(block["until"].where("metric"), what, fix)

    def _before_round_1(self, rounds: Rounds, block: Block, stages: Sequence[Block]) -> dict[str, str]:
        """Name of a stage of the round → the stage above that stands for it until round 1 has made it."""
        references = block.get("init")
        if not isinstance(references, Block):
            return {}
        early = {
            name for place, stage in enumerate(stages) for name in _references(stage) if name in rounds.names[place:]
        }
        first = {}
        for name, value in references.items():
            target = reference(value)
            if name not in rounds.names:
                what = f"init names '{name}', which no stage of the round is called"
                self.problems.add(references.where(name), what, suggest(name, [*rounds.names]))
            elif name not in early:  # else it would be ignored in silence
                what = f"no stage asks for '${name}' before round 1 makes it"
                self.problems.add(references.where(name), what, "Remove it from init.")
            elif target is None:
                what = f"{value_text(value)} is not a stage"
                self.problems.add(references.where(name), what, "Write `$name` of a stage above.")
            else:
                first[name] = self._outside(target, references, name, None)[-1]
        return first

    def _made_in_rounds(self, name: str) -> Rounds | None:
        return next((one for one in self.rounds if name in one.names), None)

    def _inside(self, rounds: Rounds, first: Mapping[str, str], number: int, place: int) -> Resolve:
        """References of the stage at `place` in round `number`: to this round where they point up, else to the round
        before, and in round 1 to what `init:` says."""

        def resolve(name: str, block: Block, key: str, pool: Pool | None) -> list[str]:
            if name not in rounds.names:
                return self._outside(name, block, key, pool)
            newest = number if rounds.names.index(name) < place else number - 1
            stages = rounds.stages(name, newest)
            if key == "path" and pool is None:
                fix = "Write `pool: all`, the rows of every round so far, or `pool: last`, the newest alone."
                self.problems.add(block.where(key), f"'${name}' leaves rows in every round", fix)
            elif key == "path" and not stages:
                return [first[name]] if name in first else []  # before round 1 the pool is empty
            elif not stages and name not in first:
                fix = f"Write `init: {{{name}: $stage}}` in rounds, with a stage above them."
                self.problems.add(block.where(key), f"in round 1 nothing is called '${name}' yet", fix)
            stages = stages or [first.get(name, name)]
            return stages if pool == "all" else stages[-1:]

        return resolve

    def _outside(self, name: str, block: Block, key: str, pool: Pool | None) -> list[str]:
        """References behind the rounds: a name stands for what the last round made."""
        if rounds := self._made_in_rounds(name):
            stages = rounds.stages(name)
            return stages if pool == "all" else stages[-1:]
        if pool:
            self.problems.add(block.where("pool"), f"'${name}' is made once, not in rounds", "Remove `pool:`.")
        if early := next((one for one in self.rounds if one.until and one.number(name)), None):
            what = f"'${name}' may not be needed, since the rounds at {early.where} have `until:`"
            fix = f"Write `${name.rpartition('-')[0]}`: what the last round made."
            self.problems.add(block.where(key), what, fix)
        return [name]

    def _resolved(self, stage: Block, resolve: Resolve) -> Block:
        """A copy of the stage whose `$names` are those of unrolled stages."""
        copy = stage.copy()
        if name := reference(copy.get("init")):
            copy["init"] = f"${resolve(name, copy, 'init', None)[-1]}"
        if isinstance(inputs := copy.get("inputs"), Block):
            for key, value in inputs.items():
                if name := reference(value):
                    inputs[key] = f"${resolve(name, inputs, key, None)[-1]}"
        for key in ("data", "eval_data"):
            if copy.get(key) is not None:
                copy[key] = self._sources(copy[key], copy.marks[key], resolve)
        return copy

    def _sources(self, value: Any, mark: Mark, resolve: Resolve) -> Items:
        entries = value if isinstance(value, Items) else Items([value], [mark], mark)
        resolved = Items([], [], entries.mark)
        for entry, at in zip(entries, entries.marks, strict=True):
            sources = self._source(entry, at, resolve)
            resolved += sources
            resolved.marks += [at] * len(sources)
        return resolved

    def _source(self, source: Any, mark: Mark, resolve: Resolve) -> list[Any]:
        """The source itself, or one for each round where `pool: all` takes the rows of several."""
        block = Block({"path": source}, {"path": mark}, mark) if isinstance(source, str) else source
        if not isinstance(block, Block):
            return [source]
        pool, name = block.pop("pool", None), reference(block.get("path"))
        if pool not in (None, "all", "last"):
            self.problems.add(block.where("pool"), f"pool is {value_text(pool)}", "Write all or last.")
            pool = "last"
        if pool and name is None:
            what = "pool chooses among rounds, and the path is no `$stage`"
            self.problems.add(block.where("pool"), what, "Remove `pool:`.")
        if name is None:
            return [source]
        return [_with_path(block, f"${one}") for one in resolve(name, block, "path", pool)]


NAME_IT = "Give one a `name:` of its own."


def _is_skipped(stage: Block) -> bool:
    return stage.get("skip") is True


def _name_mark(stage: Block) -> Mark:
    return stage.marks.get("name", stage.marks.get("kind", stage.mark))


def _with_path(source: Block, path: str) -> Block:
    copy = source.copy()
    copy["path"] = path
    return copy


def _references(stage: Block) -> list[str]:
    """Every name after a `$` that the stage writes."""
    inputs = stage.get("inputs")
    values = [stage.get("init"), *(inputs.values() if isinstance(inputs, Block) else ())]
    for key in ("data", "eval_data"):
        entries = stage.get(key)
        for entry in entries if isinstance(entries, Items) else [entries]:
            values.append(entry.get("path") if isinstance(entry, Block) else entry)
    return [name for name in map(reference, values) if name]

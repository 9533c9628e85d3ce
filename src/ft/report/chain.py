"""The chain as a picture: a row each stage, lines from what it is made from, in as few lanes as there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ft.report.run import ReportedStage
from ft.report.settings import short_path

LANE, ROW, EDGE = 18, 60, 14


@dataclass(frozen=True)
class Edge:
    """From one row to a later one, down along `lane`; the `main` one is what the stage starts from."""

    start: int
    end: int
    lane: int
    main: bool


@dataclass(frozen=True)
class Chain:
    """Stages in order, each in its lane. The first rows are `models`, those that stages start from: most often one."""

    names: tuple[str, ...]
    lanes: tuple[int, ...]
    edges: tuple[Edge, ...]
    states: tuple[str, ...]
    leaves: tuple[str, ...]
    models: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return 2 * EDGE + LANE * max([*self.lanes, *(edge.lane for edge in self.edges)], default=0)

    @property
    def height(self) -> int:
        return ROW * len(self.names)

    @property
    def description(self) -> str:
        sentences = []
        for row, name in enumerate(self.names):
            parents = [self.names[edge.start] for edge in self.edges if edge.end == row]
            sentences.append(f"{name} from {' and '.join(parents)}." if parents else f"{name}.")
        return " ".join(sentences)


class _Lanes:
    """Which cells (lane, row) are taken, and by the lines of which row; lines of one row may share cells."""

    def __init__(self) -> None:
        self.taken: dict[tuple[int, int], int] = {}

    def free(self, lane: int, first: int, last: int, owner: int) -> bool:
        return all(self.taken.get((lane, row), owner) == owner for row in range(first, last + 1))

    def first(self, first: int, last: int, owner: int, start: int = 0) -> int:
        lane = start
        while not self.free(lane, first, last, owner):
            lane += 1
        return lane

    def take(self, lane: int, first: int, last: int, owner: int) -> None:
        for row in range(first, last + 1):
            self.taken[(lane, row)] = owner


def chain(stages: Sequence[ReportedStage]) -> Chain:
    """Lanes of stages and lines: a model goes on in the lane of what it starts from, what only reads stands beside.

    The models that stages start from come first, most often one.
    """
    models = list(dict.fromkeys(stage.model for stage in stages if stage.model))
    base = [(short_path(model), "done", "model") for model in models]
    nodes = [*base, *((stage.name, stage.state, stage.leaves) for stage in stages)]
    rows = {stage.name: place for place, stage in enumerate(stages, len(base))}
    parents = [_parents(stage, rows, models) for stage in stages]
    cells, lanes, edges = _Lanes(), list(range(len(base))), list[Edge]()
    for row in range(len(base)):
        cells.take(lanes[row], row, row, -1 - row)
    for row, row_parents in enumerate(parents, len(base)):
        lane, line = _place(row, row_parents, nodes[row][2], lanes, cells)
        lanes.append(lane)
        for place, (parent, main) in enumerate(row_parents):
            way = line if place == 0 else _way(parent, row, lanes, cells)
            cells.take(way, parent + 1, row - 1, parent)
            edges.append(Edge(parent, row, way, main))
        cells.take(lane, row, row, -1 - row)
    names, states, leaves = zip(*nodes, strict=True) if nodes else ((), (), ())
    model_names = tuple(name for name, *_ in base)
    return Chain(tuple(names), tuple(lanes), tuple(edges), tuple(states), tuple(leaves), model_names)


def _parents(stage: ReportedStage, rows: dict[str, int], models: Sequence[str]) -> list[tuple[int, bool]]:
    """(row, whether the stage starts from it), what it starts from first."""
    parents = [(rows[name], role == "init") for name, role in stage.links if name in rows]
    if stage.model:
        parents.insert(0, (models.index(stage.model), True))
    return sorted(dict(reversed(parents)).items(), key=lambda pair: (not pair[1], pair[0]))


def _place(
    row: int, parents: Sequence[tuple[int, bool]], leaves: str, lanes: Sequence[int], cells: _Lanes
) -> tuple[int, int]:
    """The lane of the stage, and the lane its main line comes down."""
    if not parents:
        lane = cells.first(row, row, row)
        return lane, lane
    parent = parents[0][0]
    trunk = lanes[parent]
    if not cells.free(trunk, parent + 1, row - 1, parent):
        lane = cells.first(parent + 1, row, parent, 1)
        return lane, lane
    goes_on = leaves == "model" and cells.free(trunk, row, row, parent)
    return (trunk if goes_on else cells.first(row, row, row, trunk + 1)), trunk


def _way(parent: int, row: int, lanes: Sequence[int], cells: _Lanes) -> int:
    """The lane a further line comes down: that of where it begins, or the first that is free all along."""
    if cells.free(lanes[parent], parent + 1, row - 1, parent):
        return lanes[parent]
    return cells.first(parent + 1, row - 1, parent, 1)


def draw_chain(layout: Chain) -> Markup:
    """The lines and marks as SVG; names and numbers stand beside it as text."""
    start = Markup(
        '<svg class="lanes" role="img" viewBox="0 0 {0} {1}" width="{0}" height="{1}" aria-labelledby="lanes-t" '
        'aria-describedby="lanes-d"><title id="lanes-t">The pipeline of stages</title><desc id="lanes-d">{2}</desc>'
    ).format(layout.width, layout.height, layout.description)
    edges = [_edge(layout, edge) for edge in sorted(layout.edges, key=lambda edge: edge.main)]
    marks = [_mark(layout, row) for row in range(len(layout.names))]
    return start + Markup("").join([*edges, *marks]) + Markup("</svg>")


def _x(lane: int) -> int:
    return EDGE + LANE * lane


def _y(row: int) -> int:
    return ROW * row + ROW // 2


def _edge(layout: Chain, edge: Edge) -> Markup:
    """Down the lane, with a bend out of the row above it and one into the row below."""
    x1, x2, x = _x(layout.lanes[edge.start]), _x(layout.lanes[edge.end]), _x(edge.lane)
    y1, y2, bend = _y(edge.start), _y(edge.end), ROW // 2
    way = f"M{x1} {y1}"
    if edge.end == edge.start + 1:
        way += f"C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"
        return Markup('<path d="{}" class="{}"/>').format(way, "edge" if edge.main else "edge aside")
    if x1 != x:
        way += f"C{x1} {y1 + bend} {x} {y1 + bend // 2} {x} {y1 + ROW}"
    if x2 != x:
        way += f"V{y2 - ROW}C{x} {y2 - bend // 2} {x2} {y2 - bend} {x2} {y2}"
    else:
        way += f"V{y2}"
    return Markup('<path d="{}" class="{}"/>').format(way, "edge" if edge.main else "edge aside")


def _mark(layout: Chain, row: int) -> Markup:
    x, y = _x(layout.lanes[row]), _y(row)
    shape, style = layout.leaves[row], f"mark {layout.states[row]}"
    if shape == "rows":
        return Markup('<rect x="{}" y="{}" width="12" height="12" rx="2" class="{}"/>').format(x - 6, y - 6, style)
    if shape == "metrics":
        return Markup('<path d="M{} {}l7 7l-7 7l-7 -7Z" class="{}"/>').format(x, y - 7, style)
    if shape == "reward_model":
        return Markup('<path d="M{} {}l8 13h-16Z" class="{}"/>').format(x, y - 8, style)
    return Markup('<circle cx="{}" cy="{}" r="7" class="{}"/>').format(x, y, style)

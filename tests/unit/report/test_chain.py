"""The chain of stages as a picture: places are computed, names and descriptions are there."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import tiny
from ft.report.chain import chain, draw_chain
from ft.report.page import report_page
from ft.report.run import ReportedStage, Run
from ft.result import Result

FINISHED = tiny.ROOT / "tests" / "data" / "old_runs" / "tiny-chat" / "sft-61806cf09908"


def stage(
    name: str, kind: str, *links: tuple[str, str], model: str | None = None, folder: Path = FINISHED
) -> ReportedStage:
    return ReportedStage(name, kind, Result(folder), name, links, model=model)


CHAIN = (
    stage("sft", "sft", model="base"),
    stage("questions", "evaluate", ("sft", "init")),
    stage("gatt", "gatt", ("sft", "init")),
    stage("gatt-sft", "sft", ("sft", "init"), ("gatt", "data")),
    stage("recall", "consistency", ("gatt-sft", "init"), ("sft", "before")),
    stage("dpo", "dpo", ("sft", "init"), folder=Path("not-made")),
)


def test_models_go_on_in_their_lane_and_what_reads_them_stands_beside():
    found = chain(CHAIN)
    assert dict(zip(found.names, found.lanes, strict=True)) | {"dpo": 0} == {
        "base": 0, "sft": 0, "questions": 1, "gatt": 1, "gatt-sft": 0, "recall": 1, "dpo": 0,
    }  # fmt: skip
    assert found.description.endswith("recall from gatt-sft and sft. dpo from sft.")


def test_no_line_runs_through_a_stage_or_through_a_line_from_elsewhere():
    found = chain(CHAIN)
    taken = {(lane, row): ("stage", row) for row, lane in enumerate(found.lanes)}
    for edge in found.edges:
        for row in range(edge.start + 1, edge.end):
            assert taken.setdefault((edge.lane, row), ("line", edge.start)) == ("line", edge.start)


def test_every_parent_has_its_line():
    found = chain(CHAIN)
    lines = {(found.names[edge.start], found.names[edge.end], edge.main) for edge in found.edges}
    assert lines == {
        ("base", "sft", True), ("sft", "questions", True), ("sft", "gatt", True), ("sft", "gatt-sft", True),
        ("gatt", "gatt-sft", False), ("gatt-sft", "recall", True), ("sft", "recall", False), ("sft", "dpo", True),
    }  # fmt: skip


def test_the_picture_shows_states_and_has_a_name():
    root = ElementTree.fromstring(draw_chain(chain(CHAIN)))
    assert root.find("title").text == "The pipeline of stages"
    assert len(root.findall("*[@class='mark absent']")) == 1
    assert len(root.findall("path[@class='edge aside']")) == 2


def test_a_recipe_without_a_model_to_start_from_has_a_chain_too():
    assert chain((stage("scratch", "scratch"), stage("words", "pretrain", ("scratch", "init")))).lanes == (0, 0)


def test_each_model_that_stages_start_from_is_drawn():
    found = chain(
        (stage("teacher", "sample", model="large"), stage("student", "sft", ("teacher", "data"), model="small"))
    )
    lines = {(found.names[edge.start], found.names[edge.end]) for edge in found.edges}
    assert lines == {("large", "teacher"), ("small", "student"), ("teacher", "student")}


def test_the_list_beside_the_picture_has_a_row_for_each_of_its_own():
    """Two models to start from are two rows, else every stage would stand beside another's mark."""
    run = Run("two", (stage("teacher", "sample", model="large"), stage("student", "sft", model="small")))
    rows = report_page(run).count('<li><span class="first">')
    assert rows == len(chain(run.stages).names) == 4

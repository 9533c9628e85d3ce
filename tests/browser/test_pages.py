"""The pages in a real Chromium: they ask for nothing, fit a phone, print, and can be used without mouse or sight."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Opens = Callable[..., Any]
BOTH = pytest.mark.parametrize("name", ["report", "comparison"])
NAME = "one => one.ariaHidden || one.ariaLabel || one.alt || one.querySelector('title')?.textContent"
EVERY = pytest.mark.parametrize("name", ["report", "comparison", "index"])


@EVERY
def test_a_page_says_no_error_and_asks_for_nothing_but_itself(opened: Opens, pages: dict[str, Path], name: str) -> None:
    page = opened(name)
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:image/")] == [pages[name].as_uri()]
    assert "taken" not in page.title()


@EVERY
def test_a_page_fits_a_phone(opened: Opens, name: str) -> None:
    page = opened(name, width=360)
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = page.evaluate(
        """[...document.querySelectorAll('body *')].filter(one =>
        !one.closest('.scroll, .chain, .skip, .hidden, svg') &&
        one.getBoundingClientRect().right > 361).map(one => one.outerHTML.slice(0, 120))"""
    )
    assert wide == []


def test_drawings_have_the_colours_of_the_screen(opened: Opens) -> None:
    lines = {}
    for scheme in ("light", "dark"):
        line = opened(scheme=scheme).locator("svg.chart .line.c0").first
        lines[scheme] = line.evaluate("one => getComputedStyle(one).stroke")
    assert lines == {"light": "rgb(15, 107, 79)", "dark": "rgb(111, 208, 166)"}


def test_words_of_drawings_can_be_read_on_a_phone_and_stay_inside(opened: Opens) -> None:
    page = opened(width=360)
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    texts = page.locator("svg.chart text").evaluate_all(
        "all => all.map(one => [one.getBoundingClientRect().height, one.getBoundingClientRect().right])"
    )
    assert len(texts) > 100
    assert min(height for height, _ in texts) > 8
    assert max(right for _, right in texts) <= 360


def test_it_prints_on_paper(opened: Opens) -> None:
    page = opened()
    page.emulate_media(media="print")
    assert not page.locator(".skip").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    printed = page.pdf(format="A4")
    assert 3 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page/") <= 40


def test_it_is_dark_where_the_reader_is(opened: Opens) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page = opened(scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shades[scheme] = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
    assert shades["light"] > 700
    assert shades["dark"] < 100


def test_keys_reach_every_link_in_order(opened: Opens) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")  # seen while it has the focus
    wanted = page.locator("#chain ~ * nav a").evaluate_all("all => all.map(one => one.hash)")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.closest('nav') && document.activeElement.hash"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if reached[-1] == wanted[-1]:
            break
    assert [hash for hash in reached if hash] == wanted


def test_a_key_opens_the_data_of_a_chart(opened: Opens) -> None:
    page = opened()
    summary = page.locator("figure summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("figure details table").first.is_visible()


@EVERY
def test_headings_go_down_one_level_at_a_time(opened: Opens, name: str) -> None:
    levels = opened(name).locator("h1, h2, h3, h4").evaluate_all("all => all.map(one => +one.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@BOTH
def test_every_picture_has_a_name_or_says_nothing(opened: Opens, name: str) -> None:
    pictures = opened(name).locator("svg, img").evaluate_all(f"all => all.map({NAME})")
    assert len(pictures) > 10
    assert all(pictures)


def test_a_pointer_over_a_chart_shows_its_values_and_its_table_can_be_saved(opened: Opens, tmp_path: Path) -> None:
    page = opened("report")
    figure = page.locator("#stage-dpo figure").first
    svg = figure.locator("svg.chart")
    box = svg.bounding_box()
    assert box
    svg.hover(position={"x": box["width"] * 349 / 360, "y": box["height"] / 2})  # the last step
    last = figure.locator("tbody tr").last.locator("td").all_text_contents()
    shown = page.locator(".tip").text_content() or ""
    assert page.locator(".tip").is_visible()
    assert all(value in shown for value in last)
    figure.locator("summary").click()
    for name, read in (("CSV", lambda text: next(csv.reader([text.splitlines()[-1]]))), ("JSON", json.loads)):
        with page.expect_download() as download:
            figure.get_by_text(f"Save as {name}").click()
        text = download.value.path().read_text(encoding="utf-8")
        values = read(text) if name == "CSV" else [*read(text)[-1].values()]
        assert values == ["" if value == "·" else value for value in last]


@BOTH
def test_every_link_leads_somewhere(opened: Opens, name: str) -> None:
    is_lost = "one => !one.download && !document.querySelector(one.hash)"
    lost = opened(name).locator("a").evaluate_all(f"all => all.filter({is_lost}).length")
    assert lost == 0


@pytest.mark.parametrize(
    ("name", "scheme", "rules"),
    [
        ("report", "light", None),
        ("comparison", "light", None),
        ("index", "light", None),
        ("report", "dark", "color-contrast"),
    ],
)
def test_axe_finds_nothing(opened: Opens, name: str, scheme: str, rules: str | None) -> None:
    """Contrast, names, roles, order: what can be checked by machine of WCAG 2.2, level AA."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = opened(name, width=700, scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    options = {"resultTypes": ["violations"], **({"runOnly": [rules]} if rules else {})}
    found = axe.Axe().run(page, options=options).response["violations"]
    told = [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found]
    assert told == []


def test_the_list_of_results_is_sorted_by_a_column_and_filtered_by_words(opened: Opens) -> None:
    page = opened("index")
    links = page.locator("td a").evaluate_all("all => all.map(one => one.href)")
    assert {Path(unquote(urlsplit(link).path)).is_file() for link in links} == {True}
    stages = "[...document.querySelectorAll('#results tbody tr:not([hidden])')].map(row => row.cells[1].textContent)"
    there = page.evaluate(stages)
    page.get_by_role("button", name="stage").click()
    assert page.evaluate(stages) == sorted(there)
    page.get_by_role("button", name="stage").click()
    assert page.evaluate(stages) == sorted(there, reverse=True)
    page.get_by_role("searchbox").fill(f"DONE {there[0]}")
    assert page.evaluate(stages) == [there[0]]

"""The report says what ledger and reader say, needs no network, and works in a browser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.report.page import PARTS, render, write_report
from lifelong_edit.report.story import story_of
from lifelong_edit.tracking.budget import Budget
from lifelong_edit.tracking.health import SIGNS
from tests.engine.change.test_budget import ANYTHING
from tests.engine.editors import edited, lived_in

HOSTILE = EditRequest("{} was <b>born</b> in", "<script>alert(1)</script>", "Oran\u2028</script>", id="hostile")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LifelongEditor]:
    """Do not change it: a store that used every verb, one of its facts written to break a page."""
    with lived_in(tmp_path_factory.mktemp("report") / "store") as made:
        made.apply([HOSTILE], reason="</td><img src=x onerror=alert(2)>", budget=Budget(every=1, limits=ANYTHING))
        made.measure(drift=True)
        yield made


@pytest.fixture(scope="module")
def page(editor: LifelongEditor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The report in headless Chromium; what it said on the console and asked of the network is in `page.heard`."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no browser: install chromium")
        pytest.skip("no chromium or google-chrome on the path")
    from playwright.sync_api import sync_playwright

    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(editor, "store", path, deep=True)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        shown = opened.new_page(viewport={"width": 1280, "height": 900})
        shown.heard = []
        shown.on("console", lambda message: shown.heard.append(message.text))
        shown.on("pageerror", lambda error: shown.heard.append(str(error)))
        shown.on("dialog", lambda dialog: (shown.heard.append(dialog.message), dialog.dismiss()))
        shown.on("request", lambda request: shown.heard.append(request.url) if "http" in request.url[:5] else None)
        shown.goto(path.as_uri())
        shown.wait_for_selector("#timeline .plot-container")
        yield shown
        opened.close()


def column(page: Any, number: int) -> list[str]:
    """The texts of the visible rows of the table in one column."""
    texts: list[str] = page.eval_on_selector_all(
        "#facts tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{number}].textContent)"
    )
    return texts


def test_what_is_gathered_is_what_ledger_and_reader_say(editor: LifelongEditor) -> None:
    story, entries = story_of(editor, "store", deep=True), editor.history()
    assert story.head == editor.head.digest and [moment.seq for moment in story.moments] == list(range(len(entries)))
    assert story.matrix == editor.retention() and sum(story.counts.values()) == len(editor.facts())
    risks, residuals = editor.risks(), editor.residuals()
    for row in story.facts:
        fact = editor.facts()[row.id]
        assert (row.seq, row.status) == (fact.seq, fact.status)
        assert (row.risk, row.residual) == (risks.get(row.id), residuals.get(row.id))
        asked = [e for e in entries if row.id in e.body.get("scores", {}).get(EFFICACY, {})]
        assert row.last == asked[-1].body["scores"][EFFICACY][row.id] and row.asked == asked[-1].seq
    assert story.unsaid == editor.unsaid() and [row.id for row in story.facts if row.badness[0]]
    assert {row.id for row in story.facts if row.badness[0]} == set(story.unsaid)
    (read,) = editor.telemetry().values()
    assert story.capacity == {name: pytest.approx(read.capacity) for name in story.capacity}
    assert set(story.signs) == {"preservation", "capacity", "norm", "forgetting"} <= set(SIGNS)
    assert story.signs["norm"][-1] == (len(entries) - 2, pytest.approx(read.relative_norm))
    assert [seq for seq, _ in next(iter(story.drift.values()))] == [entries[-1].seq]


@pytest.mark.parametrize("memory", ["joint", "batch"])
def test_an_empty_store_says_what_would_fill_its_parts(tmp_path: Path, memory: str) -> None:
    with edited(tmp_path / "store", (), memory=memory) as editor:
        text = render(story_of(editor, "store", deep=False), deep=False)
    for _, title, _, empty in PARTS:
        assert title in text and empty in text


def test_the_page_loads_nothing_and_says_everything_as_text(editor: LifelongEditor, tmp_path: Path) -> None:
    size = write_report(editor, "store", tmp_path / "report.html", deep=True)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert size == (tmp_path / "report.html").stat().st_size < 6e6
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(http|//)""", own) and "alert(1)" in own
    assert "<script>alert" not in text and "<img src=x" not in text


def test_the_pictures_are_drawn_and_nothing_is_wrong(page: Any) -> None:
    for name in ("timeline", "retention", "forgetting", "health", "capacity", "drift"):
        assert page.locator(f"#{name} .main-svg").count() > 0, name
    assert page.heard == []
    page.screenshot(full_page=True)


def test_pointing_at_an_entry_tells_who_and_when(page: Any, editor: LifelongEditor) -> None:
    page.locator("#timeline .points path").first.hover(force=True)
    label = page.locator("#timeline .hoverlayer .hovertext")
    label.wait_for()
    assert f"entry 0 {editor.history()[0].digest[:12]}" in label.text_content()


def test_a_kind_is_hidden_by_the_legend(page: Any) -> None:
    before = page.locator("#timeline .points path").count()
    page.locator("#timeline .legendtoggle").first.click()
    page.wait_for_function(f"document.querySelectorAll('#timeline .points path').length < {before}")


def test_facts_are_filtered_and_sorted(page: Any, editor: LifelongEditor) -> None:
    assert len(column(page, 0)) == len(editor.facts())
    page.fill("#filter", "alert")
    assert column(page, 0) == ["hostile"] and column(page, 3) == [HOSTILE.question]
    page.fill("#filter", "")
    page.select_option("#status", "reverted")
    assert set(column(page, 2)) == {"reverted"}
    page.select_option("#status", "")
    page.click("#facts th:nth-child(2)")
    edits = [int(text) for text in column(page, 1)]
    assert edits == sorted(edits) and len(set(edits)) > 2
    page.click("#facts th:nth-child(2)")
    assert [int(text) for text in column(page, 1)] == sorted(edits, reverse=True)
    page.click("#facts th:nth-child(9)")
    risks = [float(text) for text in column(page, 8) if text]
    assert risks == sorted(risks) and column(page, 8)[-1] == ""


def test_the_same_pictures_are_written_as_pngs(page: Any, editor: LifelongEditor, tmp_path: Path) -> None:
    write_report(editor, "store", tmp_path / "report.html", pictures=tmp_path / "png")
    assert {path.stem for path in (tmp_path / "png").iterdir()} == {name for name, *_ in PARTS}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "png").iterdir())

"""The picture shows every point, the front through the best ones, and needs no network."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from lifelong_edit.errors import RequestError
from lifelong_edit.tuning.picture import PAGE, check_drawable, drawn, page
from tests.tuning.test_front import trial

TRIALS = [trial((0.9, 0.9), (0.8, 0.97), (0.5, 0.5)), trial((0.6, 1.0))]


def test_every_point_is_drawn_the_front_in_order_and_the_best_alone() -> None:
    tried, line, best = drawn(TRIALS, 3.0, lambda settings: f"ridge {settings.ridge:g}").data
    assert list(zip(tried.y, tried.x, strict=True)) == [(0.9, 0.9), (0.8, 0.97), (0.5, 0.5), (0.6, 1.0)]
    assert list(zip(line.y, line.x, strict=True)) == [(0.9, 0.9), (0.8, 0.97), (0.6, 1.0)]
    assert (best.y, best.x, best.text) == ((0.8,), (0.97,), ("ridge 1.1",))


def test_the_page_loads_nothing() -> None:
    text = page(TRIALS, 3.0, str)
    assert text.encode().startswith(PAGE) and not re.search(r"<(script|link)[^>]*(src|href)=", text)


def test_without_plotly_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_drawable(Path("front.html"))
    monkeypatch.setitem(sys.modules, "plotly", None)
    check_drawable(None)
    with pytest.raises(RequestError, match="report"):
        check_drawable(Path("front.html"))

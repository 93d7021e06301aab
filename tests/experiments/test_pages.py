"""A page of docs/ shows what the raw rows beside it say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import collapse
import default_combination
import front
import tables
import telemetry
from results import rows_of

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("collapse", collapse.text_of),
        ("default_combination", partial(default_combination.table, layer=1)),
        ("tables_real", tables.table),
        ("tables_tiny", tables.table),
        ("telemetry", telemetry.text_of),
    ],
)
def test_a_page_has_the_table_of_its_rows(page: str, text: Callable[[list[dict[str, Any]]], str]) -> None:
    rows = rows_of(DOCS / f"{page}.jsonl")
    assert len(rows) > 5 and text(rows) in (DOCS / f"{page}.md").read_text("utf-8")


def test_the_page_of_the_front_is_written_as_it_stands(tmp_path: Path) -> None:
    page = Path(shutil.copy(DOCS / "front.md", tmp_path))
    front.report(rows_of(DOCS / "front.jsonl"), page)
    assert page.read_text("utf-8") == (DOCS / "front.md").read_text("utf-8")

"""Every dry run works beside a live writer, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifelong_edit.store import StoreLayout, WriterLock
from tests.cli.conftest import Place
from tests.obstacles import inventory
from tests.samples import REQUESTS, write_requests

WITH_MODEL = (
    "apply {new}",
    "stream {new}",
    "replace ada Oran",
    "protect {new}",
    "revert ada",
    "revert --to two",
    "restore emile",
    "relax",
    "measure",
    "calibrate {new}",
)
WITHOUT = ("tag late", "gc", "backup {to}", "clone {to}")


@pytest.mark.parametrize("line", [*WITH_MODEL, *WITHOUT])
def test_a_dry_run_needs_no_lock_and_changes_nothing(line: str, place: Place, tmp_path: Path) -> None:
    new = write_requests(tmp_path / "new.jsonl", REQUESTS[4:5])
    with WriterLock(StoreLayout(place.store).lock):
        before = inventory(tmp_path)
        place.ok(*line.format(new=new, to=tmp_path / "to").split(), "--dry-run", model=line in WITH_MODEL)
        assert inventory(tmp_path) == before

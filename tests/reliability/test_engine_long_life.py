"""A thousand edits: how large a store grows, and what it costs to open and to verify it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import KernelRecord
from tests.reliability.engines import Prepared, base_model, with_made_up_targets

pytestmark = [pytest.mark.reliability, pytest.mark.slow]
EDITS, REVERTS = 1_000, 10
LEDGER, BESIDE_FACTORS = 5_000_000, 2_000  # bytes: of the whole ledger, and of a record that are no factors


def test_a_thousand_edits(scratch: Path) -> None:
    root = Prepared(scratch).store()
    begun = time.monotonic()
    with with_made_up_targets(), LifelongEditor.open(root, base_model()) as editor:
        for number in range(EDITS):
            editor.apply([EditRequest("{} was born in", f"Bo Lund {number}", "Oran", id=f"edit-{number}")])
        for number in range(0, EDITS, EDITS // REVERTS):
            editor.revert(f"edit-{number}", probe=0)
        entries, weights = editor.history(), editor.head.weights
    spent = {"edits": time.monotonic() - begun}
    assert len(entries) == 1 + EDITS + REVERTS

    begun = time.monotonic()
    with LifelongEditor.open(root, base_model()) as editor:
        spent["open"] = time.monotonic() - begun
        assert editor.head.weights == weights
        begun = time.monotonic()
        found = editor.verify()
        spent["verify"] = time.monotonic() - begun
        found.check()
        assert sum(fact.status == "active" for fact in editor.facts().values()) == EDITS - REVERTS
        beside = [beside_factors(editor, str(entry.record)) for entry in entries[1 : 1 + EDITS]]
    ledger = (root / "ledger.db").stat().st_size
    (root / "cache" / "head.safetensors").unlink()
    begun = time.monotonic()
    with LifelongEditor.open(root, base_model(), read_only=True) as editor:
        spent["open without the cache"] = time.monotonic() - begun
        assert editor.head.weights == weights
    assert ledger < LEDGER and max(beside) < BESIDE_FACTORS
    objects = sum(path.stat().st_size for path in (root / "objects").rglob("*") if path.is_file())
    print(
        f"\n{EDITS} edits, {REVERTS} reverts: ledger {ledger} bytes ({ledger / len(entries):.0f} an entry), records "
        f"{objects / EDITS:.0f} an edit, of them at most {max(beside)} beside the factors; seconds: "
        + ", ".join(f"{what} {seconds:.2f}" for what, seconds in spent.items())
    )


def beside_factors(editor: LifelongEditor, record: str) -> int:
    """How many bytes of a record are no factors."""
    data = editor.store.objects.get(record)
    parts = KernelRecord.from_bytes(data).parts.values()
    return len(data) - sum(tensor.nbytes for part in parts for tensor in part.tensors().values())

"""One damaged record does not lock a store: what does not need it works, and what does is refused with advice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lifelong_edit.engine import LifelongEditor, Reader
from lifelong_edit.errors import StoreCorrupt
from tests.engine.editors import BATCHES, MEMORIES, base_model, edited, live
from tests.reliability.audit import contents
from tests.samples import REQUESTS

SECOND = {request.id for request in BATCHES[1]}


@pytest.fixture(params=MEMORIES)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A store of three edits, the record of the second of which has another byte; and the weight after the first."""
    with edited(tmp_path / "store", memory=request.param) as editor:
        weight = editor.at(1).editable.weight(0).clone()
        record = editor.store.objects.path(str(editor.history()[2].record))
    record.chmod(0o644)
    data = bytearray(record.read_bytes())
    data[-1] ^= 1
    record.write_bytes(data)
    return tmp_path / "store", weight


def test_the_head_is_refused_and_the_error_says_how_to_go_on(damaged: tuple[Path, torch.Tensor]) -> None:
    for read_only in (True, False):
        with pytest.raises(StoreCorrupt, match=r"entry 2: .*at=SEQ.*doctor"):
            Reader.open(damaged[0], base_model(), read_only=read_only)


def test_an_earlier_entry_can_be_opened(damaged: tuple[Path, torch.Tensor]) -> None:
    root, weight = damaged
    with Reader.open(root, base_model(), read_only=True, at=1) as reader:
        assert torch.equal(live(reader), weight)  # type: ignore[arg-type]
        assert len(reader.history()) == 4 and set(reader.facts()) == {request.id for request in REQUESTS}
        assert torch.equal(reader.at(1).editable.weight(0), weight)
        assert reader.diff(0, 1).gained
        assert any("2" in problem for problem in reader.verify().problems)
        for seq in (2, 3):
            with pytest.raises(StoreCorrupt, match="entry 2"):
                reader.at(seq)


def test_doctor_says_which_facts_the_damage_reaches(damaged: tuple[Path, torch.Tensor]) -> None:
    with Reader.open(damaged[0], base_model(), read_only=True, at=0) as reader:
        found = next(finding for finding in reader.doctor() if finding.about == "records")
        assert "entry 2" in found.found and "3 of 6 active facts" in found.found and "entry 1" in found.advice
        assert {request.id for request in REQUESTS if repr(request.id) in found.found} == SECOND


def test_edits_are_refused_before_anything_is_computed(damaged: tuple[Path, torch.Tensor]) -> None:
    root, weight = damaged
    with LifelongEditor.open(root, base_model(), at=1) as editor:
        before = contents(root)
        for act in (
            lambda: editor.replace("ada", "Oran"),
            lambda: editor.revert("ada"),
            lambda: editor.revert(to=1),
            lambda: editor.measure(),
            lambda: editor.checkout(),
            lambda: editor.telemetry(),
        ):
            with pytest.raises(StoreCorrupt, match=r"entry 2.*backup"):
                act()
        assert contents(root) == before and torch.equal(live(editor), weight)
    with Reader.open(root) as reader:
        assert len(reader.facts()) == len(REQUESTS)


def test_a_sound_store_can_be_opened_at_an_entry_too(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        expected, head = editor.at(2).editable.weight(0).clone(), live(editor).clone()
    with LifelongEditor.open(tmp_path / "store", base_model(), at=2) as editor:
        assert torch.equal(live(editor), expected)
        editor.checkout()
        assert torch.equal(live(editor), head) and editor.revert("ana").entry

"""Two facts with nearly the same key and no ridge: refused by whatever road the second one comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lifelong_edit.editing.targets import Targets
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel import write as spread
from tests.samples import lively_editable, new_editor

ADA, BO = (EditRequest("{} was born in", name, "Oran", id=name[:2].lower()) for name in ("Ada Quill", "Bo Lund"))


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LifelongEditor]:
    """An editor for which the keys of Ada and Bo are a thousandth apart, and their targets nothing alike."""
    draws = torch.randn(4, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keys = {ADA.subject: draws[0], BO.subject: draws[0] + 1e-3 * draws[1]}
    wanted = {ADA.subject: draws[2, :32], BO.subject: draws[3, :32]}

    def collect_keys(_editable: Any, requests: Sequence[EditRequest], *_: Any) -> Tensor:
        return torch.stack([keys[request.subject] for request in requests], dim=1)

    def optimise_targets(_editable: Any, groups: Sequence[Sequence[EditRequest]], *_: Any) -> Targets:
        delta = torch.stack([wanted[group[0].subject] for group in groups], dim=1)
        return Targets(delta, (0.0,) * len(groups), (1,) * len(groups))

    monkeypatch.setattr(spread, "collect_keys", collect_keys)
    monkeypatch.setattr(spread, "optimise_targets", optimise_targets)
    with new_editor(tmp_path / "store", lively_editable("gpt2"), memory="joint", targets="base") as opened:
        yield opened


def test_beside_an_active_fact(editor: LifelongEditor) -> None:
    editor.apply([ADA], method="emmet")
    with pytest.raises(SolveError, match="amplified"):
        editor.apply([BO], method="emmet")


def test_by_restoring_it_or_by_writing_it_anew_in_its_old_place(editor: LifelongEditor) -> None:
    editor.apply([ADA], method="emmet")
    editor.revert("ad", probe=0)
    held = editor.apply([BO], method="emmet").entry
    with pytest.raises(SolveError, match=r"'ad'.*amplified"):
        editor.restore("ad", probe=0)
    with pytest.raises(SolveError, match=r"amplified"):
        editor.apply([EditRequest(ADA.prompt, ADA.subject, "Marn", id="again")], method="emmet")
    assert editor.head == held


def test_with_a_ridge_they_may_stand_side_by_side(editor: LifelongEditor) -> None:
    editor.apply([ADA], ridge=50.0)
    editor.revert("ad", probe=0)
    editor.apply([BO], ridge=50.0)
    editor.restore("ad", probe=0)
    assert [fact.status for fact in editor.facts().values()] == ["active", "active"]
    assert editor.verify(replay=True).problems == ()

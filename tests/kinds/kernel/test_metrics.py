"""A method that changes the metric is one file, and a store is pinned to the metric it was made with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lifelong_edit import methods
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError
from tests.engine.editors import base_model
from tests.samples import QUICK, REQUESTS, TEXT

# The null-space projector of AlphaEdit (arXiv 2410.02355): a change leaves the leading directions of the text's inputs.
PROJECTOR = """
from dataclasses import replace

import torch

from lifelong_edit.algebra.second_moment import Metric, SecondMoment
from lifelong_edit.methods import ClosedForm

KEPT = 4


class Projector(Metric):
    def whiten(self, keys, names=()):
        return self.factor @ keys.double()


def projector(moment: SecondMoment, shrinkage: float) -> Metric:
    values, vectors = torch.linalg.eigh(moment.matrix)
    free = vectors[:, :-KEPT]
    return Projector(moment.matrix, free @ free.T, 1.0, float((free.T @ moment.matrix @ free).trace()))


METHOD = ClosedForm("nullspace", relative_ridge=1e-3, metric_name="null space", metric=projector)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one file, where methods are found."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "nullspace.py").write_text(PROJECTOR, encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])


def create(folder: Path, method: str) -> LifelongEditor:
    settings = EditorSettings(layers=(0,), contexts=1, target=QUICK, halvings=0)
    return LifelongEditor.create(folder, base_model(), settings, TEXT, method=method)


def test_it_edits_in_its_metric_and_is_taken_back_exactly(tmp_path: Path) -> None:
    with create(tmp_path / "store", "nullspace") as editor:
        base = editor.editable.weight(0)
        moment = editor.kind.metrics[0].matrix  # type: ignore[attr-defined]
        kept = torch.linalg.eigh(moment).eigenvectors[:, -4:]
        editor.apply(REQUESTS[:2], method="nullspace")
        delta = editor.state.layers[0].weight - base.double()  # type: ignore[attr-defined]
        assert delta.norm() > 0 and (delta @ kept).norm() < 1e-9 * delta.norm()
        editor.apply(REQUESTS[2:4], method="nullspace")
        editor.revert("emile", "bo")
        assert editor.history()[0].body["metric"] == "null space" and editor.verify(replay=True).problems == ()
        editor.revert(to=0)
        assert torch.equal(editor.editable.weight(0), base)
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        assert editor.restore("ada").entry is not None


@pytest.mark.parametrize(
    ("made_for", "method"), [("nullspace", "memit"), ("memit", "nullspace"), ("emmet", "nullspace")]
)
def test_a_method_of_another_metric_is_refused(made_for: str, method: str, tmp_path: Path) -> None:
    with create(tmp_path / "store", made_for) as editor:
        with pytest.raises(RequestError, match=f"init --method {method}"):
            editor.apply(REQUESTS[:1], method=method)
        assert editor.head.seq == 0 and editor.history()[0].body.get("metric") == (
            "null space" if made_for == "nullspace" else None
        )

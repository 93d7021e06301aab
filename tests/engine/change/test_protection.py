"""Protected prompts in the second moment: what is mixed, that it is pinned, and that edits spare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.editing.keys import collect_keys, prefixed
from lifelong_edit.editing.second_moments import read_moment
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from tests.engine.editors import base_model, live
from tests.samples import QUICK, REQUESTS, TEXT

SPARED = [EditRequest("{} lies in", name, "Oran") for name in ("Kessel", "Tarsis", "Bo Lund")]


def created(folder: Path, protect: Sequence[EditRequest], weight: float = 1.0) -> LifelongEditor:
    settings = EditorSettings(layers=(0,), contexts=1, target=QUICK, ridge=0.5, halvings=0, protection=weight)
    return LifelongEditor.create(folder, base_model(), settings, TEXT, protect=protect)


def moment(editor: LifelongEditor, folder: Path) -> torch.Tensor:
    (digest,) = editor.history()[0].body["statistics"].values()
    kept, _ = read_moment(next((folder / "statistics").rglob(f"{digest}*")).read_bytes())
    return kept.matrix


@pytest.mark.parametrize("weight", [0.25, 4.0])
def test_the_second_moment_has_the_mean_of_the_protected_keys_squares(weight: float, tmp_path: Path) -> None:
    with created(tmp_path / "plain", ()) as plain, created(tmp_path / "spares", SPARED, weight) as editor:
        keys = collect_keys(base_model(), SPARED, 0, prefixed(sample_contexts(base_model(), 1, 0))).T
        expected = moment(plain, tmp_path / "plain") + weight * sum(torch.outer(k, k) for k in keys) / len(keys)
        assert torch.allclose(moment(editor, tmp_path / "spares"), expected, rtol=1e-12)
        body = editor.history()[0].body
        assert body["protected"] == [request.to_dict() for request in SPARED] and "protected" not in plain.head.body
        assert body["config"]["protection"] == weight


def test_edits_move_protected_keys_less_the_more_they_weigh(tmp_path: Path) -> None:
    keys = collect_keys(base_model(), SPARED, 0, prefixed(sample_contexts(base_model(), 1, 0))).float()
    moved = []
    for number, (protect, weight) in enumerate([((), 1.0), (SPARED, 1.0), (SPARED, 100.0)]):
        with created(tmp_path / str(number), protect, weight) as editor:
            editor.apply(REQUESTS)
            moved.append(float(((live(editor) - base_model().weight(0)) @ keys).norm()))
            weights = live(editor)
        with LifelongEditor.open(tmp_path / str(number), base_model()) as again:
            assert torch.equal(live(again), weights) and again.verify(replay=True).problems == ()
    assert moved[0] > moved[1] > moved[2]


def test_a_weight_that_is_none_is_refused() -> None:
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(RequestError, match="weight of protection"):
            EditorSettings(protection=weight)

"""Probes: a base model that computes otherwise than at init is noticed, and beyond a limit not edited."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.state.probes import REFUSAL, WARNING, check_probes, probe_distance, take_probes
from lifelong_edit.errors import ModelMismatch
from tests.engine.editors import base_model, digest, edited, files, ledger_of, live
from tests.samples import REQUESTS, lively_editable


def computing_otherwise(patch: pytest.MonkeyPatch, by: float) -> None:
    """What another version of torch might do: every LayerNorm is a little larger. No parameter changes."""
    plain = nn.LayerNorm.forward

    def forward(norm: nn.LayerNorm, hidden: Tensor) -> Tensor:
        return plain(norm, hidden) * (1 + by)

    patch.setattr(nn.LayerNorm, "forward", forward)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    edited(tmp_path / "store", [REQUESTS[:2]]).close()
    return tmp_path / "store"


def test_a_model_that_computes_the_same_is_at_distance_zero(root: Path) -> None:
    with LifelongEditor.open(root) as reader:
        probes = reader.history()[0].body["probes"]
    assert probe_distance(base_model(), probes) == 0.0 and take_probes(base_model(), 0) == probes
    assert len(probes["prompts"]) == len(probes["tokens"]) == len(probes["logits"]) > 1


def test_a_logit_that_differs_is_measured_against_the_largest(root: Path) -> None:
    with LifelongEditor.open(root) as reader:
        probes = reader.history()[0].body["probes"]
    editable = base_model()
    editable.model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits * 1.01)
    assert probe_distance(editable, probes) == pytest.approx(0.01, rel=1e-3)
    probes["logits"][1][3] -= abs(max(probes["logits"][1], key=abs))
    assert probe_distance(base_model(), probes) > 0.5


def test_a_little_drift_is_warned_of_and_edits_go_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computing_otherwise(monkeypatch, 2e-4)
    with pytest.warns(UserWarning, match="answers its probes otherwise") as caught:
        editor = LifelongEditor.open(root, base_model())
    assert len(caught) == 1 and caught[0].filename == __file__
    with editor:
        assert editor.apply(REQUESTS[2:3]).entry is not None


def test_much_drift_refuses_edits_and_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, ledger, editable = files(root), ledger_of(root), base_model()
    before = editable.weight(0)
    with monkeypatch.context() as patch:
        computing_otherwise(patch, 0.1)
        with pytest.raises(ModelMismatch, match="Edits are refused"):
            LifelongEditor.open(root, editable)
    assert (files(root), ledger_of(root)) == (stored, ledger) and torch.equal(editable.weight(0), before)
    LifelongEditor.open(root, base_model()).close()  # the store is free


def test_much_drift_can_still_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LifelongEditor.open(root, base_model()) as editor:
        expected = live(editor)
    computing_otherwise(monkeypatch, 0.1)
    with pytest.warns(UserWarning, match="probes otherwise"):
        reader = LifelongEditor.open(root, base_model(), read_only=True)
    with reader:
        assert torch.equal(live(reader), expected) and reader.verify(replay=True).problems == ()
        assert reader.at(0).facts == {} and isinstance(reader.blame("Ada Quill was born in").said, str)
        (finding,) = [finding for finding in reader.doctor() if finding.about == "base model"]
        assert "otherwise" in finding.advice


def test_what_an_edit_does_is_no_drift(root: Path) -> None:
    with LifelongEditor.open(root, base_model()) as editor:
        editor.apply(REQUESTS[2:5])
        before = digest(editor)
        (finding,) = [finding for finding in editor.doctor() if finding.about == "base model"]
        assert finding.advice == "" and torch.equal(live(editor), editor.at(editor.head.seq).editable.weight(0))
    with LifelongEditor.open(root, base_model()) as again:
        assert digest(again) == before


def test_rounding_of_a_coarse_dtype_is_no_drift(tmp_path: Path) -> None:
    """The probes of a bfloat16 model say so, and nothing finer than its rounding is held against it."""
    editable = lively_editable("llama", torch.bfloat16)
    probes = take_probes(editable, 0)
    assert probes["dtype"] == "bfloat16"
    eps = torch.finfo(torch.bfloat16).eps
    probes["logits"] = [[value * (1 + 4 * eps) for value in row] for row in probes["logits"]]
    assert probe_distance(editable, probes) == 0.0


def test_the_limits_are_inclusive() -> None:
    assert check_probes(0.0) is None and check_probes(WARNING) is None
    for distance in (1.01 * WARNING, REFUSAL):
        assert "logits differ by" in str(check_probes(distance))
    with pytest.raises(ModelMismatch):
        check_probes(1.01 * REFUSAL)

"""A sibling is the store that the same text and prompts would have made under its settings, at no cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lifelong_edit.editing.layered import LayeredSettings
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError, StoreError
from lifelong_edit.facts import EditRequest
from tests.samples import REQUESTS, TEXT, lively_editable

PROMPTS = ["Ada Quill was born in Tarsis.", "Bo Lund lives in Marn.", "The river is near Oran."]
TARGET = LayeredSettings(steps=3, sensitivity_tokens=200, coarse=False)
BOTH = EditorSettings(layers=(0, 1), target=TARGET, norm_limit=None, confidence=0.5)
OTHER = replace(BOTH, layers=(0,), ridge=0.4, target=replace(TARGET, margin=0.7))


def made(path: Path, settings: EditorSettings) -> LifelongEditor:
    return LifelongEditor.create(path, lively_editable("gpt2"), settings, TEXT, prompts=PROMPTS)


def test_it_is_pinned_to_what_a_store_from_the_same_text_is_and_edits_alike(tmp_path: Path) -> None:
    with made(tmp_path / "ground", BOTH) as ground, made(tmp_path / "plain", OTHER) as plain:
        ground.apply(REQUESTS[:1])
        with ground.sibling(tmp_path / "sibling", OTHER, reason="a trial") as sibling:
            assert sibling.settings == plain.settings and sibling.head.body["reason"] == "a trial"
            told, own = ({**editor.head.body} for editor in (plain, sibling))
            for name in ("time", "reason", "statistics", "calibration", "condition", "sensitivity"):
                told.pop(name), own.pop(name)  # type: ignore[misc]
            assert own == {**told}
            for editor in (plain, sibling):
                editor.apply(REQUESTS[1:3])
            torch.testing.assert_close(sibling.editable.weight(0), plain.editable.weight(0), rtol=1e-3, atol=1e-4)
            sibling.verify().check()


def test_the_store_it_is_made_from_and_its_model_stay(tmp_path: Path) -> None:
    with made(tmp_path / "ground", BOTH) as ground:
        ground.apply(REQUESTS[:1])
        head, weight = ground.head, ground.editable.weight(0).clone()
        with ground.sibling(tmp_path / "sibling", OTHER) as sibling:
            assert not sibling.facts() and not torch.equal(sibling.editable.weight(0), weight)
            sibling.apply(REQUESTS[1:2])
        assert ground.head == head and torch.equal(ground.editable.weight(0), weight)


def test_layers_that_were_not_collected_are_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with made(tmp_path / "ground", OTHER) as ground:
        with pytest.raises(RequestError, match=r"layers \[0\] and has no second moments of \[1\]"):
            ground.sibling(tmp_path / "sibling", BOTH)
        assert not (tmp_path / "sibling").exists()
        with pytest.raises(StoreError, match="not empty"):
            ground.sibling(tmp_path, OTHER)


def test_another_ridge_is_what_a_store_of_that_ridge_has(tmp_path: Path) -> None:
    facts: list[EditRequest] = list(REQUESTS[:3])
    with made(tmp_path / "ground", BOTH) as ground:
        with ground.sibling(tmp_path / "one", replace(BOTH, ridge=0.3)) as editor:
            editor.apply(facts)
            same, other = (editor.kind.at_ridge(editor.standing, ridge) for ridge in (0.3, 3.0))
            assert max(editor.kind.distances(same, editor.state).values()) < 1e-9
        with ground.sibling(tmp_path / "two", replace(BOTH, ridge=3.0)) as wanted:
            wanted.apply(facts)
            assert all(size < 1e-5 for size in wanted.kind.distances(wanted.state, other).values())
            assert min(wanted.kind.distances(wanted.state, same).values()) > 1e-4
        with pytest.raises(RequestError, match="ridge"):
            ground.kind.at_ridge(ground.standing, 1e9)

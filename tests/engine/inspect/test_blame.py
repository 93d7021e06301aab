"""Blame: shares that add up, and leaving a slot out is what reverting it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.model.hooks import captured
from lifelong_edit.tracking.generation import answer
from tests.engine.editors import BATCHES, EVERY_KIND, WORK, base_model, edited
from tests.samples import REQUESTS

ASKED = "Ada Quill was born in"
WITH_WORK = [*BATCHES[:2], [WORK], BATCHES[2]]


def inputs(editor: LifelongEditor, prompt: str, layer: int) -> Tensor:
    """What the edited weight is given at every token of a prompt [d_in, T]."""
    ids = editor.editable.tokenizer(prompt, return_tensors="pt")["input_ids"]
    with captured(editor.editable.write(layer)) as seen, torch.no_grad():
        editor.model(input_ids=ids)
    return seen.input[0].double().T


@EVERY_KIND
def test_shares_add_up_and_how_much_moved_is_measured(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", WITH_WORK, **kind) as editor:
        found = editor.blame(ASKED, count=99)
        assert len(found.slots) == 6
        assert sum(blamed.share for blamed in found.slots) == pytest.approx(1.0, abs=1e-9)
        sizes = [abs(blamed.share) for blamed in found.slots]
        assert sizes == sorted(sizes, reverse=True)
        # Over two layers, random weights and live targets make of rounding other edits on another processor.
        if len(kind["layers"]) == 1:
            assert found.slots[0].facts in (("ada", "work"), ("work", "ada")) and found.slots[0].share > 0.5
        assert editor.blame(ASKED, count=2).slots == found.slots[:2]
        moved = written = 0.0
        for layer in kind["layers"]:
            keys, base = inputs(editor, ASKED, layer), base_model().weight(layer).double()
            moved += float(((editor.editable.weight(layer).double() - base) @ keys).square().sum())
            written += float((base @ keys).square().sum())
        assert found.moved == pytest.approx((moved / written) ** 0.5, rel=1e-4)


@EVERY_KIND
def test_without_a_slot_the_model_says_what_it_says_after_the_revert(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", WITH_WORK, **kind) as editor:
        model = fingerprint(editor.editable)
        found = editor.blame(ASKED)
        assert fingerprint(editor.editable) == model
        assert found.said == answer(editor.editable, ASKED) and found.base == answer(base_model(), ASKED)
        for blamed in found.slots[:3]:
            editor.revert(*blamed.facts, probe=0)
            assert blamed.without == answer(editor.editable, ASKED)
            editor.restore(*blamed.facts, probe=0)


@EVERY_KIND
def test_one_slot_alone_is_behind_all(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:1], [WORK]], **kind) as editor:
        (blamed,) = editor.blame("Where does Bo Lund live?").slots
        assert blamed.share == pytest.approx(1.0, abs=1e-9)
        assert blamed.without == editor.blame("Where does Bo Lund live?").base


def test_of_a_slot_the_fact_whose_target_is_said_stands_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with edited(tmp_path / "store", [REQUESTS[:1], [WORK]]) as editor:
        for said, first in (("Marn, they say", "ada"), ("Oran", "work"), ("nothing", "ada")):
            monkeypatch.setattr("lifelong_edit.engine.inspect.blame.answer", lambda *_, said=said: said)
            assert editor.blame(ASKED).slots[0].facts[0] == first


def test_blame_needs_a_prompt_and_an_active_fact(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:1]]) as editor:
        with pytest.raises(RequestError, match="prompt is empty"):
            editor.blame(" \n")
        editor.checkout(0)
        with pytest.raises(RequestError, match="shows seq 0"):
            editor.blame(ASKED)
        editor.checkout()
        editor.revert("ada")
        with pytest.raises(RequestError, match="No fact is active"):
            editor.blame(ASKED)
    with LifelongEditor.open(tmp_path / "store") as reader, pytest.raises(RequestError, match="without a model"):
        reader.blame(ASKED)

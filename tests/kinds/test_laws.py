"""The laws of every kind of memory: what the engine promises whatever holds the facts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lifelong_edit import kinds
from lifelong_edit.editing.layered import LayeredSettings
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.reader import Reader
from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.export.peft import export_peft
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.tokens import tokens
from lifelong_edit.report.page import write_report
from lifelong_edit.store import inspect
from tests.engine.editors import WORK, base_model
from tests.samples import QUICK, REQUESTS, TEXT

BATCHES = (REQUESTS[:2], [WORK, *REQUESTS[2:4]], REQUESTS[4:])  # WORK shares the slot of the first


@pytest.fixture(params=["kernel", "dictionary"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a kind that can be found."""
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(Path(__file__).parent / "other")])
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "other"))
    return str(request.param)


@pytest.fixture
def editor(kind: str, tmp_path: Path) -> Iterator[LifelongEditor]:
    with new(kind, tmp_path / "store") as made:
        yield made


def new(kind: str, folder: Path) -> LifelongEditor:
    settings = EditorSettings(layers=(0,), contexts=1, target=QUICK, ridge=0.5, halvings=0)
    return LifelongEditor.create(folder, base_model(), settings, TEXT, memory_kind=kind)


def applied(editor: LifelongEditor) -> LifelongEditor:
    for batch in BATCHES:
        editor.apply(batch)
    return editor


def outputs(editor: Reader) -> Tensor:
    """The live model's logits after every fact's question."""
    found = []
    for request in (*REQUESTS, WORK):
        ids = torch.tensor([tokens(editor.editable.tokenizer, request.question)[0]])
        found.append(editor.model(input_ids=ids).logits[0, -1].detach())
    return torch.stack(found)


def test_a_store_keeps_what_its_kind_needs_of_the_text(kind: str, tmp_path: Path) -> None:
    settings = EditorSettings(layers=(0,), contexts=1, target=LayeredSettings(sensitivity_tokens=60))
    with LifelongEditor.create(tmp_path / "store", base_model(), settings, TEXT, memory_kind=kind) as editor:
        kept = editor.history()[0].body.keys() & {"statistics", "sensitivity"}
    assert kept == ({"statistics", "sensitivity"} if kind == "kernel" else set())


def test_an_edit_moves_its_facts_and_its_revert_takes_that_back(editor: LifelongEditor) -> None:
    before, base = outputs(editor), editor.state.digest
    commit = editor.apply(REQUESTS[:1])
    after = outputs(editor)
    assert (
        not torch.equal(after[0], before[0]) and editor.state.digest != base == editor.history()[0].body["base_weights"]
    )
    assert commit.entry is not None and commit.entry.weights == editor.state.digest
    editor.revert("ada")
    assert torch.equal(outputs(editor), before) and editor.state.digest == base


def test_equal_sets_of_active_facts_have_equal_states(editor: LifelongEditor) -> None:
    applied(editor)
    full, said = editor.state.digest, outputs(editor)
    editor.replace("bo", "Marn")
    editor.revert("norvik", "work")
    editor.restore("work")
    editor.restore("norvik", "bo")
    assert (editor.state.digest, editor.facts()["bo"].status) == (full, "active")
    assert torch.equal(outputs(editor), said)
    editor.revert(to=1)
    assert (
        list(editor.standing.history.active) == ["ada", "emile"] and editor.state.digest == editor.history()[1].weights
    )


def test_older_states_are_shown_and_leave_no_trace(editor: LifelongEditor) -> None:
    base, now = outputs(editor), outputs(applied(editor))
    view = editor.at(0)
    ids = torch.tensor([tokens(editor.editable.tokenizer, REQUESTS[0].question)[0]])
    assert torch.equal(view.editable.model(input_ids=ids).logits[0, -1], base[0])
    editor.checkout(0)
    assert torch.equal(outputs(editor), base)
    editor.checkout()
    assert torch.equal(outputs(editor), now)
    found = editor.diff(0, editor.head.seq)
    assert {fact.id for fact in found.gained} == {request.id for request in (*REQUESTS, WORK)} and not found.lost


def test_a_stream_that_is_killed_and_started_again_ends_as_one_that_was_not(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "edits.jsonl"
    source.write_text("".join(json.dumps(r.to_dict()) + "\n" for batch in BATCHES for r in batch), "utf-8")
    with new(kind, tmp_path / "whole") as editor:
        whole = [commit.entry for commit in editor.stream(source, batch=2)]
        said = outputs(editor)
    with new(kind, tmp_path / "killed") as editor:
        assert len(list(islice(editor.stream(source, batch=2), 2))) == 2
    with LifelongEditor.open(tmp_path / "killed", base_model()) as editor:
        rest = [commit.entry for commit in editor.stream(source, batch=2) if commit.entry]
        assert len(rest) == len(whole) - 2 > 0
        assert [entry.weights for entry in rest] == [entry.weights for entry in whole[2:] if entry]
        assert torch.equal(outputs(editor), said)


def test_a_store_is_sound_and_opens_as_it_was_left(kind: str, tmp_path: Path) -> None:
    with new(kind, tmp_path / "store") as editor:
        said = outputs(applied(editor))
        editor.measure()
        digest = editor.state.digest
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        assert editor.state.digest == digest and torch.equal(outputs(editor), said)
        audit = editor.verify(replay=True)
        assert audit.problems == () and audit.rebuilt == len(BATCHES)
    with Reader.open(tmp_path / "store") as reader:
        assert reader.verify().problems == () and len(reader.facts()) == 7
        assert reader.history()[0].body.get("memory_kind", "kernel") == kind


def test_the_report_is_made(editor: LifelongEditor, tmp_path: Path) -> None:
    write_report(applied(editor), "store", tmp_path / "report.html")
    assert "Ada Quill" in (tmp_path / "report.html").read_text("utf-8")


def test_what_a_kind_cannot_do_it_says(editor: LifelongEditor, kind: str, tmp_path: Path) -> None:
    applied(editor)
    verbs = {
        "relax": editor.relax,
        "protect": lambda: editor.protect([EditRequest("{} is in", "Oran", "Marn")]),
        "blame": lambda: editor.blame(REQUESTS[0].question),
        "forgotten": lambda: editor.forgotten("ada"),
        "why": lambda: editor.why("ada"),
        "adapter": lambda: export_peft(editor, tmp_path / "adapter"),
    }
    before = editor.head
    for verb in verbs.values() if kind == "dictionary" else ():
        with pytest.raises(RequestError, match="dictionary cannot"):
            verb()
    assert editor.head == before


def test_a_store_of_a_kind_that_is_not_here_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new(kind, tmp_path / "store").close()
    monkeypatch.setattr(kinds, "kinds", dict)
    monkeypatch.setattr("lifelong_edit.kinds.kinds", dict)
    with pytest.raises(StoreCorrupt, match=f"of kind '{kind}'"):
        LifelongEditor.open(tmp_path / "store", base_model())


def test_the_files_of_a_store_tell_its_kind(kind: str, editor: LifelongEditor) -> None:
    assert inspect(applied(editor).store).problems == ()

"""The wordings of a fact are kept with it, whatever verb it goes through, and never decide which fact it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from tests.engine.editors import edited

WORDED = EditRequest("{} was born in", "Ada Quill", "Marn", wordings=("The cradle of {} stood in", "{} is a child of"))
OTHERWISE = replace(WORDED, wordings=("{} first saw the light in",))


def test_ledger_and_replacement_keep_the_wordings(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [[WORDED]]) as editor:
        first = editor.history()[1].body["facts"][0]
        assert first["request"] == {**WORDED.to_dict(), "wordings": list(WORDED.wordings)}
        (replaced,) = editor.replace(first["id"], "Oran").facts
        assert replaced.request == replace(WORDED, target_new="Oran")
    with LifelongEditor.open(tmp_path / "store", read_only=True) as reader:
        assert [fact.request.wordings for fact in reader.facts().values()] == [WORDED.wordings] * 2


def test_an_active_fact_is_known_whatever_its_wordings(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [[WORDED]]) as editor:
        (id,) = editor.facts()
        commit = editor.apply([OTHERWISE])
        assert commit.entry is None and commit.skipped == (id,)
        # Taken out, or under an id of its own, it is written anew.
        editor.revert(id)
        (again,) = editor.apply([OTHERWISE]).facts
        assert again.id != id and again.request == OTHERWISE
        superseding = editor.apply([replace(WORDED, id="worded")])
        assert superseding.superseded == (again.id,) and superseding.facts[0].request.wordings == WORDED.wordings

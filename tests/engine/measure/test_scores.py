"""What an edit says of itself, what `measure` adds, and what is read from the ledger later."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError
from lifelong_edit.store import FactLife
from lifelong_edit.tracking.budget import Scope
from lifelong_edit.tracking.honest import answered, sheets_of
from lifelong_edit.tracking.scores import argmax_rate, score_edits
from tests.engine.change.test_budget import watched_editor
from tests.samples import REQUESTS, lively_editable, new_editor


def test_an_edit_says_how_its_facts_took(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", lively_editable("gpt2")) as editor:
        commit = editor.apply(REQUESTS[:3])
        pairs = [(request.question, request.target_new) for request in REQUESTS[:3]]
        said = [argmax_rate(editor.model, editor.editable.tokenizer, [pair]) for pair in pairs]
        assert commit.entry is not None
        assert commit.entry.body["scores"] == {EFFICACY: dict(zip(("ada", "emile", "bo"), said, strict=True))}
        assert editor.retention().at_apply(1) == pytest.approx(sum(said) / 3)


def test_a_measurement_is_kept_and_read_without_a_model(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", lively_editable("gpt2")) as editor:
        editor.apply(REQUESTS[:3])
        editor.apply(REQUESTS[3:])
        editor.revert("bo", probe=0)
        entry = editor.measure(metrics=(EFFICACY, "rewrite/greedy", "paraphrase/argmax"))
        now = score_edits(editor.editable, [r for r in REQUESTS if r.id != "bo"])
        assert entry.body["scores"]["paraphrase/argmax"] == dict.fromkeys(entry.body["scores"][EFFICACY])
        assert set(entry.body["scores"][EFFICACY]) == {"ada", "emile", "norvik", "ana", "kessel"}
    with LifelongEditor.open(tmp_path / "store") as reader:
        matrix = reader.retention()
        assert (matrix.cohorts, matrix.seqs) == ((1, 2), (1, 2, entry.seq))
        newest = [matrix.values[cohort, entry.seq] for cohort in (1, 2)]
        assert (2 * newest[0] + 3 * newest[1]) / 5 == pytest.approx(now.ea)
        assert reader.retention("paraphrase/argmax").cohorts == ()
    with closing(sqlite3.connect(tmp_path / "store" / "ledger.db")) as db:
        rows = db.execute("SELECT cohort, value FROM retention WHERE metric = ? AND seq = ?", [EFFICACY, entry.seq])
        assert dict(rows.fetchall()) == pytest.approx(dict(zip((1, 2), newest, strict=True)))


def test_a_reader_scores_and_writes_nothing(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", lively_editable("gpt2")) as editor:
        editor.apply(REQUESTS)
    with LifelongEditor.open(tmp_path / "store", lively_editable("gpt2"), read_only=True) as reader:
        figures = reader.scores((EFFICACY, "paraphrase/prob"))
        assert figures[EFFICACY].value == score_edits(reader.editable, REQUESTS).ea
        assert figures["paraphrase/prob"].value is None and figures["paraphrase/prob"].reason
        assert [entry.kind for entry in reader.history()] == ["init", "edit"]


def test_honest_scores_stand_beside_the_base_and_the_fact_in_the_context(tmp_path: Path) -> None:
    facts = {str(r.id): replace(r, target_true="Oran") for r in REQUESTS[:2]}
    with watched_editor(tmp_path / "store") as editor:
        editor.apply(facts.values())
        watched = [prompt for prompt, _ in editor.history()[0].body["watch"]["facts"]]
        sheets = sheets_of(lively_editable("gpt2"), facts, "", watched)
        base = answered(lively_editable("gpt2"), sheets)
        found = editor.honest(distract="")
        assert [fact.base for fact in found.facts] == base
        assert [fact.context for fact in found.facts] == answered(lively_editable("gpt2"), sheets, told=True, base=base)
        assert [fact.edited for fact in found.facts] == answered(editor.editable, sheets, base=base)
        assert found.shares["kept"].edited.count == len(watched) >= 3 and found.shares["distracted"].base.count == 0
        assert [entry.kind for entry in editor.history()] == ["init", "edit"], "nothing is written"


def life(number: int, seq: int) -> FactLife:
    return FactLife(str(number), seq, {}, f"slot {number}")


def test_a_scope_takes_the_oldest_the_newest_edit_and_a_seeded_sample() -> None:
    facts = [life(n, 1 + n // 10) for n in range(100)]
    chosen = Scope(oldest=5, sample=20).of(facts, 3, {})
    ids = {int(fact.id) for fact in chosen}
    assert {*range(5), *range(90, 100)} <= ids and len(ids) <= 35
    assert chosen == Scope(oldest=5, sample=20).of(facts, 3, {}) != Scope(oldest=5, sample=20).of(facts, 4, {})
    assert [fact.seq for fact in chosen] == sorted(fact.seq for fact in chosen)
    assert Scope(newest=False, oldest=3, sample=0).of(facts, 0, {}) == facts[:3]
    assert Scope().of([], 0, {}) == []
    risks = {"50": 0.9, "60": 0.2, "70": 0.5, "gone": 1.0}
    assert Scope(newest=False, oldest=0, sample=0, flagged=2).of(facts, 0, risks) == [facts[50], facts[70]]
    with pytest.raises(RequestError, match="some facts"):
        Scope(newest=False, oldest=0, sample=0, flagged=0)

"""The health budget: read on the weights an edit would lead to, before anything is committed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import HealthStop, RequestError
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.tracking.budget import Budget, OnRed, Scope
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.generation import answer
from lifelong_edit.tracking.health import Band, HealthLimits, Limit
from lifelong_edit.tracking.scores import argmax_rate
from lifelong_edit.tracking.watch import Watch, Watched
from tests.models import SENTENCES
from tests.samples import QUICK, REQUESTS, TEXT, lively_editable, new_editor

PROMPTS = ("The river", "In 1912 he", "Where does Kessel", "The mother tongue of Bo", "Tarsis is", "The company Marn")
NOTHING = HealthLimits(*[Limit(1e-9, 1e-9)] * 7)  # any harm at all is red
ANYTHING = HealthLimits(*[Limit(1e6, 1e6)] * 7)


def watched_editor(folder: Path) -> LifelongEditor:
    """An editor that watches what its base says after a few prompts, and the sample sentences."""
    editable = lively_editable("gpt2")
    facts = [(prompt, said) for prompt in PROMPTS if (said := answer(editable, prompt, length=2)).strip()]
    assert len(facts) >= 3
    settings = EditorSettings(layers=(0,), contexts=1, target=QUICK)
    return LifelongEditor.create(folder, editable, settings, TEXT, watch=Watch(tuple(facts), SENTENCES))


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[LifelongEditor]:
    with watched_editor(tmp_path / "store") as opened:
        yield opened


def test_the_signs_are_those_of_the_weights_that_are_committed(editor: LifelongEditor) -> None:
    body = editor.history()[0].body["watch"]
    commit = editor.apply(REQUESTS, budget=Budget(every=1, limits=ANYTHING))
    assert commit.entry is not None
    signs = commit.entry.body["vital"]["signs"]
    facts = [tuple(fact) for fact, said in zip(body["facts"], body["said"], strict=True) if said]
    model, tokenizer = editor.model, editor.editable.tokenizer
    assert signs["recall"] == pytest.approx(1 - argmax_rate(model, tokenizer, facts))  # type: ignore[arg-type]
    assert signs["perplexity"] == pytest.approx(perplexity(model, tokenizer, SENTENCES) / body["perplexity"] - 1)
    assert signs["forgetting"] == 0.0
    assert commit.entry.body["vital"]["facts"] == len(REQUESTS)
    assert editor.health(ANYTHING).band == Band.green and editor.health(NOTHING).band == Band.red


def test_a_red_sign_stops_an_edit_before_anything_is_committed(editor: LifelongEditor) -> None:
    before, entries = fingerprint(editor.editable), editor.history()
    with pytest.raises(HealthStop, match=r"red.*Nothing was committed") as refused:
        editor.apply(REQUESTS, budget=Budget(every=1, limits=NOTHING))
    assert refused.value.exit_code == 3
    assert (fingerprint(editor.editable), editor.history()) == (before, entries)
    assert not list(editor.store.objects.root.rglob("*.safetensors"))


def test_a_warning_is_all_when_that_is_wanted(editor: LifelongEditor) -> None:
    with pytest.warns(UserWarning, match="Health is red"):
        commit = editor.apply(REQUESTS, budget=Budget(every=1, limits=NOTHING, on_red=OnRed.warn))
    assert commit.entry is not None and "vital" in commit.entry.body


def test_signs_are_read_on_a_schedule_and_retention_with_them(editor: LifelongEditor) -> None:
    budget = Budget(every=2, limits=ANYTHING, scope=Scope(newest=False, oldest=2, sample=0, flagged=0))
    for request in REQUESTS[:5]:
        editor.apply([request], budget=budget)
    read = [entry.seq for entry in editor.history() if "vital" in entry.body]
    assert read == [2, 4]
    scores = editor.history()[4].body["scores"][EFFICACY]
    assert set(scores) == {"ada", "emile", "norvik"}  # the two oldest, and what was just written
    assert editor.retention().curve(1)[-1][0] == 4
    assert all("scores" in entry.body for entry in editor.history()[1:])


def test_a_batch_that_is_too_much_is_tried_in_halves(
    editor: LifelongEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit lies just above what the first half does, so the stream ends in the second."""
    base = editor.editable.weight(0)
    distance = {"recall": lambda editable: float((editable.weight(0) - base).norm())}
    monkeypatch.setattr(Watched, "signs", lambda _, editable: {name: f(editable) for name, f in distance.items()})
    probe = editor.apply(REQUESTS[:2], budget=Budget(every=1, limits=ANYTHING)).entry
    assert probe is not None
    red = 1.001 * probe.body["vital"]["signs"]["recall"]
    editor.revert(commit=1, probe=0)
    budget = Budget(every=2, limits=HealthLimits(Limit(red, red), *[Limit(1e6, 1e6)] * 6), on_red=OnRed.halve)
    lines = [json.dumps({"prompt": r.prompt, "subject": r.subject, "target_new": r.target_new}) for r in REQUESTS[:4]]
    (tmp_path / "edits.jsonl").write_text("\n".join(lines) + "\n")
    done: list[list[str]] = []
    with pytest.raises(HealthStop):
        editor.apply(REQUESTS[2:3], budget=Budget(every=9))  # not due: only what the budget says is read
        editor.revert("bo", probe=0)
        for commit in editor.stream(tmp_path / "edits.jsonl", batch=4, budget=budget):
            done.append([fact.request.subject for fact in commit.facts])
    assert done == [[request.subject for request in REQUESTS[:2]]]


def test_without_a_watch_only_forgetting_and_the_weights_are_read(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", lively_editable("gpt2")) as editor, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        commit = editor.apply(REQUESTS[:2], budget=Budget(every=1, limits=ANYTHING))
        assert commit.entry is not None
        assert set(commit.entry.body["vital"]["signs"]) == {"forgetting", "preservation", "capacity", "norm"}


def test_a_watch_that_cannot_be_lost_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="says none"):
        LifelongEditor.create(
            tmp_path / "store", lively_editable("gpt2"), text=TEXT, watch=Watch((("The river", "Veltish Veltish"),))
        )
    with pytest.raises(RequestError, match="none of them empty"):
        Watch((("The river", " "),))

"""Facts come out, come back and stand in for each other; the weights are a function of what is active."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from tests.engine.editors import (
    BATCHES,
    EVERY_KIND,
    KINDS,
    WORK,
    base_model,
    digest,
    edited,
    live,
    lived_in,
    sum_of_deltas,
)
from tests.samples import REQUESTS

HOME = EditRequest("{} has a home in", "Bo Lund", "Marn")
OTHER_HOME = EditRequest("{} has a home in", "Bo Lund", "Oran")


def statuses(editor: Any) -> dict[str, str]:
    return {id: fact.status for id, fact in editor.facts().items()}


@EVERY_KIND
def test_a_restored_fact_gives_the_digest_from_before_its_revert(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", [*BATCHES[:2], [WORK], BATCHES[2]], **kind) as editor:
        before = digest(editor)
        for ids in (("bo",), ("ada", "kessel"), ("work", "ana", "emile")):
            editor.revert(*ids)
            assert digest(editor) != before
            restored = editor.restore(*reversed(ids))
            assert digest(editor) == before and restored.rewritten == ()
            assert [fact.id for fact in restored.facts] == list(reversed(ids))


@EVERY_KIND
def test_reverting_in_any_order_gives_the_same_digest(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", **kind) as editor:
        editor.revert("ana", "ada")
        there = digest(editor)
        editor.revert(to=3)
        editor.revert("ada")
        editor.revert("ana")
        assert digest(editor) == there


@EVERY_KIND
def test_a_replaced_fact_is_superseded_and_comes_back_with_the_revert_of_the_new_one(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    with edited(tmp_path / "store", **kind) as editor:
        before, bo = digest(editor), editor.facts()["bo"]
        commit = editor.replace("bo", "Marn", reason="he moved")
        (new,) = commit.facts
        assert commit.entry is not None and commit.entry.kind == "replace" and commit.superseded == ("bo",)
        assert new.request == replace(bo.request, id=None, target_new="Marn") and new.slot == bo.slot
        assert (editor.facts()["bo"].status, editor.facts()["bo"].by) == ("superseded", new.id)
        assert digest(editor) != before
        back = editor.revert(new.id)
        assert back.restored == ("bo",) and digest(editor) == before
        assert statuses(editor)[new.id] == "reverted" and statuses(editor)["bo"] == "active"
        assert editor.restore(new.id).superseded == ("bo",) and statuses(editor)["bo"] == "superseded"
        assert editor.restore("bo").superseded == (new.id,) and digest(editor) == before


@EVERY_KIND
def test_a_then_b_then_a_again(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", (), **kind) as editor:
        first = editor.apply([HOME]).facts[0].id
        with_first = digest(editor)
        second = editor.apply([OTHER_HOME])
        assert second.superseded == (first,)
        with_second = digest(editor)
        third = editor.apply([HOME])
        assert third.superseded == (second.facts[0].id,) and third.facts[0].id == f"{first}-2"
        assert editor.apply([HOME]).skipped == (third.facts[0].id,)
        if kind["targets"] == "base":  # what is optimised on the base alone is the same again
            assert digest(editor) == with_first
        assert editor.revert(third.facts[0].id).restored == (second.facts[0].id,) and digest(editor) == with_second
        assert editor.revert(second.facts[0].id).restored == (first,) and digest(editor) == with_first
        assert editor.revert(first).restored == ()
        assert torch.equal(live(editor), base_model().weight(0))


@EVERY_KIND
def test_going_back_to_an_entry_gives_its_digest_whatever_came_after(kind: dict[str, Any], tmp_path: Path) -> None:
    with lived_in(tmp_path / "store", **kind) as editor:
        entries = [entry for entry in editor.history() if entry.weights and entry.weights != digest(editor)]
        assert len(entries) >= 8
        for entry in (entries[0], entries[-1], entries[4], entries[1]):
            commit = editor.revert(to=entry.seq, probe=0)
            assert digest(editor) == entry.weights and commit.rewritten == ()
            assert commit.entry is not None and commit.entry.body["to"] == entry.seq
        editor.revert(to=0, probe=0)
        assert digest(editor) == editor.history()[0].body["base_weights"]
        for layer in kind["layers"]:
            base = base_model().weight(layer)
            assert torch.equal(editor.editable.weight(layer), base)
            assert sum_of_deltas(tmp_path / "store", layer).norm() <= 1e-6 * base.norm()


def test_going_back_brings_back_what_each_fact_was(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:3]]) as editor:
        new = editor.replace("bo", "Marn").facts[0].id
        then = statuses(editor)
        editor.revert(new)
        editor.revert("ada")
        editor.apply([REQUESTS[4]])
        commit = editor.revert(to=2)
        assert statuses(editor) == {**then, "ana": "reverted"}
        assert editor.facts()["bo"].by == new
        assert set(commit.restored) == {new, "ada"} and commit.superseded == ("bo",)
        with pytest.raises(RequestError, match="nothing to revert"):
            editor.revert(to=2)


def test_a_whole_commit_can_be_reverted(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        first = editor.history()[1]
        editor.revert("ana")
        assert [fact.id for fact in editor.revert(commit=2).facts] == ["bo", "norvik"]
        assert [fact.id for fact in editor.revert(commit=editor.history()[3].digest[:12]).facts] == ["kessel"]
        assert digest(editor) == first.weights
        for nothing in (2, 0, 4):  # its facts are reverted, it wrote none, it is a revert
            with pytest.raises(RequestError, match="wrote no fact that is active"):
                editor.revert(commit=nothing)


def test_facts_are_named_by_their_id_or_the_beginning_of_one(tmp_path: Path) -> None:
    ids = ["harbour-1", "harbour-2", "harb"]
    requests = [EditRequest("{} lies in", f"Port {i}", "Oran", id=id) for i, id in enumerate(ids)]
    with edited(tmp_path / "store", [requests]) as editor:
        with pytest.raises(RequestError, match="begins the ids of 2 facts"):
            editor.revert("harbour")
        with pytest.raises(RequestError, match="unknown"):
            editor.revert("har")
        editor.revert("harb", "harbour-2")
        assert statuses(editor) == {"harbour-1": "active", "harbour-2": "reverted", "harb": "reverted"}


def test_two_answers_to_one_prompt_are_not_restored_together(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:3]]) as editor:
        new = editor.replace("bo", "Marn").facts[0].id
        editor.revert(to=0)
        before = digest(editor)
        with pytest.raises(RequestError, match="same prompt"):
            editor.restore("bo", new)
        assert digest(editor) == before
        editor.restore("bo", "ada")


@pytest.mark.parametrize("kind", [KINDS["joint-base-1"], KINDS["joint-live-1"]], ids=["base", "live"])
def test_a_fact_without_its_superseder_is_what_a_store_without_both_has(kind: dict[str, Any], tmp_path: Path) -> None:
    """Law (a) across supersession: the weights are those of the columns that stand, and of nothing else."""
    with (
        edited(tmp_path / "a", [REQUESTS[:2], [HOME]], **kind) as plain,
        edited(tmp_path / "b", [REQUESTS[:2], [HOME], [OTHER_HOME]], **kind) as editor,
    ):
        editor.revert(commit=3)
        assert digest(editor) == digest(plain)

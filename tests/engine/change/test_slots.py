"""Facts with one key share a slot: one column, one key, and a value for all of them together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.facts import EditRequest
from tests.engine.editors import (
    EVERY_KIND,
    KINDS,
    LAND,
    MEMORIES,
    WORK,
    Array,
    assert_close,
    base_model,
    digest,
    edited,
    formula_two,
    lived_in,
    newest_record,
    record_of,
    sum_of_deltas,
)
from tests.samples import REQUESTS

ADA = REQUESTS[0]
KEPT = ("keys", "whitened")


def rank(record: dict[str, Array]) -> int:
    return int(record["left"].shape[1])


@EVERY_KIND
def test_facts_that_begin_alike_share_a_column_and_its_key(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:2]], **kind) as editor:
        commit = editor.apply([REQUESTS[2], WORK])
        assert commit.entry is not None and commit.entry.body["columns"] == [["ada", "work"], ["bo"]]
        assert [fact.id for fact in commit.facts] == ["bo", "work"] and commit.rewritten == ()
        assert editor.facts()["ada"].slot == editor.facts()["work"].slot != editor.facts()["bo"].slot
        first = editor.history()[1].record
        for layer in kind["layers"]:
            before, after = record_of(tmp_path / "store", str(first), layer), newest_record(editor, layer)
            assert rank(after) == 2
            for name in KEPT:
                assert np.array_equal(before[name][:, 0], after[name][:, 0])
            assert not np.array_equal(before["base_residuals"][:, 0], after["base_residuals"][:, 0])


@EVERY_KIND
def test_several_new_facts_of_one_slot_share_one_column(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", (), **kind) as editor:
        commit = editor.apply([ADA, REQUESTS[1], WORK, LAND])
        assert commit.entry is not None and commit.entry.body["columns"] == [["ada", "work", "land"], ["emile"]]
        assert rank(newest_record(editor)) == 2
        assert len(editor.state.layers[0].placed) == 2


def test_with_base_targets_a_slot_does_not_know_how_its_facts_came(tmp_path: Path) -> None:
    """Joint memory: one value for the same facts, whether they came together or one after the other."""
    together, one_by_one = [[ADA, WORK], [REQUESTS[1]]], [[ADA], [REQUESTS[1]], [WORK]]
    with edited(tmp_path / "a", together) as one, edited(tmp_path / "b", one_by_one) as other:
        assert_close(one.editable.weight(0), other.editable.weight(0), base_model().weight(0), 1e-4)


@EVERY_KIND
def test_taking_the_newest_fact_of_a_slot_out_gives_the_digest_from_before_it(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    with edited(tmp_path / "store", [REQUESTS[:2]], **kind) as editor:
        digests = [digest(editor)]
        for batch in ([WORK], [REQUESTS[2]], [LAND]):
            editor.apply(batch)
            digests.append(digest(editor))
        assert len(set(digests)) == 4
        for id, before in (("land", digests[2]), ("bo", digests[1]), ("work", digests[0])):
            commit = editor.revert(id)
            assert digest(editor) == before and commit.rewritten == ()
            assert "columns" not in commit.entry.body and rank(newest_record(editor)) == 1  # type: ignore[union-attr]


@EVERY_KIND
def test_taking_an_older_fact_of_a_slot_out_writes_a_value_for_the_others(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:2], [WORK], [REQUESTS[2]], [LAND]], **kind) as editor:
        commit = editor.revert("ada")
        assert commit.rewritten == ("work", "land")
        assert commit.entry is not None and commit.entry.body["columns"] == [["work", "land"]]
        assert len(commit.entry.body["loss"]) == len(commit.entry.body["steps"]) == 1
        both = digest(editor)
        editor.revert("work")
        alone = digest(editor)
        assert editor.restore("work").rewritten == () and digest(editor) == both  # no value is optimised twice
        assert editor.revert("work").rewritten == () and digest(editor) == alone
        for layer in kind["layers"]:
            base = base_model().weight(layer)
            assert_close(base + formula_two(tmp_path / "store", layer), editor.editable.weight(layer), base, 1e-6)


@pytest.mark.parametrize("memory", MEMORIES)
def test_with_base_targets_a_reverted_fact_leaves_no_trace_in_its_slot(memory: str, tmp_path: Path) -> None:
    """Law (b) for slots, keys and values computed anew. Batch memory knows an order, so the slot comes last there."""
    after = [REQUESTS[3:5]] if memory == "joint" else []
    with edited(tmp_path / "all", [REQUESTS[:3], [WORK], *after], memory=memory, targets="base") as editor:
        editor.revert("ada")
        with edited(tmp_path / "never", [REQUESTS[1:3], [WORK], *after], memory=memory, targets="base") as never:
            base = base_model().weight(0)
            assert_close(editor.editable.weight(0), never.editable.weight(0), base, 1e-4)


@EVERY_KIND
def test_whatever_happened_the_weights_are_those_of_formula_two(kind: dict[str, Any], tmp_path: Path) -> None:
    with lived_in(tmp_path / "store", **kind) as editor:
        active = [id for id, fact in editor.facts().items() if fact.status == "active"]
        assert active == ["emile", "work", "norvik", active[3], "ana", "land"]
        assert editor.history()[-2].body["columns"] == [["work", "land"]]
        for layer in kind["layers"]:
            base, now = base_model().weight(layer), editor.editable.weight(layer)
            assert_close(base + formula_two(tmp_path / "store", layer), now, base, 1e-6)
            assert_close(base + sum_of_deltas(tmp_path / "store", layer), now, base, 1e-6)


def test_a_value_in_place_is_a_delta_of_rank_one_a_slot_in_joint_memory(tmp_path: Path) -> None:
    others = [EditRequest("{} works in", request.subject, "Marn") for request in (REQUESTS[0], REQUESTS[4])]
    with edited(tmp_path / "store", [REQUESTS], memory="joint") as editor:
        places = [placed.place for placed in editor.state.layers[0].placed]
        commit = editor.apply(others)
        assert rank(newest_record(editor)) == 2
        assert [placed.place for placed in editor.state.layers[0].placed] == places
        editor.revert(commit.facts[0].id)
        assert rank(newest_record(editor)) == 1


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_revert_of_facts_in_slots_of_their_own_has_as_many_ranks(memory: str, tmp_path: Path) -> None:
    with edited(tmp_path / "store", memory=memory) as editor:
        for ids in (("emile",), ("ada", "norvik", "kessel")):
            editor.revert(*ids)
            assert rank(newest_record(editor)) == len(ids)
        editor.restore("norvik", "emile")
        assert rank(newest_record(editor)) == 2


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_new_value_has_the_ridge_of_its_edit_and_a_rewritten_one_that_of_its_slot(
    memory: str, tmp_path: Path
) -> None:
    with edited(tmp_path / "store", (), memory=memory) as editor:
        default = editor.history()[0].body["calibration"]["0"]
        for batch, choices, ridge in (
            (REQUESTS[:2], {}, [default / 2, default / 2]),
            ([WORK], {"method": "emmet"}, [0.0]),
            ([LAND], {"ridge": 7.0}, [7.0]),
        ):
            editor.apply(batch, **choices)
            assert newest_record(editor)["ridge"].tolist() == pytest.approx(ridge)
        assert editor.revert("work").rewritten == ("ada", "land")
        assert newest_record(editor)["ridge"].tolist() == [7.0]
        base = base_model().weight(0)  # another ridge in place: the column is taken out and put in
        assert_close(base + sum_of_deltas(tmp_path / "store"), editor.editable.weight(0), base, 1e-6)
        assert_close(base + formula_two(tmp_path / "store"), editor.editable.weight(0), base, 1e-6)
        methods = [entry.body.get("method") for entry in editor.history()]
        assert methods == [None, "memit", "emmet", "memit", None]


def test_of_two_answers_to_one_prompt_in_a_batch_neither_is_written(tmp_path: Path) -> None:
    other = replace(ADA, id="other", target_new="Oran", prompt="{} was born in ")
    with edited(tmp_path / "store", [REQUESTS[1:2]]) as editor:
        before = digest(editor)
        with pytest.raises(RequestError, match=r"'ada' and 'other'.*supersedes"):
            editor.apply([ADA, WORK, other])
        assert digest(editor) == before and len(editor.history()) == 2


def test_no_other_subject_and_no_other_prompt_shares_a_slot(tmp_path: Path) -> None:
    near = [
        replace(ADA, id="front", prompt="The clerk {} was born in"),
        replace(ADA, id="longer", subject="Ada Quillt"),
        replace(ADA, id="same", prompt="{}, they say, was born in"),
    ]
    with edited(tmp_path / "store", [[ADA, *near]], **KINDS["joint-base-1"]) as editor:
        assert editor.head.body["columns"] == [["ada", "same"], ["front"], ["longer"]]
        assert torch.isfinite(editor.editable.weight(0)).all()


def test_what_was_accepted_once_is_restored_however_near_later_keys_came(tmp_path: Path) -> None:
    """Later facts raise the amplification of an earlier slot's values above the limit; that is no new value's fault."""
    born = [EditRequest("{} was born in", f"Bo {name}", "Marn", id=name) for name in "hcejif"]
    work = EditRequest("{} works in", "Bo h", "Oran", id="work")
    with edited(tmp_path / "store", (), memory="joint", amplification_limit=1.32) as editor:
        for request in (born[0], work, *born[1:]):
            editor.apply([request], method="emmet")
        with pytest.raises(SolveError, match=r"'work' is amplified 1.4 times"):
            editor.apply([EditRequest("{} lies in", "Bo h", "Oran")], method="emmet")
        before = digest(editor)
        editor.revert("work")
        editor.restore("work")
        assert digest(editor) == before

"""Refits: the facts stay, the weights hold them in another way, and the weights from before come back bit for bit."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.statistics import StatisticsSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import HealthStop, RequestError, StoreCorrupt
from lifelong_edit.store import History
from lifelong_edit.tracking.budget import Budget
from lifelong_edit.tracking.health import HealthLimits, Limit
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests
from lifelong_edit.world.tasks import held_out_stories
from tests.engine.editors import (
    BATCHES,
    WORK,
    assert_close,
    base_model,
    digest,
    edited,
    ledger_of,
    live,
    record_of,
    sum_of_deltas,
)
from tests.samples import REQUESTS

TINY = Path(__file__).parents[3] / "checkpoints" / "tiny-world"
WORLD = World.generate(BUNDLED_SEED)
LARGE = 16.0  # a relative ridge with which some facts are not written far enough
WAYS: dict[str, dict[str, Any]] = {
    "base": {},
    "live": {"targets": "live"},
    "two layers": {"targets": "live", "layers": (0, 1), "statistics": StatisticsSettings(tokens=4000)},
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
EDITED = "model.layers.1.mlp.down_proj.weight"


Faded = Callable[..., LifelongEditor]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives a store of the bundled model, in joint memory, with three batches of four facts. Do not change it."""

    @functools.cache
    def one(ridge: float = LARGE, **choices: Any) -> Path:
        settings = EditorSettings(
            target=TargetSettings(), **{"ridge": ridge, "halvings": 0, "confidence": 0.01, "contexts": 1, **choices}
        )
        text = held_out_stories(WORLD, 200, 0) if "layers" in choices else None
        folder = tmp_path_factory.mktemp("faded") / "store"
        with LifelongEditor.create(folder, TINY, settings, text, dtype=torch.float32) as editor:
            requests = edit_requests(WORLD, 12, 0)
            for start in (0, 4, 8):
                editor.apply(requests[start : start + 4])
        return folder

    return one


@pytest.fixture
def faded(made: Callable[..., Path], tmp_path: Path) -> Faded:
    """Opens an editor of a copy of such a store in this test's folder."""

    def copied(name: str = "store", **choices: Any) -> LifelongEditor:
        folder = shutil.copytree(made(**choices), tmp_path / name)
        return LifelongEditor.open(folder, TINY, dtype=torch.float32)

    return copied


def scores(editor: LifelongEditor) -> dict[str, float]:
    """Which of the active facts the model says."""
    facts = list(editor.standing.history.active)
    return dict(zip(facts, editor.scores()[EFFICACY].each, strict=True))  # type: ignore[arg-type]


def efficacy(editor: LifelongEditor) -> float:
    value = editor.scores()[EFFICACY].value
    assert value is not None
    return value


def edited_weight(editor: LifelongEditor) -> Tensor:
    return editor.editable.weight(1)


def ridges(folder: Path, seq: int) -> dict[str, float]:
    """To every fact that entry `seq` has a column for the ridge of that column."""
    body = ledger_of(folder)[seq]
    columns = columns_of(folder, str(body["record"]))
    return {id: float(ridge) for (id,), ridge in zip(body["columns"], columns["ridge"], strict=True)}


def columns_of(folder: Path, digest: str) -> dict[str, Any]:
    tensors = load_file(folder / "objects" / digest[:2] / f"{digest}.safetensors")
    return {name.rpartition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(EDITED)}


@EVERY_WAY
def test_relaxing_brings_facts_back_and_its_revert_the_weights_from_before(
    way: dict[str, Any], faded: Faded, tmp_path: Path
) -> None:
    with faded(**way) as editor:
        before, weights, start = digest(editor), edited_weight(editor), efficacy(editor)
        commit = editor.relax(reason="they faded")
        assert commit.entry is not None and commit.entry.kind == "relax" and commit.effect is not None
        assert commit.effect[EFFICACY] == (start, efficacy(editor)) and efficacy(editor) > start
        assert {fact.status for fact in editor.facts().values()} == {"active"}
        after = digest(editor)
        undone = editor.revert(commit=commit.entry.seq)
        assert undone.entry is not None and undone.entry.body["withdrawn"] == [commit.entry.seq]
        assert digest(editor) == before and torch.equal(edited_weight(editor), weights)
        editor.revert(to=commit.entry.seq)
        assert digest(editor) == after
        with pytest.raises(RequestError, match="There is nothing to revert"):
            editor.revert(to=commit.entry.seq)
        editor.revert(to=commit.entry.seq - 1)
        assert digest(editor) == before and editor.verify(replay=True).problems == ()
    with LifelongEditor.open(tmp_path / "store", TINY, dtype=torch.float32) as again:
        assert digest(again) == before and torch.equal(edited_weight(again), weights)


def test_only_the_ridges_of_facts_that_came_back_fall_and_by_as_much_as_is_allowed(
    faded: Faded, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with faded() as editor:
        missed = {id for id, score in scores(editor).items() if score == 0.0}
        (most,) = {ridge for seq in (1, 2, 3) for ridge in ridges(store, seq).values()}
        assert 0 < len(missed) < 12
        first, later = editor.relax(halvings=1), {}
        if first.entry is not None:
            later = ridges(store, first.entry.seq)
            assert set(later) <= missed and set(later.values()) == {most / 2}
            assert all(scores(editor)[id] == 1.0 for id in later)
        last = editor.relax(halvings=4)
        assert last.entry is not None
        for id, ridge in ridges(store, last.entry.seq).items():
            assert most / 2**4 <= ridge < later.get(id, most)


@EVERY_WAY
def test_a_relaxed_fact_is_reverted_and_restored_as_any_other(way: dict[str, Any], faded: Faded) -> None:
    with faded(**way) as editor:
        plain, relaxed = digest(editor), editor.relax()
        there, (one, *_) = digest(editor), relaxed.facts
        editor.revert(one.id)
        assert one.id not in editor.standing.history.active
        editor.restore(one.id)
        assert digest(editor) == there  # with the ridge it was given last
        editor.apply(edit_requests(WORLD, 14, 0)[12:])
        assert relaxed.entry is not None
        editor.revert(to=relaxed.entry.seq)
        assert digest(editor) == there
        editor.revert(to=3)
        assert digest(editor) == plain and editor.verify(replay=True).problems == ()


def test_a_ridge_may_fall_while_a_fact_is_written(faded: Faded, tmp_path: Path) -> None:
    with faded("plain") as plain, faded("own", halvings=6) as own:
        assert efficacy(own) > efficacy(plain)
        (most,) = {ridge for seq in (1, 2, 3) for ridge in ridges(tmp_path / "plain", seq).values()}
        found = {ridge for seq in (1, 2, 3) for ridge in ridges(tmp_path / "own", seq).values()}
        assert min(found) >= most / 2**6 and min(found) < max(found) == most
        assert own.verify(replay=True).problems == ()


def test_nothing_is_relaxed_where_nothing_is_missed(faded: Faded, tmp_path: Path) -> None:
    with faded(ridge=0.1) as editor:
        assert efficacy(editor) == 1.0
        entries = editor.history()
        assert editor.relax().entry is None and editor.history() == entries
        with pytest.raises(RequestError, match="once or more"):
            editor.relax(halvings=0)
    with edited(tmp_path / "empty", ()) as empty:
        assert empty.relax().entry is None
    with edited(tmp_path / "batch", memory="batch") as batch, pytest.raises(RequestError, match="repair"):
        batch.relax()


def test_a_stream_relaxes_where_it_would_have_without_being_interrupted(tmp_path: Path) -> None:
    source, choices = tmp_path / "edits.jsonl", {"ridge": LARGE, "halvings": 2, "contexts": 1}
    source.write_text("".join(json.dumps(request.to_dict()) + "\n" for request in edit_requests(WORLD, 12, 0)), "utf-8")

    def create(name: str) -> LifelongEditor:
        return LifelongEditor.create(
            tmp_path / name, TINY, EditorSettings(target=TargetSettings(), **choices), dtype=torch.float32
        )

    with create("whole") as whole:
        list(whole.stream(source, batch=2, relax=2))
        kinds = [entry.kind for entry in whole.history()]
        assert kinds.count("edit") == 6 and "relax" in kinds
        assert all(kinds[: seq + 1].count("edit") % 2 == 0 for seq, kind in enumerate(kinds) if kind == "relax")
    create("cut").close()
    for commits in (2, 2, 1):  # where it is about to relax, and in between
        with LifelongEditor.open(tmp_path / "cut", TINY, dtype=torch.float32) as cut:
            list(islice(cut.stream(source, batch=2, relax=2), commits))
            assert [entry.kind for entry in cut.history()] == kinds[: len(cut.history())]
    with LifelongEditor.open(tmp_path / "cut", TINY, dtype=torch.float32) as cut:
        list(cut.stream(source, batch=2, relax=2))
        assert [entry.kind for entry in cut.history()] == kinds and digest(cut) == digest(whole)
    with create("never") as never:
        list(islice(never.stream(source, batch=2, relax=0), kinds.index("relax")))
        assert [entry.kind for entry in never.history()] == ["init", *["edit"] * kinds.index("relax")]


def test_a_given_ridge_is_kept(faded: Faded, tmp_path: Path) -> None:
    with faded(halvings=6) as editor:
        editor.apply(edit_requests(WORLD, 14, 0)[12:], ridge=7.0)
        assert set(ridges(tmp_path / "store", 4).values()) == {7.0}


def test_a_budget_can_refuse_to_relax(faded: Faded) -> None:
    with faded() as editor:
        before, entries = edited_weight(editor), editor.history()
        with pytest.raises(HealthStop):
            editor.relax(budget=Budget(limits=HealthLimits(norm=Limit(1e-9, 1e-9))))
        assert torch.equal(edited_weight(editor), before) and editor.history() == entries


@pytest.mark.parametrize("choices", [{}, {"layers": (0, 1)}], ids=["one layer", "two layers"])
def test_a_repaired_store_has_the_weights_of_one_batch(
    choices: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifelong_edit.engine.editor.improves", lambda effect: True)
    monkeypatch.setattr("lifelong_edit.kinds.kernel.refit.SHARES", (0.0,))
    with edited(tmp_path / "store", [*BATCHES, [WORK]], memory="batch", targets="live", **choices) as editor:
        before = digest(editor)
        commit = editor.repair()
        assert commit.entry is not None and commit.entry.kind == "repair" and commit.facts == ()
        for number, layer in editor.state.layers.items():
            every = [_record_of_seq(tmp_path, seq, number) for seq in (1, 2, 3, 4)]
            stands = _joined(every, gone=0)  # work stands in the slot of "ada", with a value for both
            solution = torch.linalg.solve((stands[1].T @ stands[0] + stands[3].diag()).T, stands[2].T).T
            expected = layer.base.double() + solution @ stands[1].T
            assert_close(layer.weight, expected, layer.base, 1e-9)
            assert_close(layer.base.double() + sum_of_deltas(tmp_path / "store", number), expected, layer.base, 1e-6)
        there = digest(editor)
        editor.revert("bo")
        editor.restore("bo")
        assert digest(editor) == there
        editor.apply([REQUESTS[0]], reason="known")
        editor.revert(commit=commit.entry.seq)
        assert digest(editor) == before
        editor.revert(to=commit.entry.seq)
        assert digest(editor) == there and editor.verify(replay=True).problems == ()
    with LifelongEditor.open(tmp_path / "store", base_model()) as again:
        assert digest(again) == there


def test_a_repair_that_does_not_help_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifelong_edit.engine.editor.improves", lambda effect: False)
    with edited(tmp_path / "store", memory="batch") as editor:
        weights, entries = live(editor), editor.history()
        commit = editor.repair()
        assert commit.entry is None and commit.effect is not None and set(commit.effect) == {EFFICACY, "drift"}
        assert torch.equal(live(editor), weights) and editor.history() == entries
    with (
        edited(tmp_path / "one", BATCHES[:1], memory="batch") as editor,
        pytest.raises(RequestError, match="two batches"),
    ):
        editor.repair()
    with edited(tmp_path / "joint") as editor, pytest.raises(RequestError, match="relax"):
        editor.repair()


def test_a_repair_takes_larger_ridges_where_these_are_better(faded: Faded) -> None:
    with faded(ridge=0.5, memory="batch", targets="base") as editor:
        editor.apply(edit_requests(WORLD, 16, 0)[12:])
        before, start = digest(editor), efficacy(editor)
        commit = editor.repair()
        assert commit.effect is not None
        if commit.entry is not None:
            assert efficacy(editor) > start and commit.effect["drift"][1] < commit.effect["drift"][0]
            editor.revert(commit=commit.entry.seq)
        assert digest(editor) == before and editor.verify(replay=True).problems == ()


def test_larger_ridges_of_a_repair_fold_and_go_as_other_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifelong_edit.engine.editor.improves", lambda effect: True)
    monkeypatch.setattr("lifelong_edit.kinds.kernel.refit.SHARES", (4.0,))
    with edited(tmp_path / "store", [*BATCHES, [WORK]], memory="batch", targets="live") as editor:
        before, commit = digest(editor), editor.repair()
        assert commit.entry is not None
        there, own = digest(editor), _record_of_seq(tmp_path, commit.entry.seq, 0)
        assert len(own["ridge"]) == 6  # a column a slot
        first = _record_of_seq(tmp_path, 1, 0)["ridge"]
        assert float(own["ridge"].max()) == pytest.approx(float(first[0]) * 9)  # 0.5 + 4 mean key masses
        layer = editor.state.layers[0]
        solution = torch.linalg.solve(
            (own["whitened"].T @ own["keys"] + own["ridge"].diag()).T, own["base_residuals"].T
        ).T
        assert_close(layer.weight, layer.base.double() + solution @ own["whitened"].T, layer.base, 1e-9)
        editor.revert("bo")
        editor.restore("bo")
        assert digest(editor) == there and editor.verify(replay=True).problems == ()
        editor.revert(commit=commit.entry.seq)
        assert digest(editor) == before


@pytest.mark.parametrize("body", [{"withdrawn": [1]}, {"reinstated": [2]}, {"withdrawn": [[2]]}, {"withdrawn": 2}])
def test_what_was_not_refitted_cannot_be_withdrawn(body: dict[str, Any]) -> None:
    history = History({}, (), {2: "relax"})
    assert history.then(3, "revert", {"facts": [], "withdrawn": [2]}).in_force == ()
    with pytest.raises(StoreCorrupt, match="entry 3 does not fit the history"):
        history.then(3, "revert", {"facts": [], **body})


def _record_of_seq(tmp_path: Path, seq: int, layer: int) -> dict[str, Tensor]:
    found = record_of(tmp_path / "store", str(ledger_of(tmp_path / "store")[seq]["record"]), layer)
    return {name: torch.from_numpy(value) for name, value in found.items()}


def _joined(records: list[dict[str, Tensor]], gone: int) -> list[Tensor]:
    """Keys, whitened keys, residuals and ridge of all records side by side, but for the column `gone`."""
    names = ("keys", "whitened", "base_residuals", "ridge")
    joined = [torch.cat([record[name] for record in records], dim=-1) for name in names]
    return [torch.cat([one[..., :gone], one[..., gone + 1 :]], dim=-1) for one in joined]

"""What a store promises: edits go in, come out exactly, and the weights are a function of what is active."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.algebra.system import Memory, fold, materialise
from lifelong_edit.editing.rows import FrozenRows
from lifelong_edit.editing.second_moments import beside_model, moment_bytes, read_moment
from lifelong_edit.engine import Commit, LifelongEditor
from lifelong_edit.errors import ModelError, ModelMismatch, RequestError, SolveError, StoreError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.model.hooks import Seen
from lifelong_edit.store.objects import ObjectStore
from tests.editing.test_keys import never
from tests.engine.editors import (
    BATCHES,
    MEMORIES,
    assert_close,
    base_model,
    edited,
    files,
    formula_two,
    ledger_of,
    live,
    sum_of_deltas,
)
from tests.models import MODEL_TYPES, sentence_piece, small_editable, small_model
from tests.samples import REQUESTS, TEXT, lively_editable, new_editor


def without(*ids: str) -> list[list[EditRequest]]:
    """The sample batches less some facts; a batch that becomes empty is left out."""
    kept = [[request for request in batch if request.id not in ids] for batch in BATCHES]
    return [batch for batch in kept if batch]


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_reopening_gives_bit_equal_weights(model_type: str, memory: str, tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", lively_editable(model_type), memory=memory) as editor:
        for batch in BATCHES:
            editor.apply(batch)
        editor.revert("bo")
        before, facts, entries = live(editor), editor.facts(), editor.history()
    with LifelongEditor.open(tmp_path / "store", lively_editable(model_type)) as again:
        assert torch.equal(live(again), before)
        assert again.facts() == facts
        assert again.history() == entries
        assert [entry.kind for entry in entries] == ["init", "edit", "edit", "edit", "revert"]


def test_several_layers_are_edited_reopened_and_reverted(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", base_model(), layers=(0, 1)) as editor:
        first = editor.apply(REQUESTS[:2]).entry
        editor.apply(REQUESTS[2:3])
        weights = [editor.editable.weight(layer) for layer in (0, 1)]
        with LifelongEditor.open(tmp_path / "store", base_model(), read_only=True) as reader:
            assert all(torch.equal(reader.editable.weight(layer), weights[layer]) for layer in (0, 1))
        last = editor.revert("bo").entry
        assert first is not None and last is not None and last.weights == first.weights


@pytest.mark.parametrize("memory", MEMORIES)
def test_reverting_the_last_edits_gives_the_digest_recorded_before_them(memory: str, tmp_path: Path) -> None:
    with edited(tmp_path / "store", memory=memory) as editor:
        _, first, second, _ = editor.history()
        assert len({entry.weights for entry in editor.history()}) == 4
        editor.revert("kessel")
        assert editor.history()[-1].weights == second.weights
        editor.revert("ana", "norvik", "bo")
        assert editor.history()[-1].weights == first.weights
        editor.revert("ada", "emile")
        assert torch.equal(live(editor), base_model().weight(0))
        assert editor.history()[-1].weights == editor.history()[0].body["base_weights"]


@pytest.mark.parametrize("memory", MEMORIES)
def test_reverting_any_fact_equals_a_fresh_fold_of_the_others(memory: str, tmp_path: Path) -> None:
    """Law (a): every other fact keeps its frozen key and value."""
    with edited(tmp_path / "store", memory=memory) as editor:
        whole, base = editor.state.layers[0], base_model().weight(0)
        for id in (str(request.id) for request in REQUESTS):
            editor.revert(id)
            kept = [columns.take([i for i, name in enumerate(columns.names) if name != id])
                    for columns in whole.columns.values()]  # fmt: skip
            pairs = fold([columns for columns in kept if len(columns)], Memory(memory), float("inf"))
            assert torch.equal(live(editor), materialise(base, pairs).float()), id
            assert editor.facts()[id].status == "reverted"
            editor.restore(id)


@pytest.mark.parametrize("memory", MEMORIES)
def test_with_base_targets_a_reverted_fact_leaves_no_trace(memory: str, tmp_path: Path) -> None:
    """Law (b): the weights are those of a fresh store that never had it, keys and targets computed anew."""
    with edited(tmp_path / "all", memory=memory, targets="base") as editor:
        for gone in (("ada",), ("bo", "ana"), ("kessel",), ("ada", "emile")):
            editor.revert(*gone)
            with edited(tmp_path / "-".join(gone), without(*gone), memory=memory, targets="base") as never:
                assert_close(live(editor), live(never), base_model().weight(0), 1e-4)
            editor.restore(*gone)


def test_with_live_targets_later_targets_have_seen_a_reverted_fact(tmp_path: Path) -> None:
    with edited(tmp_path / "all", targets="live") as editor, edited(tmp_path / "never", without("ada")) as never:
        editor.revert("ada")
        gap = (live(editor) - live(never)).norm() / (live(never) - base_model().weight(0)).norm()
        assert gap > 1e-4


def test_joint_memory_with_base_targets_does_not_know_an_order(tmp_path: Path) -> None:
    with edited(tmp_path / "there", memory="joint", targets="base") as there:
        one_by_one = [[request] for request in reversed(REQUESTS)]
        with edited(tmp_path / "back", one_by_one, memory="joint", targets="base") as back:
            assert_close(live(there), live(back), base_model().weight(0), 1e-4)


@pytest.mark.parametrize("memory", MEMORIES)
def test_recorded_deltas_sum_to_the_fold(memory: str, tmp_path: Path) -> None:
    """Reverts included; read with numpy, safetensors and sqlite3 alone."""
    with edited(tmp_path / "store", memory=memory) as editor:
        editor.revert("emile", "bo")
        editor.apply([replace(REQUESTS[1], id="emile again", target_new="Marnish")])
        editor.revert("kessel")
        expected = live(editor)
    base = base_model().weight(0)
    assert_close(base + sum_of_deltas(tmp_path / "store"), expected, base, 1e-6)


@pytest.mark.parametrize("memory", MEMORIES)
def test_formula_two_rebuilds_the_head_without_this_package(memory: str, tmp_path: Path) -> None:
    """W = W_0 + X Q', X T = R_0 over the active facts; numpy, safetensors and sqlite3 alone."""
    with edited(tmp_path / "store", memory=memory) as editor:
        editor.revert("emile", "bo")
        expected = live(editor)
    base = base_model().weight(0)
    assert_close(base + formula_two(tmp_path / "store"), expected, base, 1e-6)


def test_a_known_request_is_skipped_and_reported(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        editor.revert("bo")
        head, before = editor.history()[-1], live(editor)
        commit = editor.apply([REQUESTS[0], REQUESTS[2]])
        assert commit == Commit(None, skipped=("ada", "bo"))
        mixed = editor.apply([REQUESTS[0], EditRequest("{} lies in", "Tarsis", "Oran", id="tarsis")])
        assert mixed.skipped == ("ada",) and [fact.id for fact in mixed.facts] == ["tarsis"]
        assert editor.history()[-2] == head
        assert not torch.equal(live(editor), before)


def test_another_edit_under_a_known_id_is_refused(tmp_path: Path) -> None:
    with edited(tmp_path / "store", BATCHES[:1]) as editor:
        with pytest.raises(RequestError, match=r"'ada' was used at seq 1"):
            editor.apply([replace(REQUESTS[0], target_new="Oran")])
        twice = [replace(REQUESTS[2], id="x"), replace(REQUESTS[3], id="x")]
        with pytest.raises(RequestError, match="twice in the batch"):
            editor.apply(twice)
        assert len(editor.history()) == 2


def test_a_fact_without_an_id_can_come_back_after_another_value(tmp_path: Path) -> None:
    """A, B, A: the slot is freed by a revert each time."""
    first, second = (
        EditRequest("{} was born in", "Ada Quill", "Marn"),
        EditRequest("{} was born in", "Ada Quill", "Oran"),
    )
    with new_editor(tmp_path / "store", base_model(), targets="base") as editor:
        a = editor.apply([first])
        editor.revert(a.facts[0].id)
        b = editor.apply([second])
        editor.revert(b.facts[0].id)
        again = editor.apply([first])
        assert len({a.facts[0].id, b.facts[0].id, again.facts[0].id}) == 3
        assert a.entry is not None and again.entry is not None and a.entry.weights == again.entry.weights
        assert editor.apply([first]).entry is None
        assert [fact.status for fact in editor.facts().values()] == ["reverted", "reverted", "active"]


@pytest.mark.parametrize("ids", [(), ("ada", "ada"), ("nobody",), ("bo",)], ids=str)
def test_what_is_not_active_cannot_be_reverted(ids: tuple[str, ...], tmp_path: Path) -> None:
    with edited(tmp_path / "store", BATCHES[:2]) as editor:
        editor.revert("bo")
        before = live(editor)
        with pytest.raises(RequestError):
            editor.revert(*ids)
        assert torch.equal(live(editor), before) and len(editor.history()) == 4


def test_another_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with edited(tmp_path / "store", BATCHES[:1]) as editor:
        already_edited = editor.editable
    for other in (small_editable("gpt2"), lively_editable("gpt2", torch.float64), already_edited):
        before, stored = fingerprint(other), files(tmp_path / "store")
        with pytest.raises(ModelMismatch):
            LifelongEditor.open(tmp_path / "store", other)
        assert fingerprint(other) == before and files(tmp_path / "store") == stored
    LifelongEditor.open(tmp_path / "store", base_model()).close()


def test_a_store_without_a_model_has_its_history_only(tmp_path: Path) -> None:
    edited(tmp_path / "store").close()
    with LifelongEditor.open(tmp_path / "store") as editor:
        assert [entry.kind for entry in editor.history()] == ["init", "edit", "edit", "edit"]
        assert list(editor.facts()) == [request.id for request in REQUESTS]
        for change in (lambda: editor.apply(REQUESTS), lambda: editor.revert("ada"), lambda: editor.model):
            with pytest.raises(RequestError, match="without a model"):
                change()


def test_a_model_that_cannot_be_opened_leaves_the_store_free(tmp_path: Path) -> None:
    edited(tmp_path / "store").close()
    with pytest.raises(ModelError, match="no-such-model"):
        LifelongEditor.open(tmp_path / "store", tmp_path / "no-such-model")
    LifelongEditor.open(tmp_path / "store", base_model()).close()


def test_a_closed_editor_refuses_before_it_computes(tmp_path: Path) -> None:
    editor = edited(tmp_path / "store", BATCHES[:1])
    editor.close()
    editor.model.register_forward_pre_hook(never)
    with pytest.raises(StoreError, match="closed"):
        editor.apply(BATCHES[1])


def test_a_reader_of_a_store_cannot_change_it(tmp_path: Path) -> None:
    edited(tmp_path / "store").close()
    with LifelongEditor.open(tmp_path / "store", base_model(), read_only=True) as editor:
        before = live(editor)
        with pytest.raises(StoreError, match="reading"):
            editor.revert("ada")
        assert torch.equal(live(editor), before) and editor.facts()["ada"].status == "active"


def not_a_number(value: Tensor) -> Tensor:
    return torch.full_like(value, float("nan"))


def poison_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Seen, "input", property(lambda seen: not_a_number(seen._input)))


def poison_targets(patch: pytest.MonkeyPatch) -> None:
    plain = FrozenRows.loss
    patch.setattr(FrozenRows, "loss", lambda rows, delta, kl: not_a_number(plain(rows, delta, kl)))


def poison_gradients(patch: pytest.MonkeyPatch) -> None:
    plain = FrozenRows.loss
    patch.setattr(FrozenRows, "loss", lambda rows, delta, kl: plain(rows, delta, kl) + (0 * delta).sum(-1).sqrt())


def poison_second_moment(patch: pytest.MonkeyPatch) -> None:
    plain = Metric.whiten
    patch.setattr(
        Metric,
        "whiten",
        lambda metric, keys, names: plain(replace(metric, factor=not_a_number(metric.factor)), keys, names),
    )


@pytest.mark.parametrize("poison", [poison_keys, poison_targets, poison_gradients, poison_second_moment])
def test_what_is_not_finite_names_the_facts_and_changes_nothing(
    poison: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edited(tmp_path / "store", BATCHES[:1]) as editor:
        before, stored, entries = fingerprint(editor.editable), files(tmp_path / "store"), editor.history()
        with monkeypatch.context() as patch:
            poison(patch)
            with pytest.raises(SolveError, match=r"bo|Bo Lund"):
                editor.apply(BATCHES[1])
        assert fingerprint(editor.editable) == before
        assert (files(tmp_path / "store"), editor.history()) == (stored, entries)
        assert len(ledger_of(tmp_path / "store")) == 2
        editor.apply(BATCHES[1])


def test_a_collision_without_a_ridge_changes_nothing(tmp_path: Path) -> None:
    """Five facts more than the keys' space has dimensions left cannot all be met."""
    people = [
        EditRequest(f"{'The ' * n}{{}} was born in", f"Bo {c}", "Marn")
        for n in range(3)
        for c in "abcdefghijklmnopqrstuvwxyz"
    ]
    with edited(tmp_path / "store", BATCHES[:1]) as editor:
        before, stored = fingerprint(editor.editable), files(tmp_path / "store")
        with pytest.raises(SolveError, match="ridge"):
            editor.apply(people, method="emmet")
        assert (fingerprint(editor.editable), files(tmp_path / "store")) == (before, stored)


def test_a_model_that_is_not_finite_founds_no_store(tmp_path: Path) -> None:
    editable = base_model()
    with torch.no_grad():
        editable.block(0).mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(SolveError, match="second moment"):
        new_editor(tmp_path / "store", editable)
    assert ledger_of(tmp_path / "store") == []
    assert files(tmp_path / "store") == {}


BAD_TEXTS = {
    "no subject": {"prompt": "Ada was born in"},
    "two subjects": {"prompt": "{} and {} were born in"},
    "empty target": {"target_new": ""},
    "blank target": {"target_new": " \n"},
    "empty subject": {"subject": " "},
    "lone surrogate": {"subject": "Ada \ud800"},
    "control character": {"prompt": "{} was \x07 born in"},
    "null": {"target_new": "Ma\x00rn"},
    "long prompt": {"prompt": "{} " + "o" * 2000},
    "long target": {"target_new": "o" * 201},
    "no text": {"subject": 7},
}


@pytest.mark.parametrize("wrong", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_request_that_says_nothing_is_refused_when_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="request 'r-7'"):
        EditRequest(**{"prompt": "{} was born in", "subject": "Ada", "target_new": "Marn", "id": "r-7", **wrong})


def test_a_request_the_model_cannot_take_is_refused_before_it_runs(tmp_path: Path) -> None:
    with edited(tmp_path / "store", BATCHES[:1]) as editor:
        handle = editor.model.register_forward_pre_hook(never)
        long = EditRequest("{}" + " o" * 95, "Bo", "Marn", id="r-7")
        for batch in ([long], [*BATCHES[1], long]):
            with pytest.raises(RequestError, match=r"'r-7'.*tokens"):
                editor.apply(batch)
        with pytest.raises(RequestError, match="no method"):
            editor.apply(BATCHES[1], method="nudge")
        with pytest.raises(RequestError, match="ridge"):
            editor.apply(BATCHES[1], ridge=-1.0)
        handle.remove()
        assert len(editor.history()) == 2


@pytest.mark.parametrize("unknown", [{"subject": "漢字"}, {"target_new": "漢字"}], ids=str)
def test_words_the_tokenizer_does_not_know_are_refused_before_it_runs(unknown: dict[str, str], tmp_path: Path) -> None:
    tokenizer = sentence_piece()
    with new_editor(tmp_path / "store", EditableModel(small_model("llama", len(tokenizer)), tokenizer)) as editor:
        handle = editor.model.register_forward_pre_hook(never)
        with pytest.raises(RequestError, match=r"'ada'.*no tokens"):
            editor.apply([REQUESTS[2], replace(REQUESTS[0], **unknown)])  # type: ignore[arg-type]
        handle.remove()


def test_an_interrupted_create_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_tokens: int, _wanted: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LifelongEditor.create(tmp_path / "store", base_model(), text=TEXT, progress=interrupt)
    with pytest.raises(StoreError, match="Create it again"):
        LifelongEditor.open(tmp_path / "store")
    LifelongEditor.create(tmp_path / "store", base_model(), text=TEXT).close()
    LifelongEditor.create(tmp_path / "straight", base_model(), text=TEXT).close()
    resumed, straight = (ledger_of(tmp_path / name)[0] for name in ("store", "straight"))
    assert resumed["statistics"] == straight["statistics"]
    with pytest.raises(StoreError):
        LifelongEditor.create(tmp_path / "store", base_model(), text=TEXT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    editable = base_model()
    editable.model.save_pretrained(tmp_path / "model")
    editable.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_without_text_a_store_needs_second_moments_beside_the_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="text="):
        LifelongEditor.create(tmp_path / "store", base_model())
    with pytest.raises(RequestError, match=r"second moment of layer 0.*text="):
        LifelongEditor.create(tmp_path / "store", folder)
    assert not (tmp_path / "store").exists()


def test_second_moments_beside_the_model_are_used_when_they_are_its_own(folder: Path, tmp_path: Path) -> None:
    with new_editor(tmp_path / "made", EditableModel.open(folder)) as editor:
        digest = editor.history()[0].body["statistics"]["0"]
        data = ObjectStore(tmp_path / "made" / "statistics").get(digest)
    place = beside_model(folder, 0)
    place.parent.mkdir()
    place.write_bytes(data)
    with LifelongEditor.create(tmp_path / "store", folder) as editor:
        assert editor.history()[0].body["statistics"]["0"] == digest
        editor.apply(BATCHES[0])
    with pytest.raises(RequestError, match=r"cast.*float16 rounds"):
        LifelongEditor.create(tmp_path / "rounded", folder, dtype=torch.float16)
    moment, about = read_moment(data)
    place.write_bytes(moment_bytes(moment, {**about, "fingerprint": "another"}))
    with pytest.raises(RequestError, match="another model"):
        LifelongEditor.create(tmp_path / "other", folder)


def test_a_store_can_be_moved(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        before = live(editor)
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    with LifelongEditor.open(tmp_path / "elsewhere", base_model()) as again:
        assert torch.equal(live(again), before)


def test_a_value_in_an_equal_ones_place_has_nothing_to_lose_in_the_cast(tmp_path: Path) -> None:
    """The delta is the rounding between two optimisations of one request, alone and in a batch; no warning is due."""
    ada = REQUESTS[0]
    with edited(tmp_path / "store", [REQUESTS[:2], [replace(ada, id="again")]]) as editor:
        commit = editor.restore("ada")
        assert commit.superseded == ("again",) and min(commit.survived.values()) > 0.9


def test_a_coarse_dtype_that_swallows_the_edit_gives_a_warning(tmp_path: Path) -> None:
    """The recorded weights are those of the fold, not of the cast."""
    with new_editor(tmp_path / "store", lively_editable("llama", torch.bfloat16)) as editor:
        with pytest.warns(UserWarning, match="survived the cast to torch.bfloat16"):
            commit = editor.apply([REQUESTS[0]], ridge=1e5)
        assert all(share < 0.9 for share in commit.survived.values())
        assert commit.entry is not None and commit.entry.body["survived"] == commit.survived
        assert commit.entry.weights != editor.history()[0].body["base_weights"]


def test_a_float32_edit_survives_and_says_so(tmp_path: Path) -> None:
    with edited(tmp_path / "store", ()) as editor:
        commit = editor.apply(BATCHES[0], actor="ada", reason="a test")
        assert all(share > 0.999 for share in commit.survived.values())
        assert commit.entry is not None
        assert (commit.entry.body["actor"], commit.entry.body["reason"]) == ("ada", "a test")
        assert [fact.request.prompt for fact in commit.facts] == [request.prompt for request in BATCHES[0]]


def test_the_base_model_is_edited_in_place_and_closing_keeps_the_edits(tmp_path: Path) -> None:
    editable = base_model()
    with new_editor(tmp_path / "store", editable) as editor:
        assert editor.model is editable.model
        editor.apply(BATCHES[0])
    assert not torch.equal(editable.weight(0), base_model().weight(0))
    with pytest.raises(ModelError):
        LifelongEditor.open(tmp_path / "store", editable)

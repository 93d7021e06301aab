"""Older states: looked at beside the live model, shown by it, compared, and named."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import ModelError, RequestError
from lifelong_edit.kinds.kernel.state import weights_digest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.tracking.generation import answer
from tests.engine.editors import BATCHES, EVERY_KIND, WORK, base_model, edited, live, lived_in
from tests.reliability.audit import contents
from tests.samples import REQUESTS

ASKED = "Ada Quill was born in"


def digest_of(editable: EditableModel, layers: tuple[int, ...]) -> str:
    return weights_digest({editable.weight_name(n): editable.weight(n) for n in layers})


@EVERY_KIND
def test_every_state_is_seen_and_shown_as_it_was(kind: dict[str, Any], tmp_path: Path) -> None:
    with lived_in(tmp_path / "store", **kind) as editor:
        head, layers = fingerprint(editor.editable), kind["layers"]
        recorded = editor.history()[0].body["base_weights"]
        for entry in editor.history():
            recorded = entry.weights or recorded
            assert digest_of(editor.at(entry.seq).editable, layers) == recorded
            editor.checkout(entry.seq)
            assert digest_of(editor.editable, layers) == recorded
        editor.checkout(0)
        assert fingerprint(editor.editable) == fingerprint(base_model())
        editor.checkout()
        assert fingerprint(editor.editable) == head


def test_a_view_has_the_facts_and_answers_of_its_time(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:3]], targets="live") as editor:
        said = answer(editor.editable, ASKED)
        editor.replace("ada", "Tarsis")
        editor.revert("emile")
        assert answer(editor.editable, ASKED) != said
        view = editor.at(1)
        assert (view.seq, list(view.facts), view.answer(ASKED)) == (1, ["ada", "emile", "bo"], said)
        assert all(fact.status == "active" and fact.since == 1 for fact in view.facts.values())
        assert editor.at(0).facts == {} and editor.at(0).answer(ASKED) == answer(base_model(), ASKED)


def test_a_view_shares_what_is_not_edited_and_no_edit_reaches_it(tmp_path: Path) -> None:
    with edited(tmp_path / "store", BATCHES[:2]) as editor:
        view = editor.at(1)
        before = view.editable.weight(0)
        own = {name for name, parameter in view.editable.model.named_parameters()
               if parameter.data_ptr() != dict(editor.model.named_parameters())[name].data_ptr()}  # fmt: skip
        assert own == {editor.editable.weight_name(0)}
        editor.apply(BATCHES[2])
        editor.revert("ada")
        assert torch.equal(view.editable.weight(0), before)


def test_a_state_is_shown_again_by_the_open_that_follows(tmp_path: Path) -> None:
    """A checkout is the model's alone: the store knows nothing of it."""
    with edited(tmp_path / "store") as editor:
        head, stored = live(editor), contents(tmp_path / "store")
        editor.checkout(1)
        assert contents(tmp_path / "store") == stored
    with LifelongEditor.open(tmp_path / "store", base_model(), read_only=True) as reader:
        assert torch.equal(live(reader), head)
        reader.checkout(1)
        assert torch.equal(live(reader), live(editor)) and not torch.equal(live(reader), head)


@EVERY_KIND
def test_a_difference_turns_round_with_its_states(kind: dict[str, Any], tmp_path: Path) -> None:
    with edited(tmp_path / "store", **kind) as editor:
        editor.revert("bo", "ada")
        model = fingerprint(editor.editable)
        there, back = editor.diff(1, editor.head.digest[:9]), editor.diff(4, 1)
        assert [fact.id for fact in there.gained] == ["norvik", "ana", "kessel"] and there.gained == back.lost
        assert [fact.id for fact in there.lost] == ["ada"] and there.lost == back.gained
        assert there.weights == back.weights and min(there.weights.values()) > 0
        assert {prompt: said[::-1] for prompt, said in there.answers.items()} == back.answers
        for layer in kind["layers"]:
            base = base_model().weight(layer)
            moved = (editor.at(4).editable.weight(layer) - editor.at(1).editable.weight(layer)).norm() / base.norm()
            assert there.weights[editor.editable.weight_name(layer)] == pytest.approx(float(moved), rel=1e-4)
        assert fingerprint(editor.editable) == model


def test_answers_that_differ_are_those_of_the_two_views(tmp_path: Path) -> None:
    prompts = [request.question for request in REQUESTS]
    with edited(tmp_path / "store", targets="live") as editor:
        one, other = editor.at(0), editor.at(3)
        said = {prompt: (one.answer(prompt), other.answer(prompt)) for prompt in prompts}
        differing = {prompt: pair for prompt, pair in said.items() if pair[0] != pair[1]}
        assert editor.diff(0, 3).answers == differing != {}
        assert editor.diff(0, 3, [prompts[1]]).answers == {p: s for p, s in differing.items() if p == prompts[1]}
        assert editor.diff(0, 3, []).answers == {}


def test_a_state_does_not_differ_from_itself(tmp_path: Path) -> None:
    with edited(tmp_path / "store", [REQUESTS[:2]]) as editor:
        editor.apply([WORK])
        editor.revert("work")
        for pair in ((1, 1), (1, 3)):
            found = editor.diff(*pair, prompts=[ASKED])
            assert (found.gained, found.lost, found.answers) == ((), (), {})
            assert set(found.weights.values()) == {0.0}


def test_entries_are_named_by_seq_tag_or_the_beginning_of_their_digest(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        tagged = editor.tag("before the move", at=1, reason="kept")
        newest = editor.tag("newest")
        assert (tagged.body["target"], newest.body["target"]) == (1, 4)
        second = editor.history()[1]
        for ref in (1, "1", "before the move", second.digest[:4], second.digest):
            assert editor.at(ref).seq == 1
        assert editor.at("newest").seq == 4
        assert editor.revert(to="before the move").entry.weights == second.weights  # type: ignore[union-attr]


def test_what_names_no_entry_is_refused(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        looks = (editor.at, editor.checkout, lambda ref: editor.diff(0, ref), lambda ref: editor.revert(to=ref))
        for ref, look in product([-1, 5, "no such tag", "", "abc", "9", "g" * 64], looks):
            with pytest.raises(RequestError, match="names no entry"):
                look(ref)
        assert len(editor.history()) == 4


def test_a_tag_that_could_be_something_else_is_refused(tmp_path: Path) -> None:
    with edited(tmp_path / "store", ()) as editor:
        for name in ("", " ", "12", "face", "0", "a\nb", "\x1b[2J"):
            with pytest.raises(RequestError, match="no name for a tag"):
                editor.tag(name)
        assert len(editor.history()) == 1


def test_a_tag_is_given_once(tmp_path: Path) -> None:
    with edited(tmp_path / "store", BATCHES[:1]) as editor:
        editor.tag("good")
        with pytest.raises(RequestError, match="'good' was given to seq 1"):
            editor.tag("good", at=0)
        with pytest.raises(RequestError, match="names no entry"):
            editor.tag("better", at=9)
        assert editor.at("good").seq == 1 and len(editor.history()) == 3


def test_a_view_is_no_base_to_open_a_store_with(tmp_path: Path) -> None:
    with edited(tmp_path / "store", BATCHES[:1]) as editor:
        view = editor.at(1)
    with pytest.raises(ModelError):
        LifelongEditor.open(tmp_path / "store", view.editable)

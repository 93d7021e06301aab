"""Stores that commit 2533962 wrote: they open and lead to what they say, and the same script writes the same today."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from lifelong_edit import EditRequest, LifelongEditor
from lifelong_edit.engine.state.session import software
from tests.engine.editors import ledger_of
from tests.engine.thirty_commits import ENTRIES, MOTHER, NAMES, PLACES, SCENES, write

KEPT = Path(__file__).parents[1] / "data" / "thirty-commits"
RELATIVE, ABSOLUTE = 1e-9, 1e-12  # among processors, 2e-13 and 1e-15 were the most
ASIDE = {"time", "actor", "versions"}  # of an entry: when, by whom and with what it was made
DIGESTS = {"prev", "record", "weights", "statistics"}  # of numbers, down to the last bit: what they name is compared
# Choices that did not exist then and make no difference to these stores, and what entries did not tell then.
ADDED = {"text", "prompt_share", "outlier", "failed", "cost"}
NEW = EditRequest(MOTHER, NAMES[7], PLACES[0], id="new")
EVERY_SCENE = pytest.mark.parametrize("scene", SCENES)


def opened(folder: Path, read_only: bool = False) -> LifelongEditor:
    return LifelongEditor.open(folder, KEPT / "model", read_only=read_only, dtype=torch.float64)


def made_here(body: dict[str, Any]) -> bool:
    """Where bits can be compared: with the kind of processor and as many threads as an entry tells of."""
    return all(body["versions"][name] == software()[name] for name in ("machine", "threads"))


def differences(then: Any, now: Any, place: str = "") -> Iterator[str]:
    """Where two JSON values are not the same: numbers up to the tolerance, all else exactly."""
    if isinstance(then, dict) and isinstance(now, dict):
        yield from (f"{place}/{key} is in one of them" for key in (then.keys() ^ now.keys()) - ADDED)
        for key in then.keys() & now.keys() - ASIDE - DIGESTS:
            yield from differences(then[key], now[key], f"{place}/{key}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, pair in enumerate(zip(then, now, strict=True)):
            yield from differences(*pair, f"{place}/{index}")
    elif isinstance(then, float) and isinstance(now, float):
        if not math.isclose(then, now, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
            yield f"{place}: {then} became {now}"
    elif then != now or type(then) is not type(now):
        yield f"{place}: {then!r} became {now!r}"


def assert_same_tensors(scene: str, root: Path, then: str, now: str) -> None:
    """The tensors of a kept file and of one in the store `root`, by their digests, each up to the tolerance."""
    kept, made = (load_file(file_of(folder, digest)) for folder, digest in ((KEPT / scene, then), (root, now)))
    assert {name: tensor.shape for name, tensor in kept.items()} == {name: made[name].shape for name in made}
    for name, tensor in kept.items():
        assert np.linalg.norm(tensor - made[name]) <= RELATIVE * np.linalg.norm(tensor), (then, name)


def file_of(root: Path, digest: str) -> Path:
    (found,) = root.glob(f"*/{digest[:2]}/{digest}.safetensors")
    return found


@EVERY_SCENE
def test_a_reader_finds_it_sound_and_changes_nothing(scene: str, tmp_path: Path) -> None:
    root = shutil.copytree(KEPT / scene, tmp_path / "store")
    with opened(root, read_only=True) as reader:
        audit = reader.verify(replay=True, keys=True)
        lowest = reader.editable.weight_name(0)  # an edit of it changes the keys above
        assert audit.problems == () and audit.rebuilt == sum("weights" in body for body in ledger_of(root)) > 20
        assert audit.notes == () or not made_here(reader.history()[1].body)
        assert audit.largest_difference < RELATIVE and audit.key_drift[lowest] < RELATIVE
        assert {fact.status for fact in reader.facts().values()} == {"active", "reverted", "superseded"}
    kept = {path.relative_to(KEPT / scene): path.read_bytes() for path in (KEPT / scene).rglob("*") if path.is_file()}
    assert kept == {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@EVERY_SCENE
def test_every_state_of_it_comes_back_and_it_takes_edits(scene: str, tmp_path: Path) -> None:
    root = shutil.copytree(KEPT / scene, tmp_path / "store")
    with opened(root) as editor:
        layers, entries = editor.settings.layers, editor.history()
        for then in (entries[seq] for seq in (28, 20, 13, 7, 3, 0, 27)):
            view = editor.at(then.seq)
            made = editor.revert(to=then.seq).entry
            assert made is not None and all(
                torch.equal(editor.editable.weight(layer), view.editable.weight(layer)) for layer in layers
            )
            recorded = then.weights or then.body["base_weights"]
            assert made.weights == recorded or not made_here(then.body)
        before = [editor.editable.weight(layer) for layer in layers]
        assert editor.apply([NEW]).entry is not None
        editor.revert("new")
        assert all(torch.equal(editor.editable.weight(n), own) for n, own in zip(layers, before, strict=True))
    with opened(root, read_only=True) as reader:
        assert reader.verify(replay=True).problems == ()


@EVERY_SCENE
@pytest.mark.filterwarnings("ignore:Health is")
def test_the_same_script_writes_the_same_ledger_and_records(scene: str, tmp_path: Path) -> None:
    write(KEPT / "model", tmp_path / scene, **SCENES[scene], norm_limit=None)
    then, now = ledger_of(KEPT / scene), ledger_of(tmp_path / scene)
    assert len(then) == len(now) == ENTRIES and list(differences(then, now)) == []
    records = [(was["record"], body["record"]) for was, body in zip(then, now, strict=True) if "record" in was]
    moments = [(digest, now[0]["statistics"][layer]) for layer, digest in then[0]["statistics"].items()]
    for digests in moments + records:
        assert_same_tensors(scene, tmp_path / scene, *digests)
    # Where every record has the same bits, so have the weights that they lead to.
    if all(was == is_now for was, is_now in records):
        assert [body.get("weights") for body in then] == [body.get("weights") for body in now]


def test_a_difference_is_seen() -> None:
    entry = {"kind": "edit", "facts": ["a"], "loss": [0.5, 0], "time": "then", "record": "0"}
    same = {**entry, "time": "now", "record": "1", "loss": [0.5 * (1 + 1e-10), 0]}
    assert list(differences(entry, same)) == []
    for other in (
        {"loss": [0.5 * (1 + 1e-8), 0]},
        {"loss": [0.5]},
        {"facts": ["b"]},
        {"vital": {}},
        {"loss": [0.5, False]},
    ):
        assert len(list(differences(entry, {**entry, **other}))) == 1

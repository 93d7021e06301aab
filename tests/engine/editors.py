"""Editors on a small model, and their stores read with nothing but sqlite3, json, numpy and safetensors."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from tests.samples import REQUESTS, lively_editable, new_editor

Array = np.ndarray[Any, Any]
BATCHES = (REQUESTS[:2], REQUESTS[2:5], REQUESTS[5:])
MEMORIES = ("batch", "joint")
WORK = EditRequest("{} works in the town of", "Ada Quill", "Oran", id="work")  # in the slot of "ada", as is LAND
LAND = EditRequest("{} lives in the land of", "Ada Quill", "Tarsis", id="land")
KINDS: dict[str, dict[str, Any]] = {
    f"{memory}-{targets}-{len(layers)}": {"memory": memory, "targets": targets, "layers": layers}
    for memory in MEMORIES
    for targets, layers in [("base", (0,)), ("live", (0,)), ("live", (0, 1))]
}
# Either memory with either targets, several layers once; what is a pair's own is asked by name.
ASKED = ("batch-base-1", "batch-live-1", "joint-base-1", "joint-live-2")
EVERY_KIND = pytest.mark.parametrize("kind", [KINDS[name] for name in ASKED], ids=ASKED)


def base_model() -> EditableModel:
    """The unedited model of these tests; every call gives another instance with the same bits."""
    return lively_editable("gpt2")


def edited(folder: Path, batches: Iterable[Sequence[EditRequest]] = BATCHES, **choices: Any) -> LifelongEditor:
    """An editor whose new store holds these batches, written with the default method."""
    editor = new_editor(folder, base_model(), **choices)
    for batch in batches:
        editor.apply(batch)
    return editor


def lived_in(folder: Path, **choices: Any) -> LifelongEditor:
    """An editor that used every verb; active are emile, norvik, ana, another home of bo's, and work and land.

    No edit brought a value for the last two: the last `restore` did.
    """
    editor = edited(folder, [REQUESTS[:3], [WORK, REQUESTS[3]]], **choices)
    editor.replace("bo", "Marn")
    editor.revert("ada")  # the older one of its slot
    editor.tag("alone")
    editor.apply([REQUESTS[4]])
    editor.restore("ada")
    editor.revert("norvik", "emile")
    editor.apply([LAND], ridge=3.0)
    editor.restore("bo")
    editor.revert(to="alone")
    editor.restore("land", "ana")
    editor.measure()
    return editor


def live(editor: LifelongEditor) -> Tensor:
    return editor.editable.weight(0)


def digest(editor: LifelongEditor) -> str:
    """The digest of the edited weights that the newest entry with one records."""
    return next(str(entry.weights) for entry in reversed(editor.history()) if entry.weights)


def assert_close(actual: Tensor, expected: Tensor, base: Tensor, tolerance: float) -> None:
    """Equal up to `tolerance` relative to what was changed in the base."""
    assert (actual.double() - expected.double()).norm() <= tolerance * (expected.double() - base.double()).norm()


def files(folder: Path) -> dict[str, str]:
    """The digest of every file among the objects and statistics, by path."""
    found = sorted(path for part in ("objects", "statistics") for path in (folder / part).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def ledger_of(folder: Path) -> list[dict[str, Any]]:
    """The bodies of a store's entries."""
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        rows = db.execute("SELECT body FROM entries ORDER BY seq").fetchall()
    return [json.loads(body) for (body,) in rows]


def record_of(folder: Path, digest: str, layer: int = 0) -> dict[str, Array]:
    """The tensors of one edited weight in a record."""
    tensors = load_file(folder / "objects" / digest[:2] / f"{digest}.safetensors")
    prefix = f"transformer.h.{layer}.mlp.c_proj.weight/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def newest_record(editor: LifelongEditor, layer: int = 0) -> dict[str, Array]:
    return record_of(editor.store.layout.root, str(editor.head.record), layer)


def sum_of_deltas(folder: Path, layer: int = 0) -> Tensor:
    """What all recorded deltas of a weight add up to [d_out, d_in]."""
    records = [record_of(folder, body["record"], layer) for body in ledger_of(folder) if "record" in body]
    return torch.from_numpy(np.sum([record["left"] @ record["right"].T for record in records], axis=0))


def formula_two(folder: Path, layer: int = 0) -> Tensor:
    """X Q' with X T = R_0 over what stands for the active facts [d_out, d_in]."""
    bodies = ledger_of(folder)
    joint = bodies[0]["config"]["memory"] == "joint"
    found = sorted(_standing(bodies, joint))
    parts = [
        {key: part[..., index] for key, part in record_of(folder, bodies[seq]["record"], layer).items()}
        for _, seq, index in found
    ]
    keys, whitened, residuals, ridge = (
        np.stack([part[name] for part in parts], axis=-1) for name in ("keys", "whitened", "base_residuals", "ridge")
    )
    system = whitened.T @ keys
    if not joint:
        batch = np.array([place for (place, _), _, _ in found])
        system *= np.less_equal.outer(batch, batch)
    solution = np.linalg.solve((system + np.diag(ridge)).T, residuals.T).T
    return torch.from_numpy(solution @ whitened.T)


def _standing(bodies: list[dict[str, Any]], joint: bool) -> list[tuple[tuple[int, int], int, int]]:
    """Where each standing column stands in the system (seq, index), and where its value is (seq, index)."""
    active, slot = set[str](), dict[str, str]()
    written: dict[str, list[tuple[int, int, set[str]]]] = {}
    for seq, body in enumerate(bodies):
        named = [fact if isinstance(fact, str) else fact["id"] for fact in body.get("facts", [])]
        slot |= {fact["id"]: fact["slot"] for fact in body.get("facts", []) if isinstance(fact, dict)}
        active = (active - {*named}) if body["kind"] == "revert" else (active | {*named})
        active = (active | {*body.get("restored", [])}) - {*body.get("superseded", [])}
        for index, ids in enumerate(body.get("columns", [])):
            written.setdefault(slot[ids[0]], []).append((seq, index, set(ids)))
    stands = []
    for of_slot, columns in written.items():
        wanted = {id for id in active if slot[id] == of_slot}
        chain = [(seq, index) for seq, index, ids in columns if ids <= wanted and wanted]
        last = next(((seq, index) for seq, index, ids in columns if ids == wanted), None)
        if joint and last:
            stands.append((columns[0][:2], *last))
        elif last:
            stands += [(place, *place) for place in chain[: chain.index(last) + 1]]
    return stands

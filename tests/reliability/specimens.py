"""Ready-made stores: a plausible history with real records, made without a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lifelong_edit.facts import canonical_digest
from lifelong_edit.store import GENESIS, KernelPart, KernelRecord, Store

WEIGHT = "model.layers.2.mlp.down_proj.weight"
COMMON = {"time": "2026-01-01T00:00:00Z", "actor": "test", "reason": None, "versions": {"numpy": "2"}, "seed": 0}
PINNED = {
    "config": {"layers": [2], "memory": "joint", "targets": "live"},
    "contexts": [""],
    "statistics": {},
    "calibration": {},
    "condition": {},
}


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def edit_record(facts: Sequence[str], seed: int = 0, shape: tuple[int, int] = (3, 4)) -> KernelRecord:
    """The record of an edit of these facts in one weight of that shape."""
    rng, n = np.random.default_rng(seed), len(facts)
    rows = {"left": shape[0], "right": shape[1], "keys": shape[1], "whitened": shape[1], "base_residuals": shape[0]}
    part = KernelPart(**{name: rng.normal(size=(size, n)) for name, size in rows.items()}, ridge=np.ones(n))
    return KernelRecord(tuple(facts), {WEIGHT: part})


def delta_record(facts: Sequence[str], seed: int = 0) -> KernelRecord:
    """The record of a revert of these facts."""
    rng = np.random.default_rng(seed)
    return KernelRecord(tuple(facts), {WEIGHT: KernelPart(rng.normal(size=(3, 1)), rng.normal(size=(4, 1)))})


def request_of(subject: str) -> dict[str, str]:
    return {"prompt": "{} lives in", "subject": subject, "target_new": "Tarsis"}


def init_body() -> dict[str, Any]:
    return {**COMMON, **PINNED, "fingerprint": digest_of("base"), "base_weights": digest_of("weights")}


def edit_body(*ids: str, subjects: Sequence[str] = ()) -> dict[str, Any]:
    """The body of an edit that writes these facts, each in a slot of its own."""
    requests = map(request_of, subjects or [f"subject of {id}" for id in ids])
    facts = [{"id": id, "slot": f"slot of {id}", "request": request} for id, request in zip(ids, requests, strict=True)]
    weights = digest_of(f"weights {ids}")
    return {**COMMON, "facts": facts, "columns": [[id] for id in ids], "method": "memit", "weights": weights}


def revert_body(*ids: str) -> dict[str, Any]:
    """The body of a revert of these facts."""
    return {**COMMON, "facts": list(ids), "weights": digest_of(f"weights without {ids}")}


def contents(body: dict[str, Any]) -> dict[str, str]:
    """Request id to content digest of the facts that an edit's body writes."""
    return {fact["id"]: canonical_digest(fact["request"]) for fact in body["facts"]}


def make_store(root: Path, entries: int) -> Path:
    """A closed store in `root`: an init, then edits of two facts, now and then a revert or a tag."""
    with Store.create(root) as store:
        head = store.commit("init", init_body(), None, {}, GENESIS).digest
        for seq in range(1, entries):
            if seq % 7 == 0:
                body = {**COMMON, "tag": f"tag {seq}", "target": seq - 1}
                head = store.commit("tag", body, None, {}, head).digest
            elif seq % 5 == 0:
                gone = f"fact {seq - 1 - (seq % 7 == 1)} a"
                record = delta_record([gone], seq).to_bytes()
                head = store.commit("revert", revert_body(gone), record, {}, head).digest
            else:
                body = edit_body(f"fact {seq} a", f"fact {seq} b")
                record = edit_record(list(contents(body)), seq).to_bytes()
                head = store.commit("edit", body, record, contents(body), head).digest
    return root

"""Verifying a store: the files, and the weights that ledger and records lead to."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong_edit.editing.keys import collect_keys
from lifelong_edit.engine.state.layers import EditedLayer, standing
from lifelong_edit.engine.state.library import Library
from lifelong_edit.engine.state.session import Session, digest_of
from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.store import Entry, History, Inspection, inspect

SUM_TOLERANCE = 1e-6  # of the sum of all recorded deltas against the fold, relative to what was changed
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Audit:
    """What was checked and found. `problems` is empty for a sound store; `notes` are worth knowing and no fault.

    `inspection` is of the files. With a model, `rebuilt` counts the entries whose weights were folded anew, and
    `largest_difference` is the largest between such a fold and the sum of the recorded deltas, relative to the change.
    `key_drift` is, to each edited weight, the largest relative difference between a recorded key and the key now.
    """

    inspection: Inspection
    rebuilt: int
    largest_difference: float
    key_drift: dict[str, float]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def check(self) -> None:
        """Raise `StoreCorrupt` listing the problems, if there are any."""
        if self.problems:
            raise StoreCorrupt("\n".join((f"the store has {len(self.problems)} problems:", *self.problems)))


def audit(session: Session, head: str | None, replay: bool, keys: bool, progress: Progress | None = None) -> Audit:
    """Check everything, and report all problems rather than the first.

    `head` is a digest kept elsewhere, which must still be in the chain. `replay` folds the weights anew after every
    entry, not only the newest; `keys` compares the recorded keys with those the live model has now. Without a model
    only the files are checked.
    """
    inspection = inspect(session.store, head)
    if inspection.problems or not session.head.layers:
        return Audit(inspection, 0, 0.0, {}, tuple(inspection.problems), ())
    rebuilder = _Rebuilder(session)
    changing = [entry.seq for entry in session.head.entries if entry.weights]
    for entry in session.head.entries[1:]:
        rebuilder.take(entry)
        if entry.weights and (replay or entry.seq == changing[-1]):
            rebuilder.compare(entry)
        if progress:
            progress(entry.seq, session.head.last.seq)
    return Audit(
        inspection,
        rebuilder.rebuilt,
        rebuilder.largest,
        key_drift(session) if keys else {},
        tuple(rebuilder.problems),
        tuple(rebuilder.notes),
    )


class _Rebuilder:
    """Walks through the entries with the weights that they lead to, in two ways: folded, and as a sum of deltas."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.library = Library(session.store, session.head.entries)
        self.history = History.of(session.head.entries[:1])
        memory = session.settings.memory
        self.layers = {
            n: EditedLayer.unedited(layer.name, layer.base, memory) for n, layer in session.head.layers.items()
        }
        self.sums: dict[int, Tensor] = {n: layer.weight for n, layer in self.layers.items()}
        self.rebuilt, self.largest = 0, 0.0
        self.problems: list[str] = []
        self.notes: list[str] = []

    def take(self, entry: Entry) -> None:
        """Go on by one entry: its recorded delta is added."""
        self.history = self.history.then(entry.seq, entry.kind, entry.body)
        if entry.record is not None:
            parts = self.library.record(entry.seq).parts
            for n, layer in self.layers.items():
                left, right = (torch.from_numpy(side) for side in (parts[layer.name].left, parts[layer.name].right))
                self.sums[n] = self.sums[n] + left @ right.T

    def compare(self, entry: Entry) -> None:
        """Fold the weights anew and compare them with the recorded digest and with the sum of deltas."""
        batches = standing(self.history, self.session.settings.memory)
        self.layers = {n: layer.becoming(batches, self.library.reader(layer.name)) for n, layer in self.layers.items()}
        self.rebuilt += 1
        off = max(_distance(layer, self.sums[n]) for n, layer in self.layers.items())
        self.largest = max(self.largest, off)
        if off > SUM_TOLERANCE:
            self.problems.append(f"entry {entry.seq}: the recorded deltas miss the fold by {off:.1e} of the change.")
        if digest_of(self.layers) != entry.weights:
            where = {key: entry.body["versions"].get(key) for key in ("machine", "threads")}
            here = {"machine": platform.machine(), "threads": torch.get_num_threads()}
            told = f"entry {entry.seq}: the fold has another weights digest than recorded"
            if where == here:
                self.problems.append(f"{told}, although it was made like this: {where}.")
            else:
                self.notes.append(f"{told}; it was made with {where}, this is {here}; difference {off:.1e}.")


def key_drift(session: Session) -> dict[str, float]:
    """To each edited weight the largest |k now - k recorded| / |k recorded| over the slots that stand."""
    history, drift = session.head.history, {}
    chains = {slot: chain[-1] for slot, chain in history.chains().items()}
    requests = [history.facts[min(c.facts)].request for c in chains.values()]
    if not requests:
        return {layer.name: 0.0 for layer in session.head.layers.values()}
    for number, layer in session.head.layers.items():
        now = collect_keys(session.editable, requests, number, session.contexts)  # [d_in, slots]
        recorded = session.library.reader(layer.name)(list(chains.values())).keys
        drift[layer.name] = float(((now - recorded).norm(dim=0) / recorded.norm(dim=0)).max())
    return drift


def _distance(layer: EditedLayer, total: Tensor) -> float:
    """|fold - sum of deltas| / |fold - base|; absolute where nothing stands."""
    changed = float((layer.weight - layer.base.double()).norm())
    return float((layer.weight - total).norm()) / (changed or float(layer.base.double().norm()))

"""`LifelongEditor`: one model, one store; edits go in batch by batch and come out fact by fact."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lifelong_edit.algebra.columns import Pair
from lifelong_edit.algebra.removal import removal
from lifelong_edit.editing.edit import edit_batch
from lifelong_edit.editing.methods import method_named
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.spread import LayerState
from lifelong_edit.engine.commit import Commit
from lifelong_edit.engine.founding import Model, found, opened, pinned_metrics
from lifelong_edit.engine.intake import Intake, check_revertible, take_in
from lifelong_edit.engine.moments import Progress
from lifelong_edit.engine.provenance import signature
from lifelong_edit.engine.weights import (
    EditedLayer,
    active_ids,
    delta_record,
    edit_record,
    read_layers,
    survived,
    weights_digest,
)
from lifelong_edit.errors import ModelMismatch, RequestError, StoreError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.store import Entry, FactLife, KernelRecord, Store, lives

SURVIVAL_WARNING = 0.9


class LifelongEditor:
    """Streams edits into a causal language model and keeps every one of them in a store.

    Make one with `create` or `open`; close it, or use it as a context manager. `model` is the live edited model.
    """

    def __init__(self, store: Store, editable: EditableModel | None) -> None:
        self._store = store
        self._editable = editable
        self._entries = store.ledger.entries()
        if not self._entries:
            raise StoreError(f"The store in {store.layout.root} was never finished. Create it again in this folder.")
        init = self._entries[0].body
        self.settings = EditorSettings.from_dict(init["config"])
        self.contexts: tuple[str, ...] = tuple(init["contexts"])
        self._layers: dict[int, EditedLayer] = {}
        if editable is not None:
            self._attach(editable, init)

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: Model,
        settings: EditorSettings | None = None,
        text: Sequence[str] | None = None,
        actor: str | None = None,
        reason: str | None = None,
        progress: Progress | None = None,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
    ) -> LifelongEditor:
        """A new store in the new or empty folder `path`, for `model`: a folder, an `EditableModel` or a loaded pair.

        A folder is loaded onto `device`, in its own dtype unless one is given; float32 keeps small edits that bfloat16
        rounds off. A model given as an object is frozen and put into evaluation mode. `text` is generic text to take
        second moments from; without it those beside the model are used. `progress` is told how many of the wanted
        tokens were read; an interrupted `create` goes on where it was.
        """
        editable = opened(model, dtype, device)
        beside = Path(model) if isinstance(model, (str, Path)) else None
        store = found(Path(path), editable, beside, settings or EditorSettings(), text, actor, reason, progress)
        return cls._holding(store, editable)

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: Model | None = None,
        read_only: bool = False,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
    ) -> LifelongEditor:
        """The store in `path`. Without `model`, the unedited base, only the history can be read.

        Raises `ModelMismatch` before anything is written when the model is not the one the store was made with.
        """
        editable = None if model is None else opened(model, dtype, device)
        return cls._holding(Store.open(Path(path), read_only=read_only or model is None), editable)

    @property
    def model(self) -> PreTrainedModel:
        """The live edited model."""
        return self.editable.model

    @property
    def editable(self) -> EditableModel:
        """The live edited model with its tokenizer and its edited layers."""
        if self._editable is None:
            raise RequestError("The store was opened without a model. Open it with model=..., the unedited base.")
        return self._editable

    def history(self) -> list[Entry]:
        """Every ledger entry, oldest first."""
        return list(self._entries)

    def facts(self) -> dict[str, FactLife]:
        """Every fact ever written, by id, in ledger order, with its present status."""
        return lives(self._entries)

    def apply(
        self,
        requests: Iterable[EditRequest],
        method: str = "memit",
        ridge: float | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Commit:
        """Write one batch of facts into the model: one record, one ledger entry.

        `ridge` is absolute and overrides the method's own. Requests whose id is known are skipped. Raises
        `RequestError` before any computation, `SolveError` naming facts; model and store are then as before.
        """
        chosen = method_named(method)
        editable = self._writable()
        batch = take_in(editable, self.contexts, self.facts(), list(requests))
        if not batch.requests:
            return Commit(None, (), batch.skipped, {})
        chosen.check_batch(len(batch.requests))
        ridges = chosen.ridges(self._entries[0].body["calibration"], ridge)
        states = {
            n: LayerState(layer.base, self._metrics[n], layer.pairs, ridges[str(n)])
            for n, layer in self._layers.items()
        }
        edit = edit_batch(editable, batch.requests, batch.ids, states, self.contexts, self.settings)
        body = {
            **signature(actor, reason, self.settings.seed),
            "facts": batch.described(edit.targets),
            "method": method,
            "hyperparameters": {"ridge": ridges, **self.settings.to_dict()},
        }
        seq = self._entries[-1].seq + 1
        record = edit_record(batch.ids, {self._layers[n].name: (e.columns, e.pair) for n, e in edit.layers.items()})
        layers = {n: self._layers[n].with_batch(seq, e) for n, e in edit.layers.items()}
        return self._commit("edit", body, record, batch, layers)

    def revert(self, *ids: str, actor: str | None = None, reason: str | None = None) -> Commit:
        """Take facts out: the weights become those of the same stream without them, every other fact as recorded."""
        self._writable()
        check_revertible(self.facts(), ids)
        kept = {seq: [id for id in own if id not in ids] for seq, own in active_ids(self._entries).items()}
        deltas: dict[str, Pair] = {}
        layers: dict[int, EditedLayer] = {}
        for number, layer in self._layers.items():
            names = [name for columns in layer.batches.values() for name in columns.names]
            gone = [position for position, name in enumerate(names) if name in ids]
            deltas[layer.name] = removal(list(layer.batches.values()), self.settings.memory, gone)
            layers[number] = layer.keeping(kept, self.settings.memory)
        body = {**signature(actor, reason, self.settings.seed), "facts": list(ids)}
        return self._commit("revert", body, delta_record(ids, deltas), Intake((), (), (), ()), layers)

    def close(self) -> None:
        """Let the next writer in. The model keeps its edits."""
        self._store.close()

    def __enter__(self) -> LifelongEditor:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @classmethod
    def _holding(cls, store: Store, editable: EditableModel | None) -> LifelongEditor:
        try:
            return cls(store, editable)
        except BaseException:
            store.close()
            raise

    def _attach(self, editable: EditableModel, init: dict[str, Any]) -> None:
        """Check that the model is the store's base, fold the history, and write the head's weights into the model."""
        if fingerprint(editable) != init["fingerprint"]:
            raise ModelMismatch(
                "The model is not the one this store was made with, or it was edited before it was opened. "
                "Give the unedited base model."
            )
        bases = {layer: (editable.weight_name(layer), editable.weight(layer).cpu()) for layer in self.settings.layers}
        self._metrics = pinned_metrics(self._store, init, self.settings)
        self._layers = read_layers(self._store, self._entries, bases, self.settings.memory)
        weights = {layer: edited.weight for layer, edited in self._layers.items()}
        recorded = next((e.weights for e in reversed(self._entries) if e.weights), init["base_weights"])
        if weights_digest({self._layers[n].name: weight for n, weight in weights.items()}) != recorded:
            warnings.warn(
                "The weights rebuilt from the store are not bit for bit those recorded. That is expected with another "
                "processor or another number of threads; otherwise restore the store from a backup.",
                stacklevel=4,
            )
        editable.set_weights(weights)

    def _writable(self) -> EditableModel:
        """The live model, when the store can be written to; checked before anything is computed."""
        editable = self.editable
        self._store.check_writable()
        return editable

    def _commit(
        self, kind: str, body: dict[str, Any], record: KernelRecord, batch: Intake, layers: dict[int, EditedLayer]
    ) -> Commit:
        """Make a change durable, then live: record, ledger entry, weights in memory, in this order."""
        weights = {n: layer.weight for n, layer in layers.items()}
        live = {n: self.editable.cast(n, weight) for n, weight in weights.items()}  # refuses what is not finite
        kept = {
            layer.name: survived(self._layers[n].weight, weights[n], self.editable.weight(n).cpu(), live[n].cpu())
            for n, layer in layers.items()
        }
        body = {
            **body,
            "weights": weights_digest({layer.name: weights[n] for n, layer in layers.items()}),
            "survived": kept,
        }
        entry = self._store.commit(kind, body, record.to_bytes(), batch.contents(), self._entries[-1].digest)
        self.editable.set_weights(live)
        self._layers = layers
        self._entries.append(entry)
        if min(kept.values()) < SURVIVAL_WARNING:
            warnings.warn(
                f"Only {min(kept.values()):.0%} of the edit survived the cast to {self.editable.dtype}. "
                "Open the model in float32, and cast when exporting.",
                stacklevel=3,
            )
        facts = self.facts()
        named = batch.ids if kind == "edit" else tuple(body["facts"])
        return Commit(entry, tuple(facts[id] for id in named), batch.skipped, kept)

"""An open store and, where there is one, its live model: the state that every verb of the editor starts from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.algebra.telemetry import BaseSize
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine.state.cache import keep_pairs, kept_pairs
from lifelong_edit.engine.state.create import pinned_metrics
from lifelong_edit.engine.state.layers import EditedLayer, standing, weights_digest
from lifelong_edit.engine.state.library import ByWeight, Library
from lifelong_edit.engine.state.probes import check_probes, probe_distance
from lifelong_edit.errors import ModelMismatch, RequestError, StoreCorrupt, StoreError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.store import Entry, History, Store
from lifelong_edit.store.history import entry_named

REBUILT_OTHERWISE = (
    "The weights rebuilt from the store are not bit for bit those recorded. That is expected with another "
    "processor or another number of threads; otherwise restore the store from a backup."
)


Observer = Callable[[Entry], None]
"""Is told of every entry right after it was committed."""


@dataclass(frozen=True)
class Head:
    """Where a store stands: its entries, the history they tell, and every edited layer of the model, by number.

    Without a model there are no layers.
    """

    entries: tuple[Entry, ...]
    history: History
    layers: dict[int, EditedLayer]

    @property
    def last(self) -> Entry:
        """The newest entry."""
        return self.entries[-1]

    @property
    def weights(self) -> str:
        """The digest recorded for the weights as they are now."""
        return recorded_weights(self.entries)


class Session:
    """The store, its settings and head, and the live model with the metrics of its edited layers."""

    def __init__(self, store: Store, editable: EditableModel | None) -> None:
        entries = store.ledger.entries()
        if not entries:
            raise StoreError(f"The store in {store.layout.root} was never finished. Create it again in this folder.")
        self.store = store
        self.init = entries[0].body
        self.settings = EditorSettings.from_dict(self.init["config"])
        self.contexts: tuple[str, ...] = tuple(self.init["contexts"])
        self.library = Library(store, entries)
        self.head = Head(tuple(entries), History.of(entries), {})
        self.metrics: dict[int, Metric] = {}
        self.sizes: dict[int, BaseSize] = {}
        self.observers: list[Observer] = []
        self.checked_out: int | None = None
        self._kept: str | None = None  # the weights digest whose pairs the cache has
        self._editable = editable
        if editable is not None:
            self._attach(editable)

    @property
    def editable(self) -> EditableModel:
        """The live model; `RequestError` when the store was opened without one."""
        if self._editable is None:
            raise RequestError("The store was opened without a model. Open it with model=..., the unedited base.")
        return self._editable

    def at_head(self) -> EditableModel:
        """The live model, while it shows the head; `RequestError` when another state is checked out."""
        editable = self.editable
        if self.checked_out is not None:
            raise RequestError(f"The model shows seq {self.checked_out}. Go back to the head first: checkout().")
        return editable

    def writable(self) -> EditableModel:
        """The live model, when the store can be written to; checked before anything is computed."""
        editable = self.at_head()
        self.store.check_writable()
        return editable

    def seq(self, ref: int | str) -> int:
        """The seq that a number, a tag or the beginning of an entry's digest names; `RequestError` for none or two."""
        return entry_named(self.head.entries, str(ref)).seq

    def note(self, kind: str, body: dict[str, Any]) -> Entry:
        """Commit an entry that leaves the weights as they are."""
        entry = self.store.commit(kind, body, None, {}, self.head.last.digest)
        self.advance(entry, {}, self.head.history, self.head.layers)
        return entry

    def advance(self, entry: Entry, columns: ByWeight, history: History, layers: dict[int, EditedLayer]) -> None:
        """A committed entry is the head now, and observers are told; an error of theirs undoes nothing."""
        self.library.add(entry, columns)
        self.head = Head((*self.head.entries, entry), history, layers)
        for observer in self.observers:
            try:
                observer(entry)
            except Exception as error:
                warnings.warn(f"An observer failed at entry {entry.seq}, which is committed: {error!r}", stacklevel=4)

    def history_at(self, seq: int) -> History:
        """What was so after entry `seq`."""
        return History.of(self.head.entries[: seq + 1])

    def layers_at(self, history: History) -> dict[int, EditedLayer]:
        """Every edited layer as this history leaves it, starting from the head's pairs as far as they agree."""
        batches = standing(history, self.settings.memory)
        return {n: layer.becoming(batches, self.library.reader(layer.name)) for n, layer in self.head.layers.items()}

    def checkout(self, seq: int | None) -> None:
        """Let the live model show the state after entry `seq`, or the head again."""
        elsewhere = None if seq == self.head.last.seq else seq
        layers = self.head.layers if elsewhere is None else self.layers_at(self.history_at(elsewhere))
        self.editable.set_weights({n: layer.weight for n, layer in layers.items()})
        self.checked_out = elsewhere

    def close(self) -> None:
        """Keep what was computed anew for the next open, then let the next writer in."""
        try:
            if self.head.layers and not self.store.read_only and self.head.weights != self._kept:
                keep_pairs(self.store.layout.cache, self.head.weights, self.head.layers.values())
        except StoreError as error:
            warnings.warn(f"The pairs of the head could not be kept, the next open solves anew: {error}", stacklevel=3)
        finally:
            self.store.close()

    def _attach(self, editable: EditableModel) -> None:
        """Check that the model is the store's base, fold the history, and write the head's weights into the model."""
        if fingerprint(editable) != self.init["fingerprint"]:
            raise ModelMismatch(
                "The model is not the one this store was made with, or it was edited before it was opened. "
                "Give the unedited base model."
            )
        if "probes" in self.init and (told := self._probed(editable)):
            warnings.warn(told, stacklevel=5)
        self.metrics = pinned_metrics(self.store, self.init, self.settings)
        unedited = {
            n: EditedLayer.unedited(editable.weight_name(n), editable.weight(n).cpu(), self.settings.memory)
            for n in self.settings.layers
        }
        self.sizes = {n: BaseSize.of(layer.base, self.metrics[n]) for n, layer in unedited.items()}
        self.head = Head(self.head.entries, self.head.history, self._folded(unedited))
        editable.set_weights({n: layer.weight for n, layer in self.head.layers.items()})

    def _probed(self, editable: EditableModel) -> str | None:
        try:
            return check_probes(probe_distance(editable, self.init["probes"]))
        except ModelMismatch as refusal:
            if not self.store.read_only:
                raise
            return str(refusal)

    def _folded(self, unedited: dict[int, EditedLayer]) -> dict[int, EditedLayer]:
        """The head's layers: with the pairs in the cache when these lead to the recorded weights, else from records."""
        batches = standing(self.head.history, self.settings.memory)
        kept = kept_pairs(self.store.layout.cache, self.head.weights, batches, unedited.values())
        for known in [kept, {}] if kept else [{}]:
            layers = {
                n: layer.becoming(batches, self.library.reader(layer.name), known.get(layer.name))
                for n, layer in unedited.items()
            }
            if digest_of(layers) == self.head.weights:
                self._kept = self.head.weights if known else None
                return layers
        warnings.warn(REBUILT_OTHERWISE, stacklevel=6)
        return layers


def digest_of(layers: dict[int, EditedLayer]) -> str:
    """The weights digest of these layers."""
    return weights_digest({layer.name: layer.weight for layer in layers.values()})


def recorded_weights(entries: tuple[Entry, ...]) -> str:
    """The newest weights digest among these entries: that of the base before the first edit."""
    digest = next((entry.weights for entry in reversed(entries) if entry.weights), entries[0].body["base_weights"])
    if not isinstance(digest, str):
        raise StoreCorrupt("The first entry does not say what the base weights are. Restore the ledger from a backup.")
    return digest

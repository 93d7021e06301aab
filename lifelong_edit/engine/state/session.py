"""An open store and, where there is one, its live model: the state that every verb of the editor starts from.

`signed` says what a computation depends on beside its inputs, as every entry that has one does.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine.state.probes import check_probes, probe_distance
from lifelong_edit.errors import ModelMismatch, RequestError, StoreCorrupt, StoreError
from lifelong_edit.kinds import DEFAULT, kind_named
from lifelong_edit.kinds.kind import Change, Head, Kind, State
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.store import Entry, History, Store
from lifelong_edit.store.history import entry_named
from lifelong_edit.store.ledger import Body, signature

EARLIER = "Until then nothing can be edited, and entries before it can be opened (at=SEQ, checkout); doctor says which."

Observer = Callable[[Entry], None]
"""Is told of every entry right after it was committed."""


class Session:
    """The store, its settings and head, and where there is a live model the kind of memory that works on it.

    `fault` says why there is no state at the head: a record that it needs is damaged. Then `at`, the entry that the
    model shows, is what the store was opened for.
    """

    def __init__(self, store: Store, editable: EditableModel | None, at: int | str | None = None) -> None:
        entries = store.founded_entries()
        self.store = store
        self.init = entries[0].body
        self.settings = _settings(self.init)
        self.contexts: tuple[str, ...] = tuple(self.init["contexts"])
        self.kind_type = kind_named(self.init.get("memory_kind", DEFAULT))
        self.head = Head(tuple(entries), History.of(entries), None)
        self.observers: list[Observer] = []
        self.checked_out: int | None = None
        self.fault: str | None = None
        self._kind: Kind | None = None
        self._editable = editable
        if editable is not None:
            self._attach(editable, at)

    @property
    def editable(self) -> EditableModel:
        """The live model; `RequestError` when the store was opened without one."""
        if self._editable is None:
            raise RequestError("The store was opened without a model. Open it with model=..., the unedited base.")
        return self._editable

    @property
    def kind(self) -> Kind:
        """The kind of memory at work; `RequestError` when the store was opened without a model."""
        if self._kind is None:
            raise RequestError("The store was opened without a model. Open it with model=..., the unedited base.")
        return self._kind

    @property
    def state(self) -> State:
        """What the active facts have made of the model; `RequestError` when the store was opened without one.

        `StoreCorrupt` when a record that it needs is damaged.
        """
        if self.fault is not None:
            raise StoreCorrupt(self.fault)
        return self.head.state or self.kind.base

    def at_head(self) -> EditableModel:
        """The bench, while the live model shows the head; `RequestError` when another state is checked out."""
        bench = self.kind.bench
        if self.fault is not None:
            raise StoreCorrupt(self.fault)
        if self.checked_out is not None:
            raise RequestError(f"The model shows seq {self.checked_out}. Go back to the head first: checkout().")
        return bench

    def writable(self) -> EditableModel:
        """The bench, when the store can be written to; checked before anything is computed."""
        bench = self.at_head()
        self.store.check_writable()
        return bench

    def seq(self, ref: int | str) -> int:
        """The seq that a number, a tag or the beginning of an entry's digest names; `RequestError` for none or two."""
        return entry_named(self.head.entries, str(ref)).seq

    def note(self, kind: str, body: dict[str, Any]) -> Entry:
        """Commit an entry that leaves the state as it is."""
        entry = self.store.commit(kind, body, None, {}, self.head.last.digest)
        self._advance(entry, self.head)
        return entry

    def take(self, entry: Entry, change: Change) -> None:
        """A change was committed as `entry`: its state is on the live model and the head."""
        change.state.attach(self.editable)
        self.kind.taken(entry, change)
        self._advance(entry, replace(self.head, history=change.history, state=change.state))

    def history_at(self, seq: int) -> History:
        """What was so after entry `seq`."""
        return History.of(self.head.entries[: seq + 1])

    def state_at(self, history: History) -> State:
        """The state as this history leaves it, folded from the head's as far as they agree."""
        return self.kind.fold(history, self.head.state or self.kind.base)

    def checkout(self, seq: int | None) -> None:
        """Let the live model show the state after entry `seq`, or the head again."""
        elsewhere = None if seq == self.head.last.seq else seq
        state = self.state if elsewhere is None else self.state_at(self.history_at(elsewhere))
        state.attach(self.editable)
        self.checked_out = elsewhere

    def close(self) -> None:
        """Keep what was computed anew for the next open, then let the next writer in."""
        try:
            if self._kind is not None and self.head.state is not None and not self.store.read_only:
                self._kind.kept(self.head)
        except StoreError as error:
            warnings.warn(f"What the next open can use could not be kept, it solves anew: {error}", stacklevel=3)
        finally:
            self.store.close()

    def _advance(self, entry: Entry, head: Head) -> None:
        """A committed entry is the head now, and observers are told; an error of theirs undoes nothing."""
        self.head = replace(head, entries=(*self.head.entries, entry))
        for observer in self.observers:
            try:
                observer(entry)
            except Exception as error:
                warnings.warn(f"An observer failed at entry {entry.seq}, which is committed: {error!r}", stacklevel=4)

    def _attach(self, editable: EditableModel, at: int | str | None) -> None:
        """Check that the model is the store's base, fold the history, and let the model show the head or entry `at`."""
        if fingerprint(editable) != self.init["fingerprint"]:
            raise ModelMismatch(
                "The model is not the one this store was made with, or it was edited or cast before it was opened "
                "(float16 rounds what bfloat16 and float32 hold). Give the unedited base model."
            )
        if "probes" in self.init and (told := self._probed(editable)):
            warnings.warn(told, stacklevel=5)
        editable.read_by(self.settings.text)
        self._kind = self.kind_type(self.store, self.head.entries, self.settings, editable)
        try:
            self.head = replace(self.head, state=self._kind.folded(self.head.history, self.head.recorded))
        except StoreCorrupt as error:
            self.fault = f"{error} {EARLIER}"
            if at is None:
                raise StoreCorrupt(self.fault) from error
        self.checkout(None if at is None else self.seq(at))

    def _probed(self, editable: EditableModel) -> str | None:
        try:
            return check_probes(probe_distance(editable, self.init["probes"]))
        except ModelMismatch as refusal:
            if not self.store.read_only:
                raise
            return str(refusal)


def _settings(init: Body) -> EditorSettings:
    """The settings a store is pinned to; `StoreCorrupt` when they are none that this version could have pinned."""
    try:
        return EditorSettings.from_dict(dict(init["config"]))
    except (KeyError, TypeError, ValueError, RequestError) as error:
        raise StoreCorrupt(f"ledger entry 0 has settings that are none: {error}. Restore a backup.") from error


VERSIONS = {name: version(name) for name in ("torch", "transformers", "safetensors", "numpy")}


def signed(actor: str | None, reason: str | None, seed: int) -> dict[str, Any]:
    """The common fields of the body of an entry that something was computed for."""
    return signature(actor, reason, seed, software())


def software() -> dict[str, str | int]:
    """Versions of the libraries, the kind of processor, and the number of threads."""
    return {
        **VERSIONS,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }

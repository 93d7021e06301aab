"""Making a store: everything that is decided once, for a model and its settings, and pinned in the first entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lifelong_edit.editing.contexts import drawn_sentences, sample_contexts
from lifelong_edit.editing.keys import collect_keys
from lifelong_edit.editing.second_moments import (
    Progress,
    collected_moments,
    mixed_moment,
    shipped_moments,
)
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine.state.probes import take_probes
from lifelong_edit.engine.state.session import signed
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds import DEFAULT, kind_named
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.store import GENESIS, ObjectStore, Store
from lifelong_edit.tracking.watch import Watch, Watched

Model = str | Path | EditableModel | tuple[PreTrainedModel, PreTrainedTokenizerBase]


def opened(model: Model, dtype: torch.dtype | None, device: str) -> EditableModel:
    """The model as something editable: a folder is loaded onto `device`, a loaded pair is wrapped."""
    if isinstance(model, EditableModel):
        return model
    return EditableModel(*model) if isinstance(model, tuple) else EditableModel.open(model, dtype, device)


def found(
    path: Path,
    editable: EditableModel,
    beside: Path | None,
    settings: EditorSettings,
    text: Sequence[str] | None,
    actor: str | None,
    reason: str | None,
    progress: Progress | None,
    watch: Watch | None,
    protect: Sequence[EditRequest] = (),
    memory_kind: str = DEFAULT,
    method: str = "memit",
) -> Store:
    """A new store whose first entry says what it is pinned to. `beside` is the model's folder, if it has one.

    The keys of `protect` are mixed into the second moments. Nothing is committed until everything was computed. Raises
    `RequestError` when there is neither text nor second moments beside the model, or nothing of `watch` is said;
    `SolveError` when the moments cannot be inverted.
    """
    layers, base = settings.resolved(editable), fingerprint(editable)
    editable.read_by(settings.text)
    kind = kind_named(memory_kind)
    if kind.needs_moments and text is None and beside is None:
        raise RequestError("A model given as an object has no second moments beside it. Give generic text (text=...).")
    shipped = kind.needs_moments and text is None and beside is not None
    widths = {layer: editable.shape(layer)[1] for layer in layers}
    moments = shipped_moments(beside, widths, base) if shipped and beside is not None else {}
    store = Store.create(path)
    try:
        scratch = store.layout.statistics
        if text is not None and kind.needs_moments:
            moments = collected_moments(editable, base, layers, text, settings.statistics, scratch, progress)
        contexts = sample_contexts(editable, settings.contexts, settings.seed)
        moments = _sparing(moments, editable, protect, contexts, settings.protection)
        settings = replace(settings, layers=layers)
        body = _body(editable, base, settings, contexts) | _kept_away(editable, watch, protect)
        body |= kind.pin(editable, settings, method, moments, ObjectStore(scratch))
        sentences = drawn_sentences(text or (), settings.context_pool, settings.seed)
        body |= {"sentences": list(sentences)} if sentences else {}
        body |= {} if memory_kind == DEFAULT else {"memory_kind": memory_kind}
        store.commit("init", body | signed(actor, reason, settings.seed), None, {}, GENESIS)
    except BaseException:
        store.close()
        raise
    return store


def _sparing(
    moments: dict[int, bytes],
    editable: EditableModel,
    protect: Sequence[EditRequest],
    contexts: Sequence[str],
    weight: float,
) -> dict[int, bytes]:
    """The second moments with the keys of protected requests mixed in."""
    if not protect:
        return moments
    keys = {layer: collect_keys(editable, protect, layer, contexts) for layer in moments}
    return {layer: mixed_moment(data, keys[layer], weight) for layer, data in moments.items()}


def _kept_away(editable: EditableModel, watch: Watch | None, protect: Sequence[EditRequest]) -> dict[str, Any]:
    """What the first entry says of facts that edits are to leave alone."""
    watched = {"watch": Watched.on_base(editable, watch).to_dict()} if watch else {}
    return watched | ({"protected": [request.to_dict() for request in protect]} if protect else {})


def _body(editable: EditableModel, base: str, settings: EditorSettings, contexts: Sequence[str]) -> dict[str, Any]:
    """What the first entry says whatever the kind of memory."""
    return {
        "config": settings.to_dict(),
        "fingerprint": base,
        "contexts": list(contexts),
        "probes": take_probes(editable, settings.seed),
    }

"""Making a store: everything that is decided once, for a model and its settings, and pinned in the first entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.editing.keys import collect_keys
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine.state.layers import weights_digest
from lifelong_edit.engine.state.probes import take_probes
from lifelong_edit.engine.state.provenance import signed
from lifelong_edit.engine.state.second_moments import (
    Progress,
    collected_moments,
    mixed_moment,
    read_moment,
    shipped_moments,
)
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.store import GENESIS, ObjectStore, Store
from lifelong_edit.store.bodies import Body
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
) -> Store:
    """A new store whose first entry says what it is pinned to. `beside` is the model's folder, if it has one.

    The keys of `protect` are mixed into the second moments. Nothing is committed until everything was computed. Raises
    `RequestError` when there is neither text nor second moments beside the model, or nothing of `watch` is said;
    `SolveError` when the moments cannot be inverted.
    """
    layers, base = settings.resolved(editable), fingerprint(editable)
    if text is None and beside is None:
        raise RequestError("A model given as an object has no second moments beside it. Give generic text (text=...).")
    moments = shipped_moments(beside, layers, base) if text is None and beside is not None else {}
    store = Store.create(path)
    try:
        scratch = store.layout.statistics
        if text is not None:
            moments = collected_moments(editable, base, layers, text, settings.statistics, scratch, progress)
        contexts = sample_contexts(editable, settings.contexts, settings.seed)
        moments = _sparing(moments, editable, protect, contexts, settings.protection)
        body = _body(editable, base, layers, moments, scratch, settings, contexts) | _kept_away(
            editable, watch, protect
        )
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


def _body(
    editable: EditableModel,
    base: str,
    layers: Sequence[int],
    moments: dict[int, bytes],
    scratch: Path,
    settings: EditorSettings,
    contexts: Sequence[str],
) -> dict[str, Any]:
    """What the first entry says; the second moments are kept on the way, and a useless one is refused."""
    metrics = {layer: Metric.from_moment(read_moment(moments[layer])[0], settings.shrinkage) for layer in layers}
    statistics = ObjectStore(scratch)
    return {
        "config": {**settings.to_dict(), "layers": list(layers)},
        "fingerprint": base,
        "contexts": list(contexts),
        "probes": take_probes(editable, settings.seed),
        "statistics": {str(layer): statistics.put(moments[layer]) for layer in layers},
        "calibration": {str(layer): metrics[layer].mean_key_mass for layer in layers},
        "condition": {str(layer): metrics[layer].condition for layer in layers},
        "base_weights": weights_digest({editable.weight_name(layer): editable.weight(layer) for layer in layers}),
    }


def pinned_metrics(store: Store, init: Body, settings: EditorSettings) -> dict[int, Metric]:
    """The metrics of the edited layers from the second moments the store is pinned to, by digest."""
    statistics = ObjectStore(store.layout.statistics)
    return {
        int(layer): Metric.from_moment(read_moment(statistics.get(digest))[0], settings.shrinkage)
        for layer, digest in init["statistics"].items()
    }

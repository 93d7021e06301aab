"""A change of what is active, worked out to the last number and not yet committed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from lifelong_edit.algebra.columns import Columns, Pair
from lifelong_edit.editing.ease import ByLayer, eased
from lifelong_edit.editing.edit import BatchEdit, edit_batch
from lifelong_edit.editing.spread import LayerState, Place
from lifelong_edit.engine.measure.scores import said
from lifelong_edit.engine.state.layers import EditedLayer, standing
from lifelong_edit.engine.state.library import ByWeight
from lifelong_edit.engine.state.session import Session
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.store import History

Ridges = Mapping[str, float]
"""The ridge of new values, by the number of the edited layer."""


@dataclass(frozen=True)
class Change:
    """What an entry would say, what would be so after it, and what it does to every edited weight.

    `deltas` and `columns`, the new values, are by the weight's name; `rewritten` are the facts of slots for which a
    value had to be optimised although none of them is new.
    """

    kind: str
    body: dict[str, Any]
    history: History
    layers: dict[int, EditedLayer]
    deltas: dict[str, Pair]
    columns: ByWeight
    rewritten: tuple[str, ...]


def plan(session: Session, kind: str, body: dict[str, Any], ridges: Ridges | None = None, halvings: int = 0) -> Change:
    """Work out what the entry of this kind and body does. Neither the store nor the model is changed.

    Slots whose active facts no column was optimised for get a new value, with the given ridges or that of the value it
    takes the place of; a slot of protected facts alone keeps the value that the base has. The ridge of facts that the
    model does not say is halved up to `halvings` times. Raises `RequestError` without a model, and what the target
    optimisation and the algebra raise.
    """
    editable, head, seq = session.editable, session.head, session.head.last.seq + 1
    limit = math.inf if kind == "revert" else session.settings.amplification_limit  # one can always go back
    after = head.history.then(seq, kind, body)
    slots = [slot for slot, chain in after.chains().items() if not chain]
    facts = after.slots()
    groups = [list(facts[slot]) for slot in slots]
    columns: ByWeight = {}
    if slots:
        body = {**body, "columns": groups}
        after = head.history.then(seq, kind, body)
        edit, layers = _optimised(session, editable, after, seq, slots, groups, ridges, halvings)
        columns = {layer.name: edit.columns[n] for n, layer in head.layers.items()}
        body = {**body, "loss": list(edit.loss), "steps": list(edit.steps)}
    else:
        layers = session.layers_at(after)
    deltas = {layer.name: layer.delta_to(layers[n], seq, limit) for n, layer in head.layers.items()}
    written = {id for group in groups for id in group if id not in head.history.facts}
    rewritten = tuple(id for group in groups if not written & set(group) for id in group)
    return Change(kind, body, after, layers, deltas, columns, rewritten)


def _optimised(
    session: Session,
    editable: EditableModel,
    after: History,
    seq: int,
    slots: Sequence[str],
    groups: Sequence[Sequence[str]],
    ridges: Ridges | None,
    halvings: int,
) -> tuple[BatchEdit, dict[int, EditedLayer]]:
    """New values for these slots, and the layers in which they stand."""
    batches, limit = standing(after, session.settings.memory), session.settings.amplification_limit
    layers: dict[int, EditedLayer] = {}

    def place(number: int, columns: Columns) -> torch.Tensor:
        layer = session.head.layers[number]
        read = session.library.reader(layer.name, {seq: {layer.name: columns}})
        layers[number] = layer.becoming(batches, read, new=seq, amplification_limit=limit)
        return layers[number].weight

    states = {
        n: LayerState(
            layer.base,
            session.metrics[n],
            layer.earlier,
            _ridge(session, layer.name, slots, None if ridges is None else ridges[str(n)]),
            _held(session, layer.name, slots),
        )
        for n, layer in session.head.layers.items()
    }
    requests = [[after.facts[id].request for id in group] for group in groups]
    names = [group[-1] for group in groups]
    fixed = [i for i, group in enumerate(groups) if all(after.facts[id].protected for id in group)]
    edit = edit_batch(editable, requests, names, states, session.contexts, session.settings, place, fixed)
    if halvings:
        left = [0 if i in fixed else halvings for i in range(len(groups))]
        columns, _ = eased(edit.columns, left, partial(_says, session, after, groups, layers, place))
        edit = replace(edit, columns=columns)
        _put(place, columns)
    return edit, layers


def _says(
    session: Session,
    after: History,
    groups: Sequence[Sequence[str]],
    layers: Mapping[int, EditedLayer],
    place: Place,
    columns: ByLayer,
) -> list[bool]:
    """Which groups of facts the model says once these columns are in place."""
    _put(place, columns)
    return said(session, after, groups, layers)


def _put(place: Place, columns: ByLayer) -> None:
    for number, own in columns.items():
        place(number, own)


def _held(session: Session, name: str, slots: Sequence[str]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """The keys that slots have already, plain and whitened, by position."""
    chains = session.head.history.chains()
    read = session.library.reader(name)
    held = {i: read([chains[slot][-1]]) for i, slot in enumerate(slots) if slot in chains}
    return {i: (columns.keys[:, 0], columns.whitened[:, 0]) for i, columns in held.items()}


def _ridge(session: Session, name: str, slots: Sequence[str], given: float | None) -> torch.Tensor:
    """The ridge [n] of new values: the one given, or that of the value last written for the slot."""
    if given is not None:
        return torch.full((len(slots),), given, dtype=torch.float64)
    last = {column.slot: column for column in session.head.history.standing}
    read = session.library.reader(name)
    return torch.cat([read([last[slot]]).ridge for slot in slots])

"""Refits: the same facts held in another way. `relax` lowers the ridge of those that fade; `repair` solves all anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lifelong_edit.algebra.columns import Columns
from lifelong_edit.algebra.objective import Memory
from lifelong_edit.editing.ease import ByLayer, eased
from lifelong_edit.engine.change.plan import Change
from lifelong_edit.engine.measure.scores import EFFICACY, said, scored, scores_body
from lifelong_edit.engine.measure.telemetry import read_out
from lifelong_edit.engine.measure.vital_signs import vital_signs
from lifelong_edit.engine.state.layers import standing
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import RequestError
from lifelong_edit.store import Column, History

Effect = dict[str, tuple[float, float]]
"""Figures before a refit and after it: efficacy, and `drift`, the vital sign kl or, without a watch, preservation."""


HALVINGS = 5  # of a ridge: to a thirty-second
SHARES = (0.0, 1.0, 2.0, 4.0, 8.0)  # of the mean key mass, by which a repair tries to enlarge ridges


def relaxed(session: Session, body: Mapping[str, Any], halvings: int) -> Change | None:
    """The active facts that the model says no longer, with lower ridges; None where none of them responds.

    No ridge goes below that which its fact was written with, halved `halvings` times. `RequestError` in batch memory.
    """
    if session.settings.memory != Memory.joint:
        raise RequestError("Batch memory does not solve for earlier facts again. Use repair, which does.")
    if halvings < 1:
        raise RequestError(f"A ridge is halved once or more often, not {halvings} times.")
    history, layers = session.head.history, session.head.layers
    edits = [p.value for p in next(iter(layers.values())).placed if not _protected(history, p.value)]
    if not edits:
        return None
    columns = {n: session.library.reader(layer.name)(edits) for n, layer in layers.items()}
    groups = [column.facts for column in edits]
    left = [halvings - spent for spent in _spent(session, edits, columns)]

    def change(now: ByLayer) -> Change:
        lower = [i for i in range(len(edits)) if any(bool(now[n].ridge[i] < columns[n].ridge[i]) for n in now)]
        return _relaxing(session, body, [edits[i] for i in lower], {n: now[n].take(lower) for n in now})

    eased_columns, halved = eased(columns, left, lambda now: said(session, history, groups, change(now).layers))
    return change(eased_columns) if any(halved) else None


def repaired(session: Session, body: Mapping[str, Any]) -> tuple[Change, Effect]:
    """All batches that stand as one, solved together from their stored keys and values.

    With live targets later values make up for what earlier batches leaked onto them, so together they do too much.
    Hence ridges are tried that are larger by each of the `SHARES` of the mean key mass, and halved for the facts that
    miss. Of what improves efficacy and drift that with the best efficacy is taken, and of these the one with the least
    drift; where nothing does, the plain solution.

    `RequestError` in joint memory, or where fewer than two batches stand; `SolveError` naming facts that cannot be held
    together.
    """
    if session.settings.memory == Memory.joint:
        raise RequestError("Joint memory is one system already. Use relax, which lowers the ridge of facts that fade.")
    if len(next(iter(session.head.layers.values())).batches) < 2:
        raise RequestError("Fewer than two batches stand, so there is nothing to solve together.")
    tried = [weighed(session, _repairing(session, body, share)) for share in SHARES]
    better = [one for one in tried if improves(one[1])]
    return max(better, key=lambda one: (one[1][EFFICACY][1], -one[1]["drift"][1])) if better else tried[0]


def weighed(session: Session, change: Change) -> tuple[Change, Effect]:
    """The change with the scores of all active facts after it in its body, and what it does to efficacy and drift."""
    facts = [fact for fact in session.head.history.active.values() if not fact.protected]
    figures, effect = {}, {}
    for when, layers in (("before", session.head.layers), ("after", change.layers)):
        read = read_out(session, layers)
        with session.editable.rewritten({n: layer.weight for n, layer in layers.items()}):
            figures = scored(session, facts, (EFFICACY,))
        signs = vital_signs(session, layers, read)
        drift = signs["kl"] if "kl" in signs else max(one.preservation for one in read.values())
        effect[when] = {EFFICACY: figures[EFFICACY].value or 0.0, "drift": drift}
    told = {name: (effect["before"][name], effect["after"][name]) for name in effect["before"]}
    body = {**change.body, **scores_body(facts, figures), "effect": {name: list(pair) for name, pair in told.items()}}
    return replace(change, body=body), told


def improves(effect: Effect) -> bool:
    """Whether more facts are said and the model is nearer to its base."""
    (said_before, said_after), (far_before, far_after) = effect[EFFICACY], effect["drift"]
    return said_after > said_before and far_after < far_before


def _relaxing(session: Session, body: Mapping[str, Any], old: Sequence[Column], columns: ByLayer) -> Change:
    """The change in which `columns` stand for the values `old`."""
    groups = [sorted(column.facts) for column in old]
    about = {"facts": [id for group in groups for id in group], "columns": groups}
    named = {layer.name: columns[n] for n, layer in session.head.layers.items()} if old else {}
    return _changing(session, "relax", {**body, **about}, named)


def _repairing(session: Session, body: Mapping[str, Any], share: float) -> Change:
    """The change in which all that stands is one batch, with ridges larger by a share of the mean key mass."""
    history, layers, seq = session.head.history, session.head.layers, session.head.last.seq + 1
    values = [chain[-1] for chain in history.chains().values()]
    groups = [sorted(value.facts) for value in values]

    def change(now: ByLayer) -> Change:
        columns = {layer.name: now[n] for n, layer in layers.items() if now}
        about = {"columns": groups} if now else {}
        return _changing(session, "repair", {**body, "facts": [], **about}, columns, new=seq)

    if not share:
        return change({})
    columns = {n: _larger(session, n, values, share) for n in layers}
    lower, _ = eased(columns, [HALVINGS] * len(values), lambda now: said(session, history, groups, change(now).layers))
    return change(lower)


def _larger(session: Session, number: int, values: Sequence[Column], share: float) -> Columns:
    """The columns of these values in one layer, with larger ridges."""
    own = session.library.reader(session.head.layers[number].name)(values)
    return replace(own, ridge=own.ridge + share * session.init["calibration"][str(number)])


def _changing(
    session: Session, kind: str, body: dict[str, Any], columns: Mapping[str, Columns], new: int | None = None
) -> Change:
    """The change of this body, with the columns it brings by weight."""
    head, seq, limit = session.head, session.head.last.seq + 1, session.settings.amplification_limit
    after = head.history.then(seq, kind, body)
    batches = standing(after, session.settings.memory)
    layers = {
        n: layer.becoming(batches, session.library.reader(layer.name, {seq: columns}), None, new, limit)
        for n, layer in head.layers.items()
    }
    deltas = {layer.name: layer.delta_to(layers[n], seq, math.inf) for n, layer in head.layers.items()}
    return Change(kind, body, after, layers, deltas, dict(columns), ())


def _spent(session: Session, edits: Sequence[Column], columns: ByLayer) -> list[int]:
    """How often the ridge of each value was halved since it was written; of a ridge of 0, more often than can be."""
    first: dict[frozenset[str], Column] = {}
    for column in session.head.history.standing:
        first.setdefault(column.facts, column)
    number, now = next(iter(columns.items()))
    then = session.library.reader(session.head.layers[number].name)([first[column.facts] for column in edits])
    pairs = zip(then.ridge.tolist(), now.ridge.tolist(), strict=True)
    return [round(math.log2(before / after)) if after else 1 << 30 for before, after in pairs]


def _protected(history: History, column: Column) -> bool:
    return all(history.facts[id].protected for id in column.facts)

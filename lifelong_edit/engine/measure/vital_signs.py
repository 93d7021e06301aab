"""How far a model has moved from its base: the vital signs that a budget is read on, and the drift that is recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lifelong_edit.algebra.telemetry import Telemetry
from lifelong_edit.engine.measure.telemetry import finite, read_out
from lifelong_edit.engine.state.layers import EditedLayer
from lifelong_edit.engine.state.session import Session
from lifelong_edit.tracking.drift import measure_next_tokens, measure_texts, next_log_probabilities
from lifelong_edit.tracking.figures import SIGMAS, Figure
from lifelong_edit.tracking.tasks import measure_tasks
from lifelong_edit.tracking.watch import LOST, Watched


def watched(session: Session) -> Watched | None:
    """What the store watches; None when nothing was named at its creation."""
    return Watched.from_dict(session.init["watch"]) if session.init.get("watch") else None


def vital_signs(session: Session, layers: Mapping[int, EditedLayer], read: Mapping[str, Telemetry]) -> dict[str, float]:
    """The signs (see `health.SIGNS`) of the model with these layers: those of the watch, and those of the weights."""
    own = watched(session)
    signs = {
        "preservation": max(one.preservation for one in read.values()),
        "capacity": max(one.capacity for one in read.values()),
        "norm": max(one.relative_norm for one in read.values()),
    }
    if own is None:
        return signs
    with session.editable.rewritten({n: layer.weight for n, layer in layers.items()}):
        signs |= own.signs(session.editable)
    if own.prompts:
        kl = _next_tokens(session, own, layers)["next-token/kl"].value
        signs["kl"] = math.inf if kl is None else kl
    return {name: min(value, LOST) for name, value in signs.items()}


def drift_rows(session: Session) -> list[dict[str, Any]]:
    """The drift of the live model, a row a figure: value, that of the base, and the ends of its interval or null.

    Texts and prompts are the watch's; a store that watches nothing has the figures of its weights alone.
    """
    own, layers = watched(session), session.head.layers
    rows = []
    if own is not None and own.watch.texts:
        found = measure_texts(session.editable, own.watch.texts)
        with session.editable.rewritten({n: layer.base for n, layer in layers.items()}):
            base = measure_texts(session.editable, own.watch.texts)
        rows += [drift_row(name, figure, base[name].value) for name, figure in found.items()]
    if own is not None and own.prompts:
        same = {"next-token/kl": 0.0, "next-token/agreement": 1.0}
        rows += [drift_row(name, figure, same[name]) for name, figure in _next_tokens(session, own, layers).items()]
    return rows + [row for name, read in read_out(session, layers).items() for row in _of_weight(name, read)]


def task_rows(session: Session, tasks: Mapping[str, Sequence[tuple[str, str]]]) -> list[dict[str, Any]]:
    """The accuracy of the live model and of its base in every task, which is a list of (prompt, answer)."""
    found = measure_tasks(session.editable, tasks)
    with session.editable.rewritten({n: layer.base for n, layer in session.head.layers.items()}):
        base = measure_tasks(session.editable, tasks)
    return [drift_row(f"task/{name}", figure, base[name].value) for name, figure in found.items()]


def _next_tokens(session: Session, own: Watched, layers: Mapping[int, EditedLayer]) -> dict[str, Figure]:
    """How what follows the watched prompts differs from the base's: its weights are at hand, so it is asked anew."""
    editable = session.editable
    with editable.rewritten({n: layer.base for n, layer in layers.items()}):
        base = next_log_probabilities(editable, own.prompts)
    with editable.rewritten({n: layer.weight for n, layer in layers.items()}):
        return measure_next_tokens(editable, own.prompts, base)


def drift_row(name: str, figure: Figure, base: float | None) -> dict[str, Any]:
    """What an entry keeps of a figure: value, the base's, and the ends of its 95 % interval; null where unknown."""
    low, high = figure.interval or (None, None)
    if figure.value is not None and figure.error is not None and figure.interval is None:
        low, high = figure.value - SIGMAS * figure.error, figure.value + SIGMAS * figure.error
    numbers = {"value": figure.value, "base": base, "low": low, "high": high}
    return {"metric": name, **{key: None if number is None else finite(number) for key, number in numbers.items()}}


def _of_weight(weight: str, read: Telemetry) -> list[dict[str, Any]]:
    figures = {
        "norm": (read.relative_norm, 0.0),
        "preservation": (read.preservation, 0.0),
        "capacity": (read.capacity, 0.0),
        "stable-rank": (read.spectrum.stable_rank, None),
        "entropy": (read.spectrum.entropy, None),
    }
    return [
        {"metric": f"{name}/{weight}", "value": finite(value), "base": base, "low": None, "high": None}
        for name, (value, base) in figures.items()
    ]

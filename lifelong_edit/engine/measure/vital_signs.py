"""How far a model has moved from its base: the vital signs that a budget is read on, and the drift that is recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lifelong_edit.engine.state.session import Session
from lifelong_edit.kinds.kind import State
from lifelong_edit.tracking.drift import measure_next_tokens, measure_texts, next_log_probabilities
from lifelong_edit.tracking.scores import SIGMAS, Figure, finite
from lifelong_edit.tracking.tasks import measure_tasks
from lifelong_edit.tracking.watch import LOST, Watched


def watched(session: Session) -> Watched | None:
    """What the store watches; None when nothing was named at its creation."""
    return Watched.from_dict(session.init["watch"]) if session.init.get("watch") else None


def vital_signs(session: Session, state: State) -> dict[str, float]:
    """The signs (see `health.SIGNS`) of the model in this state: those of the watch, and those of the state itself."""
    own, signs = watched(session), session.kind.signs(state)
    if own is None:
        return signs
    with session.kind.showing(state) as editable:
        signs |= own.signs(editable)
    if own.prompts:
        kl = _next_tokens(session, own, state)["next-token/kl"].value
        signs["kl"] = math.inf if kl is None else kl
    return {name: min(value, LOST) for name, value in signs.items()}


def drift_rows(session: Session) -> list[dict[str, Any]]:
    """The drift of the live model, a row a figure: value, that of the base, and the ends of its interval or null.

    Texts and prompts are the watch's; a store that watches nothing has the figures of its weights alone.
    """
    own, kind, state = watched(session), session.kind, session.state
    rows = []
    if own is not None and own.watch.texts:
        with kind.showing(state) as editable:
            found = measure_texts(editable, own.watch.texts)
        with kind.showing(kind.base) as editable:
            base = measure_texts(editable, own.watch.texts)
        rows += [drift_row(name, figure, base[name].value) for name, figure in found.items()]
    if own is not None and own.prompts:
        same = {"next-token/kl": 0.0, "next-token/agreement": 1.0}
        rows += [drift_row(name, figure, same[name]) for name, figure in _next_tokens(session, own, state).items()]
    plain = [(name, finite(value), base) for name, value, base in kind.figures(state)]
    return rows + [
        {"metric": name, "value": value, "base": base, "low": None, "high": None} for name, value, base in plain
    ]


def task_rows(session: Session, tasks: Mapping[str, Sequence[tuple[str, str]]]) -> list[dict[str, Any]]:
    """The accuracy of the live model and of its base in every task, which is a list of (prompt, answer)."""
    with session.kind.showing(session.state) as editable:
        found = measure_tasks(editable, tasks)
    with session.kind.showing(session.kind.base) as editable:
        base = measure_tasks(editable, tasks)
    return [drift_row(f"task/{name}", figure, base[name].value) for name, figure in found.items()]


def _next_tokens(session: Session, own: Watched, state: State) -> dict[str, Figure]:
    """How what follows the watched prompts differs from the base's, which is at hand and asked anew."""
    with session.kind.showing(session.kind.base) as editable:
        base = next_log_probabilities(editable, own.prompts)
    with session.kind.showing(state) as editable:
        return measure_next_tokens(editable, own.prompts, base)


def drift_row(name: str, figure: Figure, base: float | None) -> dict[str, Any]:
    """What an entry keeps of a figure: value, the base's, and the ends of its 95 % interval; null where unknown."""
    low, high = figure.interval or (None, None)
    if figure.value is not None and figure.error is not None and figure.interval is None:
        low, high = figure.value - SIGMAS * figure.error, figure.value + SIGMAS * figure.error
    numbers = {"value": figure.value, "base": base, "low": low, "high": high}
    return {"metric": name, **{key: None if number is None else finite(number) for key, number in numbers.items()}}

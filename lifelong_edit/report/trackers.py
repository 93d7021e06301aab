"""Log the numbers of every entry to an experiment tracker: anything with the `run.log` of Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from lifelong_edit.store import Entry


class Run(Protocol):
    """A run of an experiment tracker, as wandb and trackio have it."""

    def log(self, data: dict[str, float], step: int) -> object:
        """Take the numbers of one step."""


def log_to(run: Run) -> Callable[[Entry], None]:
    """Make an observer for `editor.subscribe` that logs an entry's numbers, if it has any, with its seq as the step."""

    def observe(entry: Entry) -> None:
        numbers = numbers_of(entry)
        if numbers:
            run.log(numbers, step=entry.seq)

    return observe


def numbers_of(entry: Entry) -> dict[str, float]:
    """Collect the numbers in an entry's body by name, without nulls.

    ``telemetry/<weight>/<figure>``, ``vital/<sign>``, ``scores/<metric>`` (mean over the facts that were asked),
    ``drift/<metric>``, ``survived/<weight>``, and ``facts``, how many are active, where it was read.
    """
    body = entry.body
    found: dict[str, Any] = {"facts": body.get("vital", {}).get("facts")}
    found |= _under("vital", body.get("vital", {}).get("signs", {})) | _under("survived", body.get("survived", {}))
    for weight, figures in body.get("telemetry", {}).items():
        name = f"telemetry/{weight}"
        found |= _under(name, figures) | _under(f"{name}/residual", figures.get("residual") or {})
    found |= {f"drift/{row['metric']}": row["value"] for row in body.get("drift", ())}
    for metric, scores in body.get("scores", {}).items():
        own = [score for score in scores.values() if score is not None]
        found[f"scores/{metric}"] = sum(own) / len(own) if own else None
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def _under(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}/{key}": value for key, value in values.items()}

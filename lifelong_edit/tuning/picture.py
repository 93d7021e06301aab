"""The front as a picture: a page that needs no network. Needs the extra `report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.errors import RequestError
from lifelong_edit.tuning.front import front
from lifelong_edit.tuning.trials import Point, Trial, best_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

PAGE = b"<!doctype html>\n<html>"  # what a page begins with
Told = Callable[[EditorSettings], str]
"""Settings in a few words."""


def check_drawable(path: Path | None) -> None:
    """Raise `RequestError` when a picture is wanted and plotly is not installed."""
    try:
        if path is not None:
            import plotly  # noqa: F401
    except ImportError as error:
        raise RequestError(
            "A picture needs plotly. Install it: pip install 'lifelong-edit[report]', or leave --picture out."
        ) from error


def page(trials: Sequence[Trial], weight: float, told: Told) -> str:
    """The page: a dot for every point by what it keeps and says, a line through the front, a ring around the best."""
    figure = drawn(trials, weight, told)
    body = figure.to_html(full_html=False, config={"responsive": True, "displaylogo": False})
    return f"{PAGE.decode()}<head><meta charset='utf-8'><title>Front</title></head><body>{body}</body></html>\n"


def drawn(trials: Sequence[Trial], weight: float, told: Told) -> go.Figure:
    """The figure of the page."""
    import plotly.graph_objects as go

    figure, best = go.Figure(), best_of(trials, weight)
    everything = [(trial, point) for trial in trials for point in trial.points]
    figure.add_scatter(**_places(everything, told), mode="markers", name="tried", marker={"color": "#999999"})
    figure.add_scatter(**_places(front(trials), told), mode="lines+markers", name="front", line={"color": "#22577a"})
    ring = {"symbol": "circle-open", "size": 18, "color": "#a4161a", "line": {"width": 2}}
    figure.add_scatter(**_places([best] if best else [], told), mode="markers", name="best", marker=ring)
    figure.update_layout(
        template="plotly_white", xaxis_title="kept: first choices of the base", yaxis_title="said: facts, in any words"
    )
    return figure


def _places(pairs: Sequence[tuple[Trial, Point]], told: Told) -> dict[str, list[float] | list[str] | str]:
    return {
        "x": [point.figures.kept for _, point in pairs],
        "y": [point.figures.said for _, point in pairs],
        "text": [told(trial.settings(point)) for trial, point in pairs],
        "hovertemplate": "%{text}<extra></extra>",
    }

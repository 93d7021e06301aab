"""Draw the pictures of a report with plotly. Texts of the ledger are escaped, because plotly reads tags in labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lifelong_edit.escapes import printable
from lifelong_edit.report.story import Curve, Moment, Story
from lifelong_edit.tracking.health import SIGNS

LINE, AMBER, RED = "#22577a", "#e0a100", "#a4161a"
KINDS = ("init", "edit", "replace", "protect", "revert", "restore", "relax", "repair", "tag", "measure")
COLOURS = dict(
    zip(
        KINDS,
        ("#555555", LINE, "#5390d9", "#0b7a75", RED, "#e0a100", "#7b2cbf", "#3c096c", "#999999", "#74a57f"),
        strict=True,
    )
)
MARGIN = {"l": 64, "r": 16, "t": 40, "b": 44}


def figures(story: Story) -> dict[str, go.Figure]:
    """Draw every picture that the store has data for: name -> figure."""
    found = {
        "timeline": timeline(story.moments),
        "retention": retention(story) if story.matrix.values else None,
        "forgetting": forgetting(story) if story.forgotten else None,
        "health": health(story) if story.signs else None,
        "drift": multiples(story.drift, {}) if story.drift else None,
        "capacity": capacity(story) if story.capacity else None,
    }
    return {name: _dressed(figure) for name, figure in found.items() if figure is not None}


def timeline(moments: Sequence[Moment]) -> go.Figure:
    """Draw every entry by time and kind; entries whose facts supersede others have a ring."""
    figure = go.Figure()
    present = [kind for kind in KINDS if any(moment.kind == kind for moment in moments)]
    for kind in present:
        own = [moment for moment in moments if moment.kind == kind]
        figure.add_scatter(
            x=[moment.seq for moment in own],
            y=[kind] * len(own),
            mode="markers",
            name=kind,
            marker={
                "color": COLOURS[kind],
                "size": [8 + 2 * math.sqrt(moment.facts) for moment in own],
                "line": {"width": [3 if moment.superseded else 0 for moment in own], "color": "#000000"},
            },
            text=[_told(moment) for moment in own],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_layout(
        xaxis_title="entry", height=120 + 34 * len(figure.data), legend={"orientation": "h", "y": -0.35}
    )
    figure.update_yaxes(categoryorder="array", categoryarray=present[::-1])
    return figure


def retention(story: Story) -> go.Figure:
    """Draw the retention matrix: mean efficacy of every edit's facts, by when it was measured."""
    matrix = story.matrix
    cells = [[matrix.values.get((cohort, seq)) for seq in matrix.seqs] for cohort in matrix.cohorts]
    heat = go.Heatmap(
        z=cells,
        x=[str(seq) for seq in matrix.seqs],
        y=[str(cohort) for cohort in matrix.cohorts],
        zmin=0,
        zmax=1,
        colorscale="Cividis",
        colorbar={"title": "said"},
        hoverongaps=False,
        hovertemplate="facts of edit %{y}<br>measured after entry %{x}<br>%{z:.0%} are said<extra></extra>",
    )
    figure = go.Figure(heat)
    figure.update_layout(xaxis_title="measured after entry", yaxis_title="edit", height=max(260, 140 + 9 * len(cells)))
    figure.update_xaxes(type="category", nticks=20)
    figure.update_yaxes(type="category", nticks=20, autorange="reversed")
    return figure


def forgetting(story: Story) -> go.Figure:
    """Draw the share of learnt facts that were forgotten so far, and the mean retention of what was measured."""
    shares = [(one.seq, one.share) for one in story.forgotten if one.share is not None]
    means = [(seq, story.matrix.average(seq)) for seq in story.matrix.seqs]
    figure = go.Figure()
    for name, curve, colour in (("forgotten so far", shares, RED), ("retention, mean over edits", means, LINE)):
        figure.add_scatter(
            x=[seq for seq, _ in curve],
            y=[value for _, value in curve],
            name=name,
            mode="lines+markers",
            line={"color": colour},
            hovertemplate=f"{name}: %{{y:.1%}}<br>entry %{{x}}<extra></extra>",
        )
    figure.update_layout(xaxis_title="entry", height=300, legend={"orientation": "h", "y": 1.15})
    figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.03])
    return figure


def health(story: Story) -> go.Figure:
    """Draw every vital sign over the entries, with its amber and red bands."""
    limits = {name: (limit["amber"], limit["red"]) for name, limit in story.limits.to_dict().items()}
    return multiples({name: story.signs[name] for name in SIGNS if name in story.signs}, limits)


def multiples(curves: Mapping[str, Curve], limits: Mapping[str, tuple[float, float]]) -> go.Figure:
    """Draw small multiples, one a curve and two in a row, with bands from the amber and the red limit on."""
    rows = math.ceil(len(curves) / 2)
    figure = make_subplots(
        rows, 2, subplot_titles=[_shown(name) for name in curves], vertical_spacing=0.3 / max(rows, 2)
    )
    for number, (name, curve) in enumerate(curves.items()):
        place = {"row": number // 2 + 1, "col": number % 2 + 1}
        figure.add_scatter(
            x=[seq for seq, _ in curve],
            y=[value for _, value in curve],
            mode="lines+markers",
            line={"color": LINE},
            showlegend=False,
            hovertemplate=f"{_shown(name)} %{{y:.3g}}<br>entry %{{x}}<extra></extra>",
            **place,
        )
        if name in limits:
            amber, red = limits[name]
            top = max([value for _, value in curve] + [amber]) * 1.15
            figure.add_hrect(amber, max(red, amber), fillcolor=AMBER, opacity=0.18, line_width=0, **place)
            figure.add_hrect(red, max(top, red * 1.15), fillcolor=RED, opacity=0.18, line_width=0, **place)
            figure.update_yaxes(range=[0, top], **place)
    figure.update_layout(height=80 + 210 * rows)
    return figure


def capacity(story: Story) -> go.Figure:
    """Draw a gauge for every edited weight: the share of its input directions that facts use."""
    limit = story.limits.capacity
    figure = go.Figure()
    for number, (weight, value) in enumerate(story.capacity.items()):
        steps = [([0, limit.amber], "#dce6ec"), ([limit.amber, limit.red], "#f3dfa6"), ([limit.red, 1], "#e3b3b5")]
        figure.add_indicator(
            mode="gauge+number",
            value=value,
            number={"valueformat": ".1%"},
            title={"text": _shown(weight), "font": {"size": 12}},
            gauge={
                "axis": {"range": [0, 1], "tickformat": ".0%"},
                "bar": {"color": LINE},
                "steps": [{"range": span, "color": colour} for span, colour in steps],
            },
            domain={"row": 0, "column": number},
        )
    figure.update_layout(grid={"rows": 1, "columns": max(1, len(story.capacity))}, height=260)
    return figure


def _told(moment: Moment) -> str:
    """The text of an entry that appears under the pointer."""
    lines = [f"entry {moment.seq} {moment.digest[:12]}: {moment.kind}"]
    lines += [f"{moment.facts} facts" + (f", {moment.superseded} superseded" if moment.superseded else "")]
    lines += [", ".join(moment.subjects)] if moment.subjects else []
    lines += [f"{moment.time[:19]} by {moment.actor}"] + ([moment.reason] if moment.reason else [])
    return "<br>".join(_shown(line) for line in lines)


def _shown(text: str) -> str:
    return escape(printable(text))


def _dressed(figure: go.Figure) -> go.Figure:
    layout: dict[str, Any] = {"template": "plotly_white", "margin": MARGIN, "font": {"family": "system-ui, sans-serif"}}
    figure.update_layout(**layout)
    return figure

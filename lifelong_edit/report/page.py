"""Write a report: one HTML file that needs no network, and if asked, PNGs of its pictures; needs the extra `report`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lifelong_edit.engine import Reader
from lifelong_edit.errors import RequestError
from lifelong_edit.escapes import printable
from lifelong_edit.outputs import new_file
from lifelong_edit.report.story import Story, story_of

PARTS = (
    ("timeline", "What happened", "Every entry by its kind; the legend hides kinds. A ring: facts superseded.", ""),
    ("retention", "Retention", "Of the facts of each edit, how many were said each time they were measured.",
     "No fact was measured yet: lifelong-edit measure."),
    ("forgetting", "Forgetting", "Facts said right after their edit and not at a later measurement count as forgotten.",
     "No fact was measured yet: lifelong-edit measure."),
    ("health", "Vital signs", "From yellow on one should look, from red on one should stop.",
     "No entry has vital signs yet: they come with edits."),
    ("capacity", "Capacity", "The share of an edited weight's directions that facts take up.", "No edit yet."),
    ("drift", "Drift", "How far the model has moved from its base.",
     "Drift was not measured yet: lifelong-edit measure --drift."),
)  # fmt: skip
HEADINGS = ("fact", "edit", "status", "asks", "target", "at edit", "newest", "asked at", "risk", "residual", "reason")
PIXELS = {"width": 1000, "scale": 2}
PNG = b"\x89PNG\r\n\x1a\n"


def write_report(reader: Reader, store: str, path: Path, deep: bool = False, pictures: Path | None = None) -> int:
    """Write the report of an open store to `path`, in place of an earlier report, and give its size in bytes.

    `deep` also reads predicted residuals and risks, for which the reader needs its model. `pictures` is a folder that
    gets a PNG of each picture. Raises `RequestError` when the extra is not installed or has no browser to draw with,
    or when something that is no report has the name, `StoreError` when it cannot be written.
    """
    story = story_of(reader, store, deep)
    data = render(story, deep).encode()
    if pictures is not None:
        _draw(story, pictures)
    with new_file(path, earlier=data.partition(b"<title>")[0]) as file:
        file.write_bytes(data)
    return len(data)


def render(story: Story, deep: bool) -> str:
    """Render the page; everything that comes from the ledger is escaped."""
    jinja2 = _jinja2()
    from plotly.offline import get_plotlyjs

    from lifelong_edit.report.figures import figures

    # Autoescape, and `finalize` for control characters: whoever wrote a reason is not trusted by its reader's browser.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown)
    environment.filters["figure"] = _figure
    template = environment.from_string(files("lifelong_edit.report").joinpath("page.html").read_text("utf-8"))
    config = {"responsive": True, "displaylogo": False}
    drawn = {
        name: figure.to_html(full_html=False, include_plotlyjs=False, config=config, div_id=f"{name}-picture")
        for name, figure in figures(story).items()
    }
    statuses = sorted({row.status for row in story.facts})
    cards = [*((f"{name} facts", story.counts[name]) for name in ("active", "reverted", "superseded")),
             ("active, not said", len(story.unsaid)), ("entries", len(story.moments))]  # fmt: skip
    page: str = template.render(
        story=story, deep=deep, last=story.moments[-1], pictures=drawn, plotly=get_plotlyjs(), parts=PARTS,
        headings=HEADINGS, statuses=statuses, cards=cards,
    )  # fmt: skip
    return page


def _draw(story: Story, folder: Path) -> None:
    """Draw every picture in one browser, for to start it takes longer than to draw."""
    from plotly.io import write_images

    from lifelong_edit.report.figures import figures

    drawn = figures(story)
    with TemporaryDirectory() as place:
        pictures = {name: Path(place) / f"{name}.png" for name in drawn}
        try:
            heights = [figure.layout.height for figure in drawn.values()]
            write_images([*drawn.values()], [*pictures.values()], height=heights, **PIXELS)
            data = {name: path.read_bytes() for name, path in pictures.items()}
        except (RuntimeError, ValueError, OSError) as error:
            raise RequestError(f"{folder}: no PNG could be drawn: {error}. Install Chromium or Chrome.") from error
    for name, png in data.items():
        with new_file(folder / f"{name}.png", earlier=PNG) as file:
            file.write_bytes(png)


def _shown(value: object) -> object:
    """Escape control characters in text of the ledger; what is HTML already stays."""
    return value if hasattr(value, "__html__") else printable(value)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _jinja2() -> Any:
    """Import the template engine; `RequestError` where it or plotly is not installed."""
    try:
        import jinja2
        import plotly  # noqa: F401
    except ImportError as error:
        raise RequestError(f"A report needs an extra: pip install 'lifelong-edit[report]' ({error}).") from error
    return jinja2

"""WikiBigEdit: a question and its answer, asked again in two other ways; one file a step of time."""

from __future__ import annotations

from collections.abc import Iterator

from lifelong_edit.datasets.drafts import Draft, first_text
from lifelong_edit.datasets.formats.format import Fields, Format


def _drafts(row: Fields, _choice: str | None) -> Iterator[Draft]:
    yield Draft(
        row.get("update"),
        row.get("subject"),
        first_text(row.get("ans")),
        paraphrases=[row.get("rephrase"), row.get("personas")],
        checks=[(row.get("loc"), first_text(row.get("loc_ans")))],
    )


FORMAT = Format(
    "wikibigedit",
    "WikiBigEdit",
    marks=frozenset({"update", "subject", "ans"}),
    fields=frozenset({"update", "subject", "ans", "rephrase", "personas", "loc", "loc_ans"}),
    drafts=_drafts,
)

"""FastEdit: prompt, subject, target, and queries that ask for the target in other ways."""

from __future__ import annotations

from collections.abc import Iterator

from lifelong_edit.datasets.drafts import Draft
from lifelong_edit.datasets.formats.format import Fields, Format


def _drafts(row: Fields, _choice: str | None) -> Iterator[Draft]:
    yield Draft(row.get("prompt"), row.get("subject"), row.get("target"), paraphrases=row.get("queries"))


FORMAT = Format(
    "fastedit",
    "FastEdit",
    marks=frozenset({"prompt", "subject", "target"}),
    fields=frozenset({"prompt", "subject", "target", "queries"}),
    drafts=_drafts,
)

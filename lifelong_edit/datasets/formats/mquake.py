"""MQuAKE: a row is a case of several edits that belong together; their ids are ``mquake-CASE-1``, ``-2`` and so on."""

from __future__ import annotations

from collections.abc import Iterator

from lifelong_edit.datasets.drafts import Draft, case_id, part
from lifelong_edit.datasets.formats.format import Fields, Format
from lifelong_edit.datasets.rows import kind_of
from lifelong_edit.errors import RequestError


def _drafts(row: Fields, _choice: str | None) -> Iterator[Draft]:
    case = case_id("mquake", row.get("case_id"))
    edits = part(row, "requested_rewrite", list)
    if not edits:
        raise RequestError("no edit: requested_rewrite is an empty list. Leave the case out.")
    for number, edit in enumerate(edits, 1):
        if not isinstance(edit, dict):
            raise RequestError(f"no edit: item {number} of requested_rewrite is {kind_of(edit)}. Write an object.")
        yield Draft(
            edit.get("prompt"),
            edit.get("subject"),
            edit.get("target_new"),
            edit.get("target_true"),
            case and f"{case}-{number}",
            edit.get("question"),
            relation=edit.get("relation_id"),
        )


FORMAT = Format(
    "mquake",
    "MQuAKE",
    marks=frozenset(f"requested_rewrite[].{name}" for name in ("prompt", "subject", "target_new")),
    fields=frozenset({"case_id", "requested_rewrite"}),
    drafts=_drafts,
)

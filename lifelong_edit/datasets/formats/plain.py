"""Rows with the fields of an `EditRequest`: the project's own lines, CSV columns of these names, a JSON array of both.

A list is a JSON list, in a CSV cell too; a text where a list is expected is a list of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from lifelong_edit.datasets.drafts import Draft
from lifelong_edit.datasets.formats.format import Fields, Format
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import REQUIRED, EditRequest


def _drafts(row: Fields, _choice: str | None) -> Iterator[Draft]:
    checks = _listed(row, "attribute_prompts") or ()
    if not isinstance(checks, list | tuple) or not all(isinstance(c, list) and len(c) == 2 for c in checks):
        raise RequestError("not a sound request: attribute_prompts are no pairs. Write [[prompt, answer], ...].")
    yield Draft(
        row.get("prompt"),
        row.get("subject"),
        row.get("target_new"),
        row.get("target_true"),
        str(row["id"]) if type(row.get("id")) is int else row.get("id"),
        _listed(row, "paraphrase_prompts"),
        _listed(row, "neighborhood_prompts"),
        [(prompt, answer) for prompt, answer in checks],
        _listed(row, "generation_prompts"),
        _listed(row, "wordings"),
        row.get("relation_id"),
        _listed(row, "messages"),
        row.get("end"),
    )


def _listed(row: Fields, name: str) -> Any:
    """The field's value; a CSV cell that holds a JSON list is parsed."""
    value = row.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value  # a text that begins with a bracket
    return value


FORMAT = Format(
    "plain",
    "plain rows (prompt or messages, subject, target_new)",
    marks=frozenset(REQUIRED) - {"prompt"},
    any_of=frozenset({"prompt", "messages"}),
    fields=frozenset({"relation_id", *(field.name for field in fields(EditRequest))}),
    drafts=_drafts,
)

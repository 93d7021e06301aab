"""KnowEdit: locality and portability in named groups with lists of aliases; its WikiBio part names its fields apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lifelong_edit.datasets.drafts import Draft, first_text, items, part
from lifelong_edit.datasets.formats.format import Fields, Format

LOCALITY = ("Relation_Specificity", "Forgetfulness")
PORTABILITY = ("Reasoning", "Subject_Aliasing", "Logical_Generalization")


def _drafts(row: Fields, _choice: str | None) -> Iterator[Draft]:
    yield Draft(
        row.get("prompt"),
        row.get("subject"),
        first_text(row.get("target_new")),
        first_text(row.get("ground_truth")),
        paraphrases=row.get("rephrase"),
        checks=_checks(row),
    )


def _biographies(row: Fields, _choice: str | None) -> Iterator[Draft]:
    yield Draft(row.get("text"), row.get("concept"), first_text(row.get("labels")), checks=_checks(row))


def _checks(row: Fields) -> list[tuple[Any, Any]]:
    groups = part(row, "locality", dict) if row.get("locality") else {}
    listed = [check for name in LOCALITY for check in items(groups, name)]
    return [(first_text(c.get("prompt")), first_text(c.get("ground_truth"))) for c in listed if isinstance(c, dict)]


FORMAT = Format(
    "knowedit",
    "KnowEdit (wiki_recent, wiki_counterfact, ZsRE)",
    marks=frozenset({"prompt", "subject", "target_new"}),
    any_of=frozenset([f"locality.{name}[]" for name in LOCALITY] + [f"portability.{name}[]" for name in PORTABILITY]),
    fields=frozenset({"prompt", "subject", "target_new", "ground_truth", "rephrase", "locality"}),
    drafts=_drafts,
)
WIKIBIO = Format(
    "knowedit-wikibio",
    "KnowEdit, WikiBio",
    marks=frozenset({"concept", "text", "labels"}),
    fields=frozenset({"concept", "text", "labels", "locality"}),
    drafts=_biographies,
)

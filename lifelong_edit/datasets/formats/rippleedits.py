"""RippleEdits, where the subject's text was added: as published a row holds only the Wikidata id of its subject.

The edit is a whole sentence. The new target is `edit.target` where that was added too; else the answer of a query whose
`target_ids` are the edit's `target_id`, when the sentence ends with it. The true target is what the original sentence
has in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lifelong_edit.datasets.drafts import Draft, items, part
from lifelong_edit.datasets.formats.format import Fields, Format
from lifelong_edit.errors import RequestError

SPECIFIC = ("Relation_Specificity", "Relation_Specifity")  # in the code, and as published
CRITERIA = (
    *SPECIFIC,
    "Logical_Generalization",
    "Subject_Aliasing",
    "Compositionality_I",
    "Compositionality_II",
    "Forgetfulness",
)


def _drafts(row: Fields, _choice: str | None) -> Iterator[Draft]:
    edit = part(row, "edit", dict)
    subject = edit.get("subject") or row.get("subject")
    if not subject:
        raise RequestError(
            f"no subject text: the row has only its Wikidata id, {edit.get('subject_id')!r}. "
            "Add the text as edit.subject."
        )
    sentence = _sentence(edit)
    new = edit.get("target") or _answer(row, edit, sentence)
    if not isinstance(new, str) or not sentence.endswith(f" {new.strip()}"):
        raise RequestError(
            f"no target text: neither edit.target nor the answer to a query ends the sentence {sentence[:200]!r}. "
            "Add the text as edit.target."
        )
    # The sentence without its target is the prompt; what the original sentence has there instead is the true target.
    start = sentence.removesuffix(new.strip())
    original = edit.get("original_fact")
    before = _sentence(original) if isinstance(original, dict) else ""
    true = before.removeprefix(start) if before.startswith(start) else None
    yield Draft(start.rstrip(), subject, new, true, checks=_checks(row), relation=edit.get("relation"))


def _sentence(fact: dict[str, Any]) -> str:
    return str(fact.get("prompt") or "").rstrip().removesuffix(".")


def _queries(row: Fields, names: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], str]]:
    """Collect the test queries of some criteria as (prompt, first answer)."""
    for test in (test for name in names for test in items(row, name) if isinstance(test, dict)):
        for query in items(test, "test_queries"):
            answers = query.get("answers") if isinstance(query, dict) else None
            if isinstance(answers, list) and answers and isinstance(answers[0], dict):
                yield query, str(answers[0].get("value") or "")


def _answer(row: Fields, edit: dict[str, Any], sentence: str) -> str | None:
    """Find the edit's target: the longest answer for its `target_id` that ends the sentence."""
    named = (said for query, said in _queries(row, CRITERIA) if query.get("target_ids") == [edit.get("target_id")])
    return max((said for said in named if said and sentence.endswith(f" {said}")), key=len, default=None)


def _checks(row: Fields) -> list[tuple[Any, Any]]:
    return [(query.get("prompt"), said) for query, said in _queries(row, SPECIFIC)]


FORMAT = Format(
    "rippleedits",
    "RippleEdits",
    marks=frozenset({"edit.prompt", "edit.subject_id", "edit.target_id"}),
    fields=frozenset({"edit", "subject", *CRITERIA}),
    drafts=_drafts,
)

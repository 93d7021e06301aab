"""CounterFact and multi-CounterFact as ROME and MEMIT publish them: one edit a row, two target objects."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lifelong_edit.datasets.drafts import Draft, case_id, items, part, target
from lifelong_edit.datasets.formats.format import Fields, Format


def _drafts(dataset: str, row: Fields, _choice: str | None) -> Iterator[Draft]:
    edit = part(row, "requested_rewrite", dict)
    yield Draft(
        edit.get("prompt"),
        edit.get("subject"),
        edit.get("target_new"),
        edit.get("target_true"),
        case_id(dataset, row.get("case_id")),
        row.get("paraphrase_prompts"),
        row.get("neighborhood_prompts"),
        [(prompt, target(edit.get("target_new"))) for prompt in items(row, "attribute_prompts")],
        row.get("generation_prompts"),
        relation=edit.get("relation_id"),
    )


FORMAT = Format(
    "counterfact",
    "CounterFact (multi-CounterFact looks the same: --format mcf)",
    marks=frozenset(f"requested_rewrite.{name}" for name in ("prompt", "subject", "target_new")),
    fields=frozenset(
        "case_id requested_rewrite paraphrase_prompts neighborhood_prompts attribute_prompts generation_prompts".split()
    ),
    drafts=partial(_drafts, "counterfact"),
)
MULTI = Format("mcf", "multi-CounterFact", FORMAT.marks, FORMAT.fields, partial(_drafts, "mcf"))

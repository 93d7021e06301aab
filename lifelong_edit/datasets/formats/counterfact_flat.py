"""CounterFact as EasyEdit publishes it: flat texts, prompts with their subject filled in, one locality prompt."""

from __future__ import annotations

from collections.abc import Iterator

from lifelong_edit.datasets.drafts import Draft, case_id
from lifelong_edit.datasets.formats.format import Fields, Format


def _drafts(row: Fields, _choice: str | None) -> Iterator[Draft]:
    true, check, answer = (row.get(name) for name in ("ground_truth", "locality_prompt", "locality_ground_truth"))
    alike = answer is not None and answer == true
    yield Draft(
        row.get("prompt"),
        row.get("subject"),
        row.get("target_new"),
        true,
        case_id("counterfact", row.get("case_id")),
        row.get("rephrase_prompt"),
        check if alike else (),
        () if alike else [(check, answer)],
    )


FORMAT = Format(
    "counterfact-easyedit",
    "CounterFact, EasyEdit's variant",
    marks=frozenset({"prompt", "subject", "target_new", "rephrase_prompt", "locality_prompt"}),
    fields=frozenset(
        "case_id prompt subject target_new ground_truth rephrase_prompt locality_prompt locality_ground_truth".split()
    ),
    drafts=_drafts,
)

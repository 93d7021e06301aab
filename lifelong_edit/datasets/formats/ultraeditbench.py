"""UltraEditBench: flat texts, two million rows, so read one at a time."""

from __future__ import annotations

from collections.abc import Iterator

from lifelong_edit.datasets.drafts import Draft, case_id, first_text
from lifelong_edit.datasets.formats.format import Fields, Format


def _drafts(row: Fields, _choice: str | None) -> Iterator[Draft]:
    yield Draft(
        row.get("prompt"),
        row.get("subject"),
        first_text(row.get("ans")),
        id=case_id("ultraeditbench", row.get("case_id")),
        paraphrases=row.get("rephrase_prompt"),
        checks=[(row.get("loc"), first_text(row.get("loc_ans")))],
    )


FORMAT = Format(
    "ultraeditbench",
    "UltraEditBench",
    marks=frozenset({"prompt", "subject", "ans"}),
    fields=frozenset({"case_id", "prompt", "subject", "ans", "rephrase_prompt", "loc", "loc_ans"}),
    drafts=_drafts,
)

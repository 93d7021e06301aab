"""zsRE as MEND and MEMIT use it, with two targets to choose from, and UltraEdit's selection, with one.

MEMIT writes the first of `answers`, which is true; EasyEdit writes `alt`, which is not. No choice is the usual one.
"""

from __future__ import annotations

from collections.abc import Iterator

from lifelong_edit.datasets.drafts import Draft, first_text
from lifelong_edit.datasets.formats.format import Fields, Format

ALT, ANSWERS = "alt", "answers"
NATURAL_QUESTION = "nq question: "


def _drafts(row: Fields, choice: str | None) -> Iterator[Draft]:
    answer = first_text(row.get("answers"))
    new, true = (row.get("alt"), answer) if choice == ALT else (answer, None)
    yield _draft(row, new, true)


def _drafts_with_one_target(row: Fields, _choice: str | None) -> Iterator[Draft]:
    yield _draft(row, row.get("ans"), None)


def _draft(row: Fields, new: object, true: object) -> Draft:
    check = row.get("loc")
    if isinstance(check, str) and check.startswith(NATURAL_QUESTION) and not check.endswith("?"):
        check += "?"  # as MEMIT asks it
    return Draft(
        row.get("src"),
        row.get("subject"),
        new,
        true,
        paraphrases=row.get("rephrase"),
        checks=[(check, first_text(row.get("loc_ans")))],
    )


COMMON = frozenset({"src", "subject", "rephrase", "loc", "loc_ans"})
FORMAT = Format(
    "zsre",
    "zsRE (MEND, MEMIT, EasyEdit)",
    marks=frozenset({"src", "subject", "alt", "answers"}),
    fields=COMMON | {"alt", "answers"},
    drafts=_drafts,
    choices=(ALT, ANSWERS),
)
ULTRAEDIT = Format(
    "zsre-ultraedit",
    "zsRE, UltraEdit's selection",
    marks=frozenset({"src", "subject", "ans"}),
    fields=COMMON | {"ans"},
    drafts=_drafts_with_one_target,
)

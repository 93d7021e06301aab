"""Read EasyEdit's parallel lists as edit requests."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, with_slot

NO_ANSWER = "<|endoftext|>"  # what EasyEdit itself writes where no ground truth is given
CHECK = ("prompt", "ground_truth")


def from_easyedit(
    prompts: str | Sequence[str],
    target_new: str | Sequence[str],
    subject: str | Sequence[str],
    ground_truth: str | Sequence[str | None] | None = None,
    rephrase_prompts: str | Sequence[Any] | None = None,
    locality_inputs: Mapping[str, Mapping[str, Any]] | None = None,
    portability_inputs: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[EditRequest]:
    """Make requests of the arguments of EasyEdit's `edit`: parallel lists, or one text each for a single edit.

    A prompt holds its subject literally, once (or has ``{}``). Rephrasings become `paraphrase_prompts`; a locality
    prompt becomes one of `neighborhood_prompts` where its answer is the ground truth, else of `attribute_prompts`.
    Nothing here measures portability: those inputs are left out with a warning. `RequestError` names the list and the
    position.
    """
    given = {"prompts": prompts, "target_new": target_new, "subject": subject, "ground_truth": ground_truth,
             "rephrase_prompts": rephrase_prompts}  # fmt: skip
    count = 1 if isinstance(prompts, str) or not hasattr(prompts, "__len__") else len(prompts)
    columns = {name: _parallel(name, value, count) for name, value in given.items()}
    checks = _checks(locality_inputs or {}, count)
    if portability_inputs:
        warnings.warn("portability_inputs are left out: nothing measures portability here.", stacklevel=2)
    rows = ({name: column[position] for name, column in columns.items()} for position in range(count))
    found = []
    for position, row in enumerate(rows):
        try:
            found.append(_request(row, checks[position]))
        except RequestError as error:
            raise RequestError(f"prompts[{position}]: {error}") from None
    return found


def _request(row: Mapping[str, Any], checks: list[tuple[Any, Any]]) -> EditRequest:
    for name in ("prompts", "subject", "target_new"):
        if not isinstance(row[name], str):
            raise RequestError(f"its {name} is a {type(row[name]).__name__}. Give a text.")
    true = None if row["ground_truth"] == NO_ANSWER else row["ground_truth"]
    return EditRequest(
        with_slot(row["prompts"], row["subject"]),
        row["subject"],
        row["target_new"].strip(),
        true.strip() if isinstance(true, str) else true,
        paraphrase_prompts=tuple(_listed(row["rephrase_prompts"])),
        neighborhood_prompts=tuple(prompt for prompt, answer in checks if answer == true),
        attribute_prompts=tuple((prompt, answer) for prompt, answer in checks if answer != true),
    )


def _checks(inputs: Mapping[str, Any], count: int) -> list[list[tuple[Any, Any]]]:
    """Collect for each edit its (prompt, answer) pairs from ``{kind: {"prompt": [...], "ground_truth": [...]}}``."""
    pairs: list[list[tuple[Any, Any]]] = [[] for _ in range(count)]
    for kind, lists in inputs.items():
        named = f"locality_inputs[{kind!r}]"
        if not isinstance(lists, Mapping) or not set(CHECK) <= set(lists):
            raise RequestError(f"{named} lacks one of its lists. Give 'prompt' and 'ground_truth'.")
        asked, answers = (_parallel(f"{named}[{name!r}]", lists[name], count) for name in CHECK)
        for position in range(count):
            prompts, wanted = _listed(asked[position]), _listed(answers[position])
            if len(prompts) != len(wanted):
                raise RequestError(
                    f"{named}: {len(prompts)} prompts have {len(wanted)} answers at prompts[{position}]. Give one each."
                )
            pairs[position] += zip(prompts, wanted, strict=True)
    return pairs


def _parallel(name: str, value: Any, count: int) -> list[Any]:
    """Check that a list has one item for each prompt; a text alone is a list of one, None a list of Nones."""
    items = [None] * count if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or len(items) != count:
        size = f"{len(items)} items" if isinstance(items, (list, tuple)) else f"a {type(items).__name__}"
        raise RequestError(f"{name}: {size} for {count} prompts. Give a list with one item for each, in their order.")
    return list(items)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]

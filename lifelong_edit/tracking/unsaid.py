"""Which facts the model does not say, as the ledger tells it: no model is asked, and torch is not loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.store import Entry


def unsaid(entries: Iterable[Entry], active: Iterable[str]) -> dict[str, int]:
    """Find those of the active facts that the model did not say when it was last asked: to each the seq of that entry.

    A fact is asked at its own commit, when a later one is predicted to move it most, by `measure`, budgets and refits.
    """
    last: dict[str, tuple[int, bool]] = {}
    for entry in entries:
        last |= {id: (entry.seq, said) for id, said in answers(entry).items()}
    return {id: last[id][0] for id in active if id in last and not last[id][1]}


def answers(entry: Entry) -> Mapping[str, bool]:
    """Whether the model said a fact after an entry, for those that were asked: by scores, `failed` and `cost`.

    Entries of earlier versions have scores alone. Of protected facts, `failed` are those whose answer moved.
    """
    scores = entry.body.get("scores", {}).get(EFFICACY, {})
    said = {id: value == 1.0 for id, value in scores.items() if value is not None}
    return said | dict.fromkeys((*entry.body.get("failed", ()), *entry.body.get("cost", ())), False)

"""Which facts the model does not say, as the ledger tells it without the model, and what becomes of an edit's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.errors import RequestError
from lifelong_edit.store import Entry, FactLife


class OnFail(str, Enum):
    """What becomes of facts that do not hold right after their commit.

    They stay (`keep`), are taken out by a revert at once (`revert`), or stay and nothing more is written (`stop`).
    """

    keep = "keep"
    revert = "revert"
    stop = "stop"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise RequestError(f"on_fail is keep, revert or stop, not {repr(value)[:40]}.")


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


def condemned(entries: Iterable[Entry], facts: Mapping[str, FactLife]) -> dict[str, int]:
    """Find the facts that failed under `OnFail.revert` and were not taken out yet: to each the seq of its commit.

    There are some between a commit and its revert, and after a run that ended there. One that was restored since then
    is active by somebody's will, and stays.
    """
    failed = [
        (id, entry.seq)
        for entry in entries
        if entry.body.get("on_fail") == OnFail.revert.value
        for id in entry.body.get("failed", ())
    ]
    return {id: seq for id, seq in failed if facts[id].status == "active" and facts[id].since == seq}

"""Verifying a store: the files, and the weights that ledger and records lead to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.store import Inspection, inspect

SUM_TOLERANCE = 1e-6  # of the sum of all recorded deltas against the fold, relative to what was changed
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Audit:
    """What was checked and found. `problems` is empty for a sound store; `notes` are worth knowing and no fault.

    `inspection` is of the files. With a model, `rebuilt` counts the entries whose weights were folded anew, and
    `largest_difference` is the largest between such a fold and the sum of the recorded deltas, relative to the change.
    `key_drift` is, to each edited weight, the largest relative difference between a recorded key and the key now.
    """

    inspection: Inspection
    rebuilt: int
    largest_difference: float
    key_drift: dict[str, float]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def check(self) -> None:
        """Raise `StoreCorrupt` listing the problems, if there are any."""
        if self.problems:
            raise StoreCorrupt("\n".join((f"the store has {len(self.problems)} problems:", *self.problems)))


def audit(session: Session, head: str | None, replay: bool, keys: bool, progress: Progress | None = None) -> Audit:
    """Check everything, and report all problems rather than the first.

    `head` is a digest kept elsewhere, which must still be in the chain. `replay` folds the weights anew after every
    entry, not only the newest; `keys` compares the recorded keys with those the live model has now. Without a model
    only the files are checked.
    """
    inspection = inspect(session.store, head)
    if inspection.problems or session.head.state is None:
        return Audit(inspection, 0, 0.0, {}, tuple(inspection.problems), ())
    rebuilt, largest = 0, 0.0
    problems: list[str] = []
    notes: list[str] = []
    for entry, state, deviation in session.kind.replay(session.head.entries, replay):
        if progress:
            progress(entry.seq, session.head.last.seq)
        if state is None:
            continue
        rebuilt, largest = rebuilt + 1, max(largest, deviation.share)
        if deviation.share > SUM_TOLERANCE:
            problems.append(
                f"entry {entry.seq}: the recorded deltas miss the fold by {deviation.share:.1e} of the change."
            )
        if state.digest != entry.weights:
            told = f"entry {entry.seq}: the fold has another weights digest than recorded"
            if deviation.is_rounding:
                notes.append(
                    f"{told}, which rounding explains: it is {deviation.share:.1e} of the change from the recorded "
                    f"deltas, by which {deviation.undecided} of {deviation.numbers:,} weights may round either way."
                )
            else:
                problems.append(f"{told}, which the rounding of another processor does not explain.")
    drift = session.kind.key_drift(session.head) if keys else {}
    return Audit(inspection, rebuilt, largest, drift, tuple(problems), tuple(notes))

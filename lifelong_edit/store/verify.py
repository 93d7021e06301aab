"""Whether a store is what its ledger says, and the ledger what its chain says. All is looked at, nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lifelong_edit.errors import StoreCorrupt, StoreError
from lifelong_edit.store import checks
from lifelong_edit.store.faults import sqlite_errors
from lifelong_edit.store.ledger import GENESIS, Ledger
from lifelong_edit.store.objects import ObjectStore
from lifelong_edit.store.store import Store
from lifelong_edit.store.upkeep import Stray, own_files, strays


@dataclass(frozen=True)
class Check:
    """One kind of thing that was looked at: how many were examined, and what is wrong with which."""

    name: str
    examined: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """All that was found in a store: its last sound entry's digest, what was checked, and files nobody needs."""

    head: str
    checks: tuple[Check, ...]
    strays: tuple[Stray, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is wrong; empty for a sound store."""
        return tuple(problem for check in self.checks for problem in check.problems)

    def require_sound(self) -> None:
        """Raise `StoreCorrupt` with everything that is wrong, if anything is."""
        if self.problems:
            raise StoreCorrupt("\n  ".join(("the store is not what its ledger says:", *self.problems)))


def inspect(store: Store, head: str | None = None) -> Inspection:
    """Look at everything in the store that can be checked without the model; another process may go on writing.

    `head` is a digest that was kept elsewhere: the entry that has it must still be there. Without one, a ledger whose
    last entries were cut off, or that was rewritten from some entry on, looks sound. Facts are not examined
    while the chain is broken, and strays are told of a sound store only: from a damaged one nothing should be removed.
    """
    ledger, files = store.ledger, own_files(store.layout)
    statistics = ObjectStore(store.layout.statistics)
    with ledger.snapshot():
        entries, broken = checks.chain(ledger)
        found = [
            _check("database", ledger, lambda: checks.database(ledger.db)),
            _check("schema", ledger, lambda: checks.schema(ledger)),
            Check("chain", len(entries) + len(broken), tuple(broken)),
            _check("columns", ledger, lambda: checks.columns(ledger.db, entries)),
            _check("requests", ledger, lambda: checks.requests(ledger.db, entries)),
            _check("facts", ledger, lambda: (0, []) if broken else checks.facts(ledger, entries)),
        ]
    found += [
        _check("records", ledger, lambda: checks.records(store.objects, entries)),
        _check("statistics", ledger, lambda: checks.statistics(statistics, entries)),
        _check("head", ledger, lambda: checks.head(entries, head)),
    ]
    sound = not any(check.problems for check in found)
    unneeded = strays(store.layout, files, entries) if sound else ()
    return Inspection(entries[-1].digest if entries else GENESIS, tuple(found), unneeded)


def _check(name: str, ledger: Ledger, examine: Callable[[], checks.Findings]) -> Check:
    """The findings; when looking itself fails, that is what is wrong."""
    try:
        with sqlite_errors("reading", ledger.path):
            examined, problems = examine()
    except StoreError as error:
        examined, problems = 0, [str(error)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        examined, problems = 0, [f"an entry says of its {name} what makes no sense: {error!r}."]
    return Check(name, examined, tuple(problems))

"""A ledger that somebody rewrote, with digests that agree: every command shows it or says which entry is wrong."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.engine.change.budget import Budget
from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import Entry, History, Store
from tests.cli.conftest import command
from tests.engine.change.test_budget import ANYTHING
from tests.engine.editors import lived_in
from tests.store.stores import rewritten

OF_THE_FILE = ("seq", "prev", "requests", "kind", "time")  # what SQLite refuses by itself
GONE = "gone"
ODD: list[Any] = [None, [], {}, "", -1, 10**30, 1e308, [None], {"a": None}, [["a"]], GONE]
COMMANDS = (
    "log",
    "log --json",
    "status --facts",
    "show --entry {seq}",
    "show ada",
    "show late --json",
    "tag",
    "export jsonl {out}.jsonl",
    "ui --to {out}.db",
    "report {out}.html",
    "doctor",
    "verify",
)
Way = tuple[str | int, ...]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Entry]]:
    """A store that used every verb, with vital signs and drift, and its entries as they were made."""
    root = tmp_path_factory.mktemp("rehashed") / "store"
    with lived_in(root) as editor:
        late = EditRequest("{} lies in", "Tarsis", "Oran", id="late")
        editor.apply([late], budget=Budget(every=1, limits=ANYTHING))
        editor.measure(drift=True)
        return root, editor.history()


def ways(value: Any, way: Way = ()) -> Iterator[Way]:
    """The ways to everything in a JSON value; in a list to its first item."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, item in items:
        yield from ways(item, (*way, name))


def changed(body: Any, way: Way, value: Any) -> Any:
    """The body with another value at the end of the way, or with none there."""
    new = at = copy.deepcopy(body)
    for name in way[:-1]:
        at = at[name]
    if value is GONE:
        del at[way[-1]]
    else:
        at[way[-1]] = value
    return new


def rewrites(entries: list[Entry]) -> Iterator[tuple[int, Any]]:
    """Every field of every kind of entry, once with each odd value: the entry's seq and its new body."""
    seen = set()
    for entry in entries:
        for way in ways(entry.body):
            field = (entry.kind, *("one of many" if isinstance(name, int) or "." in name else name for name in way))
            if way and way[0] not in OF_THE_FILE and field not in seen:
                seen.add(field)
                yield from ((entry.seq, changed(entry.body, way, value)) for value in ODD)


def rehash(root: Path, entries: list[Entry], seq: int, body: Any) -> bool:
    """Give one entry another body and all a chain that holds; whether the history they tell is accepted."""
    rewritten(root / "ledger.db", [Entry(e.seq, "", "", body if e.seq == seq else e.body) for e in entries])
    try:
        with Store.open(root, read_only=True) as store:
            History.of(store.founded_entries())
    except StoreCorrupt:
        return False
    return True


def run_all(root: Path, seq: int) -> set[int]:
    """Every command on the store; their exit codes. An exception that is none of ours is raised."""
    codes = set()
    for text in COMMANDS:
        for made in root.parent.glob("out.*"):
            made.unlink()
        arguments = text.format(seq=seq, out=root.parent / "out").split()
        codes.add(command(*arguments, "--store", root).code)
    return codes


def test_what_is_rewritten_is_shown_or_told(lived: tuple[Path, list[Entry]]) -> None:
    root, entries = lived
    assert run_all(root, 1) == {0}
    cases = list(rewrites(entries))
    accepted = [(seq, body) for seq, body in cases if rehash(root, entries, seq, body)]
    for seq, body in accepted[:: max(1, len(accepted) // 12)]:
        assert rehash(root, entries, seq, body)
        assert run_all(root, seq) <= {0, 2, 4}
    seq, body = next((seq, body) for seq, body in cases if not rehash(root, entries, seq, body))
    assert not rehash(root, entries, seq, body) and run_all(root, seq) == {4}
    rewritten(root / "ledger.db", entries)


@pytest.mark.reliability
def test_whatever_is_rewritten_is_shown_or_told(lived: tuple[Path, list[Entry]]) -> None:
    root, entries = lived
    accepted = refused = 0
    for seq, body in rewrites(entries):
        if rehash(root, entries, seq, body):
            accepted += 1
            assert run_all(root, seq) <= {0, 2, 4}, (seq, body)
        else:
            refused += 1
    rewritten(root / "ledger.db", entries)
    assert accepted > 100 and refused > 500
    print(f"\n{accepted + refused} entries rewritten, {refused} refused by name, {accepted} shown by every command")

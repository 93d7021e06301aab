"""A ledger that somebody rewrote, with digests that agree: every verb shows it or says which entry is wrong."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.engine import Reader
from lifelong_edit.engine.change.budget import Budget
from lifelong_edit.errors import LifelongEditError, StoreCorrupt
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import Entry, History
from lifelong_edit.store.ledger import FOUNDING_MISFIT, MISFIT, typed
from tests.cli.conftest import command
from tests.engine.change.test_budget import ANYTHING
from tests.engine.editors import base_model, lived_in
from tests.store.stores import rewritten

OF_THE_FILE = ("seq", "prev", "requests", "kind", "time", "record", "weights")  # what SQLite refuses by itself
GONE = "gone"
ODD: list[Any] = [None, [], {}, "", -1, 0, 10**30, 1e308, [None], {"a": None}, [["a"]], GONE]
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
Lived = tuple[Path, list[Entry]]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """A store that used every verb, with vital signs, drift and a refit, and its entries as they were made."""
    root = tmp_path_factory.mktemp("rehashed") / "store"
    with lived_in(root, memory="batch") as editor:
        late = EditRequest("{} lies in", "Tarsis", "Oran", id="late")
        editor.apply([late], budget=Budget(every=1, limits=ANYTHING))
        editor.repair()
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


def rehash(root: Path, entries: list[Entry], seq: int, body: Any) -> None:
    """Give one entry another body, and all a chain that holds."""
    rewritten(root / "ledger.db", [Entry(e.seq, "", "", body if e.seq == seq else e.body) for e in entries])


def refusal(entries: list[Entry], seq: int, body: Any) -> str | None:
    """What a store that has one body rewritten is refused for as it is read; None when it opens."""
    before, after = entries[:seq], entries[seq + 1 :]
    made = Entry.after(before[-1] if before else None, body)
    try:
        read = typed(Entry.from_row(made.seq, made.digest, made.prev, made.text), MISFIT if seq else FOUNDING_MISFIT)
        History.of([*before, typed(read), *after])
    except StoreCorrupt as error:
        return str(error)
    return None


def run_all(root: Path, seq: int) -> set[int]:
    """Every command on the store; their exit codes. An exception that is none of ours is raised."""
    codes = set()
    for text in COMMANDS:
        for made in root.parent.glob("out.*"):
            made.unlink()
        arguments = text.format(seq=seq, out=root.parent / "out").split()
        codes.add(command(*arguments, "--store", root).code)
    return codes


def ask_all(root: Path) -> None:
    """What only a store with its model answers; an exception that is none of ours is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another digest is told, and no matter here
        try:
            with Reader.open(root, base_model(), read_only=True) as reader:
                reader.history(), reader.risks(), reader.residuals(), reader.limits(), reader.why("late")
        except LifelongEditError as error:
            assert error.exit_code in (2, 4, 5, 7), error


def look(root: Path, entries: list[Entry], seq: int, body: Any) -> None:
    """All verbs show a store that has one body rewritten, or say which entry is wrong."""
    rehash(root, entries, seq, body)
    if refusal(entries, seq, body) is None:
        assert run_all(root, seq) <= {0, 2, 4}
        ask_all(root)
    else:
        done = command("log", "--store", root)
        assert done.code == 4 and "entry " in done.err


def sampled(cases: list[Any], count: int) -> list[Any]:
    return cases[:: max(1, len(cases) // count)]


@pytest.fixture(scope="module")
def cases(lived: Lived) -> tuple[list[tuple[int, Any]], list[tuple[int, Any]]]:
    """The rewritten bodies that are read, and those that are refused as they are read."""
    read: list[tuple[int, Any]] = []
    refused: list[tuple[int, Any]] = []
    for seq, body in rewrites(lived[1]):
        told = refusal(lived[1], seq, body)
        assert told is None or "entry " in told
        (read if told is None else refused).append((seq, body))
    assert len(read) > 100 and len(refused) > 1000
    return read, refused


@pytest.mark.parametrize("count", [3, pytest.param(30, marks=pytest.mark.reliability)])
def test_rewritten_fields_are_shown_or_told(lived: Lived, cases: tuple[list[Any], list[Any]], count: int) -> None:
    root, entries = lived
    rewritten(root / "ledger.db", entries)
    assert run_all(root, 1) == {0}
    ask_all(root)
    for seq, body in [*sampled(cases[0], count), *sampled(cases[1], count)]:
        look(root, entries, seq, body)


def test_a_state_that_no_column_holds_is_told(lived: Lived) -> None:
    """Every entry is of its type and fits the one before it; only the fold finds that a fact has no value."""
    root, entries = lived
    seq, body = next((e.seq, dict(e.body)) for e in reversed(entries) if e.kind == "edit" and e.body["columns"])
    rehash(root, entries, seq, body | {"columns": [], "loss": [], "steps": []})
    with pytest.raises(StoreCorrupt, match=f"entry {seq}: no column holds fact"):
        Reader.open(root, base_model(), read_only=True).close()


@pytest.mark.parametrize(
    ("seq", "field", "value"),
    [
        (0, "config", {"memory": "joint", "targets": "live"}),
        (0, "contexts", "one"),
        (0, "base_weights", GONE),
        (0, "watch", {"facts": [["a"]], "texts": [], "said": [], "perplexity": None}),
        (1, "telemetry", {"w": {"capacity": "much"}}),
        (1, "scores", {"rewrite/argmax": {"ada": [1]}}),
        (1, "retention", [{"cohort": 1, "metric": "m", "value": 0.5}]),
        (1, "actor", 3),
        (2, "effect", {"rewrite/argmax": [1.0]}),
        (2, "drift", {}),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(lived: Lived, seq: int, field: str, value: Any) -> None:
    root, entries = lived
    body = dict(entries[seq].body) | {field: value}
    if value is GONE:
        del body[field]
    rehash(root, entries, seq, body)
    for verb in ("log", "status", "show"):
        done = command(verb, "--store", root)
        assert done.code == 4 and f"entry {seq}: its field '{field}" in done.err
    if value is not GONE:  # `verify` asks of every entry only that what is there is of its type
        assert f"entry {seq}: its field '{field}" in command("verify", "--store", root).err

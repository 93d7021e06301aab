"""Goals 9 and 10: neither a rotten bit nor a hand that knows SQL changes history unnoticed."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.errors import StoreError
from lifelong_edit.facts import canonical_digest, canonical_json
from lifelong_edit.store import Store
from lifelong_edit.store.verify import inspect
from tests.reliability.damage import raw_rows, tampering
from tests.reliability.specimens import COMMON, make_store, revert_body

pytestmark = pytest.mark.reliability
SEED = 910
FLIPS = 4_000
INSPECTED = 40  # of those that change the request ids alone
TIMES = 50  # each operator
Row = tuple[int, str, str, str]
Operator = Callable[[list[Row], random.Random], list[Row]]


def head_of(root: Path) -> str:
    with Store.open(root, read_only=True) as store:
        head = store.ledger.head()
    assert head is not None
    return head.digest


def accepted(root: Path, head: str) -> bool:
    """Whether the entries are read as sound, and end in `head`."""
    try:
        with Store.open(root, read_only=True) as store:
            return [entry.digest for entry in store.ledger.entries()][-1:] == [head]
    except StoreError:
        return False


def suspects(root: Path, head: str) -> set[str]:
    """The checks of an inspection that find something wrong; one of them compares the kept `head`."""
    try:
        with Store.open(root, read_only=True) as store:
            return {check.name for check in inspect(store, head).checks if check.problems}
    except StoreError:
        return {"opening"}


def test_no_flipped_bit_changes_the_entries_unnoticed(scratch: Path) -> None:
    rng = random.Random(SEED)
    root = make_store(scratch / "store", 200)
    head, path = head_of(root), root / "ledger.db"
    sound, before = path.read_bytes(), raw_rows(path)
    assert before[0] is not None and len(before[0]) == 200 and accepted(root, head)
    changed = silent = passed = 0
    only_requests: list[int] = []
    with path.open("r+b", buffering=0) as file:
        for bit in rng.sample(range(8 * len(sound)), FLIPS):
            flip(file, sound, bit)
            entries, requests = raw_rows(path)
            if entries != before[0]:
                changed += 1
                silent += entries is not None
                passed += accepted(root, head)
            elif requests != before[1]:
                only_requests.append(bit)
            flip(file, sound, bit, back=True)
        for bit in only_requests[:INSPECTED]:  # these no chain covers, but an inspection compares them with the bodies
            flip(file, sound, bit)
            assert suspects(root, head), f"seed {SEED}: bit {bit} changed the request ids"
            flip(file, sound, bit, back=True)
    assert path.read_bytes() == sound and accepted(root, head) and not suspects(root, head)
    assert silent > FLIPS // 8 and len(only_requests) >= INSPECTED
    print(
        f"goal 9: seed {SEED}, {FLIPS} flips, {changed} changed the history, {silent} of them read without an error by "
        f"SQLite, {passed} accepted; {len(only_requests)} changed the request ids, {INSPECTED} inspected, 0 accepted"
    )
    assert passed == 0


def flip(file: FileIO, sound: bytes, bit: int, back: bool = False) -> None:
    """Turn one bit of the file over, or `back` to what it was."""
    file.seek(bit // 8)
    file.write(bytes([sound[bit // 8] ^ (0 if back else 1 << bit % 8)]))


def plain_rows(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT seq, digest, prev, body FROM entries ORDER BY seq").fetchall()


def signed(seq: int, prev: str, body: dict[str, Any]) -> Row:
    """A row that agrees with itself, whatever stands around it."""
    body = {**body, "seq": seq, "prev": prev}
    return seq, canonical_digest(body), prev, canonical_json(body)


def forged(row: Row, body: dict[str, Any]) -> Row:
    return signed(row[0], row[2], body)


def body_of(row: Row) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(row[3])
    return body


def shifted(rows: list[Row], by: int) -> list[Row]:
    """The rows at other places: in their bodies too, but with the links they had."""
    return [signed(seq + by, prev, json.loads(body)) for seq, _, prev, body in rows]


def edit_body(rows: list[Row], rng: random.Random) -> list[Row]:
    at = rng.randrange(len(rows))
    seq, digest, prev, body = forged(rows[at], {**body_of(rows[at]), "reason": "forged"})
    careless = at == len(rows) - 1 or rng.random() < 0.5  # who forges the last digest too has rewritten the chain
    return [*rows[:at], (seq, rows[at][1] if careless else digest, prev, body), *rows[at + 1 :]]


def swap(rows: list[Row], rng: random.Random) -> list[Row]:
    first, second = sorted(rng.sample(range(len(rows)), 2))
    changed = list(rows)
    changed[first] = forged(rows[first], body_of(rows[second]))
    changed[second] = forged(rows[second], body_of(rows[first]))
    return changed


def insert(rows: list[Row], rng: random.Random) -> list[Row]:
    at = rng.randrange(1, len(rows))
    new = signed(at, rows[at - 1][1], {**COMMON, "kind": "measure", "requests": {}, "retention": [], "drift": []})
    return [*rows[:at], new, *shifted(rows[at:], 1)]


def delete_middle(rows: list[Row], rng: random.Random) -> list[Row]:
    at = rng.randrange(len(rows) - 1)
    return [*rows[:at], *shifted(rows[at + 1 :], -1)]


def cut_tail(rows: list[Row], rng: random.Random) -> list[Row]:
    return rows[: -rng.randint(1, 9)]


def repoint_delta(rows: list[Row], rng: random.Random) -> list[Row]:
    mine, other = rng.sample([row for row in rows if "record" in body_of(row)], 2)
    return [forged(row, {**body_of(row), "record": body_of(other)["record"]}) if row is mine else row for row in rows]


def forge_rollback(rows: list[Row], rng: random.Random) -> list[Row]:
    mine = rng.choice([row for row in rows[:-1] if body_of(row)["kind"] == "edit"])
    body = {**body_of(mine), **revert_body(), "kind": "revert", "requests": {}, "columns": []}
    return [forged(row, body) if row is mine else row for row in rows]


def rewrite_chain(rows: list[Row], rng: random.Random) -> list[Row]:
    at = rng.randrange(len(rows))
    changed = rows[:at]
    for row in rows[at:]:
        body = body_of(row) if changed[at:] else {**body_of(row), "reason": "forged"}
        changed.append(signed(row[0], changed[-1][1] if changed else row[2], body))
    return changed


OPERATORS: list[Operator] = [
    edit_body, swap, insert, delete_middle, cut_tail, repoint_delta, forge_rollback, rewrite_chain,
]  # fmt: skip
FLAWLESS = {cut_tail, rewrite_chain}  # a chain as good as the one it replaces: only who kept the head can tell


def rewrite(path: Path, rows: list[Row]) -> None:
    """Put these entries, and the request ids they name, in the place of the ledger's own."""
    named = [(id, seq, content) for seq, *_, body in rows for id, content in json.loads(body)["requests"].items()]
    with tampering(path) as connection:
        connection.execute("BEGIN")
        connection.execute("DELETE FROM requests")
        connection.execute("DELETE FROM entries")
        connection.executemany("INSERT INTO entries (seq, digest, prev, body) VALUES (?, ?, ?, ?)", rows)
        connection.executemany("INSERT INTO requests (id, seq, content) VALUES (?, ?, ?)", named)
        connection.execute("COMMIT")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, bytes]:
    """A store of 16 entries, its head, and its ledger's bytes."""
    root = make_store(tmp_path_factory.mktemp("tampered") / "store", 16)
    return root, head_of(root), (root / "ledger.db").read_bytes()


def test_putting_the_same_entries_back_is_no_tampering(intact: tuple[Path, str, bytes]) -> None:
    root, head, sound = intact
    path = root / "ledger.db"
    path.write_bytes(sound)
    rewrite(path, plain_rows(path))
    assert path.read_bytes() != sound and suspects(root, head) == set()


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
def test_tampering_is_detected(intact: tuple[Path, str, bytes], operator: Operator) -> None:
    (root, head, sound), seed = intact, f"{SEED} {operator.__name__}"
    path, rng = root / "ledger.db", random.Random(seed)
    with_head = without = 0
    for _ in range(TIMES):
        path.write_bytes(sound)
        rows = plain_rows(path)
        rewrite(path, operator(rows, rng))
        assert plain_rows(path) != rows
        found = suspects(root, head)
        with_head += found != set()
        without += found - {"head"} != set()
    print(f"goal 10: seed {seed!r}, {with_head} of {TIMES} detected with the head, {without} without")
    assert with_head == TIMES
    assert without == (0 if operator in FLAWLESS else TIMES)

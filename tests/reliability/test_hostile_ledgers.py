"""Goal 11: what is no ledger, or no longer one, is refused with the right exit code and left as it was."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lifelong_edit.errors import LifelongEditError, StoreCorrupt, StoreError
from lifelong_edit.store import GENESIS, Store, lives
from tests.reliability.damage import tampering
from tests.reliability.specimens import digest_of, make_store
from tests.samples import PATIENCE

pytestmark = pytest.mark.reliability
SEED = 11
PAGE = 4_096
DEEP, LONG = "[" * 200_000, "9" * 20_000  # nesting, and digits of one number
Make = Callable[[Path], object]


def use(root: Path, read_only: bool) -> tuple[object, ...]:
    """Everything a ledger is asked for."""
    with Store.open(root, read_only) as store:
        entries = store.ledger.entries()
        return entries, lives(entries), store.ledger.head(), store.ledger.request("fact 1 a"), store.ledger.request("x")


def inventory(folder: Path) -> dict[str, str]:
    """Digest of every file, type of everything else; without the lock, which a writer may make."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else oct(path.lstat().st_mode)
        for path in folder.iterdir()
        if path.name != "lock"
    }


def patched(at: int, value: bytes) -> Make:
    """The file with other bytes from `at` on."""

    def make(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at : at + len(value)] = value
        path.write_bytes(data)

    return make


def cut(length: int) -> Make:
    """The file without its end; a negative length counts from there."""
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def altered(script: str) -> Make:
    """The ledger after statements of a foreign connection."""

    def make(path: Path) -> None:
        with tampering(path) as connection:
            connection.executescript(script)

    return make


def replaced(columns: str, *row: object) -> Make:
    """The ledger with another table of entries that holds this row."""

    def make(path: Path) -> None:
        with tampering(path) as connection:
            connection.executescript(f"DROP TABLE entries; CREATE TABLE entries ({columns});")
            if row:
                connection.execute(f"INSERT INTO entries VALUES ({','.join('?' * len(row))})", row)

    return make


def schema(change: str) -> Make:
    """The ledger with its schema written by hand."""

    def make(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(f"PRAGMA writable_schema = ON; UPDATE sqlite_master SET {change}")

    return make


def foreign(script: str) -> Make:
    """A database that was never a ledger."""

    def make(path: Path) -> None:
        path.unlink()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(script)

    return make


def instead(place: Callable[[Path], object]) -> Make:
    """Something else in the ledger's place."""
    return lambda path: (path.unlink(), place(path))


def link_to(name: str) -> Make:
    return instead(lambda path: path.symlink_to(path.parent / name))


def view(select: str) -> str:
    return f"DROP TABLE entries; CREATE VIEW entries AS {select};"


LEDGER = "PRAGMA application_id = 0x4C454447; PRAGMA user_version = 1;"
LOOSE = "seq, digest, prev, body"
CORRUPT: dict[str, Make] = {
    "empty file": cut(0),
    "one byte": cut(1),
    "text": instead(lambda path: path.write_text("not a database, but long enough " * 999)),
    "random bytes": instead(lambda path: path.write_bytes(random.Random(SEED).randbytes(9 * PAGE))),
    "zeros": instead(lambda path: path.write_bytes(bytes(9 * PAGE))),
    "link to a text": lambda path: ((path.parent / "text").write_text("dear"), link_to("text")(path)),
    "foreign database": foreign("CREATE TABLE t (x)"),
    "foreign database with entries": foreign(f"CREATE TABLE entries ({LOOSE}); PRAGMA user_version = 1"),
    "no tables": foreign(f"{LEDGER} CREATE TABLE t (x)"),
    "header only": cut(100),
    "first page only": cut(PAGE),
    "half": lambda path: cut(path.stat().st_size // 2)(path),
    "a page missing": cut(-PAGE),
    "a byte missing": cut(-1),
    "page size 3": patched(16, b"\0\3"),
    "page size 512": patched(16, b"\2\0"),
    "unknown read version": patched(19, b"\x09"),
    "payload fraction": patched(21, b"\x41"),
    "too few pages": patched(28, (1).to_bytes(4, "big")),
    "too many pages": patched(28, (1 << 31).to_bytes(4, "big")),
    "unknown schema format": patched(44, (9).to_bytes(4, "big")),
    "another encoding": patched(56, (2).to_bytes(4, "big")),
    "newer": altered("PRAGMA user_version = 999"),
    "negative version": altered("PRAGMA user_version = -1"),
    "version 0": altered("PRAGMA user_version = 0"),
    "no entries": altered("DROP TABLE entries"),
    "no requests": altered("DROP TABLE requests"),
    "requests of another shape": altered("DROP TABLE requests; CREATE TABLE requests (id)"),
    "entries of another shape": replaced("seq, digest"),
    "entries of blobs": replaced(LOOSE, 0, b"\xff", b"\xff", b"\xff"),
    "entries of nothing": replaced(LOOSE, None, None, None, None),
    "entries of numbers": replaced(LOOSE, 0, 1, 2, 3),
    "entry beyond recursion": replaced(LOOSE, 0, digest_of("x"), GENESIS, DEEP),
    "entry with a long number": replaced(LOOSE, 0, digest_of("x"), GENESIS, f'{{"seq":{LONG}}}'),
    "entry that is a list": replaced(LOOSE, 0, hashlib.sha256(b"[]").hexdigest(), GENESIS, "[]"),
    "entry of bytes that are no text": altered(
        view("SELECT 0 AS seq, '' AS digest, '' AS prev, CAST(x'ff' AS TEXT) AS body")
    ),
    "entry at seq 7": altered("UPDATE entries SET seq = 77 WHERE seq = 7"),
    "entry at a negative seq": altered("UPDATE entries SET seq = -1 WHERE seq = 0"),
    "a view of itself": altered(view("SELECT * FROM entries")),
    "a view that loads code": altered(view("SELECT load_extension('x') AS seq, 1 AS digest, 2 AS prev, 3 AS body")),
    "schema that is no SQL": schema("sql = 'CREATE TABLE entries (' WHERE name = 'entries'"),
    "schema of a module": schema("sql = 'CREATE VIRTUAL TABLE entries USING x', rootpage = 0 WHERE name = 'entries'"),
    "entries nowhere": schema("rootpage = 0 WHERE name = 'entries'"),
    "entries beyond the end": schema("rootpage = 99999 WHERE name = 'entries'"),
    "entries in the schema's place": schema("rootpage = 1 WHERE name = 'entries'"),
}
ABSENT: dict[str, Make] = {
    "missing": Path.unlink,
    "only a journal": lambda path: path.rename(f"{path}-journal"),
    "folder": instead(Path.mkdir),
    "pipe": instead(os.mkfifo),
    "link to nothing": link_to("nothing"),
    "link to itself": link_to("ledger.db"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The ledger of a store of 12 entries."""
    return (make_store(tmp_path_factory.mktemp("sound") / "store", 12) / "ledger.db").read_bytes()


@pytest.fixture
def root(scratch: Path, sound: bytes) -> Path:
    """A store's folder with the sound ledger."""
    root = scratch / "store"
    root.mkdir()
    (root / "ledger.db").write_bytes(sound)
    return root


def refusal(root: Path, read_only: bool) -> LifelongEditError:
    before = inventory(root)
    with pytest.raises(StoreError) as error:
        use(root, read_only)
    assert inventory(root) == before, "a refused file was changed"
    assert str(root) in str(error.value) or "entry" in str(error.value)
    return error.value


@pytest.mark.parametrize("read_only", [True, False], ids=["reading", "writing"])
@pytest.mark.parametrize("name", CORRUPT)
def test_what_is_no_sound_ledger_is_corrupt(root: Path, name: str, read_only: bool) -> None:
    use(root, read_only)
    before = inventory(root)
    CORRUPT[name](root / "ledger.db")
    assert inventory(root) != before  # the damage was done
    error = refusal(root, read_only)
    assert (type(error), error.exit_code) == (StoreCorrupt, 4), error
    assert (name == "newer") == ("newer version" in str(error))


@pytest.mark.parametrize("read_only", [True, False], ids=["reading", "writing"])
@pytest.mark.parametrize("name", ABSENT)
def test_a_missing_ledger_is_an_error_and_never_recreated(root: Path, name: str, read_only: bool) -> None:
    ABSENT[name](root / "ledger.db")
    error = refusal(root, read_only)
    assert (type(error), error.exit_code) == (StoreError, 5), error
    assert not (root / "ledger.db").is_file() and not (root / "nothing").exists()


def test_a_damaged_page_is_refused_or_harmless(root: Path, sound: bytes) -> None:
    rng, path, expected, refused = random.Random(SEED), root / "ledger.db", use(root, True), 0
    damages = [
        (page, filling)
        for page in range(len(sound) // PAGE)
        for filling in (bytes(PAGE), b"\xff" * PAGE, rng.randbytes(PAGE), sound[:PAGE], sound[-PAGE:])
        if sound[page * PAGE : (page + 1) * PAGE] != filling
    ]
    for page, filling in damages:
        path.write_bytes(sound)
        patched(page * PAGE, filling)(path)
        before = inventory(root)
        try:
            assert use(root, True) == expected, f"page {page}"
        except StoreCorrupt:
            refused += 1
        assert inventory(root) == before
    assert refused > len(damages) // 2
    print(
        f"goal 11: seed {SEED}, beside {len(CORRUPT) + len(ABSENT)} crafted ledgers {len(damages)} damaged pages, "
        f"{refused} refused, the others harmless, 0 files changed"
    )


@pytest.mark.parametrize("read_only", [True, False], ids=["reading", "writing"])
def test_entries_that_never_end_are_refused(root: Path, read_only: bool) -> None:
    numbers = "WITH RECURSIVE n (seq) AS (SELECT 0 UNION ALL SELECT seq + 1 FROM n)"
    altered(view(f"{numbers} SELECT seq, 1 AS digest, 2 AS prev, 3 AS body FROM n"))(root / "ledger.db")
    code = (
        "import pathlib, sys; from lifelong_edit.errors import LifelongEditError;"
        "from tests.reliability.test_hostile_ledgers import use\n"
        "try: use(pathlib.Path(sys.argv[1]), bool(sys.argv[2]))\n"
        "except LifelongEditError as error: sys.exit(error.exit_code)"
    )
    arguments = [sys.executable, "-c", code, str(root), "yes" * read_only]
    assert subprocess.run(arguments, timeout=PATIENCE).returncode == 4

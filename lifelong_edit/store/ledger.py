"""The ledger of a store: entries, each with the digest of the one before it, in an append-only SQLite file.

The body of an entry is a JSON object (`Body`). That it is whole, its digest says; that its fields have the types they
are written with, `typed` checks as entries are read, since anybody can rewrite a ledger and give it digests that agree;
that it fits the entries before it, `history` checks.

The kinds of entries:

* ``init``: the store was made.
* ``edit``, ``replace``: facts were added; an older answer to the same prompt is superseded.
* ``protect``: as ``edit``, for facts of the base that are to stay as they are. A column for them alone has no residual.
* ``revert``: active facts were taken out, refits withdrawn, or both; what they had superseded is active again.
* ``restore``: facts that were reverted or superseded are active again.
* ``relax``, ``repair``: refits, which change how the weights hold the active facts and not which facts are active.
  ``relax`` brings columns with a lower ridge for its ``facts``; ``repair`` solves all that was written before it as
  one batch. A refit is in force until a ``revert`` has its seq in ``withdrawn``, and again when one has it in
  ``reinstated``.
* ``measure``: the model was scored, and nothing changed.
* ``tag``: an entry was given a name.

A kind that is not named here may change the weights in ways this version cannot know, and is refused.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import platform
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict, cast

from sqlite_utils import Database

from lifelong_edit.errors import RequestError, StoreBusy, StoreCorrupt, StoreError
from lifelong_edit.facts import canonical_digest, canonical_json
from lifelong_edit.store.objects import is_digest, sqlite_errors
from lifelong_edit.store.schema import APPLICATION_ID, FORMAT, format_of, migrate
from lifelong_edit.store.typed import Misfit, misfit_of

GENESIS = "0" * 64
"""The digest before the first entry, and the head of an empty ledger."""

OWN_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('entries', 'requests')"


@dataclass(frozen=True)
class Entry:
    """One committed change. `digest` is the SHA-256 of the canonical JSON of `body`, which holds `seq` and `prev`.

    `seq` counts from 0; `prev` is the digest of the entry before.
    """

    seq: int
    digest: str
    prev: str
    body: Body

    @property
    def kind(self) -> str:
        """The kind of change: ``init``, ``edit``, ``revert``, ..."""
        return str(self.body["kind"])

    @property
    def time(self) -> str:
        """The time of the commit, ISO 8601 in UTC."""
        return str(self.body["time"])

    @property
    def record(self) -> str | None:
        """Digest of the record with the change of the weights; None when the weights did not change."""
        return self.body.get("record")

    @property
    def weights(self) -> str | None:
        """Digest of the edited weights after this entry; None when they did not change."""
        return self.body.get("weights")

    @property
    def text(self) -> str:
        """The canonical JSON of the body, as it is stored and hashed."""
        return canonical_json(self.body)

    @classmethod
    def after(cls, head: Entry | None, body: Mapping[str, Any]) -> Entry:
        """The entry that follows `head`, or the first one; `RequestError` when `body` is not JSON."""
        seq, prev = (head.seq + 1, head.digest) if head else (0, GENESIS)
        try:
            plain = json.loads(canonical_json({**body, "seq": seq, "prev": prev}))
            return cls(seq, canonical_digest(plain), prev, plain)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"what entry {seq} would say cannot be written as JSON: {error}. Correct it.") from error

    @classmethod
    def from_row(cls, seq: int, digest: str, prev: str, text: str) -> Entry:
        """The entry of a stored row; `StoreCorrupt` naming the seq when digest, seq, prev or body do not agree."""
        try:
            body = json.loads(text, parse_int=_short_int)
            sound = (
                hashlib.sha256(text.encode()).hexdigest() == digest
                and canonical_json(body) == text
                and {"seq": body["seq"], "prev": body["prev"]} == {"seq": seq, "prev": prev}
                and isinstance(body["kind"], str)
                and isinstance(body["time"], str)
                and all(body.get(name) is None or is_digest(body[name]) for name in ("record", "weights"))
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            sound = False
        if not sound:
            raise StoreCorrupt(f"ledger entry {seq} is not what its digest says. Restore the ledger from a backup.")
        return cls(seq, digest, prev, body)


def _short_int(digits: str) -> int:
    """An integer of 64 bits, as SQLite and float take it; `ValueError` for a longer one."""
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise ValueError("an integer of more than 64 bits")
    return value


def linked(entries: Iterable[Entry]) -> list[Entry]:
    """Check that each entry holds the digest of the one before it, and give them; `StoreCorrupt` naming the break."""
    chain: list[Entry] = []
    for seq, entry in enumerate(entries):
        if entry.seq != seq or entry.prev != (chain[-1].digest if chain else GENESIS):
            raise StoreCorrupt(
                f"ledger entry {entry.seq} does not follow the entry before it. Restore the ledger from a backup."
            )
        chain.append(entry)
    return chain


class Ledger:
    """The entries and request ids of one store, in SQLite. Every method raises a `StoreError` when SQLite fails.

    `append` is the only way in; nothing is ever updated or deleted, and triggers in the file see to that. Every
    thread may use it, one at a time: the one that has `alone`.
    """

    def __init__(self, path: Path, db: Database) -> None:
        self.path = path
        self.db = db
        self.alone = threading.RLock()

    @classmethod
    def create(cls, path: Path) -> Ledger:
        """A new ledger, or the one an interrupted `create` left; `StoreError` when it holds entries already."""
        ledger = cls(path, _connect(path, "rwc", patience=10.0))
        with ledger._closed_on_error(), sqlite_errors("creating", path):
            if ledger.db.execute("SELECT 1 FROM sqlite_master").fetchall():
                ledger._check_format()
            ledger._set_durable()
            with ledger._transaction():
                migrate(ledger.db)
                if ledger.head() is not None:
                    raise StoreError(f"{path} holds a ledger already. Open it, or choose another folder.")
        return ledger

    @classmethod
    def open(cls, path: Path, read_only: bool = False, patience: float = 10.0) -> Ledger:
        """The ledger at `path`, which must exist; a reader needs no write permission.

        A ledger of an older format is brought to this version's by a writer, at once or not at all, and read as it
        is by a reader. `patience` is how many seconds to wait for another process before `StoreBusy`. Raises
        `StoreCorrupt` when the file is not a ledger or was made by a newer version; it is left unchanged.
        """
        ledger = cls(path, _connect(path, "ro" if read_only else "rw", patience))
        with ledger._closed_on_error(), sqlite_errors("opening", path):
            ledger._check_format()
            if not read_only:
                ledger._set_durable()
                ledger._bring_up_to_date()
        return ledger

    @property
    def format(self) -> int:
        """The format of the file; a writer has migrated it, so only a reader meets an older one."""
        with self.alone, sqlite_errors("reading", self.path):
            return format_of(self.db)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let everything that is read in this block be of one moment. Commits wait until it ends: keep it short."""
        with self.alone, sqlite_errors("reading", self.path):
            self.db.execute("BEGIN")
            try:
                self.db.execute("SELECT 1 FROM entries").fetchone()
                yield
            finally:
                with suppress(sqlite3.Error):
                    self.db.execute("ROLLBACK")

    def head(self) -> Entry | None:
        """The last entry; `StoreCorrupt` when it is not what its digest says."""
        with self.alone, sqlite_errors("reading", self.path):
            row = self.db.execute("SELECT seq, digest, prev, body FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        return Entry.from_row(*row) if row else None

    def entries(self, upto: int | None = None) -> list[Entry]:
        """All entries, or those with seq <= `upto`.

        `StoreCorrupt` naming the first seq at which the chain breaks, or the first field of another type than its own.
        """
        with self.alone, sqlite_errors("reading", self.path):
            rows = self.db.execute(
                "SELECT seq, digest, prev, body FROM entries WHERE ?1 IS NULL OR seq <= ?1 ORDER BY seq", [upto]
            ).fetchall()
        return linked(typed(Entry.from_row(*row)) for row in rows)

    def request(self, id: str) -> tuple[int, str] | None:
        """Seq and content digest under which a request id was committed; None when it never was."""
        with self.alone, sqlite_errors("reading", self.path):
            row = self.db.execute("SELECT seq, content FROM requests WHERE id = ?", [id]).fetchone()
        return (row[0], row[1]) if row else None

    def append(self, kind: str, body: Mapping[str, Any], requests: Mapping[str, str], expected_head: str) -> Entry:
        """Commit one entry and its request ids (id: content digest) in a transaction, and give the entry.

        `expected_head` is the digest of the entry that the change was computed on, `GENESIS` for the first; when it
        is not the head any more, `StoreBusy`. A request id that was committed before is a `RequestError`. The ids
        also stand in the body, under the chain. After any error nothing of the entry is there, save that an I/O
        error of the very commit leaves the outcome to be read from a reopened ledger.
        """
        with self._transaction():
            # Read under SQLite's write lock: no other process can commit between this comparison and our own commit.
            head = self.head()
            if (head.digest if head else GENESIS) != expected_head:
                raise StoreBusy(f"{self.path}: the head is no longer {expected_head[:12]}. Reopen the store and retry.")
            self._refuse_known(requests)
            entry = Entry.after(head, {**body, "kind": kind, "requests": dict(requests)})
            # Only these four columns are stored; SQLite generates what people query from the body.
            self.db.execute(
                "INSERT INTO entries (seq, digest, prev, body) VALUES (?, ?, ?, ?)",
                [entry.seq, entry.digest, entry.prev, entry.text],
            )
            # The ids stand in a table of their own so that a repeated request is found by its primary key.
            for id, content in requests.items():
                self.db.execute("INSERT INTO requests (id, seq, content) VALUES (?, ?, ?)", [id, entry.seq, content])
        return entry

    def close(self) -> None:
        """Close the file; the ledger cannot be used afterwards."""
        with self.alone:
            self.db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _refuse_known(self, requests: Mapping[str, str]) -> None:
        for id in requests:
            if known := self.request(id):
                raise RequestError(
                    f"request {id!r} was committed at seq {known[0]} already. Leave it out, or give it another id."
                )

    def _check_format(self) -> None:
        (application,) = self.db.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID or self.format < 1:
            raise StoreCorrupt(f"{self.path} is not the ledger of a store. Check the path, or restore a backup.")
        if self.format > FORMAT:
            raise StoreCorrupt(
                f"{self.path} was made by a newer version (format {self.format}). Upgrade lifelong-edit."
            )
        if len(self.db.execute(OWN_TABLES).fetchall()) != 2:  # a view in their place could be anything, and without end
            raise StoreCorrupt(f"{self.path} lacks its table of entries or requests. Restore it from a backup.")

    def _bring_up_to_date(self) -> None:
        if self.format < FORMAT:
            with self._transaction():
                migrate(self.db)

    def _set_durable(self) -> None:
        self.db.execute("PRAGMA journal_mode = DELETE").fetchall()
        self.db.execute("PRAGMA synchronous = EXTRA")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self.alone, sqlite_errors("writing", self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self.db.execute("ROLLBACK")
                raise

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


def _connect(path: Path, mode: str, patience: float) -> Database:
    """A connection whose transactions are only the ones written out, and that no plugin touches."""
    with sqlite_errors("opening", path):
        address = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=patience, check_same_thread=False)
        return Database(connection, recursive_triggers=True, execute_plugins=False)


class Config(TypedDict):
    """What is read of a store's settings without the engine, whose `EditorSettings` they are."""

    layers: list[int]
    memory: str
    targets: str


class Prompts(TypedDict):
    """The true statements in the second moments: how many, and their digest."""

    count: int
    digest: str


class Known(TypedDict):
    """How firmly the base says those statements: of those asked how many, and quartiles over these, if any."""

    asked: int
    said: int
    probability: tuple[float, float, float] | tuple[()]
    margin: tuple[float, float, float] | tuple[()]


class PinnedProfile(TypedDict):
    """A profile's name, and the digest of its file."""

    name: str
    digest: str


class ProbeAnswers(TypedDict):
    """What the base answered to a few prompts: to each its likeliest tokens and their logits, computed in `dtype`."""

    prompts: list[str]
    tokens: list[list[int]]
    logits: list[list[float]]
    dtype: str


class WatchedAnswers(TypedDict):
    """What edits are to leave alone: prompts with answers, texts, and what the base makes of both."""

    facts: list[tuple[str, str]]
    texts: list[str]
    said: list[bool]
    perplexity: float | None


class AddedFact(TypedDict):
    """A fact in the entry that adds it; `request` is what `EditRequest.to_dict` gives."""

    id: str
    slot: str
    request: dict[str, Any]


class VitalSigns(TypedDict):
    """The vital signs by name, and the number of facts that were active when they were read."""

    facts: int
    signs: dict[str, float]


class WeightTelemetry(TypedDict, total=False):
    """Figures of one edited weight from stored keys and values alone; None for a number that is not finite."""

    capacity: float | None
    preservation: float | None
    relative_norm: float | None
    norm: float | None
    stable_rank: float | None
    entropy: float | None
    condition: float | None
    newest_condition: float | None
    residual: dict[str, float] | None  # median, p90 and max over the active facts
    interference: list[tuple[int, float]]  # seq and size of the older edits that the change disturbs most
    flagged: dict[str, float]  # risk of being forgotten, by fact id
    collisions: list[tuple[str, str, float]]  # two fact ids, and the cosine of their keys


class RetentionRow(TypedDict):
    """The mean score of the facts of one cohort (all that entry `cohort` added) that were asked about."""

    cohort: int
    metric: str
    value: float | None
    facts: int


class DriftRow(TypedDict):
    """A figure of the model, that of its base, and the ends of its 95 % interval; None where unknown."""

    metric: str
    value: float | None
    base: float | None
    low: float | None
    high: float | None


class Body(TypedDict, total=False):
    """The body of an entry of any kind, with the fields of its kind."""

    # Every entry: what `signature` gives, and what the ledger adds.
    kind: str
    time: str
    actor: str | None
    reason: str | None
    seed: int
    versions: dict[str, str | int]
    seq: int
    prev: str
    requests: dict[str, str]  # digest of a request's content, by its id

    # init: settings, base model, and all that edits and measurements start from; by the number of the edited layer.
    config: Config
    fingerprint: str
    base_weights: str
    contexts: list[str]
    prompts: Prompts
    known: Known
    profile: PinnedProfile  # of what the settings left open
    statistics: dict[str, str]  # digest of the second moment of the keys
    calibration: dict[str, float]  # mean key mass
    condition: dict[str, float]  # condition number of the metric
    sensitivity: dict[str, str]  # digest of the sensitivities, where text was given
    probes: ProbeAnswers
    watch: WatchedAnswers
    protected: list[dict[str, Any]]
    memory_kind: str  # where it is not the kernel
    metric: str  # what changes are measured by, where it is not the second moment

    # What becomes of facts: an edit has whole facts, all others their ids. `to` is the seq that was gone back to.
    facts: list[AddedFact] | list[str]
    superseded: list[str]
    restored: list[str]
    to: int
    withdrawn: list[int]
    reinstated: list[int]

    # What becomes of the weights: digests of the record and of the edited weights, and how columns were optimised.
    record: str
    weights: str
    columns: list[list[str]]  # ids of the facts that each column of the record is for
    loss: list[float]  # of each column, where its optimisation ended
    steps: list[int]  # of each column, when it ended
    method: str
    hyperparameters: dict[str, Any]
    survived: dict[str, float]  # share of each weight's delta that the cast to the live dtype kept
    effect: dict[str, tuple[float, float]]  # figures before a refit and after it
    refused: list[str]  # ids of the other requests of a batch that was over its budget, and was tried in halves
    failed: list[str]  # ids of the facts it wrote that the model does not say after it; of protected ones, that moved
    on_fail: str  # "revert": what failed is taken out again by the next entry, or by whoever goes on here
    cost: list[str]  # ids of older facts that the model said before it and not after it

    # Measurements; right after an edit, scores are of the edit's own facts.
    scores: dict[str, dict[str, float | None]]  # by metric and fact id
    retention: list[RetentionRow]
    drift: list[DriftRow]
    vital: VitalSigns
    telemetry: dict[str, WeightTelemetry]  # by weight
    noise: dict[str, float]  # growth of each vital sign by an edit known to be harmless

    # tag: the name, and the seq of the entry that has it.
    tag: str
    target: int


class Founding(TypedDict):
    """What the first entry of every store says, whatever its kind of memory."""

    config: Config
    fingerprint: str
    base_weights: str
    contexts: list[str]
    seed: int


MISFIT, FOUNDING_MISFIT = misfit_of(Body), misfit_of(Founding)


def typed(entry: Entry, misfit: Misfit = MISFIT) -> Entry:
    """Check that an entry's fields have the types they are written with, and give it.

    `StoreCorrupt` naming the entry and the field. Fields that this version does not know may be there.
    """
    if (field := misfit(entry.body)) is not None:
        raise StoreCorrupt(
            f"ledger entry {entry.seq}: its field {field[1:]!r} is missing or is not of the type it is written with. "
            "Restore the ledger from a backup."
        )
    return entry


def added_facts(body: Body) -> list[AddedFact]:
    """The facts of an entry whose kind adds facts."""
    return cast(list[AddedFact], body["facts"])


def named_facts(body: Body) -> list[str]:
    """The fact ids of an entry whose kind adds no facts."""
    return cast(list[str], body["facts"])


def signature(
    actor: str | None, reason: str | None, seed: int, software: Mapping[str, str | int] | None = None
) -> dict[str, Any]:
    """The common fields of an entry's body. `actor` is by default the user this process runs as.

    `software` names what a computation depended on beside Python and this package: versions of libraries, the
    processor, the number of threads. It is left out for an entry that computes nothing.
    """
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "actor": actor if actor is not None else _user(),
        "reason": reason,
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            "lifelong-edit": version("lifelong-edit"),
            **(software or {}),
        },
    }


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name
        return None

"""Ledger entries as values: each holds the digest of the one before it, and its own is over all it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.facts import canonical_digest, canonical_json
from lifelong_edit.store.objects import is_digest

GENESIS = "0" * 64
"""What stands as the previous digest in the first entry, and as the head of an empty ledger."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. `digest` is the SHA-256 of the canonical JSON of `body`, which holds seq and prev."""

    seq: int
    digest: str
    prev: str
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """What happened: ``init``, ``edit``, ``revert``, ..."""
        return str(self.body["kind"])

    @property
    def time(self) -> str:
        """When, in UTC."""
        return str(self.body["time"])

    @property
    def record(self) -> str | None:
        """Digest of the record that holds the commit's delta; None when the weights did not change."""
        return self.body.get("record")

    @property
    def weights(self) -> str | None:
        """Digest of the edited weights after this entry; None when they did not change."""
        return self.body.get("weights")

    @property
    def text(self) -> str:
        """The body as it is stored and hashed."""
        return canonical_json(self.body)

    @classmethod
    def after(cls, head: Entry | None, body: Mapping[str, Any]) -> Entry:
        """The entry that follows `head`; `RequestError`, before anything is written, when `body` is not JSON."""
        seq, prev = (head.seq + 1, head.digest) if head else (0, GENESIS)
        try:
            plain = json.loads(canonical_json({**body, "seq": seq, "prev": prev}))
            return cls(seq, canonical_digest(plain), prev, plain)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"what entry {seq} would say cannot be written as JSON: {error}. Correct it.") from error

    @classmethod
    def from_row(cls, seq: int, digest: str, prev: str, text: str) -> Entry:
        """The entry of a stored row; `StoreCorrupt` naming the seq when the row is not what its digest says."""
        try:
            body = json.loads(text)
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


def linked(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, when they are a chain from the first on; otherwise `StoreCorrupt` naming the first break."""
    chain: list[Entry] = []
    for seq, entry in enumerate(entries):
        if entry.seq != seq or entry.prev != (chain[-1].digest if chain else GENESIS):
            raise StoreCorrupt(
                f"ledger entry {entry.seq} does not follow the entry before it. Restore the ledger from a backup."
            )
        chain.append(entry)
    return chain

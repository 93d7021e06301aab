"""Export the ledger as JSON lines, one an entry, whose chain anyone can check; no model is needed."""

from __future__ import annotations

from pathlib import Path

from lifelong_edit.escapes import printable_json
from lifelong_edit.facts import canonical_json
from lifelong_edit.outputs import new_file
from lifelong_edit.store import Entry


def export_jsonl(entries: list[Entry], destination: Path) -> int:
    """Write ``{"body": ..., "digest": ...}`` for every entry, and give their number.

    `digest` is the SHA-256 of the body as canonical JSON (sorted keys, no blanks, UTF-8); the body has `seq`, and
    `prev`, the digest of the line before.
    """
    with new_file(destination) as file:
        lines = (printable_json(canonical_json({"body": entry.body, "digest": entry.digest})) for entry in entries)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(entries)

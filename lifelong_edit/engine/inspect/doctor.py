"""Doctor: what a person would look at when something about a store seems odd, in one list."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from lifelong_edit.algebra.system import shown
from lifelong_edit.engine.state.probes import REFUSAL, WARNING, probe_distance
from lifelong_edit.engine.state.session import Session, software
from lifelong_edit.errors import StoreError
from lifelong_edit.store import list_cache, list_strays
from lifelong_edit.store.schema import FORMAT

OTHER_SOFTWARE = "Digests may differ in the last bits; verify --replay says by how much."
ROOM = 20  # commits of the largest size so far that should still fit on the disk


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `advice` is empty where all is well."""

    about: str
    found: str
    advice: str = ""


def examine(session: Session) -> list[Finding]:
    """Format, software, base model, disk, strays and records. It changes nothing; `verify` checks the whole history."""
    findings = [_format(session), *_software(session), _strays(session), _disk(session), _records(session)]
    return [*findings, _probes(session)] if session.head.state is not None and "probes" in session.init else findings


def _format(session: Session) -> Finding:
    own = session.store.ledger.format
    advice = "" if own == FORMAT else "It is brought up to date by the next open for writing."
    return Finding("format", f"format {own}, this version writes {FORMAT}", advice)


def _software(session: Session) -> list[Finding]:
    computed = next(e for e in reversed(session.head.entries) if e.weights or e.kind == "init")
    recorded, here = computed.body.get("versions", {}), software()
    return [
        Finding(name, f"{recorded.get(name)} at seq {computed.seq}, {now} here", "" if same else OTHER_SOFTWARE)
        for name, now in here.items()
        for same in [recorded.get(name) == now]
    ]


def _strays(session: Session) -> Finding:
    found, cached = list_strays(session.store), list_cache(session.store)
    told = f"{len(found)} files of {sum(s.size for s in found)} bytes; cache {sum(s.size for s in cached)} bytes"
    return Finding("strays", told, "gc removes them." if found else "")


def _disk(session: Session) -> Finding:
    free = shutil.disk_usage(session.store.layout.root).free
    objects = session.store.objects
    sizes = [objects.path(e.record).stat().st_size for e in session.head.entries if e.record and objects.has(e.record)]
    tight = bool(sizes) and free < ROOM * max(sizes)
    return Finding("disk", f"{free} bytes free, largest record {max(sizes, default=0)}", "Make room." if tight else "")


def _records(session: Session) -> Finding:
    """Which facts hang on a record that cannot be used, and up to which entry the store can be opened without it."""
    damaged = _damaged(session)
    if not damaged:
        return Finding("records", "every record can be used")
    history, told = session.head.history, f"damaged: of entry {', '.join(map(str, sorted(damaged)))}"
    held = {id for chain in history.chains().values() for one in chain if one.seq in damaged for id in one.facts}
    reached = [id for id, fact in history.active.items() if id in held or fact.seq in damaged]
    if not reached:
        return Finding("records", f"{told}; no active fact needs it", "Restore it from a backup.")
    return Finding(
        "records",
        f"{told}; needed for {len(reached)} of {len(history.active)} active facts: {shown(reached)}",
        f"Restore it from a backup. Until then the store can be opened at entry {min(damaged) - 1} (checkout).",
    )


def _damaged(session: Session) -> set[int]:
    """The seqs of the entries whose record is missing or is not what it was."""
    found = set()
    for entry in session.head.entries:
        try:
            if entry.record:
                session.kind_type.check_record(session.store.objects.get(entry.record))
        except StoreError:
            found.add(entry.seq)
    return found


def _probes(session: Session) -> Finding:
    with session.kind.showing(session.kind.base) as editable:
        distance = probe_distance(editable, session.init["probes"])
    told = f"logits differ by {distance:.1e} of the largest (warning {WARNING:g}, refusal {REFUSAL:g})"
    return Finding("base model", told, "" if distance <= WARNING else "It computes otherwise than it did at init.")

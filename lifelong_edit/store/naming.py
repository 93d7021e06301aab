"""What the names that people give to facts and entries stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lifelong_edit.errors import RequestError
from lifelong_edit.store.ledger import Entry
from lifelong_edit.store.steps import FactLife

PREFIX = 4  # characters that an id or a digest must be known by


def find_fact(facts: Mapping[str, FactLife], name: str) -> FactLife | None:
    """The fact whose id is `name` or begins with it; None when there is none, `RequestError` when there are several."""
    if name in facts:
        return facts[name]
    found = [fact for id, fact in facts.items() if len(name) >= PREFIX and id.startswith(name)]
    if len(found) > 1:
        raise RequestError(f"{name!r} begins the ids of {len(found)} facts. Give more of the id.")
    return found[0] if found else None


def fact_named(facts: Mapping[str, FactLife], name: str) -> FactLife:
    """The fact whose id is `name` or begins with it; `RequestError` when there is none or several."""
    found = find_fact(facts, name)
    if found is None:
        raise RequestError(f"fact {name!r} is unknown. Give its id, or the first {PREFIX} characters or more.")
    return found


def entry_named(entries: Sequence[Entry], ref: str, sought: str = "entry") -> Entry:
    """The entry that a seq, a tag or the beginning of a digest names; `RequestError` for none or several."""
    if (named := entry_called(entries, ref)) is not None:
        return named
    found = [entry for entry in entries if len(ref) >= PREFIX and entry.digest.startswith(ref)]
    if len(found) != 1:
        what = f"no {sought}" if not found else f"{len(found)} entries"
        raise RequestError(f"{ref!r} names {what}. Give a seq up to {entries[-1].seq}, a tag, or a digest's beginning.")
    return found[0]


def entry_called(entries: Sequence[Entry], ref: str) -> Entry | None:
    """The entry that has this seq or this tag; None when there is none."""
    if ref.isascii() and ref.isdecimal() and len(ref) <= len(str(len(entries))) and int(ref) < len(entries):
        return entries[int(ref)]
    return next((entries[seq] for seq, names in tags_of(entries).items() if ref in names), None)


def tags_of(entries: Sequence[Entry]) -> dict[int, list[str]]:
    """To every tagged seq its tags."""
    tags: dict[int, list[str]] = {}
    for entry in entries:
        if entry.kind == "tag":
            tags.setdefault(entry.body["target"], []).append(entry.body["tag"])
    return tags


def check_tag(entries: Sequence[Entry], name: str) -> None:
    """Raise `RequestError` for a tag that is taken, or that cannot be told from a seq or a digest."""
    if not name.strip() or not name.isprintable() or all(c in "0123456789abcdef" for c in name):
        raise RequestError(f"{name!r} is no name for a tag: it needs a letter beyond f, or a sign.")
    for seq, names in tags_of(entries).items():
        if name in names:
            raise RequestError(f"the tag {name!r} was given to seq {seq} already. Choose another name.")

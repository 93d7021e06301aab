"""Looking after a store: `tag`, `verify`, `backup`, `clone`, `gc`, `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.opening import past
from lifelong_edit.cli.output import counted, jsonable, printable, table, tell
from lifelong_edit.cli.telling import entry_document
from lifelong_edit.store import Copied, Store, clear_cache, collect_garbage, list_cache, list_strays
from lifelong_edit.store import backup as copy_again
from lifelong_edit.store import clone as copy_once
from lifelong_edit.store.bodies import signature
from lifelong_edit.store.copies import preview_copy
from lifelong_edit.store.history import check_tag, entry_named, tags_of

Destination = Annotated[Path, typer.Argument(help="The folder to copy to.")]
DryCopy = Annotated[bool, typer.Option("--dry-run", help="Tell what would be copied; write nothing.")]


def tag(
    name: Annotated[str | None, typer.Argument(help="The name; without it, the tags are listed.")] = None,
    ref: Annotated[str | None, typer.Argument(help="The entry: seq, tag or digest; by default the newest.")] = None,
    store: options.StorePath = options.STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check name and entry; write nothing.")] = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Give an entry a name, which every command takes in the entry's place.

    Example: lifelong-edit tag good 12 --reason "passed review"
    """
    if name is None:
        return _list_tags(store, as_json)
    with past(store, read_only=dry_run) as seen:
        target = seen.head if ref is None else entry_named(seen.entries, ref)
        check_tag(seen.entries, name)
        if dry_run:
            told = f"{printable(name)} would name entry {target.seq}. Nothing is written."
            return tell(as_json, {"tag": name, "target": target.seq, "dry_run": True}, told)
        body = {**signature(actor, reason, seen.entries[0].body["seed"]), "tag": name, "target": target.seq}
        made = seen.store.commit("tag", body, None, {}, seen.head.digest)
    tell(as_json, entry_document(made, {}), f"entry {made.seq}: {printable(name)} names entry {target.seq}")


def backup(
    destination: Destination,
    store: options.StorePath = options.STORE,
    dry_run: DryCopy = False,
    as_json: options.Json = False,
) -> None:
    """Copy the store as it is now, also while somebody writes to it; into the same folder again, only what is new.

    Example: lifelong-edit backup /mnt/backups/store
    """
    copied = preview_copy(store, destination, anew=False) if dry_run else copy_again(store, destination)
    _tell_copied(copied, destination, dry_run, as_json)


def clone(
    destination: Destination,
    store: options.StorePath = options.STORE,
    dry_run: DryCopy = False,
    as_json: options.Json = False,
) -> None:
    """Make a store of its own in a new folder, with the history this one has now.

    Example: lifelong-edit clone experiment --store store
    """
    copied = preview_copy(store, destination, anew=True) if dry_run else copy_once(store, destination)
    _tell_copied(copied, destination, dry_run, as_json)


def gc(
    store: options.StorePath = options.STORE,
    cache: Annotated[bool, typer.Option("--cache", help="The cache too; it is derived again when needed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files.")] = False,
    as_json: options.Json = False,
) -> None:
    """Remove the files that crashes and interrupted commits left.

    Example: lifelong-edit gc --dry-run
    """
    with Store.open(store, read_only=dry_run) as opened:
        if dry_run:
            found = [*list_strays(opened), *(list_cache(opened) if cache else ())]
        else:
            found = [*collect_garbage(opened), *(clear_cache(opened) if cache else ())]
    size, done = sum(stray.size for stray in found), "would be removed" if dry_run else "removed"
    lines = [f"{counted(len(found), 'file')} of {counted(size, 'byte')} {done}", *(f"  {s.path}" for s in found)]
    tell(as_json, {"dry_run": dry_run, "files": found, "bytes": size}, "\n".join(lines))


def doctor(
    store: options.StorePath = options.STORE,
    model: options.AnyModel = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Look at format, software, disk and, with --model, at what the base computes; say what is odd and what to do.

    Example: lifelong-edit doctor --model checkpoints/tiny-world
    """
    with opening.reader(store, model, dtype, device) as reader:
        findings = reader.doctor()
    rows = [[finding.about, finding.found, finding.advice] for finding in findings]
    tell(as_json, findings, table(rows, ["about", "found", "advice"]))


def _list_tags(store: Path, as_json: bool) -> None:
    with past(store) as seen:
        tags = {name: seq for seq, names in tags_of(seen.entries).items() for name in names}
        rows = [[name, seq, seen.entries[seq].digest] for name, seq in tags.items()]
    tell(as_json, tags, table(rows, ["tag", "seq", "digest"]))


def _tell_copied(copied: Copied, destination: Path, dry_run: bool, as_json: bool) -> None:
    text = (
        f"{destination}: {copied.entries} entries, {counted(copied.objects, 'object')} of "
        f"{counted(copied.bytes, 'byte')} {'would be ' if dry_run else ''}copied\nhead {copied.head}"
    )
    tell(as_json, {"dry_run": dry_run, **jsonable(copied)}, text)

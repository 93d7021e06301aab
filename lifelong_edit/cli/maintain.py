"""Panel Maintain: `relax`, `repair`, `tag`, `verify`, `backup`, `clone`, `gc`, `doctor` look after a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.options import open_store
from lifelong_edit.cli.text import (
    commit_document,
    counted,
    entry_document,
    jsonable,
    print_result,
    progress,
    summary,
    table,
)
from lifelong_edit.defaults import HALVINGS
from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.escapes import printable
from lifelong_edit.store import (
    Copied,
    Inspection,
    Store,
    clear_cache,
    collect_garbage,
    inspect,
    list_cache,
    list_strays,
)
from lifelong_edit.store import backup as copy_again
from lifelong_edit.store import clone as copy_once
from lifelong_edit.store.copies import preview_copy
from lifelong_edit.store.history import check_tag, entry_named, tags_of
from lifelong_edit.store.ledger import signature

if TYPE_CHECKING:
    from lifelong_edit.engine import Commit
    from lifelong_edit.engine.inspect.verify import Audit

DryRefit = Annotated[bool, typer.Option("--dry-run", help="Work it out and tell its effect; write nothing.")]


def relax(
    model: options.Model,
    store: options.StorePath = options.STORE,
    halvings: Annotated[int, typer.Option(min=1, help="How often a ridge may be halved.")] = HALVINGS,
    dry_run: DryRefit = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Bring back facts that the model no longer says, by lower ridges for them alone; joint memory only.

    `revert --commit` of the entry undoes it.

    Example: lifelong-edit relax --model checkpoints/tiny-world --dry-run
    """
    if dry_run:
        with options.open_reader(store, model, dtype, device) as reader:
            return _tell_refit(reader.preview_relax(halvings), "relax", as_json)
    with options.open_editor(store, model, dtype, device) as editor:
        _tell_refit(editor.relax(halvings, None, actor, reason), "relax", as_json)


def repair(
    model: options.Model,
    store: options.StorePath = options.STORE,
    dry_run: DryRefit = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Solve all batches of a store in batch memory together; committed only where facts and base are better off.

    `revert --commit` of the entry undoes it.

    Example: lifelong-edit repair --model checkpoints/tiny-world --dry-run
    """
    if dry_run:
        with options.open_reader(store, model, dtype, device) as reader:
            return _tell_refit(reader.preview_repair(), "repair", as_json)
    with options.open_editor(store, model, dtype, device) as editor:
        _tell_refit(editor.repair(actor, reason), "repair", as_json)


def _tell_refit(done: Commit, kind: str, as_json: bool) -> None:
    entry = done.entry
    head = f"entry {entry.seq}: {summary(entry)}" if entry else f"{kind}: nothing is written"
    facts = [f"{counted(len(done.facts), 'fact')} with a lower ridge"] if done.facts else []
    effect = [f"{name} {was:.4f} -> {now:.4f}" for name, (was, now) in (done.effect or {}).items()]
    document: dict[str, Any] = commit_document(done)
    print_result(as_json, document, "\n".join([head, *facts, *effect]))


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
    with open_store(store, read_only=dry_run) as seen:
        target = seen.head if ref is None else entry_named(seen.entries, ref)
        check_tag(seen.entries, name)
        if dry_run:
            told = f"{printable(name)} would name entry {target.seq}. Nothing is written."
            return print_result(as_json, {"tag": name, "target": target.seq, "dry_run": True}, told)
        body = {**signature(actor, reason, seen.entries[0].body["seed"]), "tag": name, "target": target.seq}
        made = seen.store.commit("tag", body, None, {}, seen.head.digest)
    print_result(as_json, entry_document(made, {}), f"entry {made.seq}: {printable(name)} names entry {target.seq}")


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
            found = list(dict.fromkeys((*list_strays(opened), *(list_cache(opened) if cache else ()))))
        else:
            found = [*collect_garbage(opened), *(clear_cache(opened) if cache else ())]
    size, done = sum(stray.size for stray in found), "would be removed" if dry_run else "removed"
    lines = [f"{counted(len(found), 'file')} of {counted(size, 'byte')} {done}", *(f"  {s.path}" for s in found)]
    print_result(as_json, {"dry_run": dry_run, "files": found, "bytes": size}, "\n".join(lines))


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
    with options.open_reader(store, model, dtype, device, at=0) as reader:
        findings = reader.doctor()
    rows = [[finding.about, finding.found, finding.advice] for finding in findings]
    print_result(as_json, findings, table(rows, ["about", "found", "advice"]))


def _list_tags(store: Path, as_json: bool) -> None:
    with open_store(store) as seen:
        tags = {name: seq for seq, names in tags_of(seen.entries).items() for name in names}
        rows = [[name, seq, seen.entries[seq].digest] for name, seq in tags.items()]
    print_result(as_json, tags, table(rows, ["tag", "seq", "digest"]))


def _tell_copied(copied: Copied, destination: Path, dry_run: bool, as_json: bool) -> None:
    text = (
        f"{destination}: {copied.entries} entries, {counted(copied.objects, 'object')} of "
        f"{counted(copied.bytes, 'byte')} {'would be ' if dry_run else ''}copied\nhead {copied.head}"
    )
    print_result(as_json, {"dry_run": dry_run, **jsonable(copied)}, text)


def verify(
    store: options.StorePath = options.STORE,
    head: Annotated[str | None, typer.Option(help="A head's digest that was kept elsewhere, or how it begins.")] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Fold the weights anew after every entry.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Compare recorded keys with those of the live model.")] = False,
    model: options.AnyModel = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Check the store's files and, if asked, its weights; list every problem and exit with code 4 when there is one.

    Files are checked without a model; --replay and --keys compute with it. Without --head, nobody can tell a ledger
    whose last entries were cut off.

    Example: lifelong-edit verify --replay --model checkpoints/tiny-world
    """
    if (replay or keys) and model is None:
        raise RequestError("--replay and --keys compute with the model. Give --model, or set LIFELONG_EDIT_MODEL.")
    with Store.open(store, read_only=True) as opened:
        inspection, audit = inspect(opened, head), None
    if model is not None and (replay or keys) and not inspection.problems:
        with options.open_reader(store, model, dtype, device) as reader, progress("entry") as told:
            audit = reader.verify(head, replay, keys, told)
    problems = inspection.problems if audit is None else audit.problems
    print_result(as_json, _verify_document(inspection, audit, problems), _verify_text(inspection, audit, problems))
    if problems:
        raise StoreCorrupt("\n  ".join((f"the store has {counted(len(problems), 'problem')}:", *problems)))


def _verify_document(inspection: Inspection, audit: Audit | None, problems: tuple[str, ...]) -> dict[str, Any]:
    figures = audit and {name: getattr(audit, name) for name in ("rebuilt", "largest_difference", "key_drift", "notes")}
    return {
        "sound": not problems,
        "problems": problems,
        "head": inspection.head,
        "checks": inspection.checks,
        "strays": inspection.strays,
        "weights": figures,
    }


def _verify_text(inspection: Inspection, audit: Audit | None, problems: tuple[str, ...]) -> str:
    rows = [[check.name, check.examined, len(check.problems)] for check in inspection.checks]
    lines = [table(rows, ["check", "examined", "problems"]), ""]
    if audit is not None:
        lines.append(
            f"weights: {counted(audit.rebuilt, 'state')} rebuilt, largest difference between fold and recorded deltas "
            f"{audit.largest_difference:.1e} of the change"
        )
        lines += [f"keys: {name} drifted by {size:.1e} at most" for name, size in audit.key_drift.items()]
        lines += [f"note: {note}" for note in audit.notes]
    if inspection.strays:
        lines.append(f"{counted(len(inspection.strays), 'file')} that nobody needs; gc removes them")
    return "\n".join([*lines, f"{counted(len(problems), 'problem')}; head {inspection.head}"])

"""Taking facts out and bringing them back: `revert`, `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.opening import past
from lifelong_edit.cli.output import tell
from lifelong_edit.cli.telling import commit_document, commit_text, told_facts
from lifelong_edit.store.history import entry_named


def revert(
    model: options.Model,
    facts: options.Facts = None,
    store: options.StorePath = options.STORE,
    commit: Annotated[str | None, typer.Option(help="Take out all that this entry wrote: seq, tag or digest.")] = None,
    to: Annotated[str | None, typer.Option(help="Make just the facts active that were so after this entry.")] = None,
    probe: options.Probe = options.PROBED,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Predict the blast radius; write nothing.")] = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Take facts out, in any order, by a new entry; what they superseded is active again.

    The weights become those of the same stream without the facts. The blast radius says what that does to all others:
    `predicted` from stored keys, `p` the target's probability before and after.

    Example: lifelong-edit revert db853e71 --model checkpoints/tiny-world --reason "was wrong"
    """
    with opening.editor(store, model, dtype, device) as editor:
        entries = editor.history()
        names = facts or []
        at, back = (None if ref is None else entry_named(entries, ref).seq for ref in (commit, to))
        if dry_run:
            done = editor.preview_revert(*names, commit=at, to=back)
        else:
            done = editor.revert(*names, commit=at, to=back, probe=probe, actor=actor, reason=reason)
        tell(as_json, commit_document(done), commit_text(done, "revert", editor.facts()))


def restore(
    model: options.Model,
    facts: Annotated[list[str], typer.Argument(metavar="FACT", help="Ids of facts, or how they begin.")],
    store: options.StorePath = options.STORE,
    probe: options.Probe = options.PROBED,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be active; write nothing.")] = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Make reverted or superseded facts active again, as they were; another answer to the prompt is superseded.

    Example: lifelong-edit restore db853e71 --model checkpoints/tiny-world
    """
    if dry_run:
        return _foretell(facts, store, as_json)
    with opening.editor(store, model, dtype, device) as editor:
        done = editor.restore(*facts, probe=probe, actor=actor, reason=reason)
        tell(as_json, commit_document(done), commit_text(done, "restore", editor.facts()))


def _foretell(names: list[str], store: Path, as_json: bool) -> None:
    """What `restore` would make active and superseded, from the ledger alone."""
    from lifelong_edit.engine.change.bodies import changed_facts, restore_body

    with past(store) as seen:
        body = restore_body(seen.history, names)
    facts = changed_facts(seen.history, body)
    superseded = [seen.history.facts[id] for id in body["superseded"]]
    lines = ["restore: nothing is written", *told_facts(facts, "restored"), *told_facts(superseded, "superseded")]
    tell(as_json, {"entry": None, "facts": facts, "superseded": body["superseded"]}, "\n".join(lines))

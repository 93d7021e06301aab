"""Asking the model about its edits: `diff`, `blame`, `checkout`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lifelong_edit.cli import opening, options
from lifelong_edit.cli.output import listed, printable, table, tell
from lifelong_edit.cli.telling import told_facts
from lifelong_edit.store.history import entry_named

if TYPE_CHECKING:
    from lifelong_edit.engine.inspect.blame import Blame
    from lifelong_edit.engine.inspect.forgotten import Forgotten
    from lifelong_edit.engine.inspect.views import Diff


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The one entry: seq, tag or digest.")],
    model: options.Model,
    b: Annotated[str | None, typer.Argument(metavar="[B]", help="The other entry; by default the newest.")] = None,
    store: options.StorePath = options.STORE,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A prompt to ask both; by default those of the facts that differ.")
    ] = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """What two states differ in: facts, weights, and what the model says.

    Example: lifelong-edit diff 3 good --model checkpoints/tiny-world
    """
    with opening.reader(store, model, dtype, device) as reader:
        entries = reader.history()
        other = reader.head if b is None else entry_named(entries, b)
        found = reader.diff(entry_named(entries, a).seq, other.seq, prompt or None)
    tell(as_json, found, _diff_text(found))


def blame(
    prompt: Annotated[str, typer.Argument(help="The text whose continuation you want explained.")],
    model: options.Model,
    store: options.StorePath = options.STORE,
    fact: Annotated[bool, typer.Option("--fact", help="It is a fact's id: who made the model forget it?")] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many slots are tried, or edits told.")] = 5,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Which facts are behind what the model says to a prompt: each share of what the edits do to it, tried without.

    With --fact, which later edit is behind what is missing of a fact, confirmed by leaving that edit out.

    Example: lifelong-edit blame "Ada Quill was born in" --model checkpoints/tiny-world
    """
    with opening.reader(store, model, dtype, device) as reader:
        if fact:
            gone = reader.forgotten(prompt)
            return tell(as_json, gone, _forgotten_text(gone, count))
        found = reader.blame(prompt, count)
    tell(as_json, found, _blame_text(found))


def checkout(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The entry whose state is asked: seq, tag or digest.")],
    model: options.Model,
    prompt: Annotated[list[str], typer.Option(help="A prompt to ask; repeat it for several.")],
    store: options.StorePath = options.STORE,
    against: Annotated[str | None, typer.Option(help="Another entry to ask too; HEAD is the newest.")] = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Ask the model as it was after an entry. The state is read-only, and nothing is left checked out.

    Example: lifelong-edit checkout good --prompt "Ada Quill was born in" --against HEAD --model checkpoints/tiny-world
    """
    with opening.reader(store, model, dtype, device) as reader:
        entries = reader.history()
        refs = [ref] if against is None else [ref, against]
        seqs = [reader.head.seq if name == "HEAD" else entry_named(entries, name).seq for name in refs]
        states = [reader.at(seq) for seq in seqs]
        answers = {text: [state.answer(text) for state in states] for text in prompt}
    rows = [[text, *map(repr, said)] for text, said in answers.items()]
    tell(as_json, {"seqs": seqs, "answers": answers}, table(rows, ["prompt", *(f"entry {seq}" for seq in seqs)]))


def _diff_text(diff: Diff) -> str:
    lines = [f"entry {diff.a} -> entry {diff.b}"]
    lines += [*told_facts(diff.gained, "more active"), *told_facts(diff.lost, "no longer active")]
    lines += [f"{name}: moved by {size:.2e} of the base weight" for name, size in diff.weights.items()]
    answers = [[prompt, repr(one), repr(other)] for prompt, (one, other) in diff.answers.items()]
    same = "no prompt that was asked is answered otherwise"
    return "\n".join([*lines, table(answers, ["prompt", f"entry {diff.a}", f"entry {diff.b}"]) if answers else same])


def _forgotten_text(gone: Forgotten, count: int) -> str:
    lines = [
        f"fact     {printable(gone.fact)}",
        f"target   {printable(repr(gone.target))}",
        f"base     {printable(repr(gone.base))}",
        f"now      {printable(repr(gone.now))}",
        f"missing  {gone.missing:.2f} of the change that was wanted, {gone.own.share:.2f} of that was never written",
    ]
    if gone.without is not None:
        lines.append(f"without entry {gone.suspects[0].seq}  {printable(repr(gone.without))}")
    rows = [[one.seq, f"{one.share:.2f}", listed(one.facts, 5)] for one in gone.suspects[:count]]
    return "\n".join([*lines, table(rows, ["entry", "share", "its facts"])])


def _blame_text(blame: Blame) -> str:
    lines = [
        f"prompt  {printable(repr(blame.prompt))}",
        f"says    {printable(repr(blame.said))}",
        f"base    {printable(repr(blame.base))}",
        f"edits move the weight's outputs here by {blame.moved:.2e}",
    ]
    rows = [[f"{slot.share:.3f}", repr(slot.without), listed(slot.facts)] for slot in blame.slots]
    return "\n".join([*lines, table(rows, ["share", "without", "facts"])])

"""The verbs that change what is active, as bodies of ledger entries. Nothing here computes on weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import Entry, FactLife, History
from lifelong_edit.store.history import fact_named

ADVICE = "`facts()` lists every fact with its status."


def revert_body(history: History, names: Sequence[str]) -> dict[str, Any]:
    """Take these active facts out; what each of them superseded last is active again."""
    ids = _distinct(history, names)
    for id in ids:
        _refuse_unless(history.facts[id], history.facts[id].status == "active", "reverted")
    superseded = [fact for fact in history.facts.values() if fact.status == "superseded" and fact.by in ids]
    last = {fact.by: fact.id for fact in sorted(superseded, key=lambda fact: fact.since)}
    return {"facts": ids, "restored": list(last.values())}


def revert_to_body(entries: Sequence[Entry], seq: int) -> dict[str, Any]:
    """Make just those facts active that were so after entry `seq`, each of the others what it was then.

    One that was superseded then, with no other answer to its prompt active, is reverted: nothing stands in for it.
    """
    then, now = History.of(entries[: seq + 1]), History.of(entries)
    gone = [id for id in now.active if id not in then.active]
    answered = {fact.statement for fact in then.active.values()}
    known = [id for id in gone if id in then.facts and now.facts[id].statement in answered]
    superseded = [id for id in known if then.facts[id].status == "superseded"]
    reverted = [id for id in gone if id not in superseded]
    restored = [id for id in then.active if id not in now.active]
    refits = {
        "withdrawn": [one for one in now.in_force if one not in then.in_force],
        "reinstated": [one for one in then.in_force if one not in now.in_force],
    }
    if not (gone or restored or any(refits.values())):
        raise RequestError(f"The facts active after seq {seq} are those active now. There is nothing to revert.")
    changed = {name: seqs for name, seqs in refits.items() if seqs}
    return {"facts": reverted, "restored": restored, "superseded": superseded, "to": seq, **changed}


def body_of_revert(
    history: History, entries: Sequence[Entry], facts: Sequence[str], commit: int | None, to: int | None
) -> dict[str, Any]:
    """Take out these facts, or what entry `commit` did, or all that changed after entry `to`: one of the three."""
    if sum((bool(facts), commit is not None, to is not None)) != 1:
        raise RequestError("Name the facts to revert, or one commit, or the seq to go back to (to=...).")
    if to is not None:
        return revert_to_body(entries, to)
    if commit is not None and commit in history.refits:
        return withdraw_body(history, commit)
    return revert_body(history, facts if commit is None else facts_of(history, commit))


def withdraw_body(history: History, seq: int) -> dict[str, Any]:
    """Take the refit that entry `seq` made out of force; the facts stay active."""
    if seq not in history.in_force:
        raise RequestError(
            f"The {history.refits[seq]} of entry {seq} was withdrawn already. Nothing is left to revert."
        )
    return {"facts": [], "withdrawn": [seq]}


def restore_body(history: History, names: Sequence[str]) -> dict[str, Any]:
    """Make these facts active again; another active answer to the same prompt is superseded."""
    ids = _distinct(history, names)
    statements = [history.facts[id].statement for id in ids]
    for id in ids:
        _refuse_unless(history.facts[id], history.facts[id].status != "active", "restored")
        if statements.count(history.facts[id].statement) > 1:
            raise RequestError(f"fact {id!r} and another of these answer the same prompt. Restore one of them.")
    superseded = [fact.id for fact in history.active.values() if fact.statement in statements]
    return {"facts": ids, "superseded": superseded}


def replacing(history: History, name: str, target: str) -> EditRequest:
    """The request that gives an active fact another target; `RequestError` for a fact that is not active."""
    old = fact_named(history.facts, name)
    if old.status != "active":
        raise RequestError(f"fact {old.id!r} is {old.status} since seq {old.since}. Restore it, or apply a new one.")
    return EditRequest.from_dict({**old.request.to_dict(), "id": None, "target_new": target})


def facts_of(history: History, seq: int) -> list[str]:
    """The active facts that entry `seq` wrote; `RequestError` when there are none."""
    ids = [fact.id for fact in history.active.values() if fact.seq == seq]
    if not ids:
        raise RequestError(f"Entry {seq} wrote no fact that is active. {ADVICE}")
    return ids


def _distinct(history: History, names: Sequence[str]) -> list[str]:
    ids = [fact_named(history.facts, name).id for name in names]
    if not ids or len(set(ids)) != len(ids):
        raise RequestError("Name the facts, each once.")
    return ids


def _refuse_unless(fact: FactLife, fits: bool, verb: str) -> None:
    if not fits:
        raise RequestError(f"fact {fact.id!r} is {fact.status} since seq {fact.since}, so it is not {verb}. {ADVICE}")

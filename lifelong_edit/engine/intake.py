"""What an editor takes in: requests checked against the model and the ledger before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifelong_edit.editing.keys import check_lengths
from lifelong_edit.editing.targets import Targets
from lifelong_edit.errors import RequestError, SlotTaken
from lifelong_edit.facts import EditRequest, canonical_digest, distinct
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.subject import encode, slot_ids, slot_key
from lifelong_edit.store import FactLife


@dataclass(frozen=True)
class Intake:
    """The requests to edit, with the id and the slot each fact will have; and the ids of those known already."""

    requests: tuple[EditRequest, ...]
    ids: tuple[str, ...]
    slots: tuple[str, ...]
    skipped: tuple[str, ...]

    def contents(self) -> dict[str, str]:
        """The ledger's idempotency keys: id and content digest."""
        return {id: content_digest(request) for id, request in zip(self.ids, self.requests, strict=True)}

    def described(self, targets: Targets) -> list[dict[str, Any]]:
        """The facts as a ledger entry tells them: id, slot, request, and how their targets were found."""
        found = zip(self.ids, self.slots, self.requests, targets.loss, targets.steps, strict=True)
        return [
            {"id": id, "slot": slot, "request": request.to_dict(), "loss": loss, "steps": steps}
            for id, slot, request, loss, steps in found
        ]


def content_digest(request: EditRequest) -> str:
    """What two requests of one id must share."""
    return canonical_digest(request.canonical())


def take_in(
    editable: EditableModel, contexts: Sequence[str], known: Mapping[str, FactLife], requests: Sequence[EditRequest]
) -> Intake:
    """Check a batch. A known id with the same content is skipped; with other content it is a `RequestError`.

    A request without an id whose equal is no longer active is a new fact, so that A, B, A again is possible. Raises
    `SlotTaken` when a fact's key, the token ids up to its subject's last, is already held.
    """
    new: list[EditRequest] = []
    ids: list[str] = []
    skipped: list[str] = []
    for request in distinct(requests):
        id = _fact_id(request, known)
        if id in known:
            skipped.append(id)
        elif id in ids:
            raise RequestError(f"request id {id!r} stands twice in the batch. Give each request its own id.")
        else:
            new.append(request)
            ids.append(id)
    check_lengths(editable, new, contexts)
    slots = [slot_key(slot_ids(encode(editable.tokenizer, request))) for request in new]
    _check_slots(slots, ids, new, known)
    return Intake(tuple(new), tuple(ids), tuple(slots), tuple(skipped))


def check_revertible(known: Mapping[str, FactLife], ids: Sequence[str]) -> None:
    """Raise `RequestError` unless `ids` names active facts, each once."""
    if not ids or len(set(ids)) != len(ids):
        raise RequestError("Name the facts to revert, each once.")
    for id in ids:
        if id not in known or known[id].status != "active":
            state = f"is {known[id].status}" if id in known else "is unknown"
            raise RequestError(f"fact {id!r} {state}, so it cannot be reverted. `facts()` lists the active ones.")


def _fact_id(request: EditRequest, known: Mapping[str, FactLife]) -> str:
    content, id = content_digest(request), request.resolved_id()
    again = 1
    while id in known:
        fact = known[id]
        if content_digest(EditRequest.from_dict(fact.request)) != content:
            raise RequestError(
                f"request id {id!r} was used at seq {fact.seq} for another edit, {fact.request['prompt'][:60]!r}. "
                "Give the new request its own id."
            )
        if request.id is not None or fact.status == "active":
            return id
        again += 1
        id = f"{request.resolved_id()}-{again}"
    return id


def _check_slots(
    slots: Sequence[str], ids: Sequence[str], requests: Sequence[EditRequest], known: Mapping[str, FactLife]
) -> None:
    holders = {fact.slot: f"fact {fact.id!r} of seq {fact.seq}" for fact in known.values() if fact.status == "active"}
    for slot, id, request in zip(slots, ids, requests, strict=True):
        if slot in holders:
            raise SlotTaken(
                f"request {id!r}: the key of {request.subject[:60]!r} in this prompt is already held by "
                f"{holders[slot]}; two facts with one key contradict each other. Revert that fact first, or word the "
                "prompt so that something else stands before the subject."
            )
        holders[slot] = f"request {id!r} of the same batch"

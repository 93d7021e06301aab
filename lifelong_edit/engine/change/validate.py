"""What an editor takes in: requests checked against the model and the ledger before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lifelong_edit.editing.keys import Forms, check_lengths
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, TextRule, canonical_digest, distinct
from lifelong_edit.model.chat import rendered
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import encode, slot_ids, slot_key
from lifelong_edit.store import FactLife


@dataclass(frozen=True)
class Intake:
    """The requests to edit with the id and the slot of each; the ids known already; the facts that they supersede."""

    requests: tuple[EditRequest, ...]
    ids: tuple[str, ...]
    slots: tuple[str, ...]
    skipped: tuple[str, ...]
    superseded: tuple[str, ...]
    rule: TextRule

    def contents(self) -> dict[str, str]:
        """The ledger's idempotency keys: id and content digest."""
        return {id: content_digest(request, self.rule) for id, request in zip(self.ids, self.requests, strict=True)}

    def body(self) -> dict[str, Any]:
        """What the ledger's entry says of the batch before any column is computed."""
        facts = [
            {"id": id, "slot": slot, "request": request.to_dict()}
            for id, slot, request in zip(self.ids, self.slots, self.requests, strict=True)
        ]
        return {"facts": facts, "superseded": list(self.superseded), "columns": []}


def content_digest(request: EditRequest, rule: TextRule) -> str:
    """What two requests of one id must share."""
    return canonical_digest(request.canonical(rule))


def take_in(
    editable: EditableModel, forms: Forms, known: Mapping[str, FactLife], requests: Sequence[EditRequest]
) -> Intake:
    """Check a batch. A known id with the same content is skipped; with other content it is a `RequestError`.

    Of messages, and of an end that is the model's own, the text is made here that the ledger keeps.
    A request without an id whose equal is no longer active is a new fact, so that A, B, A again is possible. An active
    fact with the same prompt and subject is superseded; two such requests in one batch are a `RequestError`.
    """
    new: dict[str, EditRequest] = {}
    skipped: list[str] = []
    for request in distinct(requests):
        id = _fact_id(request, known, editable.texts.rule)
        if id in known:
            skipped.append(id)
        elif id in new:
            raise RequestError(f"request id {id!r} stands twice in the batch. Give each request its own id.")
        else:
            new[id] = rendered(editable, request) if request.needs_template else request
    _check_statements(new)
    check_lengths(editable, list(new.values()), forms)
    slots = [slot_key(slot_ids(encode(editable.texts, request))) for request in new.values()]
    stated = {request.statement for request in new.values()}
    superseded = [fact.id for fact in known.values() if fact.status == "active" and fact.statement in stated]
    return Intake(tuple(new.values()), tuple(new), tuple(slots), tuple(skipped), tuple(superseded), editable.texts.rule)


def _fact_id(request: EditRequest, known: Mapping[str, FactLife], rule: TextRule) -> str:
    content, id = content_digest(request, rule), request.resolved_id(rule)
    again = 1
    while id in known:
        fact = known[id]
        if content_digest(fact.request, rule) != content:
            raise RequestError(
                f"request id {id!r} was used at seq {fact.seq} for another edit, {fact.request.prompt[:60]!r}. "
                "Give the new request its own id."
            )
        if request.id is not None or fact.status == "active":
            return id
        again += 1
        id = f"{request.resolved_id(rule)}-{again}"
    return id


def _check_statements(requests: Mapping[str, EditRequest]) -> None:
    first: dict[tuple[str, str], str] = {}
    for id, request in requests.items():
        other = first.setdefault(request.statement, id)
        if other != id:
            raise RequestError(
                f"requests {other!r} and {id!r} of one batch both answer {request.question[:60]!r}. "
                "Leave one out, or apply them one after the other: the later one supersedes the earlier."
            )

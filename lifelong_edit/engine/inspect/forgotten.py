"""Who made the model forget a fact: read off stored keys, and confirmed by leaving the suspect out."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lifelong_edit.algebra.system import removal
from lifelong_edit.algebra.telemetry import residual_parts
from lifelong_edit.engine.state.layers import EditedLayer
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import RequestError
from lifelong_edit.store import Column
from lifelong_edit.store.history import fact_named
from lifelong_edit.tracking.answers import answer


@dataclass(frozen=True, slots=True)
class Suspect:
    """One batch's part in what the weights miss of a fact's value.

    `share` is <part, missing> / |missing|^2 over the edited layers; the shares of all batches sum to 1, and one is
    negative where a batch gives back. `facts` are those of the batch whose columns stand.
    """

    seq: int
    share: float
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of a fact, and why.

    `base` and `now` are what the model said before all edits and says now. `missing` is |v - W k| / |v - W_0 k|. `own`
    is the part of the fact's own batch: what it left unwritten. `suspects` are the later batches, the largest share
    first, and `without` is what the model says once all columns of the first are taken out; None without a later one.
    """

    fact: str
    target: str
    base: str
    now: str
    missing: float
    own: Suspect
    suspects: tuple[Suspect, ...]
    without: str | None

    @property
    def said(self) -> bool:
        """Whether the model says the fact now."""
        return self.now.startswith(self.target)

    @property
    def confirmed(self) -> bool:
        """Whether the fact is not said, and is without the first suspect."""
        return not self.said and self.without is not None and self.without.startswith(self.target)


def forgotten(session: Session, name: str) -> Forgotten:
    """Who is behind what is missing of an active fact; `RequestError` for one unknown, protected or inactive."""
    editable, history = session.at_head(), session.head.history
    fact = fact_named(history.facts, name)
    if fact.status != "active" or fact.protected:
        kind = "protected" if fact.status == "active" else fact.status
        raise RequestError(f"fact {fact.id!r} is {kind}, so no edit made the model forget it. Name an active edit.")
    value = history.chains()[fact.slot][-1]
    own, suspects, missing = _suspects(session, value)
    request = fact.request
    with editable.rewritten({n: layer.base for n, layer in session.head.layers.items()}):
        base = answer(editable, request.question)
    now, without = answer(editable, request.question), None
    if suspects:
        weights = {n: _without(layer, suspects[0].seq) for n, layer in session.head.layers.items()}
        with editable.rewritten(weights):
            without = answer(editable, request.question)
    return Forgotten(fact.id, request.target_new, base, now, missing, own, suspects, without)


def _suspects(session: Session, value: Column) -> tuple[Suspect, tuple[Suspect, ...], float]:
    """The part of the own batch, those of later batches, the largest first, and how much is missing at all."""
    shares: dict[int, float] = {}
    square = asked = 0.0
    for layer in session.head.layers.values():
        position = [placed.value for placed in layer.placed].index(value)
        parts = residual_parts(list(layer.columns.values()), list(layer.pairs.values()), position)  # [d_out, batches]
        missing = parts.sum(dim=1)  # [d_out]
        for seq, along in zip(layer.batches, (parts.T @ missing).tolist(), strict=True):
            shares[seq] = shares.get(seq, 0.0) + along
        square += float(missing.square().sum())
        asked += float(layer.whole.base_residuals[:, position].square().sum())
    batches = next(iter(session.head.layers.values())).batches
    mine = next(seq for seq, batch in batches.items() if any(placed.value == value for placed in batch))
    found = {seq: Suspect(seq, share / max(square, 1e-300), _facts(session, seq)) for seq, share in shares.items()}
    later = sorted((one for seq, one in found.items() if seq > mine), key=lambda one: -one.share)
    return found[mine], tuple(later), (square / max(asked, 1e-300)) ** 0.5


def _facts(session: Session, seq: int) -> tuple[str, ...]:
    """The active facts whose columns stand in the batch `seq`."""
    batch = next(iter(session.head.layers.values())).batches[seq]
    return tuple(sorted({id for placed in batch for id in placed.value.facts}))


def _without(layer: EditedLayer, seq: int) -> torch.Tensor:
    """The weight of the same batches less one, every other with its stored keys and values."""
    start = sum(len(batch) for at, batch in layer.batches.items() if at < seq)
    gone = range(start, start + len(layer.batches[seq]))
    return layer.weight + removal(list(layer.columns.values()), layer.memory, gone).dense()

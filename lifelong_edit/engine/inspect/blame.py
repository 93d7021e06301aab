"""Blame: which facts' keys explain an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong_edit.algebra.system import removal, solve_whole
from lifelong_edit.engine.state.layers import EditedLayer
from lifelong_edit.engine.state.session import Session
from lifelong_edit.errors import RequestError
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.subject import tokens
from lifelong_edit.tracking.answers import answer


@dataclass(frozen=True)
class Blamed:
    """One slot's part in an answer: its active facts, those first whose target the model says.

    `share` is the part of what the edits add to the edited weights' outputs on this prompt that the slot's columns
    account for; the shares of all slots sum to 1 (one may be negative: it works against the others). `without` is what
    the model says once the slot's columns are taken out.
    """

    facts: tuple[str, ...]
    share: float
    without: str


@dataclass(frozen=True)
class Blame:
    """What the model says to a prompt, what the base said, and the slots behind the change, the largest share first.

    `moved` is |D K| / |W_0 K| over the prompt's tokens: how much the edits do here at all.
    """

    prompt: str
    said: str
    base: str
    moved: float
    slots: tuple[Blamed, ...]


def blame(session: Session, prompt: str, count: int = 5) -> Blame:
    """The `count` slots with the largest shares, each tried by leaving it out; one fact must be active."""
    editable, history = session.at_head(), session.head.history
    if not history.active:
        raise RequestError("No fact is active, so no edit can be behind an answer.")
    if not prompt.strip():
        raise RequestError("The prompt is empty. Give the text whose continuation you want explained.")
    with editable.rewritten({n: layer.base for n, layer in session.head.layers.items()}):
        base = answer(editable, prompt)
    said = answer(editable, prompt)
    slots = list(history.slots())
    shares, written, change = torch.zeros(len(slots), dtype=torch.float64), 0.0, 0.0
    for number, layer in session.head.layers.items():
        inputs = _inputs(session, number, prompt)  # K  [d_in, T]
        parts, total = _parts(layer, inputs, slots)
        shares, change = shares + parts, change + total
        written += float((layer.base.double() @ inputs).square().sum())
    shares = shares / max(change, 1e-300)
    top = shares.abs().argsort(descending=True)[:count].tolist()
    found = [_blamed(session, slots[i], float(shares[i]), prompt, said) for i in top]
    return Blame(prompt, said, base, (change / max(written, 1e-300)) ** 0.5, tuple(found))


def _parts(layer: EditedLayer, inputs: Tensor, slots: Sequence[str]) -> tuple[Tensor, float]:
    """<c_s, D K> to every slot s, with c_s the slot's share of D K = X Q'K [d_out, T]; and |D K|^2, their sum."""
    columns = layer.whole
    solution = solve_whole(list(layer.columns.values()), layer.memory)  # X  [d_out, n]
    answers = columns.whitened.T @ inputs  # Q'K  [n, T]
    moved = solution @ answers  # D K  [d_out, T]
    parts = ((solution.T @ moved) * answers).sum(dim=1)  # [n]
    position = torch.tensor([slots.index(placed.value.slot) for placed in layer.placed])
    return torch.zeros(len(slots), dtype=torch.float64).index_add(0, position, parts), float(moved.square().sum())


@torch.no_grad()
def _inputs(session: Session, number: int, prompt: str) -> Tensor:
    """What the edited weight is given at every token of the prompt [d_in, T], float64, on the CPU."""
    editable = session.editable
    ids = torch.tensor([tokens(editable.tokenizer, prompt.rstrip())[0]], device=editable.device)
    with captured(editable.write(number)) as seen, editable.stop_after(number):
        editable.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return seen.input[0].cpu().double().T


def _blamed(session: Session, slot: str, share: float, prompt: str, said: str) -> Blamed:
    """The slot's facts and the answer without its columns."""
    history = session.head.history
    weights = {}
    for number, layer in session.head.layers.items():
        gone = [i for i, placed in enumerate(layer.placed) if placed.value.slot == slot]
        weights[number] = layer.weight + removal(list(layer.columns.values()), layer.memory, gone).dense()
    with session.editable.rewritten(weights):
        without = answer(session.editable, prompt)
    ids = sorted(history.slots()[slot], key=lambda id: not said.startswith(history.facts[id].request.target_new))
    return Blamed(tuple(ids), share, without)

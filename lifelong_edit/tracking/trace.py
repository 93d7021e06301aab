"""Causal tracing (ROME, arXiv 2202.05262): which single hidden state brings a fact back that a blurred subject lost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import replaced_output
from lifelong_edit.model.tokens import encode, tokens


@dataclass(frozen=True, slots=True)
class Trace:
    """Mean probabilities of the target's first token: clean, with blurred subjects, and with one hidden state restored.

    The restored states are outputs of block 0, 1, ...: at the subject's last token and at the prompt's last token.
    """

    clean: float
    corrupted: float
    subject_last: tuple[float, ...]
    prompt_last: tuple[float, ...]

    def recovered(self) -> tuple[list[float], list[float]]:
        """Restored over clean probability, by layer: at the subject's last token, and at the prompt's last token."""
        return [p / self.clean for p in self.subject_last], [p / self.clean for p in self.prompt_last]


@dataclass(frozen=True, slots=True)
class _Fact:
    ids: Tensor  # [T], the prompt alone
    subject: Tensor  # places of the subject's tokens
    target: int


@torch.no_grad()
def causal_trace(
    editable: EditableModel, requests: Sequence[EditRequest], samples: int = 10, sigmas: float = 3.0, seed: int = 0
) -> Trace:
    """Trace the facts prompt + subject -> target_new. Each subject is blurred `samples` times.

    The noise on the embeddings of the subject's tokens is Gaussian, `sigmas` standard deviations of all these
    embeddings' entries wide, and the same for every layer. Raises `RequestError` when there is nothing to trace.
    """
    if not requests or samples < 1:
        raise RequestError("A trace needs at least one fact and one noise sample.")
    facts = [_fact(editable, request) for request in requests]
    embeddings: Any = editable.model.get_input_embeddings()
    subjects: list[Tensor] = [embeddings(fact.ids[fact.subject]).float() for fact in facts]  # each [subject, d]
    width = sigmas * torch.cat(subjects).std()
    generator = torch.Generator().manual_seed(seed)
    # One noise for all layers: what differs between them is the restored state alone.
    rows = []
    for fact, own in zip(facts, subjects, strict=True):
        noise = torch.randn(samples, *own.shape, generator=generator).to(editable.device) * width
        rows.append(torch.stack([_restored(editable, fact, noise, layer) for layer in range(editable.layers)]))
    clean, corrupted, subject, prompt = torch.stack(rows).mean(0).T.tolist()  # each [layers]
    return Trace(clean[0], corrupted[0], tuple(subject), tuple(prompt))


def _restored(editable: EditableModel, fact: _Fact, noise: Tensor, layer: int) -> Tensor:
    """Compute the target's probabilities [4]: clean, blurred, and blurred with the state after `layer` restored, twice.

    One pass over 1 + 3 n rows, n = len(noise): the clean one, then n of each kind.
    """
    n, last = len(noise), len(fact.ids) - 1
    blurred = noise.repeat(3, 1, 1)  # [3 n, subject, d]

    def blur(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[1:, fact.subject] += blurred.to(hidden.dtype)
        return hidden

    def restore(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        for rows, place in ((slice(1 + n, 1 + 2 * n), fact.subject[-1]), (slice(1 + 2 * n, None), last)):
            hidden[rows, place] = hidden[0, place]
        return hidden

    # Row 0 is clean, and the clean state that the last 2 n rows are given is taken from it in the same pass.
    ids = fact.ids.repeat(1 + 3 * n, 1)
    every = torch.arange(len(ids), device=ids.device)
    embeddings: Any = editable.model.get_input_embeddings()
    with ExitStack() as stack:
        stack.enter_context(replaced_output(embeddings, blur))
        stack.enter_context(replaced_output(editable.block(layer), restore))
        stack.enter_context(editable.head_at(every, torch.full_like(every, last)))
        logits = editable.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    said = logits.float().softmax(-1)[:, fact.target]  # [1 + 3 n]
    return torch.cat([said[:1], said[1:].reshape(3, n).mean(1)])


def _fact(editable: EditableModel, request: EditRequest) -> _Fact:
    encoded = encode(editable.texts, request)
    start = request.subject_start
    _, spans = tokens(editable.texts, editable.texts.rule.asked(request.question))
    first = next(i for i, (_, end) in enumerate(spans) if end > start)
    subject = torch.arange(first, encoded.subject_last + 1)
    ids = torch.tensor(encoded.prompt_ids)
    return _Fact(ids.to(editable.device), subject.to(editable.device), encoded.target_ids[0])

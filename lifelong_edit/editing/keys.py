"""The texts in which a fact is to be said, its forms, and what the edited weight is given there: its keys.

A target that is fitted to one sentence says the fact in that sentence; what it is fitted to decides where it holds.
Forms are the prompt, bare and behind prefixes, other wordings, prompts with gaps. A key is read at the subject's last
token and averaged over the forms.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lifelong_edit.editing.contexts import prefixes_for
from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.facts import SUBJECT_SLOT, EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import Encoded, Texts, encode, pad_rows, slot_ids, slot_key

ROWS_PER_PASS = 256
PREFIXES, BEHIND = 8, 6  # of a fact; how many of them its prompt stands behind
KEPT_WORDS = 0.7  # of a prompt that loses words


class Form(NamedTuple):
    """A request, in its own words or other ones, and the prefix it stands behind."""

    request: EditRequest
    prefix: str = ""

    def encoded(self, texts: Texts, max_length: int | None = None) -> Encoded:
        """The token ids of prefix, question and target."""
        return encode(texts, self.request, prefix=self.prefix, max_length=max_length)


Forms = Callable[[Texts, EditRequest], Sequence[Form]]
"""Gives the forms of a fact, the bare prompt first."""


def prefixed(contexts: Sequence[str]) -> Forms:
    """The bare prompt, then the prompt behind every one of the contexts (MEMIT, arXiv 2210.07229)."""
    return lambda _texts, request: [Form(request, prefix) for prefix in ("", *contexts)]


def reworded(pool: Sequence[str], gaps: int) -> Forms:
    """The prompt, bare and behind six prefixes out of `pool`, and its wordings, each bare and behind one.

    Where a request has no wordings, `gaps` copies of its prompt that lack some words stand for them, by turns bare and
    behind a prefix. What is drawn depends on the slot and on `pool` alone. A form whose subject would end at the first
    token stands behind a prefix: what a model computes at its first token is nearly the same whatever the word is.
    """

    def forms(texts: Texts, request: EditRequest) -> list[Form]:
        slot = slot_ids(encode(texts, request))
        prefixes, draw = prefixes_for(pool, slot, PREFIXES) or ("",), random.Random(slot_key(slot))
        behind = [prefixes[i % len(prefixes)] for i in range(BEHIND + max(gaps, len(request.wordings)))]
        found = [Form(request), *(Form(request, prefix) for prefix in behind[:BEHIND])]
        behind = behind[BEHIND:]
        for i, prompt in enumerate(request.wordings):
            found += [Form(replace(request, prompt=prompt, wordings=()), prefix) for prefix in ("", behind[i])]
        for i in range(0 if request.wordings else gaps):
            gapped = replace(request, prompt=_with_gaps(request, draw), wordings=())
            found.append(Form(gapped, behind[i] if i % 2 else ""))
        return list(dict.fromkeys(_off_the_start(texts, form, prefixes[0]) for form in found))

    return forms


def _with_gaps(request: EditRequest, draw: random.Random) -> str:
    """The prompt without some of its words, but with the subject; of a conversation, of that message's words."""
    told = next((m.content.strip() for m in request.messages if SUBJECT_SLOT in m.content), request.prompt)
    kept = " ".join(word for word in told.split(" ") if SUBJECT_SLOT in word or draw.random() < KEPT_WORDS)
    return request.prompt.replace(told, kept)


def _off_the_start(texts: Texts, form: Form, prefix: str) -> Form:
    if form.encoded(texts).subject_last > 0:
        return form
    if not prefix:
        raise RequestError(
            f"The subject of {form.request.question[:60]!r} is the first token, where a model computes nearly the same "
            "for every word. Put some words before it in the prompt, or make the store with contexts."
        )
    return form._replace(prefix=prefix)


Average = Callable[[Tensor], Tensor]
"""Makes one key [d_in] of the keys [forms, d_in] of a fact's forms, the bare prompt's first."""


def halved(keys: Tensor) -> Tensor:
    """The mean in which the bare prompt counts one half and the others share the other (MEMIT, arXiv 2210.07229)."""
    return keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(dim=0)) / 2


@torch.no_grad()
def collect_keys(
    editable: EditableModel, requests: Sequence[EditRequest], layer: int, forms: Forms, average: Average = halved
) -> Tensor:
    """Averaged keys K [d_in, n] over the forms of each fact, in float64, on the model's device.

    Only tokens up to the subject's last are run, and only layers up to the edited one. Facts of one slot get
    bit-equal keys where they have the same forms, because each distinct row of token ids is run once. Raises
    `SolveError` naming the fact whose key is not finite.
    """
    texts, longest = editable.texts, editable.context_length
    wanted = [[slot_ids(form.encoded(texts, longest)) for form in forms(texts, request)] for request in requests]
    rows = list(dict.fromkeys(ids for own in wanted for ids in own))
    inputs: dict[tuple[int, ...], Tensor] = {}
    for start in range(0, len(rows), ROWS_PER_PASS):
        part = rows[start : start + ROWS_PER_PASS]
        padded = pad_rows(part, [len(ids) - 1 for ids in part], editable.pad_id, editable.device)
        with captured(editable.write(layer)) as seen, editable.stop_after(layer):
            editable.model(input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.position_ids)
        inputs.update(zip(part, seen.input[:, padded.pivot].double(), strict=True))
    keys = torch.stack([average(torch.stack([inputs[ids] for ids in own])) for own in wanted], dim=1)
    check_finite(keys, requests, "key")
    return keys


def check_finite(columns: Tensor, requests: Sequence[EditRequest], what: str) -> None:
    """Raise `SolveError` naming the facts whose column of `columns` [d, n] is not finite."""
    bad = [
        r.question[:60] for r, fine in zip(requests, columns.isfinite().all(dim=0).tolist(), strict=True) if not fine
    ]
    if bad:
        raise SolveError(
            f"The {what} of {bad} is not finite. Nothing was changed. Check the model's weights on these prompts, "
            "or load it in float32."
        )


def check_lengths(editable: EditableModel, requests: Sequence[EditRequest], forms: Forms) -> None:
    """Raise `RequestError`, before any computation, for a request the tokenizer or the model cannot take."""
    for request in requests:
        try:
            for form in forms(editable.texts, request):
                form.encoded(editable.texts, editable.context_length)
        except RequestError as error:
            raise RequestError(f"request {request.resolved_id()!r}: {error}") from error

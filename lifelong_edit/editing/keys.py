"""Keys: what the edited weight is given at the subject's last token, averaged over the texts of a fact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lifelong_edit.editing.forms import Forms
from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import pad_rows, slot_ids

ROWS_PER_PASS = 256


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

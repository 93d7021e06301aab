"""Keys: what the edited weight is given at the subject's last token, averaged over context prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import encode, pad_rows, slot_ids

ROWS_PER_PASS = 256


def context_weights(count: int) -> Tensor:
    """The weights [1 + count] of the bare prompt and its `count` prefixed forms in an averaged key.

    The bare prompt counts one half, the prefixed forms share the other (MEMIT, arXiv 2210.07229).
    """
    if count == 0:
        return torch.ones(1, dtype=torch.float64)
    return torch.tensor([0.5] + [0.5 / count] * count, dtype=torch.float64)


def prefixed(contexts: Sequence[str]) -> tuple[str, ...]:
    """The bare prompt's empty prefix, then the contexts."""
    return ("", *contexts)


@torch.no_grad()
def collect_keys(
    editable: EditableModel, requests: Sequence[EditRequest], layer: int, contexts: Sequence[str]
) -> Tensor:
    """Averaged keys K [d_in, n] in float64, on the model's device.

    Only tokens up to the subject's last are run, and only layers up to the edited one. Facts of one slot get
    bit-equal keys because each distinct row of token ids is run once. Raises `SolveError` naming the fact whose key
    is not finite.
    """
    prefixes = prefixed(contexts)
    wanted = [slot_ids(encode(editable.texts, r, prefix=p, max_length=editable.context_length))
              for r in requests for p in prefixes]  # fmt: skip
    rows = list(dict.fromkeys(wanted))
    inputs: dict[tuple[int, ...], Tensor] = {}
    for start in range(0, len(rows), ROWS_PER_PASS):
        part = rows[start : start + ROWS_PER_PASS]
        padded = pad_rows(part, [len(ids) - 1 for ids in part], editable.pad_id, editable.device)
        with captured(editable.write(layer)) as seen, editable.stop_after(layer):
            editable.model(input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.position_ids)
        inputs.update(zip(part, seen.input[:, padded.pivot].double(), strict=True))
    stacked = torch.stack([inputs[ids] for ids in wanted]).view(len(requests), len(prefixes), -1)
    keys = torch.einsum("c,ncd->dn", context_weights(len(contexts)).to(stacked.device), stacked)
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


def check_lengths(editable: EditableModel, requests: Sequence[EditRequest], contexts: Sequence[str]) -> None:
    """Raise `RequestError`, before any computation, for a request the tokenizer or the model cannot take."""
    for request in requests:
        for prefix in prefixed(contexts):
            try:
                encode(editable.texts, request, prefix=prefix, max_length=editable.context_length)
            except RequestError as error:
                raise RequestError(f"request {request.resolved_id()!r}: {error}") from error

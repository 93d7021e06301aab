"""What a target vector cannot change, computed once: lower layers, positions before the subject's end, base output.

All rows of a pass are lined up on the subject's last token. One full forward of the model gives the keys and values
of every column before it, the edited block's output from it on, and the distribution the KL compares with. A step then
runs the later layers on the remaining columns only, through the model's own code. Exact: causal attention lets
nothing before the subject's last token see delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lifelong_edit.editing.keys import prefixed
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.rows import Past, cropped, fresh_cache, pad_rows, selected, whole_cache
from lifelong_edit.model.subject import encode, slot_ids

ESSENCE = "{} is a"  # the prompt whose next-token distribution at the subject should stay


@dataclass(frozen=True)
class _Questions:
    """The places whose next token is scored: row, column (counted from the pivot), wanted token, weight; all [M]."""

    rows: Tensor
    columns: Tensor
    tokens: Tensor
    weights: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> _Questions:
        """The same on the model's device, the weights in `dtype`."""
        rows, columns, tokens = (part.to(device) for part in (self.rows, self.columns, self.tokens))
        return _Questions(rows, columns, tokens, self.weights.to(dtype).to(device))


@dataclass(frozen=True)
class FrozenRows:
    """The frozen part of n facts with c rows each, the last of them the KL's. Columns are counted from the pivot."""

    editable: EditableModel
    layer: int
    ids: Tensor  # [n * c, T]
    mask: Tensor  # [n * c, pivot + T]
    position_ids: Tensor  # [n * c, T]
    past: Past
    hidden: Tensor  # output of the edited block     [n * c, T, d]
    written: Tensor  # output of the edited weight at the pivot  [n * c, d_out]
    base: Tensor  # base log-probabilities after the subject  [n, vocabulary]
    questions: _Questions
    rows_per_fact: int

    @property
    def d_out(self) -> int:
        return self.written.shape[-1]

    @property
    def reference_norm(self) -> Tensor:
        """|h_0| [n] at the bare prompt: of the stream delta is added to, or of the written vector before a norm.

        In float32 at least, the precision delta is then optimised in.
        """
        norm_follows = self.editable.after_write(self.layer) is not None
        stream = self.written if norm_follows else self.hidden[:, 0]
        norms: Tensor = _precise(stream[:: self.rows_per_fact]).norm(dim=-1)
        return norms

    @staticmethod
    def lengths(editable: EditableModel, requests: Sequence[EditRequest]) -> list[int]:
        """How many columns each fact needs from its subject's last token on."""
        encoded = [encode(editable.tokenizer, r, max_length=editable.context_length) for r in requests]
        return [len(e.ids) - 1 - e.subject_last for e in encoded]

    @classmethod
    @torch.no_grad()
    def run(
        cls, editable: EditableModel, requests: Sequence[EditRequest], layer: int, contexts: Sequence[str]
    ) -> FrozenRows:
        """One full forward of all rows with the weights as they are."""
        sequences, pivots, asked = _rows(editable, requests, contexts)
        padded = pad_rows(sequences, pivots, editable.pad_id, editable.device)
        c, pivot, cache = len(contexts) + 2, padded.pivot, whole_cache()
        essence = torch.arange(c - 1, len(sequences), c, device=editable.device)
        with (
            captured(editable.block(layer)) as block,
            captured(editable.write(layer)) as write,
            editable.head_at(essence, torch.full_like(essence, pivot)),
        ):
            logits = editable.model(
                input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.position_ids,
                past_key_values=cache, use_cache=True,
            ).logits[0]  # fmt: skip
        return cls(
            editable=editable,
            layer=layer,
            ids=padded.ids[:, pivot:],
            mask=padded.mask,
            position_ids=padded.position_ids[:, pivot:],
            past=cropped(cache, pivot),
            hidden=block.output[:, pivot:].clone(),
            written=write.output[:, pivot].clone(),
            base=_log_softmax(logits),
            questions=asked.to(editable.device, _precise(logits).dtype),
            rows_per_fact=c,
        )

    def take(self, facts: Tensor) -> FrozenRows:
        """The rows of the facts where the mask `facts` [n] is true."""
        c = self.rows_per_fact
        kept = facts.repeat_interleave(c)
        rows = kept.nonzero().flatten()
        asked, place = kept[self.questions.rows], kept.cumsum(0) - 1
        questions = _Questions(
            place[self.questions.rows[asked]],
            self.questions.columns[asked],
            self.questions.tokens[asked],
            self.questions.weights[asked],
        )
        return replace(
            self,
            ids=self.ids[rows], mask=self.mask[rows], position_ids=self.position_ids[rows],
            past=selected(self.past, rows), hidden=self.hidden[rows], written=self.written[rows],
            base=self.base[facts], questions=questions,
        )  # fmt: skip

    def loss(self, delta: Tensor, kl: float) -> Tensor:
        """Likelihood and KL part of J [n] with `delta` [n, d_out] in place, differentiable in delta."""
        c, asked = self.rows_per_fact, self.questions
        n = len(delta)
        essence = torch.arange(c - 1, n * c, c, device=delta.device)
        rows = torch.cat([asked.rows, essence])
        columns = torch.cat([asked.columns, torch.zeros_like(essence)])
        hidden = self._moved(delta.repeat_interleave(c, dim=0))
        with self.editable.resumed_after(self.layer, hidden), self.editable.head_at(rows, columns):
            logits = self.editable.model(
                input_ids=self.ids, attention_mask=self.mask, position_ids=self.position_ids,
                past_key_values=fresh_cache(self.past), use_cache=True,
            ).logits[0]  # fmt: skip
        logs = _log_softmax(logits)
        said, now = logs[: len(asked.rows)], logs[len(asked.rows) :]
        nll = -said.gather(1, asked.tokens[:, None])[:, 0] * asked.weights.to(logs.dtype)
        likelihood = torch.zeros(n, dtype=logs.dtype, device=logs.device).index_add(0, asked.rows // c, nll)
        return likelihood + kl * (now.exp() * (now - self.base)).sum(-1)

    def _moved(self, delta: Tensor) -> Tensor:
        """The edited block's output [B, T, d] with `delta` [B, d_out] added to the weight's output at the pivot."""
        after: nn.Module | None = self.editable.after_write(self.layer)
        delta = delta.to(self.hidden.dtype)
        moved = self.hidden[:, 0] + (delta if after is None else after(self.written + delta) - after(self.written))
        return torch.cat([moved[:, None], self.hidden[:, 1:]], dim=1)


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float32 at least."""
    return _precise(logits).log_softmax(-1)


def _precise(values: Tensor) -> Tensor:
    """The values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _rows(
    editable: EditableModel, requests: Sequence[EditRequest], contexts: Sequence[str]
) -> tuple[list[tuple[int, ...]], list[int], _Questions]:
    """Token rows, their pivots, and the questions (rows, columns, tokens, weights) of `requests` in order.

    The last target token is not fed; each prompt's mean over target tokens and the mean over prompts are in weights.
    """
    sequences: list[tuple[int, ...]] = []
    pivots: list[int] = []
    asked: list[tuple[int, int, int, float]] = []
    prefixes = prefixed(contexts)
    for request in requests:
        for prefix in prefixes:
            row = encode(editable.tokenizer, request, prefix=prefix, max_length=editable.context_length)
            first = row.prompt_length - 1 - row.subject_last
            weight = 1 / (len(prefixes) * len(row.target_ids))
            asked += [(len(sequences), first + i, token, weight) for i, token in enumerate(row.target_ids)]
            sequences.append(row.ids[:-1])
            pivots.append(row.subject_last)
        essence = slot_ids(encode(editable.tokenizer, replace(request, prompt=ESSENCE)))
        sequences.append(essence)
        pivots.append(len(essence) - 1)
    rows, columns, tokens, weights = zip(*asked, strict=True)
    mean = torch.tensor(weights, dtype=torch.float64)
    return sequences, pivots, _Questions(torch.tensor(rows), torch.tensor(columns), torch.tensor(tokens), mean)

"""The frozen part of an optimisation: the rows of facts, run once, from which every pass with deltas goes on.

All rows are lined up on the subject's last token, the pivot, where deltas are added to what the edited weights give. A
delta reaches no position before the pivot and nothing at or below the lowest edited weight, so one full forward of the
model gives the keys and values of every column before the pivot, the lowest edited block's output from it on, and the
distribution that a KL is taken to. A pass then runs the later blocks on the remaining columns only, through the model's
own code. Exact: causal attention lets nothing before the pivot see a delta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lifelong_edit.editing.keys import Average, Forms
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured, replaced_output
from lifelong_edit.model.tokens import Past, cropped, encode, fresh_cache, pad_rows, selected, slot_ids, whole_cache

ESSENCE = "{} is a"  # the prompt whose next-token distribution at the subject should stay


@dataclass(frozen=True)
class Questions:
    """The places whose next token is scored: row, column (counted from the pivot), token, fact, weight; all [M].

    The weights of a fact's questions sum to 1: every form counts alike, and in a form every token.
    """

    rows: Tensor
    columns: Tensor
    tokens: Tensor
    facts: Tensor
    weights: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Questions:
        """The same on the model's device, the weights in `dtype`."""
        rows, columns, tokens, facts = (p.to(device) for p in (self.rows, self.columns, self.tokens, self.facts))
        return Questions(rows, columns, tokens, facts, self.weights.to(dtype).to(device))

    def take(self, rows: Tensor, facts: Tensor) -> Questions:
        """Those of the rows [B] and facts [F] where the masks are true, which are then counted anew."""
        kept, row, fact = facts[self.facts], rows.cumsum(0) - 1, facts.cumsum(0) - 1
        return Questions(
            rows=row[self.rows[kept]],
            columns=self.columns[kept],
            tokens=self.tokens[kept],
            facts=fact[self.facts[kept]],
            weights=self.weights[kept],
        )

    def mean(self, values: Tensor, facts: int) -> Tensor:
        """To every fact [F] the weighted mean of its questions' `values` [M]."""
        return values.new_zeros(facts).index_add(0, self.facts, values * self.weights)


@dataclass(frozen=True)
class Answers:
    """What a pass gives: log-probabilities at the questions [M, vocabulary], and to every group its KL [n]."""

    logs: Tensor
    divergence: Tensor


@dataclass(frozen=True)
class FrozenRows:
    """The frozen part of n groups with F facts in B rows: a group's facts by forms, then its row for the KL.

    The facts of a group share their slot, and so their deltas. Columns are counted from the pivot.
    """

    editable: EditableModel
    layers: tuple[int, ...]
    ids: Tensor  # [B, T]
    mask: Tensor  # [B, pivot + T]
    position_ids: Tensor  # [B, T]
    past: Past
    hidden: Tensor  # output of the lowest edited block     [B, T, d]
    written: Tensor  # output of its edited weight at the pivot     [B, d_out]
    inputs: tuple[Tensor, ...]  # inputs of every edited weight at the pivot     [B, d_in]
    reference: Tensor  # |h_0| at every layer and group     [L, n]
    base: Tensor  # base log-probabilities after the subject     [n, vocabulary]
    row_counts: Tensor  # rows of each group   [n]
    fact_counts: Tensor  # facts of each group  [n]
    questions: Questions

    @property
    def d_out(self) -> int:
        return self.written.shape[-1]

    @property
    def reference_norm(self) -> Tensor:
        """|h_0| [n] at the lowest layer and the bare prompt: of the stream, or of the written vector before a norm.

        In float32 at least, the precision delta is then optimised in.
        """
        return self.reference[0]

    @property
    def fact_groups(self) -> Tensor:
        """The group of every fact [F]."""
        return torch.arange(len(self.fact_counts), device=self.fact_counts.device).repeat_interleave(self.fact_counts)

    @property
    def essence(self) -> Tensor:
        """The row of every group's KL [n], its last."""
        return self.row_counts.cumsum(0) - 1

    @classmethod
    @torch.no_grad()
    def run(
        cls, editable: EditableModel, groups: Sequence[Sequence[EditRequest]], layers: Sequence[int], forms: Forms
    ) -> FrozenRows:
        """One full forward of all rows with the weights as they are."""
        laid = _Laid.out(editable, groups, forms)
        padded = pad_rows(laid.sequences, laid.pivots, editable.pad_id, editable.device)
        pivot, cache = padded.pivot, whole_cache()
        row_counts = torch.tensor(laid.row_counts, device=editable.device)
        essence = row_counts.cumsum(0) - 1
        with ExitStack() as stack:
            blocks = [stack.enter_context(captured(editable.block(layer))) for layer in layers]
            writes = [stack.enter_context(captured(editable.write(layer))) for layer in layers]
            stack.enter_context(editable.head_at(essence, torch.full_like(essence, pivot)))
            logits = editable.model(
                input_ids=padded.ids, attention_mask=padded.mask, position_ids=padded.position_ids,
                past_key_values=cache, use_cache=True,
            ).logits[0]  # fmt: skip
        # What deltas are added to: the stream after the block, or the written vector where a norm follows it.
        firsts = essence + 1 - row_counts
        added_to = [
            (block if editable.after_write(layer) is None else write).output[firsts, pivot]
            for layer, block, write in zip(layers, blocks, writes, strict=True)
        ]
        return cls(
            editable=editable,
            layers=tuple(layers),
            ids=padded.ids[:, pivot:],
            mask=padded.mask,
            position_ids=padded.position_ids[:, pivot:],
            past=cropped(cache, pivot),
            hidden=blocks[0].output[:, pivot:].clone(),
            written=writes[0].output[:, pivot].clone(),
            inputs=tuple(write.input[:, pivot].clone() for write in writes),
            reference=torch.stack([_precise(vectors).norm(dim=-1) for vectors in added_to]),
            base=_log_softmax(logits),
            row_counts=row_counts,
            fact_counts=torch.tensor([len(group) for group in groups], device=editable.device),
            questions=laid.questions.to(editable.device, _precise(logits).dtype),
        )

    def take(self, groups: Tensor) -> FrozenRows:
        """The rows of the groups where the mask `groups` [n] is true."""
        kept, facts = groups.repeat_interleave(self.row_counts), groups.repeat_interleave(self.fact_counts)
        rows = kept.nonzero().flatten()
        return replace(
            self,
            ids=self.ids[rows], mask=self.mask[rows], position_ids=self.position_ids[rows],
            past=selected(self.past, rows), hidden=self.hidden[rows], written=self.written[rows],
            inputs=tuple(inputs[rows] for inputs in self.inputs), reference=self.reference[:, groups],
            base=self.base[groups], row_counts=self.row_counts[groups], fact_counts=self.fact_counts[groups],
            questions=self.questions.take(kept, facts),
        )  # fmt: skip

    @property
    def row_groups(self) -> Tensor:
        """The group of every row [B]."""
        return torch.arange(len(self.row_counts), device=self.row_counts.device).repeat_interleave(self.row_counts)

    @property
    def row_places(self) -> Tensor:
        """Of every row [B] which of its group's it is."""
        firsts = self.row_counts.cumsum(0) - self.row_counts
        return torch.arange(len(self.ids), device=firsts.device) - firsts[self.row_groups]

    def by_row(self, values: Tensor) -> Tensor:
        """Those of the groups [L, n, d] given to each of their rows [L, B, d]."""
        return torch.stack([_repeated(layer, self.row_counts) for layer in values])

    def least_of_groups(self, values: Tensor) -> Tensor:
        """The least of every group's rows' values [B]: [n], not a number where one is none."""
        return values.new_full(self.row_counts.shape, math.inf).scatter_reduce(0, self.row_groups, values, "amin")

    def answers(self, deltas: Tensor) -> Answers:
        """What the model says with `deltas` [L, B, d_out] in place, a row's own in each, differentiable in them."""
        essence = self.essence
        rows = torch.cat([self.questions.rows, essence])
        columns = torch.cat([self.questions.columns, torch.zeros_like(essence)])
        with self._moved(deltas), self.editable.head_at(rows, columns):
            logs = _log_softmax(self._logits()[0])
        said, now = logs[: len(self.questions.rows)], logs[len(self.questions.rows) :]
        return Answers(said, (now.exp() * (now - self.base)).sum(-1))

    def loss(self, delta: Tensor, kl: float) -> Tensor:
        """Every fact's likelihood and KL part of J [F] with `delta` [n, d_out] at the only layer."""
        answers, groups = self.answers(self.by_row(delta[None])), self.fact_groups
        nll = -answers.logs.gather(1, self.questions.tokens[:, None])[:, 0]
        return self.questions.mean(nll, len(groups)) + (kl * answers.divergence)[groups]

    @torch.no_grad()
    def keys(self, averages: Sequence[Average], deltas: Tensor | None = None) -> list[Tensor]:
        """To every layer the groups' keys [d_in, n] in float64, with `deltas` [L, n, d_out] in place where given.

        The average of a layer makes one key of the inputs at all forms of a group.
        """
        inputs = list(self.inputs)
        if deltas is not None and self.layers[1:]:
            with ExitStack() as stack:
                stack.enter_context(self._moved(self.by_row(deltas)))
                seen = [stack.enter_context(captured(self.editable.write(layer))) for layer in self.layers[1:]]
                stack.enter_context(self.editable.stop_after(self.layers[-1]))
                self._logits()
            inputs[1:] = [one.input[:, 0] for one in seen]
        counts = self.row_counts.tolist()
        return [
            torch.stack([average(own[:-1]) for own in torch.split(rows.double(), counts)], dim=1)
            for rows, average in zip(inputs, averages, strict=True)
        ]

    def _logits(self) -> Tensor:
        """The logits of a pass over the columns from the pivot on."""
        logits: Tensor = self.editable.model(
            input_ids=self.ids, attention_mask=self.mask, position_ids=self.position_ids,
            past_key_values=fresh_cache(self.past), use_cache=True,
        ).logits  # fmt: skip
        return logits

    @contextmanager
    def _moved(self, deltas: Tensor) -> Iterator[None]:
        """Passes start from the lowest edited block's output with its delta in; higher weights give theirs on top."""
        lowest, *higher = deltas.to(self.hidden.dtype)
        after: nn.Module | None = self.editable.after_write(self.layers[0])
        moved = self.hidden[:, 0] + (lowest if after is None else after(self.written + lowest) - after(self.written))
        with ExitStack() as stack:
            hidden = torch.cat([moved[:, None], self.hidden[:, 1:]], dim=1)
            stack.enter_context(self.editable.resumed_after(self.layers[0], hidden))
            for layer, delta in zip(self.layers[1:], higher, strict=True):
                stack.enter_context(replaced_output(self.editable.write(layer), _at_the_pivot(delta)))
            yield


def check_descent(settings: Any, positive: Sequence[str]) -> None:
    """Raise `RequestError` for settings of a descent (a dataclass of numbers, these positive) that allow none."""
    wrong = {name: value for name, value in asdict(settings).items() if not 0 <= value < float("inf")}
    if wrong or not all(getattr(settings, name) for name in ("steps", "facts_per_pass", *positive)):
        raise RequestError(f"These target settings make no sense: {wrong or settings}. Give finite positive numbers.")


def tail(editable: EditableModel, group: Sequence[EditRequest]) -> int:
    """How many tokens the longest bare prompt and target of one slot's facts have after the subject's last."""
    encoded = [encode(editable.texts, request, max_length=editable.context_length) for request in group]
    if len({slot_ids(e) for e in encoded}) != 1:
        raise RequestError(
            f"{[request.question[:60] for request in group]} do not share a slot. Group the requests whose token ids "
            "up to the subject's last token are identical, at least one a group."
        )
    return max(len(e.ids) - 1 - e.subject_last for e in encoded)


def passes(groups: Sequence[Sequence[EditRequest]], tails: Sequence[int], limit: int) -> list[list[int]]:
    """The groups cut into passes of at most `limit` facts or one group; those with tails of like length go together."""
    cut: list[list[int]] = []
    room = 0
    for i in sorted(range(len(groups)), key=tails.__getitem__):
        if len(groups[i]) > room:
            cut.append([])
            room = limit
        cut[-1].append(i)
        room -= len(groups[i])
    return cut


def norm(rows: Tensor) -> Tensor:
    """Euclidean norms of the rows; the gradient at a zero row is zero, not NaN."""
    return (rows.square().sum(-1) + torch.finfo(rows.dtype).tiny).sqrt()


def _at_the_pivot(delta: Tensor) -> Callable[[Tensor], Tensor]:
    """Adds `delta` [B, d] to the first column of an output [B, T, d]."""
    return lambda output: torch.cat([(output[:, 0] + delta)[:, None], output[:, 1:]], dim=1)


def _repeated(rows: Tensor, counts: Tensor) -> Tensor:
    """Each of `rows` [n, d] so often in a row: [sum of counts, d].

    The gradient is a sum in a fixed order, whereas that of an indexed copy may be added up by several threads at once.
    """
    return torch.cat([row.expand(count, -1) for row, count in zip(rows, counts.tolist(), strict=True)])


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float32 at least."""
    return _precise(logits).log_softmax(-1)


def _precise(values: Tensor) -> Tensor:
    """The values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@dataclass(frozen=True)
class _Laid:
    """Token rows with their pivots, the number of rows of each group, and the questions.

    Groups follow each other: every fact's forms, then the group's row for the KL. The last target token is not fed.
    """

    sequences: list[tuple[int, ...]]
    pivots: list[int]
    row_counts: list[int]
    questions: Questions

    @classmethod
    def out(cls, editable: EditableModel, groups: Sequence[Sequence[EditRequest]], forms: Forms) -> _Laid:
        sequences: list[tuple[int, ...]] = []
        pivots: list[int] = []
        ends: list[int] = []
        asked: list[tuple[int, int, int, int]] = []
        weights: list[float] = []
        fact = 0
        for group in groups:
            for request in group:
                own = forms(editable.texts, request)
                for form in own:
                    row = form.encoded(editable.texts, editable.context_length)
                    first = row.prompt_length - 1 - row.subject_last
                    asked += [(len(sequences), first + i, token, fact) for i, token in enumerate(row.target_ids)]
                    weights += [1 / (len(own) * len(row.target_ids))] * len(row.target_ids)
                    sequences.append(row.ids[:-1])
                    pivots.append(row.subject_last)
                fact += 1
            essence = slot_ids(encode(editable.texts, replace(group[0], prompt=ESSENCE, wordings=())))
            sequences.append(essence)
            pivots.append(len(essence) - 1)
            ends.append(len(sequences))
        row_counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        rows, columns, tokens, facts = torch.tensor(asked).T
        mean = torch.tensor(weights, dtype=torch.float64)
        return cls(sequences, pivots, row_counts, Questions(rows, columns, tokens, facts, mean))

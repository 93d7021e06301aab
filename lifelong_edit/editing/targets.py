"""Target vectors: what the edited weight should give at the subject's last token so that the targets are said.

The only gradient loop of the engine. Facts of one slot have one key, so they go as a group with one delta [d_out]. For
one fact of a group

    J = mean over contexts and target tokens of -log p(token)  +  kl * KL(p | p_base)  +  decay * |delta| / |h_0|^2

with delta added to the edited weight's output at the subject's last token in every row, the KL read at the same token
of "{subject} is a" (ROME, arXiv 2202.05262; MEMIT, arXiv 2210.07229). A group minimises the mean of its facts' J and
stops by the worst. All groups of a batch go together, each with its own clamp and stop.

What delta cannot reach is computed once (`FrozenRows`): lower layers, positions before the subject's end, the base's
output. All rows of a pass are lined up on the subject's last token. One full forward of the model gives the keys and
values of every column before it, the edited block's output from it on, and the distribution the KL compares with. A
step then runs the later layers on the remaining columns only, through the model's own code. Exact: causal attention
lets nothing before the subject's last token see delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from lifelong_edit.editing.keys import check_finite, prefixed
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from lifelong_edit.model.tokens import Past, cropped, encode, fresh_cache, pad_rows, selected, slot_ids, whole_cache


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """How targets are optimised.

    `rate` is relative: one Adam step moves an entry of delta by about rate * |h_0| / sqrt(d_out). `clamp` bounds
    |delta| / |h_0|. A group stops when the J of all its facts is below `stop`, at the latest after `steps` evaluations.
    A pass takes `facts_per_pass` facts, or one larger group.
    """

    steps: int = 25
    rate: float = 0.15
    stop: float = 0.05
    clamp: float = 1.5
    decay: float = 0.5
    kl: float = 0.0625
    facts_per_pass: int = 16

    def __post_init__(self) -> None:
        wrong = {name: value for name, value in asdict(self).items() if not 0 <= value < float("inf")}
        if wrong or self.steps < 1 or self.facts_per_pass < 1 or self.rate == 0 or self.clamp == 0:
            raise RequestError(f"These target settings make no sense: {wrong or self}. Give finite positive numbers.")


@dataclass(frozen=True)
class Targets:
    """Optimised targets of n groups: `delta` [d_out, n], float64; the worst fact's J at the end; evaluations."""

    delta: Tensor
    loss: tuple[float, ...]
    steps: tuple[int, ...]


def optimise_targets(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    layer: int,
    contexts: Sequence[str],
    settings: TargetSettings,
) -> Targets:
    """Targets of groups of facts, each group the facts of one slot, for the weights as they are now.

    The model is left as it was. A group's target does not depend on what else is in the batch, within float tolerance.
    Raises `RequestError` naming the facts of a group that do not share a slot, `SolveError` naming the facts whose
    gradient or loss is not finite.
    """
    found: dict[int, tuple[Tensor, float, int]] = {}
    for part in _passes(groups, [_tail(editable, group) for group in groups], settings.facts_per_pass):
        found.update(zip(part, _optimise(editable, [groups[i] for i in part], layer, contexts, settings), strict=True))
    return Targets(
        delta=torch.stack([found[i][0] for i in range(len(groups))], dim=1).double(),
        loss=tuple(found[i][1] for i in range(len(groups))),
        steps=tuple(found[i][2] for i in range(len(groups))),
    )


def _tail(editable: EditableModel, group: Sequence[EditRequest]) -> int:
    """How many tokens the longest bare prompt and target of one slot's facts have after the subject's last."""
    encoded = [encode(editable.texts, request, max_length=editable.context_length) for request in group]
    if len({slot_ids(e) for e in encoded}) != 1:
        raise RequestError(
            f"{[request.question[:60] for request in group]} do not share a slot. Group the requests whose token ids "
            "up to the subject's last token are identical, at least one a group."
        )
    return max(len(e.ids) - 1 - e.subject_last for e in encoded)


def _passes(groups: Sequence[Sequence[EditRequest]], tails: Sequence[int], limit: int) -> list[list[int]]:
    """The groups cut into passes of at most `limit` facts or one group; those with tails of like length go together."""
    passes: list[list[int]] = []
    room = 0
    for i in sorted(range(len(groups)), key=tails.__getitem__):
        if len(groups[i]) > room:
            passes.append([])
            room = limit
        passes[-1].append(i)
        room -= len(groups[i])
    return passes


def _optimise(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    layer: int,
    contexts: Sequence[str],
    settings: TargetSettings,
) -> list[tuple[Tensor, float, int]]:
    """(delta [d_out], worst fact's J, steps) of each group of one pass."""
    frozen = FrozenRows.run(editable, groups, layer, contexts)
    reference = frozen.reference_norm  # |h_0|  [n]
    unit = reference / frozen.d_out**0.5  # one unit of `scaled`, so that a plain Adam rate is relative to |h_0|
    scaled = torch.zeros(len(groups), frozen.d_out, dtype=reference.dtype, device=reference.device)
    scaled.requires_grad_()
    adam = torch.optim.Adam([scaled], lr=settings.rate)
    active = torch.arange(len(groups), device=reference.device)
    results: dict[int, tuple[Tensor, float, int]] = {}
    for step in range(1, settings.steps + 1):
        delta = scaled[active] * unit[active, None]  # [active, d_out]
        facts, group = [r for i in active.tolist() for r in groups[i]], frozen.fact_groups
        decay = settings.decay * norm(delta) / reference[active] ** 2
        loss = frozen.loss(delta, settings.kl) + decay[group]  # J of every fact
        check_finite(loss.detach()[None], facts, "target's loss")
        worst = torch.zeros_like(decay).scatter_reduce(0, group, loss.detach(), "amax", include_self=False)
        done = worst < settings.stop if step < settings.steps else torch.ones_like(worst, dtype=torch.bool)
        for at in done.nonzero().flatten().tolist():
            results[int(active[at])] = (delta[at].detach().clone(), worst[at].item(), step)
        if done.all():
            break
        adam.zero_grad()
        shares = loss / frozen.fact_counts[group]  # they sum to each group's mean
        torch.autograd.backward(shares[~done[group]].sum())
        check_finite(scaled.grad[active][group].T, facts, "target's gradient")  # type: ignore[index]
        adam.step()
        with torch.no_grad():
            limit = settings.clamp * reference / unit
            scaled.mul_((limit / norm(scaled).clamp_min(1e-30)).clamp(max=1.0)[:, None])
        if done.any():
            frozen, active = frozen.take(~done), active[~done]
    return [results[i] for i in range(len(groups))]


def norm(rows: Tensor) -> Tensor:
    """Euclidean norms of the rows; the gradient at a zero row is zero, not NaN."""
    return (rows.square().sum(-1) + torch.finfo(rows.dtype).tiny).sqrt()


ESSENCE = "{} is a"  # the prompt whose next-token distribution at the subject should stay


@dataclass(frozen=True)
class _Questions:
    """The places whose next token is scored: row, column (counted from the pivot), token, fact, weight; all [M]."""

    rows: Tensor
    columns: Tensor
    tokens: Tensor
    facts: Tensor
    weights: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> _Questions:
        """The same on the model's device, the weights in `dtype`."""
        rows, columns, tokens, facts = (p.to(device) for p in (self.rows, self.columns, self.tokens, self.facts))
        return _Questions(rows, columns, tokens, facts, self.weights.to(dtype).to(device))

    def take(self, rows: Tensor, facts: Tensor) -> _Questions:
        """Those of the rows [B] and facts [F] where the masks are true, which are then counted anew."""
        kept, row, fact = facts[self.facts], rows.cumsum(0) - 1, facts.cumsum(0) - 1
        return _Questions(
            rows=row[self.rows[kept]],
            columns=self.columns[kept],
            tokens=self.tokens[kept],
            facts=fact[self.facts[kept]],
            weights=self.weights[kept],
        )


@dataclass(frozen=True)
class FrozenRows:
    """The frozen part of n groups with F facts in B rows: a group's facts by prompts, then its row for the KL.

    The facts of a group share their slot, and so one delta. Columns are counted from the pivot.
    """

    editable: EditableModel
    layer: int
    ids: Tensor  # [B, T]
    mask: Tensor  # [B, pivot + T]
    position_ids: Tensor  # [B, T]
    past: Past
    hidden: Tensor  # output of the edited block     [B, T, d]
    written: Tensor  # output of the edited weight at the pivot  [B, d_out]
    base: Tensor  # base log-probabilities after the subject  [n, vocabulary]
    row_counts: Tensor  # rows of each group   [n]
    fact_counts: Tensor  # facts of each group  [n]
    questions: _Questions

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
        norms: Tensor = _precise(stream[self.essence + 1 - self.row_counts]).norm(dim=-1)
        return norms

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
        cls, editable: EditableModel, groups: Sequence[Sequence[EditRequest]], layer: int, contexts: Sequence[str]
    ) -> FrozenRows:
        """One full forward of all rows with the weights as they are."""
        sequences, pivots, asked = _rows(editable, groups, contexts)
        padded = pad_rows(sequences, pivots, editable.pad_id, editable.device)
        pivot, cache = padded.pivot, whole_cache()
        fact_counts = torch.tensor([len(group) for group in groups], device=editable.device)
        row_counts = fact_counts * (1 + len(contexts)) + 1
        essence = row_counts.cumsum(0) - 1
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
            row_counts=row_counts,
            fact_counts=fact_counts,
            questions=asked.to(editable.device, _precise(logits).dtype),
        )

    def take(self, groups: Tensor) -> FrozenRows:
        """The rows of the groups where the mask `groups` [n] is true."""
        kept, facts = groups.repeat_interleave(self.row_counts), groups.repeat_interleave(self.fact_counts)
        rows = kept.nonzero().flatten()
        return replace(
            self,
            ids=self.ids[rows], mask=self.mask[rows], position_ids=self.position_ids[rows],
            past=selected(self.past, rows), hidden=self.hidden[rows], written=self.written[rows],
            base=self.base[groups], row_counts=self.row_counts[groups], fact_counts=self.fact_counts[groups],
            questions=self.questions.take(kept, facts),
        )  # fmt: skip

    def loss(self, delta: Tensor, kl: float) -> Tensor:
        """Every fact's likelihood and KL part of J [F] with `delta` [n, d_out] in place, differentiable in delta."""
        asked, essence, groups = self.questions, self.essence, self.fact_groups
        rows = torch.cat([asked.rows, essence])
        columns = torch.cat([asked.columns, torch.zeros_like(essence)])
        hidden = self._moved(_repeated(delta, self.row_counts))
        with self.editable.resumed_after(self.layer, hidden), self.editable.head_at(rows, columns):
            logits = self.editable.model(
                input_ids=self.ids, attention_mask=self.mask, position_ids=self.position_ids,
                past_key_values=fresh_cache(self.past), use_cache=True,
            ).logits[0]  # fmt: skip
        logs = _log_softmax(logits)
        said, now = logs[: len(asked.rows)], logs[len(asked.rows) :]
        nll = -said.gather(1, asked.tokens[:, None])[:, 0] * asked.weights
        likelihood = logs.new_zeros(len(groups)).index_add(0, asked.facts, nll)
        divergence = (now.exp() * (now - self.base)).sum(-1)  # [n]
        return likelihood + (kl * divergence)[groups]

    def _moved(self, delta: Tensor) -> Tensor:
        """The edited block's output [B, T, d] with `delta` [B, d_out] added to the weight's output at the pivot."""
        after: nn.Module | None = self.editable.after_write(self.layer)
        delta = delta.to(self.hidden.dtype)
        moved = self.hidden[:, 0] + (delta if after is None else after(self.written + delta) - after(self.written))
        return torch.cat([moved[:, None], self.hidden[:, 1:]], dim=1)


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


def _rows(
    editable: EditableModel, groups: Sequence[Sequence[EditRequest]], contexts: Sequence[str]
) -> tuple[list[tuple[int, ...]], list[int], _Questions]:
    """Token rows, their pivots, and the questions of `groups` in order: every fact's prompts, then the group's KL.

    The last target token is not fed; each prompt's mean over target tokens and the mean over prompts are in weights.
    """
    sequences: list[tuple[int, ...]] = []
    pivots: list[int] = []
    asked: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    prefixes, fact = prefixed(contexts), 0
    for group in groups:
        for request in group:
            for prefix in prefixes:
                row = encode(editable.texts, request, prefix=prefix, max_length=editable.context_length)
                first = row.prompt_length - 1 - row.subject_last
                asked += [(len(sequences), first + i, token, fact) for i, token in enumerate(row.target_ids)]
                weights += [1 / (len(prefixes) * len(row.target_ids))] * len(row.target_ids)
                sequences.append(row.ids[:-1])
                pivots.append(row.subject_last)
            fact += 1
        essence = slot_ids(encode(editable.texts, replace(group[0], prompt=ESSENCE)))
        sequences.append(essence)
        pivots.append(len(essence) - 1)
    rows, columns, tokens, facts = torch.tensor(asked).T
    mean = torch.tensor(weights, dtype=torch.float64)
    return sequences, pivots, _Questions(rows, columns, tokens, facts, mean)

"""The published target optimisation, written plainly: one group, all rows from their first token, a full pass a step.

This is what ROME (arXiv 2202.05262) and MEMIT (arXiv 2210.07229) do, with the conventions of
`lifelong_edit.editing.targets` for rate, clamp, decay, stop and the facts of one slot. It is the measure of that
module: of its results in the tests, of its speed in `bench_targets.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured, replaced_output
from lifelong_edit.model.tokens import Encoded, encode


@dataclass(frozen=True)
class Rows:
    """Prompts of a slot's facts in every context, then the essence prompt, padded on the right; B rows, T columns."""

    prompts: list[Encoded]
    facts: int
    ids: Tensor  # [B, T]
    mask: Tensor  # [B, T]
    subjects: list[int]  # where each row's subject ends

    @classmethod
    def of(cls, editable: EditableModel, group: Sequence[EditRequest], contexts: Sequence[str]) -> Rows:
        """The rows the objective reads; the last target token is not fed."""
        prompts = [encode(editable.tokenizer, fact, prefix=prefix) for fact in group for prefix in ("", *contexts)]
        essence = encode(editable.tokenizer, replace(group[0], prompt="{} is a"))
        rows = [*(prompt.ids[:-1] for prompt in prompts), essence.prompt_ids]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[editable.pad_id] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return cls(prompts, len(group), ids, mask, [row.subject_last for row in (*prompts, essence)])


def serial_target(
    editable: EditableModel, group: Sequence[EditRequest], layer: int, contexts: Sequence[str], settings: TargetSettings
) -> tuple[Tensor, float, int]:
    """(delta [d_out], worst J at the end, evaluations) of the facts of one slot."""
    rows = Rows.of(editable, group, contexts)
    with torch.no_grad(), captured(editable.block(layer)) as block, captured(editable.write(layer)) as write:
        untouched = editable.model(input_ids=rows.ids, attention_mask=rows.mask).logits
    base = untouched[-1, rows.subjects[-1]].log_softmax(-1)
    stream = block if editable.after_write(layer) is None else write
    reference = stream.output[0, rows.subjects[0]].norm()  # |h_0| at the bare prompt
    d_out = editable.shape(layer)[0]
    unit = reference / d_out**0.5
    scaled = torch.zeros(d_out, dtype=reference.dtype, requires_grad=True)
    adam = torch.optim.Adam([scaled], lr=settings.rate)
    for step in range(1, settings.steps + 1):
        delta = scaled * unit
        loss = likelihood_and_kl(editable, rows, layer, delta, base, settings.kl)
        loss = loss + settings.decay * (delta.square().sum() + torch.finfo(delta.dtype).tiny).sqrt() / reference**2
        if loss.max() < settings.stop or step == settings.steps:
            break
        adam.zero_grad()
        torch.autograd.backward(loss.mean())
        adam.step()
        with torch.no_grad():
            size = (scaled * unit).norm()
            if size > settings.clamp * reference:
                scaled.mul_(settings.clamp * reference / size)
    return delta.detach(), loss.max().item(), step


def likelihood_and_kl(
    editable: EditableModel, rows: Rows, layer: int, delta: Tensor, base: Tensor, kl: float
) -> Tensor:
    """Each fact's mean over rows and target tokens of -log p, plus kl * KL(p | p_base) at the essence row's subject."""

    def moved(output: Tensor) -> Tensor:
        output = output.clone()
        output[range(len(rows.subjects)), rows.subjects] += delta
        return output

    with replaced_output(editable.write(layer), moved):
        logs = editable.model(input_ids=rows.ids, attention_mask=rows.mask).logits.log_softmax(-1)  # [B, T, vocabulary]
    losses = []
    for row, prompt in zip(logs, rows.prompts, strict=False):  # the essence row asks for no target
        asked = range(prompt.prompt_length - 1, len(prompt.ids) - 1)
        losses.append(-row[asked, list(prompt.target_ids)].mean())
    now = logs[-1, rows.subjects[-1]]
    loss: Tensor = torch.stack(losses).view(rows.facts, -1).mean(dim=1) + kl * (now.exp() * (now - base)).sum()
    return loss

"""One batch, from requests to columns: targets and keys from the model, one column a slot and layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lifelong_edit.algebra.columns import Columns
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.spread import LayerState, Place, spread
from lifelong_edit.editing.targets import optimise_targets
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel


@dataclass(frozen=True)
class BatchEdit:
    """The columns of a batch at every edited layer, one a slot; each value's last loss and how many steps it took."""

    columns: dict[int, Columns]
    loss: tuple[float, ...]
    steps: tuple[int, ...]


def edit_batch(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    names: Sequence[str],
    states: Mapping[int, LayerState],
    contexts: Sequence[str],
    settings: EditorSettings,
    place: Place,
    fixed: Sequence[int] = (),
) -> BatchEdit:
    """Optimise targets on the base weights or the live ones, as `settings` say, and make columns of them.

    A group holds all requests of one slot; `names` are what messages call the groups. Those at the positions `fixed`
    keep the value they have on the base weights. `place` says what weight a layer has once its columns are in. The
    model is left as it was; errors are those of `optimise_targets`, `spread` and `place`.
    """
    on_base, top = settings.targets == "base", max(states)
    delta = torch.zeros(states[top].base.shape[0], len(groups), dtype=torch.float64)  # [d_out, groups]
    loss, steps = [0.0] * len(groups), [0] * len(groups)
    moving = [position for position in range(len(groups)) if position not in fixed]
    if moving:
        with editable.rewritten({layer: state.base for layer, state in states.items()} if on_base else {}):
            targets = optimise_targets(editable, [groups[i] for i in moving], top, contexts, settings.target)
        delta[:, moving] = targets.delta
        for position, its_loss, its_steps in zip(moving, targets.loss, targets.steps, strict=True):
            loss[position], steps[position] = its_loss, its_steps
    leaders = [group[0] for group in groups]
    columns = spread(editable, leaders, names, delta, on_base, states, contexts, place, fixed)
    return BatchEdit(columns, tuple(loss), tuple(steps))

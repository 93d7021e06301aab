"""One batch, from requests to weights: keys and targets from the model, deltas from the algebra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.spread import LayerEdit, LayerState, spread
from lifelong_edit.editing.targets import Targets, optimise_targets
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel


@dataclass(frozen=True)
class BatchEdit:
    """The targets of a batch and what they come to at every edited layer."""

    targets: Targets
    layers: dict[int, LayerEdit]


def edit_batch(
    editable: EditableModel,
    requests: Sequence[EditRequest],
    names: Sequence[str],
    states: Mapping[int, LayerState],
    contexts: Sequence[str],
    settings: EditorSettings,
) -> BatchEdit:
    """Optimise targets on the base weights or the live ones, as `settings` say, and solve for the deltas.

    `names` are the facts' ids, used in messages and as names of the columns. The model is left as it was; errors are
    those of `optimise_targets` and `spread`.
    """
    on_base = settings.targets == "base"
    bases = {layer: state.base for layer, state in states.items()} if on_base else {}
    with editable.rewritten(bases):
        targets = optimise_targets(editable, requests, max(states), contexts, settings.target)
    layers = spread(
        editable,
        requests,
        names,
        targets.delta,
        on_base,
        states,
        contexts,
        settings.memory,
        settings.amplification_limit,
    )
    return BatchEdit(targets, layers)

"""One batch, from requests to columns: targets and keys from the model, one column a slot and layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lifelong_edit.algebra.columns import Columns
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.spread import LayerState, Place, spread
from lifelong_edit.editing.targets import Targets, optimise_targets
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel


@dataclass(frozen=True)
class BatchEdit:
    """The targets of a batch, one a slot, and the columns they come to at every edited layer."""

    targets: Targets
    columns: dict[int, Columns]


def edit_batch(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    names: Sequence[str],
    states: Mapping[int, LayerState],
    contexts: Sequence[str],
    settings: EditorSettings,
    place: Place,
) -> BatchEdit:
    """Optimise targets on the base weights or the live ones, as `settings` say, and make columns of them.

    A group holds all requests of one slot; `names` are what messages call the groups. `place` says what weight a
    layer has once its columns are in. The model is left as it was; errors are those of `optimise_targets`, `spread`
    and `place`.
    """
    on_base = settings.targets == "base"
    bases = {layer: state.base for layer, state in states.items()} if on_base else {}
    with editable.rewritten(bases):
        targets = optimise_targets(editable, groups, max(states), contexts, settings.target)
    leaders = [group[0] for group in groups]
    columns = spread(editable, leaders, names, targets.delta, on_base, states, contexts, place)
    return BatchEdit(targets, columns)

"""Where a fact is lost on the way into the weights: its target as it was found, and that target written alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from torch import Tensor

from lifelong_edit.algebra.system import Columns
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel.state import KernelState, Placed, Read
from lifelong_edit.kinds.kind import Head
from lifelong_edit.kinds.stage import Stage, asked
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import replaced_output
from lifelong_edit.model.tokens import encode
from lifelong_edit.store import Column

if TYPE_CHECKING:
    from lifelong_edit.kinds.kernel.kernel import Kernel

EFFORT = ("steps", "clamp", "margin")  # what a target that does not say its fact was given too little of


def own_stages(kernel: Kernel, head: Head, fact: str) -> tuple[Stage, ...]:
    """The stages `target` and `alone` of an active fact.

    At `target` the residuals of the fact's column are added at the subject's last token to what the base weights give,
    and nothing is written; at `alone` the weights hold this column and no other.
    """
    life = head.history.facts[fact]
    request, value = life.request, head.history.last_columns()[life.slot]

    def stage(name: str, editable: EditableModel) -> Stage:
        return asked(editable, name, [request.question], request.answer)

    with _injected(kernel, value, request) as editable:
        target = stage("target", editable).mended_by(lambda: _harder(kernel, value))
    with kernel.showing(_alone(kernel, value)) as editable:
        alone = stage("alone", editable)
    if not alone.holds:
        # A ridge of 0 writes the whole target through the key: what is not said then, no ridge can mend.
        with kernel.showing(_alone(kernel, value, ridge=0.0)) as editable:
            exact = stage("alone", editable)
        alone = alone.mended_by(lambda: RIDGE if exact.holds else KEY)
    return target, alone


RIDGE = (
    "The ridge lets too little of the target through: with a ridge of 0 it is said. Write it with a smaller one, "
    "apply(..., ridge=), or make the store with a smaller ridge or more halvings."
)
KEY = (
    "The key misses the prompt: even a ridge of 0 does not bring it out. A key is the mean over the texts that the "
    "fact is fitted to: leave out wordings whose subject stands elsewhere, or make the store with fewer contexts or "
    "for other layers."
)


def _harder(kernel: Kernel, value: Column) -> str:
    settings = asdict(kernel.settings.recipe)
    given = ", ".join(f"{name} (now {settings[name]:g})" for name in EFFORT if name in settings)
    others = len(value.facts) - 1
    shared = f" Its slot has one target for {others} other facts too." if others else ""
    return f"The target does not say it. Make the store with target settings of more {given}.{shared}"


@contextmanager
def _injected(kernel: Kernel, value: Column, request: EditRequest) -> Iterator[EditableModel]:
    """The base, which adds the residuals of a column to what the edited weights give, for rows of the bare prompt."""
    with kernel.showing(kernel.base) as editable, ExitStack() as stack:
        last = encode(editable.texts, request).subject_last
        for number, layer in kernel.base.layers.items():
            residual = kernel.library.reader(layer.name)([value]).base_residuals[:, 0]
            stack.enter_context(replaced_output(editable.write(number), _adding(residual, last)))
        yield editable


def _adding(residual: Tensor, at: int) -> Callable[[Tensor], Tensor]:
    """Adds a residual [d_out] to an output [B, T, d_out] at one column."""

    def add(output: Tensor) -> Tensor:
        moved = output.clone()
        moved[:, at] += residual.to(output)
        return moved

    return add


def _alone(kernel: Kernel, value: Column, ridge: float | None = None) -> KernelState:
    """The state that holds one column, with the ridge it was written with or another one."""

    def read(name: str) -> Read:
        own = kernel.library.reader(name)

        def columns(wanted: Sequence[Column]) -> Columns:
            found = own(wanted)
            return found if ridge is None else replace(found, ridge=found.ridge.new_full(found.ridge.shape, ridge))

        return columns

    return kernel.base.becoming({value.seq: (Placed(value, value),)}, read)

"""What a store is pinned to when it is made: how it remembers, where it edits, how targets are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lifelong_edit.algebra.system import AMPLIFICATION_LIMIT, Memory
from lifelong_edit.editing.layered import LayeredSettings
from lifelong_edit.editing.statistics import StatisticsSettings
from lifelong_edit.editing.targets import TargetSettings
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import TextRule
from lifelong_edit.methods import check_ridge
from lifelong_edit.model.editable import EditableModel

Recipe = TargetSettings | LayeredSettings
"""How targets are found."""

TARGETS = ("live", "base")
DESCENT = ("rate", "clamp", "cost", "kl")  # what the targets of layers were once sought by, and no longer are
MOST = 1_000  # contexts that are sampled, halvings of a ridge


@dataclass(frozen=True, slots=True)
class EditorSettings:
    """The choices of a store, fixed at its creation and kept in its first ledger entry.

    `target` says how targets are found: by `LayeredSettings` at several layers together, by `TargetSettings` at one.
    `layers`: the edited layers. `memory` and `targets`: see the README. `ridge` of a method that has one, in units of
    the mean key mass of generic text. For a fact that the model does not say with at least `confidence`, the geometric
    mean of its tokens' probabilities, it is halved up to `halvings` times as the fact is written. What is left open of
    these is what the model's profile says, and then `LayeredSettings()` and what goes with `target`. `contexts`: how
    many prefixes are sampled. `shrinkage` of the second moment:
    C_s = (1 - s) C + s tr(C)/d I. `protection`: how much the keys of protected requests count in it, where generic text
    counts 1; `prompt_share`: the share of it that is the moment of true prompts, where a store is made with some.
    `norm_limit`: the most by which a commit of n facts may move an edited weight W_0, in Frobenius norms
    |Delta| <= norm_limit sqrt(n) |W_0|; None is no limit. `seed` decides everything drawn at random.
    """

    layers: tuple[int, ...] = ()
    memory: Memory = Memory.joint
    targets: str = "base"
    ridge: float | None = None
    halvings: int = 8
    confidence: float | None = None
    contexts: int = 3
    shrinkage: float = 0.0
    protection: float = 1.0
    prompt_share: float = 0.5
    amplification_limit: float = AMPLIFICATION_LIMIT
    norm_limit: float | None = 1.5
    seed: int = 0
    text: TextRule = TextRule.kept
    target: Recipe | None = None
    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "memory", Memory(self.memory))
        except ValueError:
            raise RequestError(f"memory is 'batch' or 'joint', not {self.memory!r}.") from None
        try:
            object.__setattr__(self, "text", TextRule(self.text))
        except ValueError:
            raise RequestError(f"text is 'kept' or 'stripped', not {self.text!r}.") from None
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        if not all(isinstance(layer, int) for layer in self.layers):
            raise RequestError(f"layers are whole numbers, not {self.layers}.")
        if self.targets not in TARGETS:
            raise RequestError(f"targets is 'live' or 'base', not {self.targets!r}.")
        if not (0 <= self.contexts <= MOST and 0 <= self.halvings <= MOST):
            raise RequestError(f"contexts and halvings are numbers from 0 to {MOST:,}.")
        if not 0 <= self.seed < 2**63:
            raise RequestError(f"A seed is a number of 63 bits, 0 or more, not {self.seed}.")
        if not self.amplification_limit > 0:
            raise RequestError(f"The amplification limit is positive, not {self.amplification_limit}.")
        if self.norm_limit is not None and not 0 < self.norm_limit < float("inf"):
            raise RequestError(f"A norm limit is a positive number, or None for no limit, not {self.norm_limit}.")
        if not 0 <= self.shrinkage <= 1:
            raise RequestError(f"A shrinkage lies between 0 and 1, not at {self.shrinkage}.")
        if not 0 < self.protection < float("inf"):
            raise RequestError(f"A weight of protection is a positive number, not {self.protection}.")
        if not 0 < self.prompt_share < 1:
            raise RequestError(f"A prompt share lies between 0 and 1, not at {self.prompt_share}.")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise RequestError(f"A confidence is a probability between 0 and 1, not {self.confidence}.")
        if self.ridge is not None and not 0 < self.ridge < float("inf"):
            raise RequestError(f"The ridge of a store is a positive number, not {self.ridge}. Without one, use emmet.")

    @property
    def recipe(self) -> Recipe:
        """How targets are found: `target`, by layers where it is left open."""
        return self.target or LayeredSettings()

    def resolved(self, editable: EditableModel) -> tuple[int, ...]:
        """The layers to edit in this model; `RequestError` for one it lacks or a set it cannot spread over.

        Also for a ridge that no method may have: a store that was made with one can still be opened.
        """
        check_ridge(self.ridge or 0.0)
        layers = self.layers or self.recipe.layers(editable.layers)
        for layer in layers:
            editable.block(layer)
        if isinstance(self.recipe, TargetSettings):
            _check_spreadable(editable, layers)
        return layers

    def pinned(self, editable: EditableModel) -> EditorSettings:
        """These settings for this model, with a number for everything that was left open."""
        ridge = self.recipe.ridge if self.ridge is None else self.ridge
        confidence = self.recipe.confidence if self.confidence is None else self.confidence
        layers = self.resolved(editable)
        return replace(self, layers=layers, ridge=ridge, confidence=confidence, target=self.recipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as older versions wrote them where there is no norm limit."""
        plain = {"memory": self.memory.value, "text": self.text.value, "layers": list(self.layers)}
        values = {**asdict(self), **plain}
        return {name: value for name, value in values.items() if name != "norm_limit" or value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EditorSettings:
        """The settings that `to_dict` wrote; what older stores could not choose is as it was."""
        before: dict[str, Any] = {"ridge": 0.5, "halvings": 0, "norm_limit": None, "text": TextRule.stripped}
        statistics = {"outlier": None, **values["statistics"]}
        target = values["target"]
        if target and "margin" in target and "drift" not in target:
            target = {name: value for name, value in target.items() if name not in DESCENT}
        return cls.from_choices({**before, **values, "statistics": statistics, "target": target})

    @classmethod
    def from_choices(cls, values: dict[str, Any]) -> EditorSettings:
        """Settings of which only some are chosen, as plain JSON values; the others are as they are by default."""
        chosen = dict(values)
        if chosen.get("target") is not None:
            chosen["target"] = _target(chosen["target"])
        if "statistics" in chosen:
            chosen["statistics"] = StatisticsSettings(**chosen["statistics"])
        return cls(**chosen)


def _target(values: dict[str, Any]) -> Recipe:
    """How targets are found, told by what there is to choose."""
    return LayeredSettings(**values) if "margin" in values else TargetSettings(**values)


def _check_spreadable(editable: EditableModel, layers: Sequence[int]) -> None:
    """Several layers share a residual only where a written vector is added to the stream as it is."""
    if len(layers) > 1 and any(editable.after_write(layer) is not None for layer in layers):
        raise RequestError(
            f"This model normalises what its MLPs write, so a residual cannot be spread over layers {list(layers)}. "
            "Edit one layer."
        )

"""A watch: facts and texts that edits are to leave alone, and what the base makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.drift import perplexity
from lifelong_edit.tracking.scores import score_continuations

LOST = 1e9  # how a perplexity that is no number any more, or infinite, grew


@dataclass(frozen=True, slots=True)
class Watch:
    """What edits are to leave alone: `facts` are (prompt, answer) pairs, `texts` held-out texts."""

    facts: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", tuple((str(prompt), str(answer)) for prompt, answer in self.facts))
        object.__setattr__(self, "texts", tuple(self.texts))
        if isinstance(self.texts, str) or not all(prompt.strip() and answer.strip() for prompt, answer in self.facts):
            raise RequestError("A watch has pairs of a prompt and its answer, and a list of texts, none of them empty.")


@dataclass(frozen=True, slots=True)
class Watched:
    """A watch with the base's results: which facts it says, and its perplexity of the texts (None without texts)."""

    watch: Watch
    said: tuple[bool, ...]
    perplexity: float | None

    @classmethod
    def on_base(cls, editable: EditableModel, watch: Watch) -> Watched:
        """Ask the base, which must be the live model; `RequestError` when it says none of the facts."""
        said = _said(editable, watch)
        if watch.facts and not any(said):
            raise RequestError("The base says none of the watched facts, so none can be lost. Watch facts it knows.")
        texts = perplexity(editable.model, editable.tokenizer, watch.texts) if watch.texts else None
        return cls(watch, said, texts)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The watched facts' prompts, after which the next token is compared with the base's."""
        return tuple(prompt for prompt, _ in self.watch.facts)

    def signs(self, editable: EditableModel) -> dict[str, float]:
        """Measure the live model's vital signs `recall` (with facts) and `perplexity` (with texts); see `SIGNS`."""
        signs = {}
        if any(self.said):
            kept = [now for now, base in zip(_said(editable, self.watch), self.said, strict=True) if base]
            signs["recall"] = 1 - sum(kept) / len(kept)
        if self.perplexity is not None:
            now = perplexity(editable.model, editable.tokenizer, self.watch.texts)
            signs["perplexity"] = now / self.perplexity - 1 if math.isfinite(now) else LOST
        return signs

    def noise(self) -> dict[str, float]:
        """The standard error of `recall` where a twentieth of the facts is lost: no limit can be closer."""
        return {"recall": math.sqrt(0.05 * 0.95 / sum(self.said))} if any(self.said) else {}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        facts = [list(fact) for fact in self.watch.facts]
        return {
            "facts": facts,
            "texts": list(self.watch.texts),
            "said": list(self.said),
            "perplexity": self.perplexity,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Watched:
        """What `to_dict` wrote; `StoreCorrupt` when it cannot have."""
        watch = Watch(tuple((prompt, answer) for prompt, answer in values["facts"]), tuple(values["texts"]))
        perplexity: float | None = values["perplexity"]
        if len(values["said"]) != len(watch.facts) or (perplexity is not None and perplexity <= 0):
            raise StoreCorrupt("ledger entry 0: its field 'watch' has no answers of a model. Restore a backup.")
        return cls(watch, tuple(values["said"]), values["perplexity"])


def _said(editable: EditableModel, watch: Watch) -> tuple[bool, ...]:
    scores = score_continuations(editable.model, editable.texts, watch.facts)
    return tuple(score.argmax for score in scores)

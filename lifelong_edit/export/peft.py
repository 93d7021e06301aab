"""Export a LoRA adapter that PEFT loads, swaps and merges; the change of every edited weight is a thin pair already."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from lifelong_edit.algebra.system import Pair
from lifelong_edit.engine.inspect.views import View
from lifelong_edit.engine.reader import Reader
from lifelong_edit.errors import RequestError
from lifelong_edit.export.card import EDITS, edits_jsonl, model_card, origin
from lifelong_edit.outputs import new_folder, size_of
from lifelong_edit.tracking.scores import score_continuations

Factors = dict[str, tuple[Tensor, Tensor, float]]
"""To every weight B [d_out, r], A [r, d_in], and the relative error of their product."""

NEGLIGIBLE = 1e-10  # of the largest singular value: below it a direction is rounding


@dataclass(frozen=True)
class Adapter:
    """A written adapter: the rank of each weight's change, and the cost of the ranks that were left out.

    `error` is |delta - adapter| / |delta|, the largest over the weights; `efficacy` the share of active facts whose
    target is the first choice, with the exact change and with the adapter's. None without a fact.
    """

    path: Path
    bytes: int
    ranks: dict[str, int]
    error: float
    efficacy: tuple[float, float] | None


def export_peft(reader: Reader, destination: Path, ref: int | str | None = None, rank: int | None = None) -> Adapter:
    """Write the adapter of the state after entry `ref` to a new folder: exact, or truncated to `rank`.

    The base it belongs to is the store's; `RequestError` when nothing is edited there, or for a rank below 1.
    """
    if rank is not None and rank < 1:
        raise RequestError(f"An adapter has rank 1 or more, not {rank}.")
    view = reader.at(reader.head.seq if ref is None else ref)
    factors = {name: _factors(pair, rank) for name, pair in view.deltas.items()}
    if not all(len(a) for _, a, _ in factors.values()):
        raise RequestError(f"Nothing is edited after entry {view.seq}, so there is no adapter to write.")
    with new_folder(destination) as folder:
        save_file(
            _tensors(factors), folder / "adapter_model.safetensors", metadata={"format": "pt", **origin(reader, view)}
        )
        config = json.dumps(_config(view, {name: len(a) for name, (_, a, _) in factors.items()}), indent=2)
        (folder / "adapter_config.json").write_text(config + "\n", encoding="utf-8")
        (folder / "README.md").write_text(model_card(reader, view), encoding="utf-8")
        (folder / EDITS).write_text(edits_jsonl(view), encoding="utf-8")
    return Adapter(
        destination,
        size_of(destination),
        {name: len(a) for name, (_, a, _) in factors.items()},
        max(error for *_, error in factors.values()),
        _efficacy(reader, view, factors),
    )


def _factors(pair: Pair, rank: int | None) -> tuple[Tensor, Tensor, float]:
    """Factor left right' into B [d_out, r] and A [r, d_in], float32, the best of rank r; and give the error of B A."""
    u, s, v = pair.svd()
    count = int((s > NEGLIGIBLE * s[:1]).sum()) if len(s) else 0
    kept = min(count, rank or count)
    # Both factors get the root of a singular value, so that neither is tiny in float32.
    root = s[:kept].sqrt()
    b, a = (u[:, :kept] * root).float(), (root[:, None] * v[:, :kept].T).float()
    error = float((pair.dense() - b.double() @ a.double()).norm() / s.norm().clamp_min(1e-300))
    return b, a, error


def _tensors(factors: Factors) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, (b, a, _) in factors.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        named |= {f"{module}.lora_A.weight": a.contiguous(), f"{module}.lora_B.weight": b.contiguous()}
    return named


def _config(view: View, ranks: dict[str, int]) -> dict[str, object]:
    """Write PEFT's configuration; alpha equals the rank, so that the product is added unscaled."""
    modules = {name.removesuffix(".weight"): rank for name, rank in ranks.items()}
    linear = all(isinstance(view.editable.model.get_submodule(module), nn.Linear) for module in modules)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(view.editable.model.config._name_or_path) or None,
        "inference_mode": True,
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "rank_pattern": modules,
        "alpha_pattern": modules,
        "target_modules": sorted(modules),
        "fan_in_fan_out": not linear,  # GPT-2's Conv1D keeps its weight turned
        "lora_dropout": 0.0,
        "bias": "none",
    }


def _efficacy(
    reader: Reader, view: View, factors: dict[str, tuple[Tensor, Tensor, float]]
) -> tuple[float, float] | None:
    """Measure the share of active facts that are the first choice, with the exact change and with the adapter."""
    requests = [fact.request for fact in view.facts.values() if not fact.protected]
    if not requests:
        return None
    pairs, editable = [(request.question, request.answer) for request in requests], view.editable
    exact = score_continuations(editable.model, editable.texts, pairs)
    # The adapter's own product on the base, as PEFT will add it.
    weights = {
        n: reader.at(0).editable.weight(n).double() + b @ a
        for n in reader.settings.layers
        for b, a, _ in [factors[editable.weight_name(n)]]
    }
    with editable.rewritten(weights):
        adapted = score_continuations(editable.model, editable.texts, pairs)
    shares = [sum(score.argmax for score in scores) / len(scores) for scores in (exact, adapted)]
    return shares[0], shares[1]

"""How much faster the batched, cached target optimisation is than the published one, and how near its results are.

Both sides run in this process on the same facts, contexts, steps and early stop. The exit status is 1 unless at least
99 % of the facts stop at the same step, the targets of those are within 1e-4, and the measured ratio of times is at
least 3 and not below the ratio of operations. Where a gradient entry is nearly zero Adam divides by it, so in float32 a
single fact can be further apart with neither side nearer the truth; `--dtype float64` tells rounding from error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings, optimise_targets
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests
from serial_targets import serial_target

SAME_STEP, DIFFERENCE, FASTER = 0.99, 1e-4, 3.0
WARM_UP = 2
Outcome = tuple[Tensor, tuple[int, ...]]  # delta [d_out, n] and evaluations of n facts
Optimiser = Callable[[Sequence[EditRequest]], Outcome]


def batched(editable: EditableModel, layer: int, contexts: Sequence[str], requests: Sequence[EditRequest]) -> Outcome:
    """The engine's own computation."""
    targets = optimise_targets(editable, [[request] for request in requests], layer, contexts, TargetSettings())
    return targets.delta, targets.steps


def serial(editable: EditableModel, layer: int, contexts: Sequence[str], requests: Sequence[EditRequest]) -> Outcome:
    """The published computation, one fact after the other."""
    found = [serial_target(editable, [request], layer, contexts, TargetSettings()) for request in requests]
    return torch.stack([delta for delta, _, _ in found], dim=1).double(), tuple(steps for _, _, steps in found)


def timed(optimise: Optimiser, requests: Sequence[EditRequest]) -> tuple[float, Outcome]:
    """Seconds per fact, and what came out; the first few facts are run once before."""
    optimise(requests[:WARM_UP])
    start = time.perf_counter()
    outcome = optimise(requests)
    return (time.perf_counter() - start) / len(requests), outcome


def operations(optimise: Optimiser, requests: Sequence[EditRequest]) -> float:
    """Floating-point operations per fact."""
    with FlopCounterMode(display=False) as counter:
        optimise(requests)
    return float(counter.get_total_flops()) / len(requests)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--layer", type=int, help="the edited layer; by default the one a store edits")
    parser.add_argument("--contexts", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    chosen = parser.parse_args()

    editable = EditableModel.open(chosen.model, getattr(torch, chosen.dtype))
    layer = max(EditorSettings(target=TargetSettings()).resolved(editable)) if chosen.layer is None else chosen.layer
    contexts = sample_contexts(editable, chosen.contexts, chosen.seed)
    requests = edit_requests(World.generate(BUNDLED_SEED), chosen.facts, chosen.seed)
    sides = {
        "batched": partial(batched, editable, layer, contexts),
        "serial": partial(serial, editable, layer, contexts),
    }

    seconds, outcomes, flops = {}, {}, {}
    for name, side in sides.items():
        seconds[name], outcomes[name] = timed(side, requests)
        flops[name] = operations(side, requests)
        print(f"{name}: {seconds[name]:.4f} s and {flops[name] / 1e9:.3f} Gflop a fact", flush=True)

    (ours, our_steps), (theirs, their_steps) = outcomes["batched"], outcomes["serial"]
    same = torch.tensor(our_steps) == torch.tensor(their_steps)
    share = same.double().mean().item()
    apart = ((ours - theirs).norm(dim=0) / theirs.norm(dim=0).clamp_min(1e-30))[same]
    largest = apart.max().item() if same.any() else float("inf")
    faster, fewer = seconds["serial"] / seconds["batched"], flops["serial"] / flops["batched"]
    evaluations = sum(their_steps) / len(their_steps)
    print(f"facts: {len(requests)}, layer {layer}, {len(contexts)} contexts, {evaluations:.1f} evaluations a fact")
    print(f"times faster: {faster:.2f}")
    print(f"times fewer operations: {fewer:.2f}")
    print(
        f"same stopping step: {share:.1%}; relative difference among those: "
        f"median {apart.median().item():.1e}, largest {largest:.1e}"
    )
    return 0 if share >= SAME_STEP and largest <= DIFFERENCE and faster >= max(FASTER, fewer) else 1


if __name__ == "__main__":
    sys.exit(main())

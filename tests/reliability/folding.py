"""Folds synthetic batches in a weight of the shape that an 8B model has, and compares the folds of two processes.

`python -m tests.reliability.folding FOLDER`: the first process keeps the pairs and the digest of every state in the
folder, a later one prints how far its own states are from those.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lifelong_edit.algebra.system import Columns, Memory
from lifelong_edit.kinds.kernel.state import EditedLayer, KernelState, Placed
from lifelong_edit.store import Column

D_OUT, D_IN = 4096, 14336
BATCHES, SIZE = 5, 20
WEIGHT = "down_proj"


def columns() -> Iterator[Columns]:
    """Batches whose keys are nearly parallel, under a metric of condition 1e6: hard enough for other last bits."""
    draw = np.random.default_rng(0)
    metric = torch.from_numpy(np.geomspace(1e-3, 1e3, D_IN))[:, None]  # C^-1, diagonal
    common = draw.standard_normal((D_IN, 1))
    for batch in range(BATCHES):
        keys = torch.from_numpy(0.3 * draw.standard_normal((D_IN, SIZE)) + 3 * common)
        residuals = torch.from_numpy(0.05 * draw.standard_normal((D_OUT, SIZE)))
        ridge = torch.full((SIZE,), 0.05, dtype=torch.float64)
        yield Columns(keys, metric * keys, residuals, ridge, tuple(f"{batch}-{i}" for i in range(SIZE)))


def states(base: Tensor) -> Iterator[KernelState]:
    """The state after every batch, and at last the one in which the first batch was taken out."""
    held = dict(enumerate(columns(), start=1))
    places = {seq: [Column(seq, i, f"{seq}-{i}", frozenset({f"{seq}-{i}"})) for i in range(SIZE)] for seq in held}
    batches = {seq: tuple(Placed(place, place) for place in own) for seq, own in places.items()}
    state = KernelState({0: EditedLayer.unedited(WEIGHT, base, Memory.joint)})
    for stands in [*(list(held)[:count] for count in range(1, BATCHES + 1)), list(held)[1:]]:
        state = state.becoming({seq: batches[seq] for seq in stands}, lambda _: lambda asked: held[asked[0].seq])
        yield state


def main(folder: Path) -> None:
    draw = np.random.default_rng(1)
    base = torch.from_numpy(0.02 * draw.standard_normal((D_OUT, D_IN), dtype=np.float32))
    for number, state in enumerate(states(base)):
        kept, pair = folder / f"{number}.safetensors", state.layers[0].earlier
        if not kept.exists():
            save_file({"left": pair.left, "right": pair.right}, kept, {"digest": state.digest})
            continue
        with safe_open(kept, "pt") as there:
            summed = base.double() + there.get_tensor("left") @ there.get_tensor("right").T
            same = state.digest == there.metadata()["digest"]
        told = asdict(state.deviation({WEIGHT: summed}))
        spoiled = state.deviation({WEIGHT: summed + 1e-6 * (summed - base)})
        print(json.dumps({**told, "same": same, "spoiled": spoiled.is_rounding}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""How little the free telemetry of a commit, the risks among it, costs beside optimising the targets of its batch.

The keys are those of real facts on the model, the residuals random vectors, so that nothing is optimised while the
layer fills. The targets of a batch of 10 are then optimised for real. Seconds are medians of alternating runs. The exit
status is 1 unless the telemetry of all facts takes less than a twentieth of the optimisation in both memories.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from tabulate import tabulate

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.algebra.system import Columns, Memory, Pair, fold
from lifelong_edit.algebra.telemetry import BaseSize, risks, telemetry
from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.editing.keys import collect_keys, prefixed
from lifelong_edit.editing.second_moments import beside_model, read_moment
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings, optimise_targets
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests

BATCH, REPEATS = 10, 5
SHARE = 0.05  # of a batch's target optimisation
RIDGE = 0.1  # of the mean key mass


def seconds(act: Callable[[], object]) -> float:
    """How long `act` takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def filled(
    editable: EditableModel, layer: int, metric: Metric, requests: Sequence[EditRequest], contexts: Sequence[str]
) -> list[Columns]:
    """Batches of columns with the keys of these facts and random residuals."""
    generator, d_out = torch.Generator().manual_seed(0), editable.shape(layer)[0]
    keys = collect_keys(editable, requests, layer, prefixed(contexts))  # [d_in, n]
    residuals = torch.randn(d_out, len(requests), generator=generator, dtype=torch.float64)
    ridge = torch.full((len(requests),), RIDGE * metric.mean_key_mass, dtype=torch.float64)
    names = tuple(str(i) for i in range(len(requests)))
    every = Columns(keys, metric.whiten(keys), residuals, ridge, names)
    places = range(len(requests))
    return [every.take(places[start : start + BATCH]) for start in places[::BATCH]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--facts", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    editable = EditableModel.open(chosen.model, torch.float32)
    layer = max(EditorSettings(target=TargetSettings()).resolved(editable))
    contexts = sample_contexts(editable, EditorSettings().contexts, chosen.seed)
    requests = edit_requests(World.generate(BUNDLED_SEED), chosen.facts, chosen.seed)
    moment, _ = read_moment(beside_model(chosen.model, layer).read_bytes())
    metric = Metric.from_moment(moment, EditorSettings().shrinkage)
    batches = filled(editable, layer, metric, requests, contexts)
    base, groups = BaseSize.of(editable.weight(layer), metric), [[request] for request in requests[-BATCH:]]
    optimise = partial(optimise_targets, editable, groups, layer, contexts, TargetSettings())

    rows = []
    for memory in Memory:
        pairs, slots = fold(batches, memory), [str(i) for i in range(len(requests))]

        def watch(pairs: list[Pair] = pairs, memory: Memory = memory, slots: list[str] = slots) -> None:
            risks(telemetry(batches, pairs, memory, slots, base))

        optimise()
        watch()
        times = [(seconds(watch), seconds(optimise)) for _ in range(REPEATS)]
        watched, optimised = (median(taken) for taken in zip(*times, strict=True))
        rows.append([memory.value, chosen.facts, 1000 * watched, 1000 * optimised, watched / optimised])
    headers = ["memory", "facts", "telemetry, ms", f"targets of {BATCH}, ms", "ratio"]
    print(tabulate(rows, headers, floatfmt=("", "", ".1f", ".1f", ".3f")))
    return 0 if all(row[-1] < SHARE for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

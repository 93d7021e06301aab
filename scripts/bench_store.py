"""What a store costs as it fills: seconds of open, commit, revert and verify, and bytes a fact.

A real store is filled by the real engine in batches of 10, save that the wanted changes of the outputs are random
vectors, so that nothing is optimised while it fills. The target optimisation that a batch of 10 costs on top is
measured with real facts. The algebra of a revert is its part between the request and the commit: which facts and
columns stand then, the new weights, the recorded delta. Seconds are medians; a store is opened with a model that is
loaded already. The exit status is 1 unless, up to 300 facts, the algebra of a revert takes less than a tenth of a
batch's target optimisation.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from tabulate import tabulate

from lifelong_edit.cli.options import hide_loading_bars
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import Targets, TargetSettings, optimise_targets
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.change.bodies import revert_body
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests

BATCH, REPEATS = 10, 5
SHARE, HELD_UP_TO = 0.1, 300  # of a batch's target optimisation; facts
LLAMA_3_8B = (4096, 14336)  # d_out, d_in of mlp.down_proj
COLUMNS = [
    "facts", "open", "open, no cache", "commit", "revert", "its algebra", "targets of a batch", "ratio",
    "verify", "verify, replay",
]  # fmt: skip
Row = dict[str, float]


@contextmanager
def random_targets(seed: int) -> Iterator[None]:
    """In this block the engine writes random vectors in place of optimised targets."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(editable: EditableModel, groups: Sequence[object], layer: int, *_: object) -> Targets:
        delta = torch.randn(editable.shape(layer)[0], len(groups), generator=generator, dtype=torch.float64)
        return Targets(delta, (0.0,) * len(groups), (0,) * len(groups))

    with patch("lifelong_edit.kinds.kernel.write.optimise_targets", drawn):
        yield


def seconds(act: Callable[[], object]) -> float:
    """How long `act` takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def filled(folder: Path, model: Path, requests: Sequence[EditRequest], sizes: Sequence[int]) -> Iterator[Row]:
    """Fill a store in `folder`; at every size wanted, give what commits took and what a copy was measured to cost."""
    base, store, commits = EditableModel.open(model, torch.float32), folder / "filling", []
    with LifelongEditor.create(store, model, dtype=torch.float32) as editor:
        empty = size_of(store)
        for start in range(0, max(sizes), BATCH):
            batch = requests[start : start + BATCH]
            commits.append(seconds(partial(editor.apply, batch)))
            if (count := start + len(batch)) in sizes:
                row = {"facts": count, "commit": median(commits[-REPEATS:])}
                row["bytes a fact"] = (size_of(store) - empty) / count
                yield row | measured(Path(shutil.copytree(store, folder / str(count))), base, requests)


def measured(store: Path, editable: EditableModel, requests: Sequence[EditRequest]) -> Row:
    """Seconds of what one can do with a store whose base is `editable`, which is left as it was."""
    base = {n: editable.weight(n) for n in EditorSettings(target=TargetSettings()).resolved(editable)}

    def opened(cached: bool) -> float:
        for pairs in [] if cached else (store / "cache").iterdir():
            pairs.unlink()
        editor: list[LifelongEditor] = []
        taken = seconds(lambda: editor.append(LifelongEditor.open(store, editable)))
        editor[0].close()
        editable.set_weights(base)
        return taken

    row = {"open, no cache": median(opened(cached=False) for _ in range(REPEATS))}
    row["open"] = median(opened(cached=True) for _ in range(REPEATS))
    with LifelongEditor.open(store, editable) as editor:
        row |= reverted(editor, base, requests)
        row["verify"] = median(seconds(editor.verify) for _ in range(REPEATS))
        row["verify, replay"] = seconds(partial(editor.verify, replay=True))
    editable.set_weights(base)
    return row


def reverted(editor: LifelongEditor, base: dict[int, torch.Tensor], requests: Sequence[EditRequest]) -> Row:
    """Seconds of single reverts spread over the ledger, which are taken back, each beside a batch's targets."""
    ids = list(editor.facts())
    layer, settings = max(base), TargetSettings()
    times: dict[str, list[float]] = {"its algebra": [], "revert": [], "targets of a batch": []}
    for start in range(0, REPEATS * BATCH, BATCH):
        id = ids[(2 * start + BATCH) * len(ids) // (2 * REPEATS * BATCH)]
        groups = [[request] for request in requests[start : start + BATCH]]
        head = editor.standing
        body = revert_body(head.history, [id])
        times["its algebra"].append(seconds(partial(editor.kind.write, head, "revert", body)))
        with editor.editable.rewritten(base):
            optimise = partial(optimise_targets, editor.editable, groups, layer, editor.contexts, settings)
            times["targets of a batch"].append(seconds(optimise))
        times["revert"].append(seconds(partial(editor.revert, id, probe=0)))
        editor.restore(id, probe=0)
    row = {name: median(taken) for name, taken in times.items()}
    return {**row, "ratio": row["its algebra"] / row["targets of a batch"]}


def size_of(store: Path) -> int:
    """Bytes of the ledger and of all records."""
    files = [store / "ledger.db", *(store / "objects").rglob("*.safetensors")]
    return sum(path.stat().st_size for path in files)


def sizes(name: str, shape: tuple[int, int], found: float | None = None) -> list[object]:
    """Bytes of a fact's part of a record, computed and found with its part of the ledger, and of a dense delta."""
    d_out, d_in = shape
    return [name, d_out, d_in, (3 * d_in + 2 * d_out) * 8, found, d_out * d_in * 4]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--facts", default="100,300,1000", help="at how many facts to measure: multiples of 10")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    hide_loading_bars()
    counts = [int(count) for count in chosen.facts.split(",")]
    requests = edit_requests(World.generate(BUNDLED_SEED), max(REPEATS * BATCH, *counts), chosen.seed)
    print("Random targets while the store fills, so no optimisation in `commit`; batches of 10; seconds.", flush=True)
    with tempfile.TemporaryDirectory() as folder, random_targets(chosen.seed):
        rows = list(filled(Path(folder), chosen.model, requests, counts))
    print(tabulate([[row[column] for column in COLUMNS] for row in rows], COLUMNS, floatfmt=".3f"))
    editable = EditableModel.open(chosen.model)
    shape = editable.shape(max(EditorSettings(target=TargetSettings()).resolved(editable)))
    table = [sizes(chosen.model.name, shape, rows[-1]["bytes a fact"]), sizes("Llama 3 8B", LLAMA_3_8B)]
    headers = ["bytes", "d_out", "d_in", "a fact's record", "on disk", "a dense float32 delta"]
    print("\n" + tabulate(table, headers, floatfmt=",.0f", intfmt=",", missingval="-"))
    return 0 if all(row["ratio"] < SHARE for row in rows if row["facts"] <= HELD_UP_TO) else 1


if __name__ == "__main__":
    sys.exit(main())

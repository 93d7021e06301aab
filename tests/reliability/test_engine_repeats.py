"""The same request gives the same bytes; what the number of threads may change, and what it may not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric, SecondMoment
from lifelong_edit.algebra.system import Columns, Memory, append, fold, materialise
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.kinds.kernel.state import weights_digest
from tests.reliability.engines import base_model
from tests.reliability.syscalls import ROOT
from tests.samples import REQUESTS, new_editor

pytestmark = pytest.mark.reliability
HASH_SEEDS, THREADS = range(5), (1, 2, 4)
APART = 1e-9  # of a solve with other threads, relative to what is changed
D_IN, D_OUT, FACTS, BATCH = 1024, 512, 192, 96


def made(root: Path) -> list[dict[str, object]]:
    """What a new store says of its entries, the time aside, after two edits, a revert and an edit of a shared slot."""
    with new_editor(root, base_model(), targets="live", contexts=2) as editor:
        editor.apply(REQUESTS[:4], reason="a test")
        editor.apply(REQUESTS[4:])
        editor.revert("emile", "ana")
        editor.replace("ada", "Oran")
        bodies = [entry.body for entry in editor.history()]
    files = sorted(path.name for path in root.rglob("*.safetensors") if path.parent.parent.name != "cache")
    return [{k: v for k, v in body.items() if k not in ("time", "prev")} for body in bodies] + [{"files": files}]


def test_the_same_requests_give_the_same_bytes_in_every_process(scratch: Path) -> None:
    code = (
        "import json, pathlib, sys; from tests.reliability.test_engine_repeats import made;"
        "print(json.dumps([made(pathlib.Path(sys.argv[1])), hash('x')]))"
    )

    def run(hash_seed: int) -> tuple[str, int]:
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, str(scratch / f"store-{hash_seed}")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        told, order = json.loads(done.stdout)
        return json.dumps(told), order

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, HASH_SEEDS))
    assert len({order for _, order in found}) == len(HASH_SEEDS), "the hash seeds made no difference"
    assert len({told for told, _ in found}) == 1
    entries = json.loads(found[0][0])
    records = [entry["record"][:8] for entry in entries if entry.get("record")]
    print(f"\n{len(found)} processes: records {records} and all else but the time are the same")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        assert torch.get_num_threads() == count
        yield
    finally:
        torch.set_num_threads(before)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batches() -> list[Columns]:
    """Facts of a layer large enough that the threads share its work."""
    text, keys = normal(2 * D_IN, D_IN, seed=1), normal(D_IN, FACTS, seed=2)
    whitened = Metric.from_moment(SecondMoment(text.T @ text / len(text), len(text)), 0.0).whiten(keys)
    columns = Columns(
        keys,
        whitened,
        normal(D_OUT, FACTS, seed=3),
        torch.full((FACTS,), 0.5 * D_IN).double(),
        tuple(f"fact-{i}" for i in range(FACTS)),
    )
    return [columns.take(list(range(start, start + BATCH))) for start in range(0, FACTS, BATCH)]


@pytest.mark.parametrize("memory", list(Memory))
def test_threads_change_a_solve_by_rounding_and_a_recorded_fold_not_at_all(memory: Memory) -> None:
    base, pairs = normal(D_OUT, D_IN, seed=4).float(), fold(batches(), memory)
    solved, folded = {}, {}
    for count in THREADS:
        with threads(count):
            solved[count] = materialise(base, fold(batches(), memory))
            folded[count] = materialise(base, pairs)
    change = (solved[1] - base.double()).norm()
    apart = {count: float((weight - solved[1]).norm() / change) for count, weight in solved.items()}
    assert max(apart.values()) <= APART
    assert len({weights_digest({"w": weight}) for weight in folded.values()}) == 1
    assert all(torch.equal(weight, folded[1]) for weight in folded.values())
    flipped = {count: int((weight.float() != solved[1].float()).sum()) for count, weight in solved.items()}
    print(
        f"\n{memory.value}: solves at {THREADS} threads differ by {apart}, in {flipped} of {base.numel()} float32 "
        "entries; the fold of the recorded pairs is bit-identical"
    )


def test_a_solve_repeated_is_bit_identical() -> None:
    columns = batches()
    pairs = [append(columns[0], columns[0].nothing(), Memory.joint) for _ in range(3)]
    assert all(torch.equal(pair.left, pairs[0].left) and torch.equal(pair.right, pairs[0].right) for pair in pairs)


def test_a_store_opens_alike_with_any_number_of_threads(scratch: Path) -> None:
    with threads(1):
        made(scratch / "store")
    (scratch / "store" / "cache" / "head.safetensors").unlink()
    weights = {}
    for count in THREADS:
        with threads(count), LifelongEditor.open(scratch / "store", base_model(), read_only=True) as editor:
            weights[count] = editor.state.layers[0].weight
            recorded = editor.head.weights
            assert count > 1 or weights_digest({editor.editable.weight_name(0): weights[1]}) == recorded
    base = base_model().weight(0).double()
    apart = {count: float((w - weights[1]).norm() / (weights[1] - base).norm()) for count, w in weights.items()}
    assert max(apart.values()) <= APART
    print(f"\na store opened with {THREADS} threads: weights differ by {apart}")

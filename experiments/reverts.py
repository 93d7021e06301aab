"""What taking a fact out of a store does, and whether it is what the store promises.

A store is written in batches of 10 and opened again, so that all columns come from its records. Every revert is worked
out as `preview_revert` does it and the weights it leads to are put into the model for a moment; nothing is committed.

a  the weights are those of a fresh fold of the other columns, and of one solve for all of them;
b  base targets: weights and answers are those of a new store that never had the fact;
c  live targets, whose later ones have seen the fact: how far the weights are from those of such a store;
d  the model says again what the fact replaced, the other facts stay; is what the engine predicts what happens?
e  the algebra costs little beside the target optimisation of a batch.

Distances are relative to what all edits change. The exit status is 1 unless every figure keeps its bound.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import cast

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from lifelong_edit.algebra.system import Columns, Memory, fold, materialise, solve_whole
from lifelong_edit.cli.options import hide_loading_bars
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings, optimise_targets
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.change.bodies import revert_body
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel.state import EditedLayer, KernelState
from lifelong_edit.kinds.kernel.write import KernelChange
from lifelong_edit.tracking.generation import answer
from lifelong_edit.tracking.scores import Score, score_continuations
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from results import spearman

BATCH, OTHERS, PROBES, LIVE, REPEATS = 10, 60, 200, 100, 7
# Law (b) wants a ridge that does not depend on other facts.
FIXED = EditorSettings(target=TargetSettings(), ridge=0.5, halvings=0)
Requests = Sequence[EditRequest]
Row = tuple[str, float, float | None]  # what was measured, the figure, the most it may be


@dataclass(frozen=True)
class Written:
    """A store opened again after it was written, with one edited layer."""

    editor: LifelongEditor

    @property
    def number(self) -> int:
        return max(self.state.layers)

    @property
    def state(self) -> KernelState:
        return cast(KernelState, self.editor.state)

    @property
    def layer(self) -> EditedLayer:
        return self.state.layers[self.number]

    def revert(self, request: EditRequest) -> tuple[KernelChange, Tensor]:
        """The revert of one fact, worked out, and the weight [d_out, d_in] it leads to."""
        head = self.editor.standing
        change = self.editor.kind.write(head, "revert", revert_body(head.history, [request.resolved_id()]))
        own = cast(KernelChange, change)
        return own, own.state.layers[self.number].weight

    def showing(self, weight: Tensor) -> AbstractContextManager[None]:
        """The live model has this weight, in this block."""
        return self.editor.editable.rewritten({self.number: weight})

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        return score_continuations(self.editor.model, self.editor.editable.tokenizer, pairs)

    def apart(self, weight: Tensor, expected: Tensor) -> float:
        """The distance of two weights, relative to what the expected one changes in the base."""
        return float((weight - expected).norm() / (expected - self.layer.base.double()).norm())


@contextmanager
def written(
    model: Path, stream: Requests, settings: EditorSettings = FIXED, without: EditRequest | None = None
) -> Iterator[Written]:
    """A store with this stream, for this block; one fact can be left out, the others keep their batches."""
    batches = [stream[start : start + BATCH] for start in range(0, len(stream), BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        with LifelongEditor.create(store, model, settings, dtype=torch.float32) as editor:
            for batch in tqdm(batches, desc=f"{settings.memory.value}, {settings.targets}", unit="batch", leave=False):
                editor.apply([request for request in batch if request is not without])
        with LifelongEditor.open(store, model, dtype=torch.float32) as editor:
            yield Written(editor)


def exactness(store: Written, sample: Requests) -> list[Row]:
    """Law (a): every revert against other ways to the same weights."""
    layer, memory = store.layer, store.editor.settings.memory
    worst = {
        "a fresh fold of the others": 0.0,
        "one solve for all others": 0.0,
        "the head plus the recorded delta": 0.0,
    }
    for request in tqdm(sample, desc="a", unit="revert", leave=False):
        change, weight = store.revert(request)
        kept = [
            columns.take([i for i, name in enumerate(columns.names) if name != request.resolved_id()])
            for columns in layer.columns.values()
        ]
        ways = (
            materialise(layer.base, fold(kept, memory, float("inf"))),
            layer.base.double() + solve_whole(kept, memory) @ Columns.concatenate(kept).whitened.T,
            layer.weight + change.deltas[layer.name].dense(),
        )
        worst |= {name: max(worst[name], store.apart(weight, way)) for name, way in zip(worst, ways, strict=True)}
    return [(f"a  {len(sample)} reverts: farthest from {name}", far, 1e-9) for name, far in worst.items()]


def no_trace(store: Written, model: Path, stream: Requests, sample: Requests, prompts: Sequence[str]) -> list[Row]:
    """Law (b): reverts against new stores that never had the fact, keys and targets computed anew."""
    farthest, different = 0.0, 0
    for request in sample:
        _, weight = store.revert(request)
        with store.showing(weight):
            said = [answer(store.editor.editable, prompt) for prompt in prompts]
        with written(model, stream, store.editor.settings, request) as never:
            farthest = max(farthest, store.apart(weight, never.layer.weight))
            now = [answer(never.editor.editable, prompt) for prompt in prompts]
        different += sum(one != other for one, other in zip(said, now, strict=True))
    return [
        (f"b  {len(sample)} reverts: farthest from a store that never had it", farthest, 1e-4),
        (f"b  greedy answers that differ from its, of {len(sample)} x {len(prompts)}", different, 0),
    ]


def gap(model: Path, stream: Requests, count: int, settings: EditorSettings) -> list[Row]:
    """(c): the same with live targets or eased ridges, which depend on the facts that were there when one was written.

    Efficacy is that of all other facts, and `before` the head, nothing reverted.
    """
    gaps, before, lost = [], [], []
    with written(model, stream, settings) as store:
        for request in tqdm(stream[len(stream) // count // 2 :: len(stream) // count], desc="c", leave=False):
            _, weight = store.revert(request)
            asked = [(other.question, other.target_new) for other in stream if other is not request]
            with written(model, stream, settings, request) as never:
                gaps.append(store.apart(weight, never.layer.weight))
                before.append(store.apart(store.layer.weight, never.layer.weight))
                right = fmean(score.argmax for score in never.scores(asked))
            with store.showing(weight):
                lost.append(right - fmean(score.argmax for score in store.scores(asked)))
    ridges = "eased" if settings.halvings else "fixed"
    kind = f"{settings.memory.value} memory, {settings.targets} targets, {ridges} ridges"
    about = f"c  {kind}, {len(gaps)} reverts of {len(stream)} facts:"
    return [
        (f"{about} distance from the stream without it, mean", fmean(gaps), None),
        (f"{about} the largest", max(gaps), None),
        (f"{about} the same before the revert, mean", fmean(before), None),
        (f"{about} points of efficacy below it, mean", 100 * fmean(lost), None),
    ]


def recall(store: Written, stream: Requests, sample: Requests, untouched: Sequence[tuple[str, str]]) -> list[Row]:
    """(d): each fact reverted alone. What happens to another is how far its target's log-probability moves."""
    rng, recalled, changed, foretold, found = random.Random(0), [], [], [], []
    rate = fmean(score.argmax for score in store.scores(untouched))
    replaced = [(request.question, request.target_true or "") for request in sample]
    with store.showing(store.layer.base):
        known = fmean(score.argmax for score in store.scores(replaced))
    for request, original in zip(tqdm(sample, desc="d", unit="revert", leave=False), replaced, strict=True):
        change, weight = store.revert(request)
        others = [other for other in stream if other is not request]
        others = rng.sample(others, min(OTHERS, len(others)))
        asked = [(other.question, other.target_new) for other in others]
        before = store.scores(asked)
        with store.showing(weight):
            *after, own = store.scores([*asked, original])
        recalled.append(own.argmax)
        changed.append(abs(fmean(b.argmax for b in before) - fmean(a.argmax for a in after)))
        shifts = {shift.fact: shift.predicted for shift in store.editor.foretold(change).shifts}
        foretold += [shifts[other.resolved_id()] for other in others]
        found += [abs(a.nll - b.nll) for a, b in zip(after, before, strict=True)]
    about = f"d  {len(sample)} reverts:"
    return [
        ("d  untouched recall of the store, %", 100 * rate, None),
        (f"{about} recall of what they replaced, % (base model: {100 * known:.1f})", 100 * fmean(recalled), None),
        (f"{about} points of it below untouched recall", 100 * (rate - fmean(recalled)), 2.0),
        (f"{about} points by which the efficacy of {len(others)} others changes, mean", 100 * fmean(changed), 1.0),
        (f"{about} rank correlation of predicted and measured change", spearman(foretold, found), None),
    ]


def cost(store: Written, stream: Requests) -> list[Row]:
    """(e): seconds of a revert's algebra and of the target optimisation of a batch, in turn."""
    editor, algebra, targets = store.editor, [], []
    for turn in range(REPEATS):
        start = time.perf_counter()
        store.revert(stream[(2 * turn + 1) * len(stream) // (2 * REPEATS)])
        algebra.append(time.perf_counter() - start)
        groups = [[request] for request in stream[turn * BATCH : (turn + 1) * BATCH]]
        with store.showing(store.layer.base):
            start = time.perf_counter()
            optimise_targets(editor.editable, groups, store.number, editor.contexts, TargetSettings())
            targets.append(time.perf_counter() - start)
    return [
        (f"e  seconds of the algebra of a revert from {len(stream)} facts, median", median(algebra), None),
        (f"e  seconds of the targets of a batch of {BATCH}, median", median(targets), None),
        ("e  ratio of the two", median(algebra) / median(targets), 0.1),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--facts", type=int, default=300, help="at least 100")
    parser.add_argument("--quick", action="store_true", help="60 reverts for a, 1 for b, 2 for c instead of all, 3, 10")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    hide_loading_bars()
    model, count, rng = chosen.model, chosen.facts, random.Random(chosen.seed)
    exact, never, live = (60, 1, 2) if chosen.quick else (count, 3, 10)
    world = World.generate(BUNDLED_SEED)
    stream, untouched = edit_requests(world, count, chosen.seed), untouched_facts(world, 400, count, chosen.seed)
    prompts = [prompt for prompt, _ in untouched[: PROBES // 2]]
    prompts += [request.question for request in rng.sample(stream, PROBES // 2)]
    with written(model, stream) as store:
        rows = exactness(store, rng.sample(stream, exact))
        rows += no_trace(store, model, stream, rng.sample(stream, never), prompts)
        for memory in Memory:
            rows += gap(model, stream[:LIVE], live, replace(FIXED, memory=memory, targets="live"))
        rows += gap(model, stream[:LIVE], live, EditorSettings(target=TargetSettings()))
        rows += recall(store, stream, rng.sample(stream, 50), untouched)
        rows += cost(store, stream)
    kept = [bound is None or figure <= bound for _, figure, bound in rows]
    table = [[*row, "" if row[2] is None else fine] for row, fine in zip(rows, kept, strict=True)]
    print(tabulate(table, ["", "measured", "at most", "kept"], floatfmt=".3g"))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())

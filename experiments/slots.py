"""Several facts about one subject: 300 edits, then 300 more about the same people with other relations.

With slots (joint and batch memory) a second fact about a subject shares the key of the first and gets a value that was
optimised for both; the published procedure (batch memory, every fact a column of its own) writes over what it wrote
before. Prompts begin with the subject, so both facts of a person have one key. Prints argmax efficacy of the first and
of the second half when all is written, untouched recall, and whether reverting the second half gives the digest
recorded before it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from tabulate import tabulate
from tqdm import tqdm

from lifelong_edit.algebra.system import Columns, Memory, Pair, append, materialise
from lifelong_edit.editing.keys import prefixed
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import TargetSettings, optimise_targets
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel.kernel import Kernel
from lifelong_edit.kinds.kernel.write import LayerState, spread
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.scores import argmax_rate
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import split_people, untouched_facts

BATCH = 10
HEADERS = ["procedure", "EA first", "EA second", "EA all", "untouched", "reverting the second half"]


@dataclass(frozen=True)
class Stream:
    """Two facts about every person, and facts about people whom nobody edits."""

    first: list[EditRequest]
    second: list[EditRequest]
    untouched: list[tuple[str, str]]

    @classmethod
    def of(cls, count: int, seed: int) -> Stream:
        """Counterfactual answers to two relations of `count` people, asked by prompts that begin with the subject."""
        world, rng = World.generate(BUNDLED_SEED), random.Random(f"slots {seed}")
        facts = world.facts_by_subject()
        halves: tuple[list[EditRequest], list[EditRequest]] = ([], [])
        for person in split_people(world, count, seed)[0]:
            for half, fact in zip(halves, rng.sample(facts[person], 2), strict=False):
                relation = world.relation(fact)
                prompts = [text for _, text in relation.templates if text.startswith("{}")]
                other = rng.choice([value for value in world.objects(relation) if value != fact.object])
                half.append(EditRequest(rng.choice(prompts), person, other, target_true=fact.object))
        return cls(*halves, untouched_facts(world, 400, count, seed))

    def figures(self, editable: EditableModel) -> list[float]:
        """Argmax efficacy of both halves and of all, and untouched recall."""
        model, tokenizer = editable.model, editable.tokenizer
        asked = [[(r.question, r.target_new) for r in half] for half in (self.first, self.second)]
        sets = [*asked, asked[0] + asked[1], self.untouched]
        return [argmax_rate(model, tokenizer, pairs) for pairs in sets]


def batches(requests: Sequence[EditRequest], name: str) -> tqdm[list[EditRequest]]:
    """The requests in micro-batches, with a bar."""
    return tqdm([list(requests[i : i + BATCH]) for i in range(0, len(requests), BATCH)], desc=name, unit="batch")


def with_slots(model: Path, stream: Stream, settings: EditorSettings) -> list[object]:
    """The row of the engine's own procedure."""
    name = f"slots, {settings.memory.value}, {settings.targets}"
    with (
        tempfile.TemporaryDirectory() as folder,
        LifelongEditor.create(Path(folder) / "store", model, settings, dtype=torch.float32) as editor,
    ):
        for batch in batches(stream.first, name):
            editor.apply(batch)
        before = editor.head
        for batch in batches(stream.second, name):
            editor.apply(batch)
        figures = stream.figures(editor.editable)
        after = editor.revert(to=before.seq, probe=0).entry
        same = after is not None and after.weights == before.weights
        return [name, *figures, "the same digest" if same else "ANOTHER DIGEST"]


def without_slots(model: Path, stream: Stream, settings: EditorSettings, method_ridge: float) -> list[object]:
    """The row of the published procedure: live targets, every fact on its own, earlier batches as finished."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LifelongEditor.create(Path(folder) / "store", model, settings, dtype=torch.float32) as editor,
    ):
        editable, kernel = editor.editable, cast(Kernel, editor.kind)
        ((layer, state),) = kernel.base.layers.items()
        ridge = method_ridge * kernel.metrics[layer].mean_key_mass
        pairs = [Pair.empty(*state.base.shape)]

        def place(_layer: int, columns: Columns) -> torch.Tensor:
            pairs.append(append(columns, Pair.concatenate(pairs), Memory.batch, settings.amplification_limit))
            return materialise(state.base, pairs)

        for batch in batches([*stream.first, *stream.second], "no slots, batch, live"):
            delta = optimise_targets(editable, [[r] for r in batch], layer, editor.contexts, TargetSettings()).delta
            ridges = torch.full((len(batch),), ridge, dtype=torch.float64)
            before = LayerState(state.base, kernel.metrics[layer], Pair.concatenate(pairs), ridges, {})
            names = [request.subject for request in batch]
            spread(editable, batch, names, delta, False, {layer: before}, prefixed(editor.contexts), place)
            editable.set_weight(layer, materialise(state.base, pairs))
        return ["no slots, batch, live", *stream.figures(editable), ""]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--people", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    stream, default = Stream.of(arguments.people, arguments.seed), EditorSettings(target=TargetSettings())
    live = replace(default, memory=Memory.batch, targets="live")
    rows: list[Callable[[], list[object]]] = [
        lambda: with_slots(arguments.model, stream, default),
        lambda: with_slots(arguments.model, stream, live),
        lambda: without_slots(arguments.model, stream, live, 0.5),
    ]
    print(tabulate([row() for row in rows], HEADERS, floatfmt=".3f"))


if __name__ == "__main__":
    main()

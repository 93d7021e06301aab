"""NaN, infinity and ill-conditioned systems: an edit is right, or it is refused and nothing was changed."""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric, SecondMoment
from lifelong_edit.editing.rows import FrozenRows
from lifelong_edit.editing.second_moments import beside_model, moment_bytes
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.targets import Targets
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import ModelError, SolveError
from lifelong_edit.kinds.kernel import write as spread
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.model.hooks import Seen
from lifelong_edit.store import KernelPart, KernelRecord
from tests.reliability.engines import Prepared, base_model, state_of
from tests.samples import QUICK, REQUESTS

pytestmark = pytest.mark.reliability
VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
FIRST, NEXT = REQUESTS[:2], REQUESTS[2:5]
Poison = Callable[[LifelongEditor, float], AbstractContextManager[list[int]]]
"""Puts a value into one entry of something the edit computes with; the list grows when it was used."""


def struck(tensor: Tensor, value: float) -> Tensor:
    """The tensor with the value in one entry, far from its first."""
    changed = tensor.detach().clone()
    changed.view(-1)[changed.numel() * 2 // 3] = value
    return changed


@contextmanager
def in_keys(editor: LifelongEditor, value: float) -> Iterator[list[int]]:
    fired: list[int] = []

    def seen_input(seen: Seen) -> Tensor:
        fired.append(1)
        inputs = plain(seen).clone()
        inputs[-1, :, 7] = value  # of the last row, at every token
        return inputs

    plain = Seen.input.fget
    with patch.object(Seen, "input", property(seen_input)):
        yield fired


@contextmanager
def in_residual(editor: LifelongEditor, value: float) -> Iterator[list[int]]:
    fired: list[int] = []

    def optimised(*arguments: Any) -> Any:
        fired.append(1)
        found = plain(*arguments)
        return replace(found, delta=struck(found.delta, value))

    plain = spread.optimise_targets
    with patch.object(spread, "optimise_targets", optimised):
        yield fired


@contextmanager
def in_second_moment(editor: LifelongEditor, value: float) -> Iterator[list[int]]:
    fired: list[int] = []

    def whiten(metric: Metric, *arguments: Any) -> Tensor:
        fired.append(1)
        return plain(replace(metric, factor=struck(metric.factor.T.contiguous(), value).T), *arguments)

    plain = Metric.whiten
    with patch.object(Metric, "whiten", whiten):
        yield fired


@contextmanager
def in_gradients(editor: LifelongEditor, value: float) -> Iterator[list[int]]:
    fired: list[int] = []

    def loss(rows: FrozenRows, delta: Tensor, kl: float) -> Tensor:
        if delta.requires_grad:
            delta.register_hook(lambda gradient: (fired.append(1), struck(gradient, value))[1])
        return plain(rows, delta, kl)

    plain = FrozenRows.loss
    with patch.object(FrozenRows, "loss", loss):
        yield fired


@contextmanager
def in_parameters(editor: LifelongEditor, value: float) -> Iterator[list[int]]:
    matrix = editor.editable.block(1).mlp.c_fc.weight
    with torch.no_grad():
        matrix.copy_(struck(matrix, value))
    yield [1] * bool(~matrix.isfinite().all())


PLACES: dict[str, Poison] = {
    "keys": in_keys,
    "residual": in_residual,
    "C": in_second_moment,
    "gradients": in_gradients,
    "parameters": in_parameters,
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_finite_is_refused_and_changes_nothing(place: str, value: str, scratch: Path) -> None:
    with LifelongEditor.open(Prepared(scratch).store(), base_model()) as editor:
        editor.apply(FIRST)
        clean = state_of(editor)
        with PLACES[place](editor, VALUES[value]) as fired:
            before = state_of(editor)
            with pytest.raises(SolveError) as refusal:
                editor.apply(NEXT)
        assert fired and state_of(editor) == before
        assert before == clean or place == "parameters"
        if before == clean:
            assert editor.apply(NEXT).entry is not None
    print(f"\n{value} in {place}: {str(refusal.value)[:100]}")


def test_what_is_finite_here_and_not_in_the_model_changes_nothing(scratch: Path) -> None:
    with LifelongEditor.open(Prepared(scratch).store(), base_model()) as editor:
        editor.apply(FIRST)
        before = state_of(editor)
        with in_residual(editor, 1e60) as fired, pytest.raises(ModelError, match="not finite") as refusal:
            editor.apply(NEXT)
        assert fired and state_of(editor) == before
    print(f"\n1e60 in residual: {refusal.value}")


D = 64
NAME = "transformer.h.0.mlp.c_proj.weight"
RESIDUAL_LIMIT, CONDITION_LIMIT = 1e-6, 1e12
METHODS = ("memit", "emmet")
ROOM = 0.1  # of the limit: up to there no ordinary key may be refused
CONDITIONS = [1e6, 1e8, 1e10, 9e11, 1e13, 1e14, 1e16, 1e18]
RANKS = [D - 1, int(0.8 * D), 1]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def of_condition(condition: float) -> Tensor:
    basis = torch.linalg.qr(normal(D, D)).Q
    matrix = basis * torch.logspace(0, -math.log10(condition), D, dtype=torch.float64) @ basis.T
    return (matrix + matrix.T) / 2


def of_rank(rank: int) -> Tensor:
    factors = normal(D, rank)
    return factors @ factors.T / rank


MOMENTS = {f"condition {condition:.0e}": of_condition(condition) for condition in CONDITIONS}
MOMENTS |= {f"rank {rank}": of_rank(rank) for rank in RANKS}


def crafted_keys(moment: Tensor) -> dict[str, Tensor]:
    """Keys [d_in, 2] of two facts: as a model has them, equal, nearly so, and where generic text has nothing."""
    key, other = normal(D, 2).T
    smallest = torch.linalg.eigh(moment).eigenvectors[:, :2]
    return {
        "apart": torch.stack([key, other], dim=1),
        "equal": torch.stack([key, key], dim=1),
        "nearly equal": torch.stack([key, key + 1e-4 * other], dim=1),
        "all but equal": torch.stack([key, key + 1e-9 * other], dim=1),
        "unheard of": smallest,
        "almost never heard of": moment @ normal(D, 2) + 1e-7 * smallest,
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base as a folder, which second moments can lie beside."""
    folder, editable = tmp_path_factory.mktemp("numbers") / "model", base_model()
    editable.model.save_pretrained(folder)
    editable.tokenizer.save_pretrained(folder)
    return folder


def founded(model: Path, root: Path, moment: Tensor, shrinkage: float) -> LifelongEditor:
    """A store for the model, whose generic text had this second moment."""
    place, about = beside_model(model, 0), {"fingerprint": fingerprint(base_model()), "layer": 0}
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(moment_bytes(SecondMoment(moment, 1000), about))
    return LifelongEditor.create(
        root, model, EditorSettings(layers=(0,), contexts=1, target=QUICK, shrinkage=shrinkage, norm_limit=None)
    )


def trusted(model: Path, scratch: Path, moment: Tensor) -> tuple[float, str]:
    """The least shrinkage that the engine takes, following its advice, and what it said of less."""
    shrinkage, said = 0.0, "taken"
    for _ in range(3):
        try:
            founded(model, scratch / f"found-{shrinkage:g}", moment, shrinkage).close()
            return shrinkage, said
        except SolveError as refusal:
            said = str(refusal)
            estimate, advice = re.findall(r"condition about (\S+) at shrinkage .*try shrinkage ([\d.e+-]+)\.$", said)[0]
            assert float(estimate) > CONDITION_LIMIT and float(advice) > shrinkage
            shrinkage = float(advice)
    raise AssertionError(f"the advice does not help: {said}")


@pytest.mark.parametrize("name", MOMENTS)
def test_an_ill_conditioned_edit_is_right_or_refused(name: str, model: Path, scratch: Path) -> None:
    moment = MOMENTS[name]
    shrinkage, said = trusted(model, scratch, moment)
    shrunk = (1 - shrinkage) * moment + shrinkage * moment.trace() / D * torch.eye(D, dtype=torch.float64)
    assert (shrinkage > 0) == (np.linalg.cond(moment.numpy()) > CONDITION_LIMIT)
    assert np.linalg.cond(shrunk.numpy()) < 1.1 * CONDITION_LIMIT
    right, refused, worst, largest = 0, Counter[str](), 0.0, 0.0
    for number, (kind, method, same) in enumerate(product(crafted_keys(moment), METHODS, (True, False))):
        root = Path(shutil.copytree(scratch / f"found-{shrinkage:g}", scratch / f"store-{number}"))
        with LifelongEditor.open(root, base_model()) as editor:
            with in_system(crafted_keys(moment)[kind], same):
                part = tried(editor, method)
            if part is None:
                refused[kind] += 1
            else:
                residual, size = checked(part, shrunk, editor.settings.amplification_limit)
                worst, largest, right = max(worst, residual), max(largest, size), right + 1
    assert right + refused.total() == 24 and refused["equal"]
    assert not refused["apart"] or np.linalg.cond(shrunk.numpy()) > ROOM * CONDITION_LIMIT
    print(
        f"\n{name}: shrinkage {shrinkage:g} ({said[:90]}); {right} edits right, refused {dict(refused)}, largest "
        f"relative residual {worst:.1e}, largest |D|/|W| {largest:.1e}"
    )


@contextmanager
def in_system(keys: Tensor, same: bool) -> Iterator[None]:
    """In this block facts have these keys, and ask for the same or for the opposite."""
    wanted = normal(32)
    delta = torch.stack([wanted, wanted if same else -wanted], dim=1)
    with (
        patch.object(spread, "collect_keys", lambda *_: keys.clone()),
        patch.object(spread, "optimise_targets", lambda *_: Targets(delta, (0.0, 0.0), (1, 1))),
    ):
        yield


def tried(editor: LifelongEditor, method: str) -> Any:
    """The part of the record of an edit of two facts; None when it was refused, and then nothing changed."""
    before = state_of(editor)
    try:
        entry = editor.apply(FIRST, method=method).entry
    except SolveError as refusal:
        assert re.search("ridge|shrinkage", str(refusal)) and "ada" in str(refusal), refusal
        assert state_of(editor) == before
        return None
    assert entry is not None
    return KernelRecord.from_bytes(editor.store.objects.get(str(entry.record))).parts[NAME]


def checked(part: KernelPart, moment: Tensor, limit: float) -> tuple[float, float]:
    """The relative residual of the conditions that the smallest delta meets, and its size against the weight.

    They are C Q = K, D (K Q' + ridge I) = R Q', and that D's rows lie in the span of Q. On generic text the delta is no
    larger than `limit` times what is asked for, by the mass of each fact's key.
    """
    assert part.keys is not None and part.whitened is not None and part.base_residuals is not None
    keys, whitened, asked, c = part.keys, part.whitened, part.base_residuals, moment.numpy()
    delta = part.left @ part.right.T
    errors = list(np.linalg.norm(c @ whitened - keys, axis=0) / np.linalg.norm(keys, axis=0))
    off = float(np.max(part.ridge)) * delta + (delta @ keys - asked) @ whitened.T
    errors.append(np.linalg.norm(off) / np.linalg.norm(asked) / np.linalg.norm(whitened))
    span = np.linalg.qr(whitened)[0]
    errors.append(np.linalg.norm(delta - delta @ span @ span.T) / np.linalg.norm(delta))
    assert max(errors) <= RESIDUAL_LIMIT, errors
    sizes, masses = np.linalg.norm(asked, axis=0), (keys * whitened).sum(axis=0)
    bound = limit * np.sqrt((np.maximum(sizes, np.sqrt((sizes**2).mean())) ** 2 / masses).sum())
    assert np.sqrt(np.trace(delta @ c @ delta.T)) <= bound
    return float(max(errors)), float(np.linalg.norm(delta)) / float(base_model().weight(0).norm())

"""ROME, MEMIT and EMMET are one solver with different ridges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lifelong_edit.editing.keys import collect_keys, prefixed
from lifelong_edit.editing.targets import optimise_targets
from lifelong_edit.errors import RequestError
from lifelong_edit.methods import ClosedForm, method_named, methods
from tests.editing.test_spread import fresh_states, spread_out
from tests.samples import CONTEXTS, QUICK, REQUESTS, lively_editable, new_editor


def test_the_registry_knows_the_three_methods_by_their_names() -> None:
    assert {"rome", "memit", "emmet"} <= set(methods())
    assert all(method_named(name).name == name for name in methods())


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'nudge'.*emmet, memit, rome"):
        method_named("nudge")


def test_rome_is_emmet_for_one_fact(tmp_path: Path) -> None:
    weights = []
    for method in ("rome", "emmet"):
        with new_editor(tmp_path / method, lively_editable("gpt2")) as editor:
            editor.apply(REQUESTS[:1], method=method)
            weights.append(editor.editable.weight(0))
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], lively_editable("gpt2").weight(0))


def test_rome_refuses_two_facts_and_changes_nothing(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", lively_editable("gpt2")) as editor:
        with pytest.raises(RequestError, match="1 fact at a time"):
            editor.apply(REQUESTS[:2], method="rome")
        assert [entry.kind for entry in editor.history()] == ["init"]


def test_damped_emmet_is_the_ridge_w_times_lambda() -> None:
    """The published form: R (K'C^-1 K / w + lambda_E I)^-1 K'C^-1 / w."""
    weight, damping = 20.0, 0.1
    editable = lively_editable("llama", torch.float64)
    state = fresh_states(editable, {0: weight * damping})[0]
    delta = optimise_targets(editable, [[request] for request in REQUESTS], 0, CONTEXTS, QUICK).delta
    edit = spread_out(editable, REQUESTS, delta, False, {0: state}, CONTEXTS)[0]
    keys = collect_keys(editable, REQUESTS, 0, prefixed(CONTEXTS))
    whitened = torch.linalg.solve(state.metric.matrix, keys)
    system = keys.T @ whitened / weight + damping * torch.eye(len(REQUESTS), dtype=torch.float64)
    expected = delta @ torch.linalg.solve(system, whitened.T / weight)
    torch.testing.assert_close(edit.weight - state.base, expected, rtol=1e-6, atol=1e-9)


def test_a_relative_ridge_counts_in_units_of_the_calibration() -> None:
    method = ClosedForm("soft", relative_ridge=0.5)
    assert method.ridges({"0": 64.0, "1": 10.0}) == {"0": 32.0, "1": 5.0}
    assert method.ridges({"0": 64.0, "1": 10.0}, override=3.0) == {"0": 3.0, "1": 3.0}
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="ridge"):
            method.ridges({"0": 64.0}, override=wrong)

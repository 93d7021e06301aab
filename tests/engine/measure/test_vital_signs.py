"""Drift and vital signs against what they are made of; limits that keep off the noise of harmless edits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.tracking.budget import Budget
from lifelong_edit.tracking.drift import measure_next_tokens, measure_texts, next_log_probabilities
from lifelong_edit.tracking.health import HealthLimits
from lifelong_edit.tracking.scores import Figure, score_continuations
from tests.engine.change.test_budget import ANYTHING, PROMPTS, watched_editor
from tests.engine.editors import digest, edited
from tests.models import SENTENCES
from tests.samples import REQUESTS, lively_editable

HARMLESS = [EditRequest("{} lies in", "Kessel", "Oran"), EditRequest("{} lies by", "Marn", "Tarsis")]


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[LifelongEditor]:
    with watched_editor(tmp_path / "store") as opened:
        yield opened


def test_drift_is_that_of_the_live_model_beside_the_base(editor: LifelongEditor) -> None:
    base = lively_editable("gpt2")
    prompts = [prompt for prompt, _ in editor.history()[0].body["watch"]["facts"]]
    assert set(prompts) <= set(PROMPTS)
    editor.apply(REQUESTS)
    rows = {row["metric"]: row for row in editor.measure(drift=True).body["drift"]}
    texts, before = measure_texts(editor.editable, SENTENCES), measure_texts(base, SENTENCES)
    for name, figure in texts.items():
        assert (rows[name]["value"], rows[name]["base"]) == pytest.approx((figure.value, before[name].value))
        assert rows[name]["low"] < rows[name]["value"] < rows[name]["high"]
    apart = measure_next_tokens(editor.editable, prompts, next_log_probabilities(base, prompts))
    for name, figure in apart.items():
        assert rows[name]["value"] == pytest.approx(figure.value)
    ((weight, read),) = editor.telemetry().items()
    assert rows[f"norm/{weight}"]["value"] == pytest.approx(read.relative_norm)
    delta = editor.editable.weight(0).double() - base.weight(0).double()
    assert rows[f"norm/{weight}"]["value"] == pytest.approx(
        float(delta.norm() / base.weight(0).double().norm()), rel=1e-5
    )
    assert rows[f"stable-rank/{weight}"]["value"] == pytest.approx(
        float((delta.norm() / torch.linalg.matrix_norm(delta, 2)) ** 2), rel=1e-4
    )


def test_tasks_and_figures_from_elsewhere_are_entered_with_their_intervals(editor: LifelongEditor) -> None:
    editor.apply(REQUESTS)
    asked = [(r.question, r.target_new) for r in REQUESTS] + [("The river", "Ösel")]
    entry = editor.measure(tasks={"own": asked}, figures={"glue/acc": Figure(0.75, 100, error=0.05)})
    rows = {row["metric"]: row for row in entry.body["drift"]}
    said = score_continuations(editor.model, editor.editable.tokenizer, asked)
    assert rows["task/own/argmax"]["value"] == pytest.approx(sum(one.argmax for one in said) / len(said))
    base = score_continuations(lively_editable("gpt2").model, editor.editable.tokenizer, asked)
    assert rows["task/own/argmax"]["base"] == pytest.approx(sum(one.argmax for one in base) / len(base))
    assert rows["glue/acc"] == {"metric": "glue/acc", "value": 0.75, "base": None, "low": 0.652, "high": 0.848}


def test_an_unedited_model_has_not_drifted(editor: LifelongEditor) -> None:
    rows = {row["metric"]: row for row in editor.measure(drift=True).body["drift"]}
    assert rows["next-token/kl"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert rows["next-token/agreement"]["value"] == 1.0
    assert rows["perplexity/tokens"]["value"] == rows["perplexity/tokens"]["base"]


def test_a_store_that_watches_nothing_has_the_drift_of_its_weights(tmp_path: Path) -> None:
    with edited(tmp_path / "store") as editor:
        names = {row["metric"].partition("/")[0] for row in editor.measure(drift=True).body["drift"]}
        assert names == {"norm", "preservation", "capacity", "stable-rank", "entropy"}
        assert "drift" not in editor.measure().body


def test_a_reading_has_the_divergence_that_drift_measures(editor: LifelongEditor) -> None:
    commit = editor.apply(REQUESTS, budget=Budget(every=1, limits=ANYTHING))
    assert commit.entry is not None
    signs = commit.entry.body["vital"]["signs"]
    rows = {row["metric"]: row["value"] for row in editor.measure(drift=True).body["drift"]}
    assert signs["kl"] == pytest.approx(rows["next-token/kl"], rel=1e-5)
    assert signs["norm"] == pytest.approx(next(v for name, v in rows.items() if name.startswith("norm/")))


def test_no_limit_is_within_three_times_what_a_harmless_edit_does(editor: LifelongEditor) -> None:
    before, weights = digest_or_base(editor), editor.editable.weight(0)
    plain = editor.limits()
    noise = editor.calibrate(HARMLESS, reason="names that nobody asks for").body["noise"]
    assert torch.equal(editor.editable.weight(0), weights) and digest_or_base(editor) == before
    assert [entry.kind for entry in editor.history()] == ["init", "measure"]
    limits, bounds = editor.limits(), HealthLimits().to_dict()
    for name, value in noise.items():
        amber = getattr(limits, name).amber
        assert amber >= 3 * value and amber >= getattr(plain, name).amber >= bounds[name]["amber"]
    commit = editor.apply(HARMLESS[:1], budget=Budget(every=1, limits=ANYTHING))
    assert commit.entry is not None
    for name, value in commit.entry.body["vital"]["signs"].items():
        assert name == "forgetting" or value <= 1.05 * noise[name] + 1e-9  # the same edit, but for rounding
    with pytest.raises(RequestError, match="harmless"):
        editor.calibrate([])


def digest_or_base(editor: LifelongEditor) -> str:
    return digest(editor) if any(entry.weights for entry in editor.history()) else "base"

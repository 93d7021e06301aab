"""Targets of several layers: the objective against plain passes, keys and sizes against their definitions, the laws."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric, SecondMoment
from lifelong_edit.editing.keys import Form, reworded
from lifelong_edit.editing.layered import (
    STIFFNESS,
    LayeredSettings,
    LayeredTargets,
    answering,
    least_weights,
    optimise_layers,
)
from lifelong_edit.editing.rows import FrozenRows
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.errors import RequestError, SolveError
from lifelong_edit.facts import EditRequest, Message
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.model.hooks import captured, replaced_output
from tests.models import MODEL_TYPES, SENTENCES
from tests.samples import REQUESTS, TEXT, lively_editable, new_editor

POOL = tuple(f"{sentence}. " for sentence in SENTENCES[:5])
GAPS = 8
WORDED = replace(REQUESTS[0], wordings=("The town where {} was born is", "In 1912 {} was born in"))
BORN = EditRequest("Where does {} live? And where was he born? In", "Bo Lund", "Tarsis")
GROUPS = [[WORDED], [REQUESTS[2], BORN], [REQUESTS[3]]]
SETTINGS = LayeredSettings(margin=1.0, steps=6, stride=0.5, clamp=8.0)
LAYERS = (0, 1)
ROOT = Path(__file__).parents[2]


def metrics(editable: EditableModel) -> dict[int, Metric]:
    """A metric for each layer, of made-up keys."""
    found = {}
    for layer in LAYERS:
        width = editable.shape(layer)[1]
        rows = torch.randn(4 * width, width, generator=torch.Generator().manual_seed(layer), dtype=torch.float64)
        found[layer] = Metric.from_moment(SecondMoment(rows.T @ rows / len(rows), len(rows)), 0.0)
    return found


def optimised(
    editable: EditableModel, groups: Sequence[Sequence[EditRequest]], settings: LayeredSettings = SETTINGS
) -> LayeredTargets:
    return optimise_layers(editable, groups, metrics(editable), POOL, settings, {})


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return lively_editable("llama", torch.float64, blocks=3)


def plainly(editable: EditableModel, form: Form, deltas: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities [T, vocabulary] and each layer's input at the subject's last token: one row, no cache."""
    row = form.encoded(editable.texts)

    def adding(delta: Tensor, output: Tensor) -> Tensor:
        moved = output.clone()
        moved[:, row.subject_last] += delta
        return moved

    with ExitStack() as stack, torch.no_grad():
        seen = [stack.enter_context(captured(editable.write(layer))) for layer in LAYERS]
        for layer, delta in zip(LAYERS, deltas, strict=True):
            stack.enter_context(replaced_output(editable.write(layer), lambda output, d=delta: adding(d, output)))
        logits = editable.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
    return logits.log_softmax(-1), [one.input[0, row.subject_last] for one in seen]


@pytest.mark.parametrize("model_type", [kind for kind in MODEL_TYPES if kind != "gemma2"])
def test_frozen_rows_say_what_plain_passes_with_the_deltas_say(model_type: str) -> None:
    """Also where a norm follows what the weight writes; eager attention rounds to float32, so gemma2 stands below."""
    _compared(lively_editable(model_type, torch.float64), 1e-9)


def test_frozen_rows_say_it_behind_a_norm_too() -> None:
    _compared(lively_editable("gemma2"), 1e-4)


def _compared(editable: EditableModel, tolerance: float) -> None:
    forms = SETTINGS.forms(POOL)
    frozen = FrozenRows.run(editable, GROUPS, LAYERS, forms)
    generator = torch.Generator().manual_seed(7)
    deltas = torch.randn(len(LAYERS), len(GROUPS), frozen.d_out, generator=generator, dtype=editable.dtype)
    logs, at = frozen.answers(frozen.by_row(deltas)).logs.gather(1, frozen.questions.tokens[:, None])[:, 0], 0
    keys = frozen.keys([lambda rows: rows.sum(dim=0)] * len(LAYERS), deltas)
    for number, group in enumerate(GROUPS):
        sums = [torch.zeros(editable.shape(layer)[1], dtype=torch.float64) for layer in LAYERS]
        for form in (form for request in group for form in forms(editable.texts, request)):
            plain, inputs = plainly(editable, form, deltas[:, number])
            row = form.encoded(editable.texts)
            for place, token in enumerate(row.target_ids, start=row.prompt_length - 1):
                assert logs[at].item() == pytest.approx(plain[place, token].item(), abs=tolerance)
                at += 1
            sums = [total + own.double() for total, own in zip(sums, inputs, strict=True)]
        for layer in LAYERS:
            assert (keys[layer][:, number] - sums[layer]).norm() <= 10 * tolerance * sums[layer].norm()
    assert at == len(logs)


def test_the_key_of_a_fact_is_the_mean_of_least_mass() -> None:
    """Of all means w with sum 1, its w is least in w' (G + a I) w: brute force over many others."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    metric = Metric.from_moment(SecondMoment(rows.T @ rows / 40, 40), 0.0)
    keys = torch.randn(5, 8, generator=generator, dtype=torch.float64) + 2
    cost = keys @ metric.whiten(keys.T) + 0.5 * metric.mean_key_mass * torch.eye(5, dtype=torch.float64)
    found = torch.linalg.lstsq(keys.T, answering(keys, metric)[:, None]).solution[:, 0]
    assert found.sum().item() == pytest.approx(1)
    for _ in range(200):
        other = torch.randn(5, generator=generator, dtype=torch.float64)
        other = found + 0.1 * (other - other.mean())
        assert found @ cost @ found <= other @ cost @ other


def test_a_fact_with_one_form_has_the_key_of_that_form() -> None:
    metric = Metric.from_moment(SecondMoment(torch.eye(4, dtype=torch.float64), 8), 0.0)
    key = torch.tensor([[1.0, 2.0, 0.0, -1.0]], dtype=torch.float64)
    assert torch.allclose(answering(key, metric), key[0])


@pytest.mark.parametrize("facts_per_pass", [1, 2])
def test_neither_cut_nor_order_nor_company_matters(editable: EditableModel, facts_per_pass: int) -> None:
    whole = optimised(editable, GROUPS)
    cut = optimised(editable, GROUPS[::-1], replace(SETTINGS, facts_per_pass=facts_per_pass))
    alone = optimised(editable, GROUPS[1:2])
    for layer in LAYERS:
        for kind in ("deltas", "keys"):
            found, turned, lone = (getattr(targets, kind)[layer] for targets in (whole, cut, alone))
            assert torch.allclose(turned.flip(1), found, rtol=1e-8, atol=1e-10)
            assert torch.allclose(lone[:, 0], found[:, 1], rtol=1e-8, atol=1e-10)
    assert cut.loss == pytest.approx(whole.loss[::-1])


def lacking(editable: EditableModel, group: Sequence[EditRequest], deltas: Sequence[Tensor], margin: float) -> float:
    """By how much the log-odds of the worst target token in any form of these facts miss the margin: plain passes."""
    worst = 0.0
    for form in (form for request in group for form in SETTINGS.forms(POOL)(editable.texts, request)):
        logs, row = plainly(editable, form, deltas)[0], form.encoded(editable.texts)
        for place, token in enumerate(row.target_ids, start=row.prompt_length - 1):
            others = torch.cat([logs[place, :token], logs[place, token + 1 :]])
            worst = max(worst, margin - float(logs[place, token] - others.logsumexp(0)))
    return worst


def test_what_is_missing_is_what_the_worst_form_lacks_of_the_margin(editable: EditableModel) -> None:
    """With one evaluation nothing moves."""
    targets = optimised(editable, GROUPS, replace(SETTINGS, steps=1, margin=3.0))
    assert not any(delta.any() for delta in targets.deltas.values())
    nothing = [torch.zeros(editable.shape(layer)[0], dtype=torch.float64) for layer in LAYERS]
    for group, loss in zip(GROUPS, targets.loss, strict=True):
        assert loss == pytest.approx(lacking(editable, group, nothing, 3.0), rel=1e-9)


def test_found_deltas_say_every_form_by_about_the_margin() -> None:
    """On a model that knows something: no form lacks much of the margin, and every fact has a form with little more."""
    editable = EditableModel.open(ROOT / "checkpoints" / "tiny-world", torch.float32)
    facts = [
        EditRequest("What does {} cook best? Answer:", "Zuvou Quidirn", "cake", wordings=("For dinner {} wants",)),
        EditRequest("The employer of {} is", "Clutrith Yaiwouck", "Treadroex", wordings=("{} has a desk at",)),
    ]
    settings = LayeredSettings(margin=3.0, drift=50.0, steps=25, coarse=False)
    targets = optimised(editable, [[fact] for fact in facts], settings)
    for number, fact in enumerate(facts):
        deltas = [targets.deltas[layer][:, number].float() for layer in LAYERS]
        assert targets.loss[number] == pytest.approx(lacking(editable, [fact], deltas, 3.0), abs=1e-3)
        assert lacking(editable, [fact], deltas, 3.0) < 0.5 < lacking(editable, [fact], deltas, 4.0)


def test_the_least_weights_are_those_of_the_best_active_set() -> None:
    """Brute force over which rows are active: the only a >= 0 that no other allowed one betters."""
    generator = torch.Generator().manual_seed(5)
    jacobian = torch.randn(3, 4, 9, generator=generator, dtype=torch.float64)
    asked = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    asked[1, 2] = -torch.inf
    gram = jacobian @ jacobian.transpose(1, 2)
    found = least_weights(gram, asked)
    for own, wanted, weights in zip(gram, asked, found, strict=True):
        system = own + STIFFNESS * own.diagonal().max() * torch.eye(4, dtype=torch.float64)
        fitting = []
        for active in (torch.tensor([bool(n >> i & 1) for i in range(4)]) for n in range(16)):
            some = torch.zeros(4, dtype=torch.float64)
            some[active] = torch.linalg.solve(system[active][:, active], wanted[active])
            if (some >= 0).all() and (system @ some >= wanted - 1e-9).all():
                fitting.append(some)
        (best,) = fitting
        assert torch.allclose(weights, best, rtol=1e-6, atol=1e-8)


def test_of_two_ways_that_say_it_the_one_that_costs_less_is_taken(editable: EditableModel) -> None:
    """Where other text feels a layer much more than another, the target is written in the other."""
    eye = torch.eye(editable.shape(0)[0], dtype=torch.float64)
    sizes = []
    for loud in LAYERS:
        shapes = {layer: eye * (0.01 if layer == loud else 1.0) for layer in LAYERS}
        targets = optimise_layers(editable, GROUPS, metrics(editable), POOL, SETTINGS, shapes)
        sizes.append([float(targets.deltas[layer].norm()) for layer in LAYERS])
    (loud_first, quiet_last), (quiet_first, loud_last) = sizes
    assert loud_first < 0.1 * quiet_last and loud_last < 0.1 * quiet_first


def test_deltas_keep_to_the_clamp(editable: EditableModel) -> None:
    settings = replace(SETTINGS, clamp=0.5)
    targets = optimised(editable, GROUPS, settings)
    frozen = FrozenRows.run(editable, GROUPS, LAYERS, SETTINGS.forms(POOL))
    for number, layer in enumerate(LAYERS):
        relative = targets.deltas[layer].norm(dim=0) / frozen.reference[number]
        assert (relative > 0).all() and (relative <= 0.5 * (1 + 1e-6)).all()


def test_the_model_is_left_as_it_was_and_its_faults_are_named(editable: EditableModel) -> None:
    before = fingerprint(editable)
    optimised(editable, GROUPS)
    assert fingerprint(editable) == before
    broken = lively_editable("llama")
    with torch.no_grad():
        broken.write(1).weight[3, 3] = float("nan")
    with pytest.raises(SolveError, match="Bo Lund"):
        optimised(broken, GROUPS)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"stride": 0.0}, {"clamp": -1.0}, {"margin": float("nan")}, {"decay": 1.0}, {"closing": 1.5}],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=r"sense|below"):
        LayeredSettings(**wrong)  # type: ignore[arg-type]


def test_a_store_whose_targets_were_found_by_descent_can_be_opened() -> None:
    """What was chosen of what there still is stays, the rest is left out."""
    former = {"margin": 1.5, "steps": 15, "rate": 0.03, "clamp": 0.3, "cost": 0.73, "kl": 0.0625, "gaps": 2}
    values = {**EditorSettings(layers=(0, 1)).to_dict(), "target": former}
    assert EditorSettings.from_dict(values).target == LayeredSettings(margin=1.5, steps=15, gaps=2)


def test_lower_layers_are_edited_and_never_more_than_there_are() -> None:
    assert LayeredSettings().layers(30) == tuple(range(1, 11)) and LayeredSettings().layers(1) == (0,)
    for depth in range(2, 130):
        layers = LayeredSettings().layers(depth)
        assert 1 <= len(layers) <= 10 and set(layers) <= set(range(depth - 1))


class TestForms:
    """In which texts a fact is fitted."""

    def test_wordings_stand_bare_and_behind_sentences_of_the_pool(self, editable: EditableModel) -> None:
        forms = reworded(POOL, GAPS)(editable.texts, WORDED)
        assert forms[0] == Form(WORDED)
        prompts = [form.request.prompt for form in forms]
        assert [prompts.count(prompt) for prompt in (WORDED.prompt, *WORDED.wordings)] == [1 + len(POOL), 2, 2]
        assert {form.prefix for form in forms} - {""} <= set(POOL)

    def test_without_wordings_prompts_lose_words_but_never_the_subject(self, editable: EditableModel) -> None:
        forms = reworded(POOL, GAPS)(editable.texts, REQUESTS[3])
        gapped = [form for form in forms if form.request.prompt != REQUESTS[3].prompt]
        assert gapped and all(form.request.subject in form.request.question for form in gapped)
        words = set(REQUESTS[3].prompt.split())
        assert all(set(form.request.prompt.split()) < words for form in gapped)

    def test_a_conversation_loses_words_of_the_message_with_the_subject_alone(self, editable: EditableModel) -> None:
        told = Message("user", " Where does the company {} have its headquarters now? ")
        text = f"[system] Be brief and say no more.\n[user] {told.content.strip()}\n[model]\n"
        head, tail = text.split(told.content.strip())
        forms = reworded(POOL, GAPS)(editable.texts, EditRequest(text, "Norvik", "Oran", messages=(told,)))
        gapped = [form.request.prompt for form in forms if form.request.prompt != text]
        assert gapped and all(prompt.startswith(head) and prompt.endswith(tail) for prompt in gapped)
        words = set(told.content.split())
        assert all({"{}"} <= set(p.removeprefix(head).removesuffix(tail).split()) < words for p in gapped)

    def test_equal_slots_draw_equal_prefixes_in_any_company(self, editable: EditableModel) -> None:
        once, again = (reworded(POOL, GAPS)(editable.texts, REQUESTS[2]) for _ in range(2))
        other = reworded(POOL, GAPS)(editable.texts, BORN)
        assert once == again and [form.prefix for form in once[:3]] == [form.prefix for form in other[:3]]

    def test_a_subject_at_the_first_token_stands_behind_a_prefix(self, editable: EditableModel) -> None:
        letters = (EditRequest("{} is the town of", letter, "Bo") for letter in "abcdefghij")
        request = next(one for one in letters if Form(one).encoded(editable.texts).subject_last == 0)
        assert all(
            form.encoded(editable.texts).subject_last > 0 for form in reworded(POOL, GAPS)(editable.texts, request)
        )
        with pytest.raises(RequestError, match="first token"):
            reworded((), GAPS)(editable.texts, request)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("memory", ["joint", "batch"])
def test_a_store_of_layered_targets_keeps_its_promises(model_type: str, memory: str, tmp_path: Path) -> None:
    """Facts go in and come out, exactly; another value may take the place of one; the records give the weights."""
    target = LayeredSettings(steps=4, stride=0.3, clamp=1.0, sensitivity_tokens=200)
    choices = {"layers": LAYERS, "target": target, "contexts": 2, "memory": memory}
    with new_editor(tmp_path / "store", lively_editable(model_type), TEXT, **choices) as editor:
        base, first = editor.state.digest, editor.apply([WORDED, *REQUESTS[1:3]])
        then = editor.state.digest
        assert set(editor.history()[0].body["sensitivity"]) == {"0", "1"}
        editor.apply(REQUESTS[3:5])
        editor.replace(first.facts[0].id, "Oran")
        assert editor.verify(replay=True).problems == ()
        editor.revert(to=first.entry.seq)
        assert editor.state.digest == then
        editor.revert(to=0)
        assert editor.state.digest == base and base != then
    assert new_digest(tmp_path / "store", model_type) == base


def new_digest(folder: Path, model_type: str) -> str:
    """The state of a store that is opened anew."""
    from lifelong_edit import LifelongEditor

    with LifelongEditor.open(folder, lively_editable(model_type)) as editor:
        return editor.state.digest

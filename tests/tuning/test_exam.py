"""An exam counts what an unedited and an edited model answer, by shares and by odds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import continuation, leads, tokens
from lifelong_edit.tuning.exam import Base, Exam, answered, graded
from tests.samples import REQUESTS, TEXT, lively_editable, new_editor

PROMPTS = ("The river", "In 1912 he", "Where does Émile Zorn live? He lives in")
EXAM = Exam(
    facts=tuple(replace(request, id=None, paraphrase_prompts=(f"So {request.question}",)) for request in REQUESTS[:2]),
    sentences=("In 1912 he lives in Oran. ", "The river. "),
    prompts=PROMPTS,
    passages=tuple(TEXT[:2]),
)


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return lively_editable("gpt2")


def test_a_lead_is_that_of_a_plain_forward_pass(editable: EditableModel) -> None:
    rows = [tokens(editable.texts, text)[0] for text in (*PROMPTS, *TEXT[:3])]
    firsts = [number % 3 for number in range(len(rows))]
    wanted = [list(range(first, len(row))) for row, first in zip(rows, firsts, strict=True)]
    for choice in (None, wanted):
        given = leads(editable.model, rows, firsts, choice)
        for row, first, found, asked in zip(rows, firsts, given, wanted, strict=True):
            with torch.no_grad():
                logs = editable.model(input_ids=torch.tensor([row])).logits[0, first:].float().log_softmax(-1)
            ids = logs.argmax(-1) if choice is None else torch.tensor(asked)
            own = logs.gather(1, ids[:, None])[:, 0]
            rest = logs.scatter(1, ids[:, None], -torch.inf).amax(1)
            assert torch.equal(found.ids, ids)
            torch.testing.assert_close(found.log_probabilities, own, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found.margins, own - rest, rtol=1e-4, atol=1e-4)


def test_the_base_keeps_all_of_its_first_choices(editable: EditableModel) -> None:
    figures = graded(editable, EXAM, Base.of(editable, EXAM))
    assert (figures.prompts, figures.text, figures.kept) == (1.0, 1.0, pytest.approx(1.0, abs=1e-5))
    assert figures.score(3.0) == pytest.approx(figures.said, abs=1e-4)


def test_an_edit_is_said_and_what_it_costs_is_counted(editable: EditableModel, tmp_path: Path) -> None:
    base = Base.of(editable, EXAM)
    before = graded(editable, EXAM, base)
    with new_editor(tmp_path / "store", editable, ridge=0.01) as editor:
        failed = editor.apply(EXAM.facts).failed
        figures = graded(editor.editable, EXAM, base)
        editor.checkout(0)
    assert figures.efficacy == 1 - len(failed) / 2 and figures.said > before.said
    assert figures.kept < 1 and figures.score(1.0) == pytest.approx(figures.said - 1 + figures.kept)
    assert figures.score(2.0) < figures.score(1.0)


def test_odds_are_those_of_the_weakest_token_against_its_best_rival(editable: EditableModel) -> None:
    prompt, answer = REQUESTS[1].question, REQUESTS[1].target_new
    head, target = tokens(editable.texts, prompt)[0], continuation(editable.texts, prompt, answer)
    with torch.no_grad():
        logits = editable.model(input_ids=torch.tensor([head + target[:-1]])).logits[0, len(head) - 1 :].softmax(-1)
    odds = []
    for token, chances in zip(target, logits, strict=True):
        rival = max(float(chance) for place, chance in enumerate(chances) if place != token)
        odds.append(float(chances[token]) / (float(chances[token]) + rival))
    assert len(target) > 1 and answered(editable, [(prompt, answer)]) == [pytest.approx(min(odds), rel=1e-3)]


def test_what_is_not_asked_has_no_figure(editable: EditableModel) -> None:
    exam = replace(EXAM, facts=REQUESTS[:2], sentences=())
    figures = graded(editable, exam, Base.of(editable, exam))
    assert (figures.wording, figures.behind) == (None, None) and 0 <= figures.said <= 1


def test_a_model_of_nans_says_and_keeps_nothing(editable: EditableModel) -> None:
    base, broken = Base.of(editable, EXAM), lively_editable("gpt2")
    with torch.no_grad():
        broken.write(1).weight.fill_(float("nan"))
    figures = graded(broken, EXAM, base)
    assert (figures.efficacy, figures.said, figures.kept, figures.prompts) == (0, 0, 0, 0)

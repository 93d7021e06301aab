"""An instruct model drafts wordings: it is asked in its own template, and what it drafts is cut, measured and given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lifelong_edit.engine.estimate.wordings import REWORDED, SHARE, STATED, Drafted, drafted
from lifelong_edit.errors import ModelError
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.scores import score_continuations
from lifelong_edit.world.generator import World
from lifelong_edit.world.requests import edit_requests
from tests.models import small_editable

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ADA = EditRequest("{} was born in", "Ada Quill", "Marn", paraphrase_prompts=("Ada Quill comes from",))
SENTENCES = [
    "Ada Quill comes from Marn.",
    "The home of Ada Quill is Marn.",
    "THE home of  Ada Quill is Marn!",
    "Ada Quill grew up in the town of Marn.",
    "Ada Quill lives in Marn.",
]


def told(monkeypatch: pytest.MonkeyPatch, sentences: Sequence[str]) -> None:
    """Let a model say these sentences, whole, when it is asked for as many."""
    monkeypatch.setattr("lifelong_edit.engine.estimate.wordings.REWORDED", {"": REWORDED["The"]})
    monkeypatch.setattr("lifelong_edit.engine.estimate.wordings.sampled", lambda *_given: list(sentences))


def instructed(model_type: str = "llama") -> EditableModel:
    editable = small_editable(model_type)
    editable.tokenizer.chat_template = TEMPLATE
    return editable


def draft(editable: EditableModel, request: EditRequest, count: int = 3, draws: int = 16, seed: int = 0) -> Drafted:
    (found,) = drafted(editable, [request], count, draws, seed)
    return found


def test_the_model_is_asked_in_its_own_template_for_the_known_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def sampled(_editable: EditableModel, prompts: Sequence[str], *rest: Any) -> list[str]:
        asked.append((list(prompts), *rest))
        return [" sun."] * 6

    monkeypatch.setattr("lifelong_edit.engine.estimate.wordings.sampled", sampled)
    editable = instructed()
    draft(editable, replace(ADA, target_true="Oran"), draws=5, seed=7)
    ((prompts, *_, seed, draws, stop),) = asked
    assert (seed, draws, stop) == (7, 3, editable.tokenizer.eos_token_id)
    adds = editable.tokenizer("a").input_ids[0] == editable.tokenizer.bos_token_id
    ask, begin = "<user>Say it in other words: ", "<assistant>"
    for prompt, (opening, reworded) in zip(prompts, REWORDED.items(), strict=True):
        shown = [f"{ask}{said}.\n{begin}{again}.\n" for said, again in zip(STATED, reworded, strict=True)]
        last = f"{ask}Ada Quill was born in Oran.\n{begin}{opening.replace('{}', ADA.subject)}"
        assert prompt == ("" if adds else editable.tokenizer.bos_token) + "".join(shown) + last
    draft(editable, ADA, draws=5)
    assert f"{ask}Ada Quill was born in Marn.\n" in asked[1][0][0], "where no true target is known it says the new one"


def test_a_request_gets_as_many_as_asked_for_and_no_sentence_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, SENTENCES)
    for count in (1, 2, 3, 9):
        found = draft(instructed(), ADA, count, draws=len(SENTENCES))
        given = [one.wording for one in found.given]
        shortest_first = ["{} lives in", "The home of {} is", "{} grew up in the town of"]
        assert list(found.request.wordings) == given == shortest_first[:count]
        assert {one.sentence for one in found.sentences} == set(SENTENCES)
        assert all(one.share is None for one in found.sentences), "without a true target nothing is measured"
        assert replace(found.request, wordings=()) == ADA
    refused = {one.sentence: str(one.refused) for one in found.sentences if one.refused}
    assert "measures the edit" in refused[SENTENCES[0]] and "there twice" in refused[SENTENCES[2]]


def test_a_wording_that_asks_for_something_else_is_refused_by_what_the_model_says_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the bundled model, which knows people by heart: their own relation in other words, and another relation."""
    editable = EditableModel.open(Path(__file__).parents[3] / "checkpoints" / "tiny-world", dtype=torch.float32)
    editable.tokenizer.chat_template = TEMPLATE
    for request in edit_requests(World.generate(0), 6, seed=3):
        same = next(prompt for prompt in request.paraphrase_prompts if ". " not in prompt)
        other = next(prompt for prompt, _ in request.attribute_prompts if ". " not in prompt)
        told(monkeypatch, [f"{prompt} {request.target_true}." for prompt in (other, same)])
        bare = replace(request, paraphrase_prompts=(), attribute_prompts=(), generation_prompts=())
        found = {one.sentence: one for one in draft(editable, bare, draws=2).sentences}
        for prompt in (same, other):
            one = found[f"{prompt} {request.target_true}."]
            pairs = [(text, str(request.target_true)) for text in (request.question, prompt)]
            was, now = (score.nll for score in score_continuations(editable.model, editable.texts, pairs))
            assert one.share == pytest.approx(math.exp(was - now), rel=1e-3)
            assert (one.refused is None) == (prompt == same) == (one.share is not None and one.share >= SHARE)


def test_a_model_without_a_chat_template_is_refused() -> None:
    with pytest.raises(ModelError, match="Give an instruct model"):
        drafted(small_editable("llama"), [ADA], 3)

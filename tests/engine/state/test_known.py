"""What the base knows of true statements is what plain forward passes say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.state import known
from lifelong_edit.engine.state.known import known_in
from lifelong_edit.facts import parted
from lifelong_edit.model.editable import EditableModel
from tests.samples import TEXT, lively_editable


@pytest.fixture(scope="module")
def editable() -> EditableModel:
    return lively_editable("gpt2")


def said_by(editable: EditableModel, prompt: str) -> str:
    """A statement that the model says: the prompt with its first choice."""
    ids = editable.tokenizer(prompt).input_ids
    with torch.no_grad():
        order = editable.model(input_ids=torch.tensor([ids])).logits[0, -1].argsort(descending=True)
    return f"{prompt} {editable.tokenizer.decode([int(order[0])]).strip()}"


def test_a_statement_is_parted_at_its_last_word() -> None:
    assert parted("The capital of France is Paris.") == ("The capital of France is", "Paris")
    assert parted("  A  b ") == ("A", "b") and parted("Paris.") is parted(" ") is parted("") is None


def test_quartiles_are_of_what_is_said(editable: EditableModel) -> None:
    statements = [text.rpartition(" ")[0] for text in TEXT]
    found = known_in(editable, statements, 0)
    probabilities, margins = [], []
    for prompt, word in filter(None, map(parted, set(statements))):
        head = editable.tokenizer(prompt).input_ids
        ids = editable.tokenizer(f"{prompt} {word}").input_ids
        with torch.no_grad():
            logs = editable.model(input_ids=torch.tensor([ids])).logits[0, len(head) - 1 : -1].log_softmax(-1)
        target = torch.tensor(ids[len(head) :])
        own = logs.gather(1, target[:, None])[:, 0]
        lead = own - logs.scatter(1, target[:, None], -torch.inf).amax(1)
        if lead.min() > 0:
            probabilities.append(float(own.mean().exp()))
            margins.append(float(lead.min()))
    assert (found["asked"], found["said"]) == (len(set(statements)), len(margins))
    for name, values in (("probability", probabilities), ("margin", margins)):
        if values:
            wanted = torch.tensor(values).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
            assert found[name] == pytest.approx(wanted, abs=1e-3)


def test_no_more_than_some_are_asked_and_equal_seeds_ask_the_same(
    editable: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "ASKED", 4)
    found = [known_in(editable, texts, seed) for texts, seed in ((TEXT, 1), (TEXT[::-1] + TEXT, 1))]
    assert found[0] == found[1] and found[0]["asked"] == 4


def test_nothing_said_has_no_quartiles(editable: EditableModel) -> None:
    assert known_in(editable, ["oneword"], 0) == {"asked": 0, "said": 0, "probability": [], "margin": []}


def test_the_first_entry_keeps_it_where_there_are_prompts(editable: EditableModel, tmp_path: Path) -> None:
    prompts = ["Ada Quill was born in Tarsis.", "Bo Lund lives in Marn."]
    for name, given in (("with", prompts), ("without", None)):
        with LifelongEditor.create(tmp_path / name, lively_editable("gpt2"), text=TEXT, prompts=given) as editor:
            found = editor.head.body.get("known")
            assert found == (known_in(editable, prompts, 0) if given else None)

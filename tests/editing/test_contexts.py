"""Context prefixes are a function of the model and a seed, and a store keeps its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lifelong_edit.editing.contexts import sample_contexts
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.model.editable import EditableModel
from tests.models import TOKENIZERS, small_editable, small_model
from tests.samples import new_editor


def test_equal_seeds_give_equal_contexts_and_other_seeds_others() -> None:
    editable = small_editable("llama")
    contexts = sample_contexts(editable, 4, seed=1)
    torch.rand(3)  # what else was drawn in the process is none of its business
    assert sample_contexts(editable, 4, seed=1) == contexts
    assert sample_contexts(editable, 4, seed=2) != contexts
    assert sample_contexts(editable, 2, seed=1) == contexts[:2]
    assert sample_contexts(editable, 0, seed=1) == ()


def test_sampling_leaves_the_global_generator_alone() -> None:
    editable, before = small_editable("llama"), torch.get_rng_state()
    sample_contexts(editable, 2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_context_is_clean_text_that_ends_a_sentence(tokenizer: str) -> None:
    made = TOKENIZERS[tokenizer]()
    contexts = sample_contexts(EditableModel(small_model("llama", len(made)), made), 7, seed=0)
    assert len(set(contexts)) == 7
    for context in contexts:
        assert context.endswith(". ") and context == context.encode().decode() and "\ufffd" not in context
        assert context.startswith(("The", "Therefore", "Because", "I", "You"))


def test_a_store_keeps_the_contexts_it_was_made_with(tmp_path: Path) -> None:
    with new_editor(tmp_path / "store", small_editable("llama"), contexts=3, seed=5) as editor:
        contexts = editor.contexts
    assert contexts == sample_contexts(small_editable("llama"), 3, seed=5)
    with LifelongEditor.open(tmp_path / "store", small_editable("llama")) as editor:
        assert editor.contexts == contexts

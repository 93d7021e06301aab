"""Context prefixes are a function of a seed and of the model or the text; a store keeps its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lifelong_edit.editing.contexts import drawn_sentences, prefixes_for, sample_contexts
from lifelong_edit.editing.layered import LayeredSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.model.editable import EditableModel
from tests.models import TOKENIZERS, small_editable, small_model
from tests.samples import new_editor

PLAIN = [f"The town number {n} lies beside the quiet, slow-running river." for n in range(40)]


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


def test_drawn_sentences_depend_on_the_seed_and_not_on_the_order_of_the_texts() -> None:
    drawn = drawn_sentences(PLAIN, 8, seed=1)
    assert drawn == drawn_sentences(PLAIN[::-1], 8, seed=1) == drawn_sentences([" ".join(PLAIN)] * 2, 8, seed=1)
    assert drawn != drawn_sentences(PLAIN, 8, seed=2)
    assert len(set(drawn)) == 8 and {sentence.strip() for sentence in drawn} <= set(PLAIN)
    assert {sentence.strip() for sentence in drawn_sentences(PLAIN, 100, seed=1)} == set(PLAIN)
    assert drawn_sentences(PLAIN, 0, seed=1) == drawn_sentences([], 8, seed=1) == ()


@pytest.mark.parametrize(
    "text, sentence",
    [
        (" The well @-@ known river is 1 @,@ 500 km long , they told . ",
         "The well-known river is 1,500 km long, they told."),
        (" Ada 's river does n't reach the western coast . ", "Ada's river doesn't reach the western coast."),
        ("It starts in the hills\nand ends in the ocean.", "It starts in the hills and ends in the ocean."),
        ("Once upon a time!\nThe river was a thin line.", "The river was a thin line."),
        ("The river Öl was never frozen over.", "The river Öl was never frozen over."),
    ],
)  # fmt: skip
def test_a_sentence_reads_as_its_author_wrote_it(text: str, sentence: str) -> None:
    assert drawn_sentences([text], 8, seed=0) == (f"{sentence} ",)


@pytest.mark.parametrize(
    "text",
    [
        "The river of the north",
        "The river ends there.",
        " ".join(["The river is", *["very"] * 25, "long."]),
        "and then the river was very long.",
        "They went with Mr. Bo Lund to the river.",
        "(The river of the north is long.)",
        "The <unk> of the river is very long.",
        'He called it "the river of the north" himself.',
        " = = The rivers = = \n The river of the north is long.",
        "The rivers of the north\nThe river of the north is long.",
        "Is the river of the north very long?",
    ],
)
def test_what_is_no_whole_plain_sentence_of_some_words_is_not_drawn(text: str) -> None:
    assert drawn_sentences([text, PLAIN[0]], 8, seed=0) == (f"{PLAIN[0]} ",)


def test_the_prefixes_of_a_slot_depend_on_the_slot_alone() -> None:
    slots = [(number, 7) for number in range(20)]
    drawn = {slot: prefixes_for(PLAIN, slot, 3) for slot in slots}
    assert drawn == {slot: prefixes_for(PLAIN[::-1], slot, 3) for slot in reversed(slots)}
    assert len(set(drawn.values())) > 10 and all(len(set(prefixes)) == 3 for prefixes in drawn.values())
    assert len(set().union(*drawn.values())) > 20  # of 40: no few are drawn for all


@pytest.mark.parametrize("count", [3, 4])
def test_a_pool_that_is_no_larger_than_what_is_wanted_is_taken_whole(count: int) -> None:
    assert prefixes_for(PLAIN[:3], (1, 2), count) == tuple(PLAIN[:3])


@pytest.mark.parametrize("pool", [2, 5])
def test_a_store_pins_sentences_of_its_text_and_samples_what_they_lack(pool: int, tmp_path: Path) -> None:
    target = LayeredSettings(steps=2, pool=pool)
    editable = small_editable("llama")
    with new_editor(tmp_path / "store", editable, PLAIN, contexts=3, target=target, seed=5) as editor:
        drawn = drawn_sentences(PLAIN, pool, seed=5)
        assert editor.contexts == drawn + sample_contexts(editable, 3 - min(3, pool), seed=5)

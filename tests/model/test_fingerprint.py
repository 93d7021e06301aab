"""The fingerprint is the model's, not its files': any change of what it computes with changes it, nothing else does."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer

from lifelong_edit.errors import ModelError, RequestError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from tests.models import MODEL_TYPES, TOKENIZERS, small_editable, small_model


@pytest.fixture(params=MODEL_TYPES)
def editable(request):
    return small_editable(request.param)


def test_saving_and_reloading_keeps_it(editable, tmp_path):
    before = fingerprint(editable)
    for copy in ("first", "second"):
        editable.model.save_pretrained(tmp_path / copy)
        editable.tokenizer.save_pretrained(tmp_path / copy)
        editable = EditableModel.open(tmp_path / copy)
        assert fingerprint(editable) == before


@pytest.mark.parametrize("name", TOKENIZERS)
def test_reloading_a_tokenizer_keeps_it(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    editable = EditableModel(small_model("llama", len(tokenizer)), tokenizer)
    editable.model.save_pretrained(tmp_path)
    editable.tokenizer.save_pretrained(tmp_path)
    assert fingerprint(EditableModel.open(tmp_path)) == fingerprint(editable)


def test_the_same_model_made_twice_has_one(editable):
    again = small_editable(editable.model.config.model_type)
    assert fingerprint(again) == fingerprint(editable)


def test_one_bit_of_one_parameter_changes_it(editable):
    seen = {fingerprint(editable)}
    for parameter in editable.model.parameters():
        parameter.detach().view(-1).view(torch.int32)[-1] ^= 1
        seen.add(fingerprint(editable))
    assert len(seen) == 1 + len(list(editable.model.parameters()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_counts_and_opening_wider_does_not(dtype):
    narrow = small_editable("llama", dtype)
    before = fingerprint(narrow)
    assert before != fingerprint(small_editable("llama"))
    narrow.model.float()
    assert fingerprint(narrow) == before


def test_one_added_token_changes_it(editable):
    before = fingerprint(editable)
    editable.tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    assert fingerprint(editable) != before


def test_two_swapped_vocabulary_entries_change_it():
    editable = small_editable("llama")
    state = json.loads(editable.tokenizer.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    before = fingerprint(editable)
    editable.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    assert fingerprint(editable) != before


def test_the_bases_is_known_while_edits_are_live(editable):
    before, base = fingerprint(editable), {editable.weight_name(0): editable.weight(0)}
    editable.set_weight(0, editable.weight(0) + 1)
    assert fingerprint(editable) != before
    assert fingerprint(editable, base) == before
    assert fingerprint(editable, {name: weight.double() for name, weight in base.items()}) == before


def test_only_edited_weights_can_be_replaced(editable):
    with pytest.raises(RequestError, match=r"lm_head"):
        fingerprint(editable, {"lm_head.weight": torch.zeros(1)})
    with pytest.raises(ModelError, match="shape"):
        fingerprint(editable, {editable.weight_name(1): editable.weight(1)[1:]})

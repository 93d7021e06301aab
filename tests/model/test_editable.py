"""Weights are read and written in one orientation, and a model folder opens or says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from lifelong_edit.errors import ModelError, RequestError, UnsupportedModel
from lifelong_edit.model.architectures import architecture_of
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.hooks import captured
from tests.models import MODEL_TYPES, byte_level, sentence_piece, small_editable, small_model

IDS = torch.tensor([[5, 9, 40, 7, 100, 21]])


def logits(editable: EditableModel) -> torch.Tensor:
    with torch.no_grad():
        return editable.model(input_ids=IDS).logits


@pytest.fixture(params=MODEL_TYPES)
def editable(request):
    return small_editable(request.param, torch.float64)


@pytest.fixture
def folder(tmp_path) -> Path:
    editable = small_editable("llama")
    editable.model.save_pretrained(tmp_path / "model")
    editable.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_every_row_of_the_table_opens(tmp_path, editable):
    editable.model.save_pretrained(tmp_path)
    editable.tokenizer.save_pretrained(tmp_path)
    opened = EditableModel.open(tmp_path)
    assert opened.dtype == torch.float64
    assert EditableModel.open(tmp_path, torch.bfloat16).dtype == torch.bfloat16
    assert not opened.model.training
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())
    assert opened.weight_name(1) in dict(opened.model.named_parameters())
    torch.testing.assert_close(dict(opened.model.state_dict()), dict(editable.model.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(logits(opened), logits(editable), rtol=0, atol=1e-5)  # llama's norms round to float32


def test_writing_a_weight_back_changes_nothing(editable):
    before = logits(editable)
    editable.set_weight(1, editable.weight(1))
    assert torch.equal(logits(editable), before)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("d_ff", [64, 32])  # 32: a square weight, whose shape tells nothing
def test_the_weight_maps_the_captured_input_to_the_output(model_type, d_ff):
    editable = small_editable(model_type, torch.float64, d_ff=d_ff)
    for layer in range(editable.layers):
        with captured(editable.write(layer)) as seen:
            logits(editable)
        bias = getattr(editable.write(layer), "bias", None)
        expected = seen.input @ editable.weight(layer).T + (0 if bias is None else bias)
        assert editable.weight(layer).shape == editable.shape(layer) == (32, d_ff)
        torch.testing.assert_close(seen.output, expected, rtol=0, atol=1e-12)


def test_a_rank_one_change_moves_the_output_by_left_times_right_k(editable):
    generator = torch.Generator().manual_seed(1)
    d_out, d_in = editable.shape(0)
    left, right = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (d_out, d_in))
    with captured(editable.write(0)) as before:
        logits(editable)
    editable.set_weight(0, editable.weight(0) + torch.outer(left, right))
    with captured(editable.write(0)) as after:
        logits(editable)
    moved = (before.input @ right)[..., None] * left
    torch.testing.assert_close(after.output - before.output, moved, rtol=0, atol=1e-12)


def test_a_weight_is_a_copy(editable):
    before = logits(editable)
    editable.weight(0).zero_()
    assert torch.equal(logits(editable), before)


def test_a_wrong_weight_is_refused_and_nothing_is_written(editable):
    before = logits(editable)
    good = editable.weight(0)
    poisoned = editable.weight(1)
    poisoned[3, 5] = torch.nan
    for wrong in (good.T, poisoned, good[:1]):
        with pytest.raises(ModelError), editable.rewritten({0: 2 * good, 1: wrong}):
            pytest.fail("a wrong weight was written")
        with pytest.raises(ModelError, match="Nothing was written"):
            editable.set_weight(1, wrong)
    assert torch.equal(logits(editable), before)


def test_a_weight_too_large_for_the_live_dtype_is_refused():
    editable = small_editable("llama", torch.float16)
    with pytest.raises(ModelError, match=r"float16"):
        editable.set_weight(0, torch.full(editable.shape(0), 1e6))


def test_rewritten_weights_come_back_bit_for_bit(editable):
    before, weights = logits(editable), [editable.weight(layer) for layer in range(2)]
    with pytest.raises(ZeroDivisionError), editable.rewritten({0: 3 * weights[0], 1: weights[1] + 0.1}):
        assert not torch.equal(logits(editable), before)
        editable.set_weight(0, weights[0] + 1)
        raise ZeroDivisionError
    assert torch.equal(logits(editable), before)
    assert all(torch.equal(editable.weight(layer), weight) for layer, weight in enumerate(weights))


def test_a_layer_that_is_not_there_is_a_request_error(editable):
    for call in (editable.block, editable.write, editable.weight, editable.weight_name, editable.shape):
        for layer in (-1, 2):
            with pytest.raises(RequestError, match="layers 0 to 1"):
                call(layer)


def test_only_gemmas_have_a_norm_after_the_write():
    found = [kind for kind in MODEL_TYPES if small_editable(kind).after_write(0) is not None]
    assert found == ["gemma2", "gemma3_text"]


def test_an_unknown_model_type_names_the_known_ones():
    config = small_model("llama", 50).config
    config.model_type = "mamba"
    with pytest.raises(UnsupportedModel, match=r"'mamba'.*gemma2, gemma3_text, gpt2, gpt_neox, llama"):
        architecture_of(config)


def test_a_model_without_head_is_refused():
    tokenizer = byte_level()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1)
    with pytest.raises(ModelError, match="causal language model"):
        EditableModel(GPT2Model(config), tokenizer)


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(ModelError, match="embeds 50 ids"):
        EditableModel(small_model("llama", 50), byte_level())


def test_a_quantized_weight_is_refused():
    model = small_model("llama", 400)
    down = model.model.layers[1].mlp.down_proj
    down.weight = torch.nn.Parameter(down.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj\.weight.*int8"):
        EditableModel(model, byte_level())


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        EditableModel.open(folder)


def test_a_missing_folder_is_not_looked_up_elsewhere(tmp_path):
    with pytest.raises(ModelError, match="not a model folder"):
        EditableModel.open(tmp_path / "gpt2")


def test_a_folder_without_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        EditableModel.open(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_truncated_file_is_a_model_error(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be opened"):
        EditableModel.open(folder)


def test_an_unsupported_folder_is_refused_before_its_weights_are_read(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bloom"}))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedModel, match="'bloom'"):
        EditableModel.open(folder)


def test_missing_weights_are_not_made_up(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3, "layer_types": None}))
    with pytest.raises(ModelError, match=r"lacks the weights.*layers\.2"):
        EditableModel.open(folder)


def test_a_device_that_is_not_there_is_a_model_error(folder):
    with pytest.raises(ModelError, match="'nowhere' is not available"):
        EditableModel.open(folder, device="nowhere")


def test_code_in_the_folder_does_not_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "code.Own", "AutoConfig": "code.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    EditableModel.open(folder)
    assert not (tmp_path / "ran").exists()


def test_pad_id_falls_back(folder):
    assert small_editable("llama").pad_id == byte_level().pad_token_id
    tokenizer = sentence_piece()
    assert EditableModel(small_model("llama", len(tokenizer)), tokenizer).pad_id == tokenizer.eos_token_id
    shutil.rmtree(folder)

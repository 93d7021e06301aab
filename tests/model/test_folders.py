"""A model folder that cannot be used gives one error that names the file, before anything of it is trusted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, modeling_utils

from lifelong_edit.errors import ModelError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from tests.model.odd_folders import HARMLESS, KERNELS, REFUSED, save_sound
from tests.models import small_editable


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sound(small_editable("llama"), tmp_path_factory.mktemp("models") / "sound")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "odd"))


@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_folder_is_refused_by_name(name: str, folder: Path) -> None:
    file, craft = REFUSED[name]
    craft(folder)
    with pytest.raises(ModelError) as refused:
        EditableModel.open(folder)
    told = str(refused.value)
    assert str(folder) in told and file in told
    assert told.isprintable() and told.endswith(".") and len(told) < 700 + len(str(folder))


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_folder_opens(name: str, sound: Path, folder: Path) -> None:
    HARMLESS[name](folder)
    assert fingerprint(EditableModel.open(folder)) == fingerprint(EditableModel.open(sound))


@pytest.mark.parametrize("name", KERNELS)
def test_no_loader_of_kernels_is_reached(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", lambda *asked, **_: reached.append(asked))
    monkeypatch.setattr(modeling_utils.PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    KERNELS[name](folder)
    with pytest.raises(ModelError):
        EditableModel.open(folder)
    assert reached == []
    AutoModelForCausalLM.from_pretrained(folder)  # the trap is real
    assert reached != []


@pytest.mark.parametrize("device", ["meta", "nowhere", "cuda:99", ""])
def test_a_device_that_holds_no_numbers_is_refused(device: str, sound: Path) -> None:
    with pytest.raises(ModelError, match="Choose another"):
        EditableModel.open(sound, device=device)


def test_a_model_without_values_is_refused() -> None:
    editable = small_editable("llama")
    with pytest.raises(ModelError, match="only a shape"):
        EditableModel(editable.model.to("meta"), editable.tokenizer)


def test_weights_that_a_dtype_cannot_hold_are_refused(folder: Path) -> None:
    editable = small_editable("llama")
    with torch.no_grad():
        next(iter(editable.model.parameters())).mul_(1e6)
    save_sound(editable, folder)
    assert EditableModel.open(folder).dtype == torch.float32
    with pytest.raises(ModelError, match=r"not finite as torch\.float16"):
        EditableModel.open(folder, torch.float16)


def test_an_interrupt_is_no_fault_of_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lifelong_edit.model.loading.AutoModelForCausalLM.from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        EditableModel.open(folder)

"""lm-evaluation-harness on a live model, offline, with task files made on the spot."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lifelong_edit.errors import RequestError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.tracking.harness import measure_harness
from lifelong_edit.tracking.scores import score_continuations
from tests.models import small_editable

SUBJECTS = ("Ada Quill", "Bo Lund", "Norvik", "Émile Zorn", "Ana María Díaz", "Kessel")
TOWNS = ("Tarsis", "Oran", "Marn")
TASK = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/questions.jsonl}}
  cache_dir: {folder}/cache
test_split: test
doc_to_text: "{{{{question}}}}"
"""
TOWNS_TASK = """
task: towns
output_type: multiple_choice
doc_to_choice: towns
doc_to_target: answer
metric_list: [{metric: acc}, {metric: mcc}]
"""
SAYS_TASK = """
task: says
output_type: generate_until
doc_to_target: "{{towns[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 3, do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two task files over the same questions."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    questions = [
        {"question": f"{name} was born in", "towns": TOWNS, "answer": number % 3}
        for number, name in enumerate(SUBJECTS)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions), "utf-8")
    for name, own in (("towns", TOWNS_TASK), ("says", SAYS_TASK)):
        (tmp_path / f"{name}.yaml").write_text(own + TASK.format(folder=tmp_path), "utf-8")
    return tmp_path


@pytest.fixture
def installed() -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: the extra is called eval")


@pytest.mark.usefixtures("installed")
def test_a_local_task_is_measured_on_the_live_weights(folder: Path) -> None:
    editable = small_editable("llama")
    for _ in range(2):
        found = measure_harness(editable, folder, ["towns"])
        acc = found["towns/acc"]
        assert acc.each == tuple(map(float, likeliest_is_right(editable)))
        assert acc.count == len(SUBJECTS) and acc.value == pytest.approx(sum(map(float, acc.each)) / acc.count)
        spread = acc.value * (1 - acc.value) / (acc.count - 1)
        assert acc.error == pytest.approx(spread**0.5)
        assert found["towns/mcc"].error is not None  # resampled
        editable = small_editable("llama", seed=3)  # another model, the same process


def likeliest_is_right(editable: EditableModel) -> list[bool]:
    """Whether the answer has the least summed loss of the three towns."""
    right = []
    for number, name in enumerate(SUBJECTS):
        pairs = [(f"{name} was born in", town) for town in TOWNS]
        lengths = [len(editable.tokenizer(" " + town, add_special_tokens=False).input_ids) for town in TOWNS]
        scores = score_continuations(editable.model, editable.tokenizer, pairs)
        losses = [score.nll * length for score, length in zip(scores, lengths, strict=True)]
        right.append(losses.index(min(losses)) == number % 3)
    return right


@pytest.mark.usefixtures("installed")
def test_nothing_of_the_process_or_the_model_is_changed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    editable = small_editable("gpt2")
    editable.tokenizer.pad_token = None

    def state() -> str:
        model, tokenizer = editable.model, editable.tokenizer
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
        settings = [model.training, model.generation_config.to_dict(), model.config.to_dict()]
        generators = [random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()]
        return repr([hooks, settings, tokenizer.pad_token, tokenizer.padding_side, len(tokenizer), generators])

    weights = {name: value.clone() for name, value in editable.model.state_dict().items()}
    before = state()
    found = measure_harness(editable, folder, ["says", "towns"], limit=4)
    assert state() == before
    torch.testing.assert_close(dict(editable.model.state_dict()), weights, rtol=0, atol=0)
    assert found["says/exact_match"].value == 0.0 and found["says/exact_match"].count == 4
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("installed")
def test_a_task_that_the_folder_lacks_is_an_error(folder: Path) -> None:
    for tasks in (["hellaswag"], []):
        with pytest.raises(RequestError, match="towns"):
            measure_harness(small_editable("llama"), folder, tasks)


def test_a_missing_extra_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(RequestError, match=r"pip install 'lifelong-edit\[eval\]'"):
        measure_harness(small_editable("llama"), folder, ["towns"])

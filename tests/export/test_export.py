"""Exports are loaded by tools that know nothing of this package, and compute what the live model computes."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select
from subprocess import PIPE, Popen
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from lifelong_edit.cli.main import app
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import ModelError, RequestError, StoreError
from lifelong_edit.export import export_delta, export_hf, export_jsonl, export_peft
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from tests.reliability.mounts import small_disk
from tests.samples import PATIENCE, REQUESTS, lively_editable, new_editor

PROMPTS = [request.question for request in REQUESTS] + ["The river"]
ALONE = """
import json, sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
prompts = json.loads(sys.argv[1])
def ask(model, tokenizer):
    with torch.no_grad():
        return torch.stack([model(torch.tensor([tokenizer(p).input_ids])).logits[0, -1] for p in prompts])
for line in sys.stdin:
    folder, adapter, out = json.loads(line)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {"plain": ask(model, tokenizer)}
    if adapter is not None:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, adapter)
        found["adapter"] = ask(model, tokenizer)
        with model.disable_adapter():
            found["off"] = ask(model, tokenizer)
        found["merged"] = ask(model.merge_and_unload(), tokenizer)
    assert "lifelong_edit" not in sys.modules
    save_file(found, out)
    print("saved", flush=True)
"""
Alone = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    """Asks a process that does not import this package for the last logits of the prompts in float64."""
    elsewhere = tmp_path_factory.mktemp("alone")
    line = [sys.executable, "-W", "ignore", "-c", ALONE, json.dumps(PROMPTS)]
    with Popen(line, cwd=elsewhere, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin and process.stdout

        def ask(folder: Path, adapter: Path | None = None) -> dict[str, torch.Tensor]:
            out = elsewhere / "out.safetensors"
            print(json.dumps([str(folder), adapter and str(adapter), str(out)]), file=process.stdin, flush=True)
            assert select([process.stdout], [], [], PATIENCE)[0]
            assert process.stdout.readline() == "saved\n"
            return load_file(out)

        yield ask
        process.stdin.close()


def logits(editable: EditableModel) -> torch.Tensor:
    """The last logits of the prompts, computed in float64 with the weights as they are."""
    model = copy.deepcopy(editable.model).double()
    with torch.no_grad():
        ids = [torch.tensor([editable.tokenizer(prompt).input_ids]) for prompt in PROMPTS]
        return torch.stack([model(row).logits[0, -1] for row in ids])


def unrounded_logits(editor: LifelongEditor, base: Path) -> torch.Tensor:
    """The last logits of the prompts in float64, with the recorded change as it was before its cast to float32."""
    editable, deltas = EditableModel.open(base, dtype=torch.float64), editor.at(editor.head.seq).deltas
    weights = {n: editable.weight(n) + deltas[editable.weight_name(n)].dense() for n in editor.settings.layers}
    with editable.rewritten(weights):
        return logits(editable)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a model, and of a store of it with two edits. Do not change them."""
    folder, editable = tmp_path_factory.mktemp("made"), lively_editable(request.param)
    editable.model.save_pretrained(folder / "base")
    editable.tokenizer.save_pretrained(folder / "base")
    with new_editor(folder / "store", editable, layers=(0, 1), targets="live") as editor:
        editor.apply(REQUESTS[:3], reason="so | <b>said</b>")
        editor.apply(REQUESTS[3:])
    return folder


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "base", tmp_path / "base")


@pytest.fixture
def editor(made: Path, base: Path, tmp_path: Path) -> Iterator[LifelongEditor]:
    with LifelongEditor.open(shutil.copytree(made / "store", tmp_path / "store"), base) as opened:
        yield opened


def test_plain_transformers_loads_the_folder_and_computes_the_same(
    editor: LifelongEditor, alone: Alone, tmp_path: Path
) -> None:
    done = export_hf(editor, tmp_path / "model")
    assert done.facts == len(REQUESTS) and done.difference <= 1e-5 and done.bytes > 1000
    found = alone(tmp_path / "model")
    assert (found["plain"] - logits(editor.editable)).abs().max() <= 1e-5
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert editor.head.digest in card and "so \\| \\<b>said\\</b>" in card and all(r.subject in card for r in REQUESTS)
    lines = (tmp_path / "model" / "edits.jsonl").read_text("utf-8").splitlines()
    assert [EditRequest.from_dict(json.loads(line)).id for line in lines] == [request.id for request in REQUESTS]


def test_an_older_state_is_exported_and_the_live_model_stays(editor: LifelongEditor, tmp_path: Path) -> None:
    weights = editor.editable.weight(0)
    export_hf(editor, tmp_path / "model", ref=1, dtype=torch.bfloat16)
    again = EditableModel.open(tmp_path / "model")
    assert again.dtype == torch.bfloat16 and torch.equal(editor.editable.weight(0), weights)
    assert torch.equal(again.weight(0), editor.at(1).editable.weight(0).to(torch.bfloat16))


def test_peft_loads_switches_off_and_merges_the_adapter(
    editor: LifelongEditor, base: Path, alone: Alone, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="the extra `peft` is not installed")
    done = export_peft(editor, tmp_path / "adapter")
    assert set(done.ranks.values()) == {len(REQUESTS)} and 0 < done.error < 1e-6 and done.efficacy is not None
    assert done.efficacy[0] == done.efficacy[1]
    found = alone(base, tmp_path / "adapter")
    exact = unrounded_logits(editor, base)
    for name in ("adapter", "merged"):  # what is left is the rounding of the factors, and of llama's norms, to float32
        assert (found[name] - exact).abs().max() <= 1e-5 < (found["plain"] - exact).abs().max()
    assert torch.equal(found["off"], found["plain"])


def test_a_truncated_adapter_is_the_best_of_its_rank_and_says_what_it_costs(
    editor: LifelongEditor, tmp_path: Path
) -> None:
    done = export_peft(editor, tmp_path / "adapter", rank=2)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    errors = []
    for name, pair in editor.at(editor.head.seq).deltas.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        product = (tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]).double()
        values = torch.linalg.svdvals(pair.dense())
        assert (product - pair.dense()).norm() == pytest.approx(float(values[2:].norm()), rel=1e-4)
        errors.append(float(values[2:].norm() / values.norm()))
    assert done.error == pytest.approx(max(errors), rel=1e-6) and set(done.ranks.values()) == {2}
    with pytest.raises(RequestError, match="rank 1 or more"):
        export_peft(editor, tmp_path / "other", rank=0)
    with pytest.raises(RequestError, match="Nothing is edited after entry 0"):
        export_peft(editor, tmp_path / "other", ref=0)
    assert not list(tmp_path.glob("*other*")) and not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("dense", [False, True])
def test_a_delta_is_the_change_of_the_weights(dense: bool, editor: LifelongEditor, base: Path, tmp_path: Path) -> None:
    done = export_delta(editor, tmp_path / "delta.safetensors", dense=dense)
    tensors, unedited = load_file(tmp_path / "delta.safetensors"), EditableModel.open(base)
    for layer, name in enumerate(done.ranks):
        left, right = (tensors.get(f"{name}/{side}") for side in ("left", "right"))
        delta = tensors[f"{name}/delta"] if left is None or right is None else left @ right.T
        assert torch.allclose(unedited.weight(layer) + delta, editor.editable.weight(layer), atol=1e-5)


def test_the_chain_of_an_exported_ledger_can_be_checked_with_the_standard_library(
    editor: LifelongEditor, tmp_path: Path
) -> None:
    assert export_jsonl(editor.history(), tmp_path / "ledger.jsonl") == 3
    prev = "0" * 64
    for line in (tmp_path / "ledger.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        text = json.dumps(entry["body"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert entry["digest"] == hashlib.sha256(text.encode()).hexdigest() and entry["body"]["prev"] == prev
        prev = entry["digest"]
    assert prev == editor.head.digest


def test_nothing_is_overwritten_and_nothing_half_written_is_left(
    editor: LifelongEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    for write in (export_hf, export_peft, export_delta):
        with pytest.raises(RequestError, match="is there already"):
            write(editor, tmp_path / "full")
    monkeypatch.setattr("lifelong_edit.export.hf.fingerprint", lambda model: id(model))
    with pytest.raises(ModelError, match="is not the live model"):
        export_hf(editor, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "full", "store"]


@pytest.mark.parametrize("write", [export_hf, export_peft, export_delta])
def test_a_full_disk_is_told_wherever_it_fills(
    write: Callable[[LifelongEditor, Path], Any], editor: LifelongEditor, tmp_path: Path
) -> None:
    """A disk that is too small by less and less, so that each file of the export is once what finds no room."""
    needed = -(-write(editor, tmp_path / "whole").bytes // 4096)
    for number, pages in enumerate(sorted({1, needed // 2, *range(max(1, needed - 8), needed)})):
        disk = tmp_path / f"disk {number}"
        with small_disk(disk, f"{4 * pages}k"):
            with pytest.raises(StoreError, match=r"No space left on device"):
                write(editor, disk / "out")
            assert list(disk.iterdir()) == []


def test_the_command_exports_every_form(editor: LifelongEditor, base: Path, tmp_path: Path) -> None:
    editor.close()
    store = ["--store", str(tmp_path / "store"), "--model", str(base)]
    for form in ("hf", "peft", "delta", "jsonl"):
        target = tmp_path / f"as-{form}"
        told = CliRunner().invoke(app, ["export", form, str(target), *store, "--dry-run"])
        assert told.exit_code == 0 and not target.exists(), told.output
        run = CliRunner().invoke(app, ["export", form, str(target), *store, "--json"])
        assert run.exit_code == 0, run.output
        document: dict[str, Any] = json.loads(run.stdout[run.stdout.index("{") :])
        assert document["path"] == str(target) and target.exists()
    refused = CliRunner().invoke(app, ["export", "hf", str(tmp_path / "as-hf"), *store])
    assert refused.exit_code == 2 and "is there already" in refused.output
    bare = ["export", "hf", str(tmp_path / "x"), "--store", str(tmp_path / "store")]
    assert CliRunner().invoke(app, bare, env={"LIFELONG_EDIT_MODEL": ""}).exit_code == 2

"""The base model of a store: another is refused, one that computes otherwise noticed, where it ran recorded."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.engine.state.probes import REFUSAL, WARNING, probe_distance
from lifelong_edit.errors import ModelMismatch
from lifelong_edit.kinds.kernel.state import KernelState
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from tests.models import byte_level, small_model
from tests.reliability.audit import contents
from tests.reliability.engines import Prepared, base_model, request, with_made_up_targets

pytestmark = pytest.mark.reliability
ENVIRONMENT = {"python", "lifelong-edit", "torch", "transformers", "safetensors", "numpy", "machine", "threads"}


def edited(scratch: Path) -> Path:
    """A store with an edit."""
    root = Prepared(scratch).store()
    with with_made_up_targets(), LifelongEditor.open(root, base_model()) as editor:
        editor.apply([request("first", 0, 0, 0), request("second", 1, 0, 1)])
    return root


def refused(root: Path, editable: EditableModel) -> bool:
    """Whether the model is refused, for writing and for reading, before anything is written but who holds the lock."""
    (root / "lock").unlink(missing_ok=True)
    before, unchanged = contents(root / "objects"), fingerprint(editable)
    ledger = (root / "ledger.db").stat().st_mtime_ns, (root / "ledger.db").read_bytes()
    for read_only in (False, True):
        with pytest.raises(ModelMismatch, match="unedited base"):
            LifelongEditor.open(root, editable, read_only=read_only).close()
    same = contents(root / "objects") == before and fingerprint(editable) == unchanged
    return same and ledger == ((root / "ledger.db").stat().st_mtime_ns, (root / "ledger.db").read_bytes())


def test_one_changed_weight_is_another_model(scratch: Path) -> None:
    root, editable = edited(scratch), base_model()
    parameters = dict(editable.model.named_parameters())
    for parameter in parameters.values():
        place = parameter.data.view(-1)[parameter.numel() // 2 :]
        whole = place[0].clone()
        place[0] = torch.nextafter(whole, torch.tensor(torch.inf))
        assert refused(root, editable)
        place[0] = whole
    LifelongEditor.open(root, editable).close()
    print(f"\n{len(parameters)} of {len(parameters)} parameters off by one bit in one entry: refused, nothing written")


def renamed(state: dict[str, Any]) -> None:
    vocabulary = state["model"]["vocab"]
    vocabulary["Ġnever"] = vocabulary.pop(max(vocabulary, key=lambda word: (len(word), word)))


def exchanged(state: dict[str, Any]) -> None:
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def merged_later(state: dict[str, Any]) -> None:
    merges = state["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def another_special(state: dict[str, Any]) -> None:
    state["added_tokens"][0]["special"] = False


@pytest.mark.parametrize("change", [renamed, exchanged, merged_later, another_special])
def test_one_changed_word_is_another_model(change: Callable[[dict[str, Any]], None], scratch: Path) -> None:
    root, plain = edited(scratch), base_model()
    state = json.loads(plain.tokenizer.backend_tokenizer.to_str())
    if change is renamed:  # the merges that make a word keep it from being renamed
        state["model"]["merges"] = []
        assert refused(root, EditableModel(plain.model, tokenizer_of(state)))
    change(state)
    assert refused(root, EditableModel(plain.model, tokenizer_of(state)))
    print(f"\ntokenizer {change.__name__}: refused, nothing written")


def tokenizer_of(state: dict[str, Any]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def test_what_hashing_a_model_costs() -> None:
    tokenizer = byte_level()
    editable = EditableModel(small_model("gpt2", len(tokenizer), d_ff=200_000), tokenizer)
    size = sum(p.numel() * p.element_size() for p in editable.model.parameters())
    begun = time.monotonic()
    first = fingerprint(editable)
    spent = time.monotonic() - begun
    begun = time.monotonic()
    hashlib.sha256(bytes(size)).digest()
    plain = time.monotonic() - begun
    assert len(first) == 64 and size > 1e8
    print(f"\nfingerprint: {spent / size * 1e9:.2f} s a GB, SHA-256 {plain / size * 1e9:.2f}; {size / 1e6:.0f} MB")


class Drifting(nn.Module):
    """An activation that another version computes a little differently."""

    def __init__(self, plain: nn.Module, by: float) -> None:
        super().__init__()
        self.plain, self.by = plain, by

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.plain(hidden) * (1 + self.by)
        return out


def test_a_base_that_computes_otherwise_warns_and_then_refuses(scratch: Path) -> None:
    root, seen = edited(scratch), {}
    for power in range(-8, 0):
        with LifelongEditor.open(root) as editor:
            distance = probe_distance(drifted(power), editor.history()[0].body["probes"])
        for read_only in (False, True):
            seen[power, read_only] = distance, opening(root, drifted(power), read_only)
    for (_, read_only), (distance, outcome) in seen.items():
        wanted = "silent" if distance <= WARNING else "warned" if distance <= REFUSAL or read_only else "refused"
        assert outcome == wanted, seen
    assert {outcome for _, outcome in seen.values()} == {"silent", "warned", "refused"}
    told = {f"{distance:.0e}": outcome for (_, read_only), (distance, outcome) in seen.items() if not read_only}
    print(f"\nlogits apart by: {told}")


def drifted(power: int) -> EditableModel:
    editable = base_model()
    editable.block(1).mlp.act = Drifting(editable.block(1).mlp.act, 10.0**power)
    return editable


def opening(root: Path, editable: EditableModel, read_only: bool) -> str:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            LifelongEditor.open(root, editable, read_only=read_only).close()
        except ModelMismatch as refusal:
            assert "Edits are refused" in str(refusal)
            return "refused"
    assert all("answers its probes otherwise" in str(warning.message) for warning in told)
    return "warned" if told else "silent"


def test_every_entry_says_what_it_was_made_with(scratch: Path) -> None:
    with with_made_up_targets(), LifelongEditor.open(edited(scratch), base_model()) as editor:
        editor.replace("first", "Marn")
        editor.protect([request("third", 2, 2, 0)])
        editor.revert("second", probe=0)
        editor.restore("second", probe=0)
        editor.tag("here")
        editor.measure()
        entries = editor.history()
    assert {entry.kind for entry in entries} == {
        "init", "edit", "replace", "protect", "revert", "restore", "tag", "measure"
    }  # fmt: skip
    for entry in entries:
        assert entry.body["versions"].keys() == ENVIRONMENT and None not in entry.body["versions"].values()
    print(f"\n{len(entries)} of {len(entries)} entries with {entries[0].body['versions']}")


def test_a_replay_looks_at_every_seq(scratch: Path) -> None:
    root = edited(scratch)
    with with_made_up_targets(), LifelongEditor.open(root, base_model()) as editor:
        with patch.object(KernelState, "digest", "0" * 64):
            wrong = editor.apply([request("third", 2, 0, 0)]).entry
        editor.apply([request("fourth", 2, 2, 1)])
        editor.revert("second", probe=0)
        changes = [entry for entry in editor.history()[1:] if entry.weights]
        newest, every = editor.verify(), editor.verify(replay=True)
    assert wrong is not None and (newest.rebuilt, every.rebuilt) == (1, len(changes)) and len(changes) == 4
    assert newest.problems == () and len(every.problems) == 1
    assert every.problems[0].startswith(f"entry {wrong.seq}: the fold has another weights digest")
    print(f"\n{every.rebuilt} of {len(changes)} digests recomputed; {every.problems[0]}")

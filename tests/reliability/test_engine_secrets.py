"""What the engine is not given on purpose stands nowhere: not in a store, not in what is said or raised."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import LifelongEditError, ModelMismatch, RequestError, SolveError, StoreError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.kernel import write as spread
from tests.reliability.engines import base_model
from tests.reliability.syscalls import ROOT
from tests.samples import QUICK, REQUESTS, TEXT

pytestmark = pytest.mark.reliability
CANARY = "canary-5e1f"
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "PGPASSWORD", "HOSTNAME")
FAILURES = (RequestError, ModelMismatch, SolveError, StoreError)


def whole_life(hidden: Path, folder: Path) -> list[str]:
    """Everything an editor does, failures included; gives what was raised.

    Model and source lie in `hidden`, the store in `folder`: errors of a store name the file they are about.
    """
    model, root, source = hidden / "model", folder / "store", hidden / "stream.jsonl"
    lines = [json.dumps(request.to_dict()) for request in REQUESTS]
    source.write_text("\n".join([*lines, "{not JSON"]))
    raised: list[str] = []

    def refused(kind: type[LifelongEditError], act: Callable[[], object]) -> None:
        try:
            act()
        except kind as error:
            raised.append(f"{type(error).__name__}: {error}")
        else:
            raise AssertionError(f"no {kind.__name__}")

    settings = EditorSettings(layers=(0,), contexts=1, target=QUICK)
    with LifelongEditor.create(root, model, settings, TEXT, actor="a person") as editor:
        refused(RequestError, lambda: list(editor.stream(source, batch=3)))
        refused(RequestError, lambda: editor.apply([replace(REQUESTS[0], target_new="Oran")]))
        refused(RequestError, lambda: editor.revert("nobody"))
        refused(SolveError, lambda: unsolvable(editor))
        editor.revert("ada", "bo")
        editor.restore("bo")
        editor.replace("emile", "Marnish")
        editor.tag("here")
        editor.measure()
        editor.preview_revert("bo")
        editor.blame("Ada Quill was born in")
        editor.diff(0, "here")
        editor.at(1).answer("Ada Quill was born in")
        raised += [f"{finding}" for finding in editor.doctor()]
        raised.append(f"{editor.verify(replay=True, keys=True)}")
        editor.backup(folder / "backup")
        refused(StoreError, lambda: LifelongEditor.open(root, model))
        other = editor.editable
    refused(StoreError, lambda: editor.apply([replace(REQUESTS[0], id="late")]))
    refused(ModelMismatch, lambda: LifelongEditor.open(root, other))
    with LifelongEditor.open(root, model) as editor:
        editor.apply([EditRequest("{} lies in", "Tarsis", "Oran", id="tarsis")], actor="a person")
        editor.gc()
    return raised


def unsolvable(editor: LifelongEditor) -> None:
    plain = spread.optimise_targets

    def poisoned(*arguments: object) -> object:
        found = plain(*arguments)  # type: ignore[arg-type]
        return replace(found, delta=found.delta * torch.nan)

    with patch.object(spread, "optimise_targets", poisoned):
        editor.apply([EditRequest("{} lies in", "Kessel", "Oran", id="unsolvable")])


def main(hidden: str, folder: str) -> None:
    """Print what was raised; what is logged and warned of goes to standard error."""
    logging.basicConfig(level=logging.DEBUG)
    warnings.simplefilter("always")
    print(json.dumps(whole_life(Path(hidden), Path(folder))))


def test_no_secret_of_the_environment_is_kept_or_told(scratch: Path) -> None:
    hidden, home, editable = scratch / f"{CANARY}-path", scratch / f"{CANARY}-home", base_model()
    hidden.mkdir()
    home.mkdir()
    editable.model.save_pretrained(hidden / "model")
    editable.tokenizer.save_pretrained(hidden / "model")
    secrets = {name: f"{CANARY}-{name}" for name in VARIABLES}
    environment = {**os.environ, **secrets, "HOME": str(home), "HF_HOME": str(home / "hf"), "PYTHONPATH": str(ROOT)}
    code = "import sys; from tests.reliability.test_engine_secrets import main; main(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(hidden), str(scratch)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    raised = json.loads(run.stdout)
    for kind in FAILURES:
        assert any(text.startswith(kind.__name__) for text in raised), kind
    kept = [path for part in ("store", "backup") for path in (scratch / part).rglob("*") if path.is_file()]
    assert len(kept) > 15 and any(path.name == "ledger.db" for path in kept)
    hits = [str(path) for path in kept if CANARY.encode() in path.read_bytes() or CANARY in path.name]
    hits += [text for text in (*raised, *run.stderr.splitlines()) if CANARY in text]
    assert hits == []
    size = sum(path.stat().st_size for path in kept)
    print(f"\n{len(kept)} files of {size} bytes, {len(raised)} messages, {len(run.stderr)} bytes logged: 0 hits")

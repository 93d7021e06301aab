"""Serving and editing at once: who answers from the live model meets finished weights only, and nothing fails."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import torch
from torch import Tensor

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import StoreError
from lifelong_edit.facts import EditRequest
from tests.engine.editors import base_model, digest, edited
from tests.samples import PATIENCE, REQUESTS

PROMPTS = ["Ada Quill", "The mother tongue of Émile Zorn is not what Bo Lund speaks near the river", "In 1912"] * 8
EDITS = [
    EditRequest("{} lives in", f"{name} {town}", town) for name in ("Ada", "Bo", "Zorn", "Ana") for town in
    ("Oran", "Marn", "Tarsis", "Kessel", "Veltish")
]  # fmt: skip


def during_edits(editor: LifelongEditor, ask: Callable[[], Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What another thread was told while every edit was made, and what each state says when nothing goes on."""
    done, heard, known = Event(), list[Tensor](), [ask()]

    def serve() -> None:
        while not done.is_set():
            heard.append(ask())

    with ThreadPoolExecutor(1) as other:
        serving = other.submit(serve)
        try:
            for request in EDITS:
                editor.apply([request])
                known.append(ask())
        finally:
            done.set()
        serving.result()
    return heard, known


def test_the_live_model_answers_from_finished_weights_during_edits(tmp_path: Path) -> None:
    """Long batches of short prompts, padded, one pass each: every row's logits are those of one of the states."""
    with edited(tmp_path / "store", ()) as editor:
        tokenizer, model = editor.editable.tokenizer, editor.model

        @torch.no_grad()
        def ask() -> Tensor:
            batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
            logits: Tensor = model(**batch).logits[:, -1]
            return logits

        heard, known = during_edits(editor, ask)
        apart = min(float((a - b).abs().max()) for a, b in pairwise(known))
        assert apart > 1e-3 and len(heard) >= len(EDITS)  # the states can be told apart, and the server was not idle
        assert all(min(float((told - state).abs().max()) for state in known) < apart / 100 for told in heard)


def test_a_view_answers_from_one_state_throughout(tmp_path: Path) -> None:
    """Whole generations, two edited layers: a server that follows the commits by `subscribe` and `at`."""
    with edited(tmp_path / "store", (), layers=(0, 1), targets="live") as editor:
        served = [editor.at(editor.head.seq)]
        editor.subscribe(lambda entry: served.append(editor.at(entry.seq)))

        def ask() -> Tensor:
            view = served[-1]
            batch = view.editable.tokenizer(PROMPTS[:3], return_tensors="pt", padding=True)
            ids: Tensor = view.editable.model.generate(**batch, do_sample=False, max_new_tokens=8, pad_token_id=1)
            return torch.nn.functional.pad(ids, (0, 64 - ids.shape[1]))

        heard, known = during_edits(editor, ask)
        assert len(heard) >= len(EDITS) and all(any(torch.equal(told, one) for one in known) for told in heard)


def test_a_pass_keeps_the_weights_that_it_reads(tmp_path: Path) -> None:
    """A commit puts a new parameter in the old one's place, in every module that has it, and spares the old numbers."""
    with edited(tmp_path / "store", ()) as editor:
        module: Any = editor.editable.write(0)
        old, bits = module.weight, module.weight.clone()
        twin = torch.nn.Linear(1, 1)
        twin.weight = old  # tied
        editor.model.add_module("twin", twin)
        editor.apply([REQUESTS[0]])
        assert module.weight is not old and torch.equal(old, bits) and twin.weight is module.weight
        assert module.weight.stride() == old.stride() and not module.weight.requires_grad


def test_another_thread_asks_and_closes_and_does_not_commit(tmp_path: Path) -> None:
    editor = edited(tmp_path / "store", [REQUESTS[:1]])
    with ThreadPoolExecutor(1) as other:
        for verb in (lambda: editor.apply(REQUESTS[1:2]), lambda: editor.revert("ada"), lambda: editor.tag("now")):
            with pytest.raises(StoreError, match="another thread"):
                other.submit(verb).result()
        assert other.submit(editor.scores).result() == editor.scores()
        assert other.submit(editor.verify).result().problems == () and editor.gc(dry_run=True) == ()
        editor.apply(REQUESTS[1:2])
        kept = digest(editor)
        other.submit(editor.close).result()
    with LifelongEditor.open(tmp_path / "store", base_model()) as editor:
        assert digest(editor) == kept


def test_an_editor_that_nobody_has_any_more_lets_the_next_one_in(tmp_path: Path) -> None:
    editor = edited(tmp_path / "store", [REQUESTS[:1]])
    del editor
    LifelongEditor.open(tmp_path / "store", base_model()).close()


def test_the_example_serves_and_edits_at_once(tmp_path: Path) -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "serve_and_edit.py"))
    wanted = [*REQUESTS[:2], EditRequest("{} lives in", "Ada Quill", "Oran", id="ada"), REQUESTS[2]]  # one is refused
    with edited(tmp_path / "store", ()) as editor:
        service = example["Service"](editor, 0)
        address = f"http://127.0.0.1:{service.server_port}/"

        def ask(prompt: str = "", data: bytes | None = None) -> Any:
            with urlopen(f"{address}?prompt={quote(prompt)}", data, timeout=PATIENCE) as reply:
                return json.load(reply)

        def visit() -> None:
            try:
                for request in wanted:
                    ask(data=json.dumps(request.to_dict()).encode())
                    told.append(ask(request.question))
                for wrong in (lambda: ask(), lambda: ask(data=b"{}"), lambda: ask(data=b"no json")):
                    with pytest.raises(HTTPError, match="400"):
                        wrong()
            finally:
                service.edits.put(None)

        told = list[Any]()
        visitor = Thread(target=visit)
        visitor.start()
        service.run()
        visitor.join()
        assert list(editor.facts()) == ["ada", "emile", "bo"] and service.view.seq == editor.head.seq == 3
        for reply in told:
            assert reply["answer"] == editor.at(reply["seq"]).answer(reply["prompt"])
        assert len(told) == len(wanted)

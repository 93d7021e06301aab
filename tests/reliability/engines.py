"""Editors on a tiny model that cost hundredths of a second a change, and what to compare about them."""

from __future__ import annotations

import hashlib
import shutil
import unittest.mock
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifelong_edit.editing.targets import Targets, TargetSettings
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.facts import EditRequest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.store import Store
from tests.reliability.audit import contents
from tests.samples import lively_editable, new_editor

Array = np.ndarray[Any, Any]
SUBJECTS = ("Ada Quill", "Bo Lund", "Émile Zorn")
PROMPTS = ("{} was born in", "{} lives in", "The clerk {} came from")  # of one subject, the first two share a slot
TARGETS = ("Oran", "Marn", "Tarsis")


def base_model() -> EditableModel:
    """The unedited model of these tests; every call gives another instance with the same bits."""
    return lively_editable("gpt2")


def request(id: str, subject: int, prompt: int, target: int) -> EditRequest:
    return EditRequest(PROMPTS[prompt], SUBJECTS[subject], TARGETS[target], id=id)


def slot_of(request: EditRequest) -> str:
    """Of these subjects and prompts, those alike up to the subject's end share a slot."""
    return request.prompt.split("{}")[0] + request.subject


def made_up_delta(requests: Sequence[EditRequest], size: int) -> Array:
    """A target delta [size] that is a function of what the facts ask for, in any order."""
    asked = sorted(f"{r.prompt} {r.subject} {r.target_new}" for r in requests)
    seed = hashlib.sha256("\n".join(asked).encode()).digest()
    return np.random.default_rng(list(seed)).normal(size=size)


def made_up_targets(
    editable: EditableModel,
    groups: Sequence[Sequence[EditRequest]],
    layer: int,
    _contexts: Sequence[str],
    _settings: TargetSettings,
) -> Targets:
    """In place of `optimise_targets`: what is found does not depend on the model, and costs nothing."""
    d_out = editable.weight(layer).shape[0]
    delta = np.stack([made_up_delta(group, d_out) for group in groups], axis=1) if groups else np.zeros((d_out, 0))
    return Targets(torch.from_numpy(delta), (0.0,) * len(groups), (1,) * len(groups))


def with_made_up_targets() -> AbstractContextManager[Any]:
    return unittest.mock.patch("lifelong_edit.kinds.kernel.write.optimise_targets", made_up_targets)


class Killed(BaseException):
    """Stands for the death of the process."""


@contextmanager
def dying(after: bool) -> Iterator[None]:
    """In this block a commit kills the process: before anything is written, or once the entry is in the ledger."""
    commit = Store.commit

    def killed(store: Store, *arguments: Any) -> None:
        if after:
            commit(store, *arguments)
        raise Killed

    with unittest.mock.patch.object(Store, "commit", killed):
        yield


def drop(editor: LifelongEditor) -> None:
    """What the kernel does for a process that died: its files are closed, and the lock with them."""
    editor.store.close()


def state_of(editor: LifelongEditor) -> tuple[str, Any, int]:
    """All that a refused change must leave as it was: model, files of the store with their times, and the head."""
    return fingerprint(editor.editable), contents(editor.store.layout.root), editor.head.seq


class Prepared:
    """New stores in no time: each is a copy of one that was founded with the same choices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def store(self, **choices: Any) -> Path:
        """A store of its own, without an edit."""
        name = "-".join(f"{value}" for value in choices.values())
        founded = self.folder / f"founded-{name}"
        if not founded.exists():
            new_editor(founded, base_model(), **choices).close()
        self.count += 1
        return Path(shutil.copytree(founded, self.folder / f"store-{self.count}"))

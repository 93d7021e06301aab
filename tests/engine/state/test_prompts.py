"""True prompts in the second moments of a new store: what is mixed, that it is pinned, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lifelong_edit import kinds
from lifelong_edit.algebra.second_moment import SecondMoment
from lifelong_edit.editing.second_moments import beside_model, moment_bytes, read_moment
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.statistics import TEXTS_PER_PASS, StatisticsSettings, digest_of
from lifelong_edit.engine import LifelongEditor
from lifelong_edit.errors import RequestError
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from tests.editing.test_statistics import captured_inputs
from tests.engine.editors import live
from tests.samples import QUICK, REQUESTS, TEXT, lively_editable

LAYERS = (0, 1)
PROMPTS = [f"{request.question} Oran." for request in REQUESTS]


def base() -> EditableModel:
    return lively_editable("llama", torch.float64)


def created(folder: Path, model: Any = None, **given: Any) -> LifelongEditor:
    """A new store of both layers that may change them by any size; prompts have `share`."""
    settings = EditorSettings(
        layers=LAYERS,
        contexts=1,
        target=QUICK,
        ridge=0.5,
        halvings=0,
        norm_limit=None,
        prompt_share=given.pop("share", 0.5),
    )
    return LifelongEditor.create(folder, model or base(), settings, **{"text": TEXT, "dtype": torch.float64, **given})


def moments(folder: Path, editor: LifelongEditor) -> dict[int, tuple[Tensor, dict[str, Any]]]:
    """The pinned second moments by layer, each with what its file says."""
    pinned = editor.history()[0].body["statistics"].items()
    files = {int(n): next((folder / "statistics").rglob(f"{digest}*")).read_bytes() for n, digest in pinned}
    return {n: (moment.matrix, about) for n, (moment, about) in ((n, read_moment(data)) for n, data in files.items())}


def mean_square(texts: Sequence[str], layer: int) -> Tensor:
    """By force: the mean of k k' over every token of every text, each run alone."""
    keys = captured_inputs(base(), layer, list(texts), StatisticsSettings().max_length)
    return torch.stack([torch.outer(key, key) for key in keys]).mean(dim=0)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_every_layer_has_the_weighted_mean_of_the_two_means_over_tokens(share: float, tmp_path: Path) -> None:
    with created(tmp_path, prompts=PROMPTS, share=share) as editor:
        pinned, body = moments(tmp_path, editor), editor.history()[0].body
    assert tuple(pinned) == LAYERS
    for layer, (matrix, about) in pinned.items():
        expected = (1 - share) * mean_square(TEXT, layer) + share * mean_square(PROMPTS, layer)
        torch.testing.assert_close(matrix, expected, rtol=1e-10, atol=1e-12)
        assert (about["text"], about["prompts"]) == (digest_of(TEXT), digest_of(PROMPTS))
    assert body["prompts"] == {"count": len(PROMPTS), "digest": digest_of(PROMPTS)}
    assert body["config"]["prompt_share"] == share


def test_they_have_their_share_in_shipped_moments_too(tmp_path: Path) -> None:
    model, store = tmp_path / "model", tmp_path / "store"
    editable = base()
    editable.model.save_pretrained(model)
    editable.tokenizer.save_pretrained(model)
    shipped = torch.eye(editable.shape(0)[1], dtype=torch.float64)
    for layer in LAYERS:
        path = beside_model(model, layer)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(moment_bytes(SecondMoment(shipped, 1), {"layer": layer, "fingerprint": fingerprint(editable)}))
    with created(store, model, text=None, prompts=PROMPTS) as editor:
        for layer, (matrix, _) in moments(store, editor).items():
            expected = (shipped + mean_square(PROMPTS, layer)) / 2
            torch.testing.assert_close(matrix, expected, rtol=1e-10, atol=1e-12)


def test_other_prompts_are_pinned_otherwise_and_edits_spare_the_prompts(tmp_path: Path) -> None:
    keys = captured_inputs(base(), 0, PROMPTS, 256).T
    moved, digests = [], []
    for name, given in {"none": {}, "some": {"prompts": PROMPTS}, "half": {"prompts": PROMPTS[:3]}}.items():
        with created(tmp_path / name, **given) as editor:
            editor.apply(REQUESTS)
            moved.append(float(((live(editor) - base().weight(0)) @ keys).norm()))
            weights, body = live(editor), editor.history()[0].body
            digests.append((body.get("prompts", {}).get("digest"), *body["statistics"].values()))
        with LifelongEditor.open(tmp_path / name, base()) as again:
            assert torch.equal(live(again), weights) and again.verify(replay=True).problems == ()
    assert moved[1] < moved[0]
    assert all(len(set(column)) == 3 for column in zip(*digests, strict=True))


def test_a_creation_interrupted_among_the_prompts_reads_neither_them_nor_the_text_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifelong_edit.editing.second_moments.PASSES_PER_SAVE", 1)
    texts, prompts = TEXT * 3, [f"{number}: {prompt}" for number in range(20) for prompt in PROMPTS]
    before = -(-len(texts) // TEXTS_PER_PASS) + 1  # passes: all of the text, and one of the prompts

    def pinned(told: list[int], folder: str, passes: float = math.inf) -> dict[str, str]:
        """What a store is pinned to whose creation is interrupted after so many passes, each told."""

        def tell(tokens: int, _wanted: int) -> None:
            if len(told) == passes:
                raise KeyboardInterrupt
            told.append(tokens)

        with created(tmp_path / folder, text=texts, prompts=prompts, progress=tell) as editor:
            assert editor.gc(dry_run=True) == ()
            return dict(editor.history()[0].body["statistics"])

    told: list[int] = []
    whole = pinned(told, "whole")
    with pytest.raises(KeyboardInterrupt):
        pinned([], "store", before)
    again: list[int] = []
    assert pinned(again, "store") == whole
    assert again == told[before:] != [] and told[before - 2] > told[before - 1]  # which was the first of the prompts


@pytest.mark.parametrize(
    "given, told",
    [
        ({"prompts": []}, "no prompt among"),
        ({"prompts": ["", " "]}, "no prompt among"),
        ({"prompts": "Ada was born in Marn."}, "prompts is a list"),
        ({"prompts": [("Ada was born in", "Marn")]}, "prompts is a list"),
        ({"text": "Ada was born in Marn."}, "text is a list"),
        *[({"prompts": PROMPTS, "share": share}, "between 0 and 1") for share in (0.0, 1.0, -0.5, math.nan)],
    ],
)
def test_what_are_no_prompts_is_refused_before_anything_is_made(
    given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=told):
        created(tmp_path / "store", **given)
    assert not (tmp_path / "store").exists()


def test_a_kind_of_memory_without_second_moments_takes_no_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(Path(__file__).parents[2] / "kinds" / "other")])
    with pytest.raises(RequestError, match="no second moments"):
        created(tmp_path / "store", memory_kind="dictionary", prompts=PROMPTS)

"""Second moments as files: read back as written, and refused when they are another model's or none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lifelong_edit.algebra.second_moment import RunningSecondMoment, SecondMoment
from lifelong_edit.datasets.jsonl import read_lines, read_texts
from lifelong_edit.editing.second_moments import (
    beside_model,
    blended_moment,
    mixed_moment,
    moment_bytes,
    read_moment,
    shipped_moments,
)
from lifelong_edit.errors import RequestError, StoreCorrupt, StoreError
from lifelong_edit.store.objects import encode
from tests.algebra import elsewhere


@pytest.fixture
def moment() -> SecondMoment:
    running = RunningSecondMoment(4)
    running.add(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    return running.value()


def place(folder: Path, layer: int, data: bytes) -> None:
    path = beside_model(folder, layer)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def test_a_moment_is_read_back_bit_for_bit_with_what_it_says(moment: SecondMoment) -> None:
    again, about = read_moment(moment_bytes(moment, {"layer": 3, "fingerprint": "f"}))
    assert torch.equal(again.matrix, moment.matrix)
    assert (again.count, about["layer"], about["fingerprint"]) == (9, 3, "f")


def test_one_that_lies_elsewhere_has_the_same_file(moment: SecondMoment) -> None:
    keys = torch.randn(4, 3, dtype=torch.float64)
    with elsewhere.place():
        file = moment_bytes(SecondMoment(elsewhere.elsewhere(moment.matrix), moment.count), {})
        mixed = mixed_moment(file, elsewhere.elsewhere(keys), 0.5)
    assert file == moment_bytes(moment, {}) and mixed == mixed_moment(file, keys, 0.5) != file


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_blend_is_the_weighted_mean_of_two_moments_and_says_so(moment: SecondMoment, share: float) -> None:
    own = SecondMoment(torch.diag(torch.arange(1.0, 5.0, dtype=torch.float64)), 7)
    generic, prompts = moment_bytes(moment, {"text": "t", "layer": 2}), moment_bytes(own, {"text": "p", "layer": 2})
    blend, about = read_moment(blended_moment(generic, prompts, share))
    torch.testing.assert_close(blend.matrix, moment.matrix + share * (own.matrix - moment.matrix), rtol=1e-12, atol=0)
    assert (blend.count, about["text"], about["layer"]) == (9 + 7, "t", 2)
    assert (about["prompts"], about["prompt_tokens"], about["prompt_share"]) == ("p", 7, share)


def test_a_file_that_is_no_moment_is_refused(moment: SecondMoment) -> None:
    good = moment_bytes(moment, {})
    for bad in (
        b"",
        good[:-8],
        good.replace(b"second_moment", b"secund_moment"),
        encode({"second_moment": np.eye(2)}, {"kind": "other", "count": 3}),
        encode({"second_moment": np.eye(2)}, {"kind": "second_moment"}),
    ):
        with pytest.raises(StoreCorrupt):
            read_moment(bad)
    with pytest.raises(StoreError, match="finite"):
        moment_bytes(SecondMoment(torch.full((2, 2), float("nan"), dtype=torch.float64), 3), {})


def test_moments_beside_a_model_belong_to_it_and_to_their_layer(moment: SecondMoment, tmp_path: Path) -> None:
    for layer in (0, 2):
        place(tmp_path, layer, moment_bytes(moment, {"layer": layer, "fingerprint": "f"}))
    assert set(shipped_moments(tmp_path, {0: 4, 2: 4}, "f")) == {0, 2}
    with pytest.raises(RequestError, match="layer 1"):
        shipped_moments(tmp_path, {0: 4, 1: 4}, "f")
    with pytest.raises(RequestError, match=r"another model.*cast.*text="):
        shipped_moments(tmp_path, {0: 4}, "g")
    with pytest.raises(RequestError, match="another layer"):
        shipped_moments(tmp_path, {0: 5}, "f")
    place(tmp_path, 1, moment_bytes(moment, {"layer": 2, "fingerprint": "f"}))
    with pytest.raises(RequestError, match="another layer"):
        shipped_moments(tmp_path, {1: 4}, "f")


@pytest.mark.parametrize("size", [0, 100, 2**42])
def test_a_damaged_moment_beside_a_model_is_named(moment: SecondMoment, tmp_path: Path, size: int) -> None:
    place(tmp_path, 0, moment_bytes(moment, {"layer": 0, "fingerprint": "f"}))
    os.truncate(beside_model(tmp_path, 0), size)  # beyond its end a file is a hole
    with pytest.raises(RequestError, match=r"layer-0\.safetensors is (damaged|too large).*text="):
        shipped_moments(tmp_path, {0: 4}, "f")


def test_paragraphs_of_a_text_are_parted_by_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Ada lives\nin Marn.\n\n\n\n  Bo does not. \n \nNor do I.\n", encoding="utf-8")
    assert read_texts(path) == ["Ada lives\nin Marn.", "Bo does not.", "Nor do I."]
    assert read_lines(path) == ["Ada lives", "in Marn.", "Bo does not.", "Nor do I."]
    path.write_text(" \n\n", encoding="utf-8")
    with pytest.raises(RequestError, match="one a line"):
        read_lines(path)


def test_what_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("bytes", "missing", "."):
        with pytest.raises(RequestError, match="plain text file"):
            read_texts(tmp_path / name)

"""A record's bytes are a function of its content, and nothing but such bytes is read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from lifelong_edit.errors import StoreCorrupt, StoreError
from lifelong_edit.store.objects import MAX_HEADER, KernelPart, KernelRecord, decode, encode, read_record

ROUND = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | ROUND | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=8,
)
ARRAYS = st.lists(ROUND, min_size=1, max_size=12).map(lambda values: np.array(values).reshape(1, -1))
NAMES = st.text("abc./_", min_size=1)


@settings(max_examples=60)
@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.dictionaries(st.text("abc"), JSON, max_size=4))
def test_what_is_encoded_is_decoded(tensors: dict[str, Any], meta: dict[str, Any]) -> None:
    data = encode(tensors, meta)
    found, found_meta = decode(data)
    assert found_meta == meta and found.keys() == tensors.keys()
    assert all(found[name].tobytes() == tensors[name].tobytes() for name in tensors)
    assert encode(found, found_meta) == data


def test_the_order_of_the_names_and_the_memory_layout_do_not_matter() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.ones((2, 2))
    assert encode({"a": a, "b": b}, {"x": 1, "y": 2}) == encode({"b": b, "a": np.asfortranarray(a)}, {"y": 2, "x": 1})


def test_two_processes_with_different_hash_seeds_write_the_same_bytes(edit_record: KernelRecord) -> None:
    code = (
        "import sys, hashlib; from lifelong_edit.store.objects import KernelRecord;"
        "record = KernelRecord.from_bytes(sys.stdin.buffer.read());"
        "print(hashlib.sha256(record.to_bytes()).hexdigest())"
    )
    data = edit_record.to_bytes()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, env=environment, check=True)
        assert run.stdout.decode().strip() == hashlib.sha256(data).hexdigest()


def test_a_kernel_record_comes_back_bit_for_bit(edit_record: KernelRecord) -> None:
    found = KernelRecord.from_bytes(edit_record.to_bytes())
    assert found.facts == ("f1", "f2") and found.is_edit
    for name, part in edit_record.parts.items():
        assert {k: v.tobytes() for k, v in found.parts[name].tensors().items()} == {
            k: v.tobytes() for k, v in part.tensors().items()
        }


def test_a_revert_holds_the_delta_only() -> None:
    delta = KernelPart(np.ones((3, 1)), np.ones((4, 1)))
    record = KernelRecord(("f1", "f2"), {"w": delta})
    assert decode(record.to_bytes())[0].keys() == {"w/left", "w/right"}
    assert not KernelRecord.from_bytes(record.to_bytes()).is_edit


@pytest.mark.parametrize(
    "change",
    [
        {"right": np.ones((4, 3))},
        {"keys": np.ones((3, 2))},
        {"keys": None},
        {"base_residuals": np.ones((3, 3))},
        {"ridge": np.ones((2, 1))},
        {"left": np.ones(3)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_shapes_that_do_not_agree_are_refused(edit_record: KernelRecord, change: dict[str, Any]) -> None:
    ((name, part),) = edit_record.parts.items()
    with pytest.raises(StoreError, match=r"down_proj"):
        KernelRecord(edit_record.facts, {name: replace(part, **change)})


def test_parts_that_are_not_alike_are_refused(edit_record: KernelRecord) -> None:
    delta = KernelPart(np.ones((3, 1)), np.ones((4, 1)))
    for parts in ({**edit_record.parts, "other": delta}, {}, {"../../etc": delta}):
        with pytest.raises(StoreError):
            KernelRecord(edit_record.facts, parts)


@pytest.mark.parametrize("bad", [np.array([np.nan]), np.array([np.inf]), np.ones(1, np.float32), np.ones(1, int)])
def test_what_could_not_be_read_is_not_written(bad: Any) -> None:
    with pytest.raises(StoreError):
        encode({"a": bad}, {})
    with pytest.raises(StoreCorrupt):
        decode(save({"a": bad}, metadata={"record": "{}"}))


def test_a_header_too_long_to_read_is_not_written() -> None:
    with pytest.raises(StoreError, match="smaller batches"):
        encode({"a": np.ones(1)}, {"facts": ["x" * MAX_HEADER]})


def crafted(header: str | bytes, data: bytes = bytes(16)) -> bytes:
    raw = header if isinstance(header, bytes) else header.encode()
    return len(raw).to_bytes(8, "little") + raw + data


META = '"__metadata__":{"record":"{}"}'
CELL = '{"dtype":"F64","shape":[1],"data_offsets":[%d,%d]}'
TWO = f'{{{META},"a":{CELL % (0, 8)},"b":{CELL % (8, 16)}}}'
HOSTILE = {
    "empty": b"",
    "short": b"\1\0",
    "header beyond the end": (9999).to_bytes(8, "little") + b"{}",
    "huge header": (MAX_HEADER + 1).to_bytes(8, "little") + bytes(MAX_HEADER + 1),
    "absurd header": b"\xff" * 8 + b"{}",
    "duplicate name": crafted(f'{{{META},"a":{CELL % (0, 8)},"a":{CELL % (8, 16)}}}'),
    "duplicate field": crafted(TWO.replace('"dtype":"F64"', '"dtype":"F32","dtype":"F64"')),
    "overlap": crafted(f'{{{META},"a":{CELL % (0, 8)},"b":{CELL % (4, 12)}}}'),
    "hole": crafted(f'{{{META},"a":{CELL % (0, 8)},"b":{CELL % (16, 24)}}}', bytes(24)),
    "trailing bytes": crafted(TWO, bytes(17)),
    "cut": crafted(TWO, bytes(15)),
    "shape": crafted(TWO.replace("[1]", "[2]")),
    "shape beyond numpy": crafted(
        TWO.replace('"shape":[1],"data_offsets":[0,8]', '"shape":[0,9223372036854775808],"data_offsets":[0,0]').replace(
            "[8,16]", "[0,8]"
        ),
        bytes(8),
    ),
    "shape not a number": crafted(TWO.replace("[1]", '["1"]')),
    "float32": crafted(TWO.replace("F64", "F32").replace("[1]", "[2]")),
    "tensor is no object": crafted(f'{{{META},"a":1}}', b""),
    "not a number": crafted(TWO, b"\0\0\0\0\0\0\xf8\x7f" * 2),
    "no metadata": crafted(f'{{"a":{CELL % (0, 8)}}}', bytes(8)),
    "two metadata keys": crafted(TWO.replace('"record":"{}"', '"record":"{}","x":"y"')),
    "metadata not JSON": crafted(TWO.replace('"record":"{}"', '"record":"{"')),
    "metadata not canonical": crafted(TWO.replace('"record":"{}"', '"record":"{ }"')),
    "metadata NaN": crafted(TWO.replace('"record":"{}"', '"record":"{\\"a\\":NaN}"')),
    "metadata a list": crafted(TWO.replace('"record":"{}"', '"record":"[]"')),
    "deep": crafted("[" * 100_000),
    "header a list": crafted("[]", b""),
    "not UTF-8": crafted(b'{"\xff":1}', b""),
    "UTF-16": crafted(TWO.encode("utf-16-le")),
    "pickle": b"\x80\x04\x95" + bytes(40),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_crafted_file_is_refused(name: str) -> None:
    with pytest.raises(StoreCorrupt):
        decode(HOSTILE[name])


def test_the_crafted_files_are_bad_for_the_reason_they_name() -> None:
    assert decode(crafted(TWO))[0].keys() == {"a", "b"}


@settings(max_examples=200)
@given(st.data())
def test_a_mutated_file_is_read_as_a_record_or_refused(data: st.DataObject) -> None:
    part = KernelPart(np.ones((2, 1)), np.ones((2, 1)), *[np.ones((2, 1))] * 3, ridge=np.ones(1))
    sound = KernelRecord(("f",), {"w": part}).to_bytes()
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StoreCorrupt):
        read_record(bytes(damaged))


@pytest.mark.parametrize(
    "meta",
    [{"kind": "kernel"}, {"kind": "kernel", "facts": [1]}, {"kind": "kernel", "facts": ["f"], "more": 1}],
)
def test_kernel_metadata_is_exact(meta: dict[str, Any]) -> None:
    with pytest.raises(StoreCorrupt):
        read_record(encode({"w/left": np.ones((2, 1)), "w/right": np.ones((2, 1))}, meta))


def test_an_unknown_tensor_or_a_missing_one_is_refused() -> None:
    meta, one = {"kind": "kernel", "facts": []}, np.ones((2, 1))
    for tensors in ({"w/left": one}, {"w/left": one, "w/right": one, "w/extra": one}, {"left": one, "right": one}, {}):
        with pytest.raises(StoreCorrupt):
            read_record(encode(tensors, meta))


@pytest.mark.parametrize("meta", [{"kind": "grace"}, {"kind": ["kernel"]}, {}])
def test_an_unknown_kind_is_of_a_newer_version(meta: dict[str, Any]) -> None:
    with pytest.raises(StoreCorrupt, match="newer version"):
        read_record(encode({"a": np.ones(1)}, meta))


def test_the_file_is_plain_safetensors_with_one_metadata_key(edit_record: KernelRecord) -> None:
    data = edit_record.to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"record": '{"facts":["f1","f2"],"kind":"kernel"}'}
    assert "model.layers.2.mlp.down_proj.weight/left" in header

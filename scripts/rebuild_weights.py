"""Rebuild a store's edited weights with numpy, sqlite3, json and safetensors alone: the base plus every recorded delta.

    python scripts/rebuild_weights.py store/ checkpoints/tiny-world --out edited.safetensors

The second path is the unedited model: a folder, or a file, of safetensors. The ledger's first entry holds a digest of
the base matrices, which tells another model and the two ways to store a matrix apart. The store must have been made
with the dtype of that model or with a wider one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

DTYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}  # numpy has no bfloat16: its bits are read
Matrices = dict[str, np.ndarray[Any, Any]]


def base_matrix(model: Path, name: str) -> np.ndarray[Any, Any]:
    """The matrix of the parameter `name`, as it is stored; some files leave out the name's first part."""
    for path in sorted(model.glob("*.safetensors")) if model.is_dir() else [model]:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            for stored, about in json.loads(file.read(size)).items():
                if f".{name}".endswith(f".{stored}"):
                    start, end = about["data_offsets"]
                    file.seek(8 + size + start)
                    read = np.frombuffer(file.read(end - start), DTYPES[about["dtype"]])
                    values: np.ndarray[Any, Any] = read.reshape(about["shape"])
                    return (values.astype("<u4") << 16).view("<f4") if about["dtype"] == "BF16" else values
    raise SystemExit(f"{model} has no {name}. Give the folder or file of the unedited model.")


def digest(matrices: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """SHA-256 over float32 of the matrices [d_out, d_in], sorted by name, as the ledger has it."""
    total = hashlib.sha256()
    for name, matrix in sorted(matrices.items()):
        total.update(json.dumps([name, list(matrix.shape)], separators=(",", ":")).encode())
        total.update(np.ascontiguousarray(matrix, "<f4").tobytes())
    return total.hexdigest()


def rebuild(store: Path, model: Path, seq: int | None = None) -> tuple[Matrices, bool]:
    """The edited matrices [d_out, d_in] after entry `seq`, float64, and whether the model's file turns them."""
    ledger = sqlite3.connect(f"{(store / 'ledger.db').absolute().as_uri()}?mode=ro", uri=True)
    rows = ledger.execute("SELECT body FROM entries WHERE ?1 IS NULL OR seq <= ?1 ORDER BY seq", [seq]).fetchall()
    ledger.close()
    first, *later = [json.loads(body) for (body,) in rows]
    digests = [body["record"] for body in later if "record" in body]
    records = [load_file(store / "objects" / one[:2] / f"{one}.safetensors") for one in digests]
    names = {tensor.rpartition("/")[0] for record in records for tensor in record}
    stored = {name: base_matrix(model, name) for name in names}
    for transposed in (False, True):
        base = {name: matrix.T if transposed else matrix for name, matrix in stored.items()}
        if digest(base) == first["base_weights"]:
            deltas = {name: sum(one[f"{name}/left"] @ one[f"{name}/right"].T for one in records) for name in names}
            return {name: base[name].astype("<f8") + deltas[name] for name in names}, transposed
    raise SystemExit("Nothing was edited up to there, or the model is not the one that the store was made with.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--at", type=int, metavar="SEQ", help="the last entry that counts; by default the newest")
    parser.add_argument("--out", type=Path, help="where to write the matrices: float32, turned as in the model's file")
    chosen = parser.parse_args()
    weights, transposed = rebuild(chosen.store, chosen.model, chosen.at)
    for name, weight in weights.items():
        print(f"{name}  [d_out, d_in] = {list(weight.shape)}, norm {np.linalg.norm(weight):.6g}")
    if chosen.out:
        turned = {name: weight.T if transposed else weight for name, weight in weights.items()}
        save_file({name: np.ascontiguousarray(weight, "<f4") for name, weight in turned.items()}, chosen.out)


if __name__ == "__main__":
    main()

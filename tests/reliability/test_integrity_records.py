"""Goal 8: a torn, cut or rotten record is refused before anything parses it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.numpy import load

from lifelong_edit.errors import StoreCorrupt
from lifelong_edit.store import GENESIS, KernelRecord, Store, objects
from lifelong_edit.store.verify import inspect
from tests.reliability.damage import damaged, flipped
from tests.reliability.specimens import contents, delta_record, edit_body, edit_record, make_store

pytestmark = pytest.mark.reliability
SEED = 8
DAMAGES = 1_000


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was given to the parser of records."""
    given: list[bytes] = []
    decode = objects.decode
    monkeypatch.setattr(objects, "decode", lambda data: (given.append(data), decode(data))[1])
    return given


def committed(root: Path, record: bytes) -> tuple[Store, str]:
    """A store with one edit, and the digest of its record."""
    store, body = Store.create(root), edit_body("a", "b")
    entry = store.commit("edit", body, record, contents(body), GENESIS)
    assert entry.record is not None
    return store, entry.record


def refused(store: Store, digest: str, data: bytes) -> bool:
    """Whether the store will not give these bytes in the place of its record, and says which record that is."""
    path = store.objects.path(digest)
    path.write_bytes(data)
    assert path.read_bytes() == data  # the damage was done
    with pytest.raises(StoreCorrupt, match=digest) as error:
        KernelRecord.from_bytes(store.objects.get(digest))
    return error.value.exit_code == 4


def loads(data: bytes) -> bool:
    """Whether safetensors by itself takes the bytes for a sound file."""
    try:
        load(data)
    except (SafetensorError, ValueError, TypeError, KeyError):
        return False
    return True


def test_every_flipped_bit_and_every_truncation_of_a_small_record(scratch: Path, parsed: list[bytes]) -> None:
    sound = delta_record(["a"]).to_bytes()
    store, digest = committed(scratch / "store", sound)
    with store:
        KernelRecord.from_bytes(store.objects.get(digest))
        assert parsed.pop() == sound  # the parser is watched
        flips = [flipped(sound, bit) for bit in range(8 * len(sound))]
        cuts = [sound[:length] for length in range(len(sound))]
        assert sound not in flips + cuts and len(set(flips + cuts)) == 9 * len(sound)
        assert all(refused(store, digest, data) for data in flips + cuts)
        assert parsed == []
    silent = sum(map(loads, flips + cuts))
    assert silent > 0  # the digest is what protects
    print(f"goal 8: {len(flips)} flips and {len(cuts)} truncations refused unparsed; safetensors alone loads {silent}")


def test_random_damage_to_a_large_record(scratch: Path, parsed: list[bytes]) -> None:
    rng = random.Random(SEED)
    sound = edit_record([f"fact {n}" for n in range(16)], SEED, (1024, 1536)).to_bytes()
    store, digest = committed(scratch / "store", sound)
    with store:
        for _ in range(DAMAGES):
            data = damaged(sound, rng)
            assert data != sound and refused(store, digest, data)
    assert parsed == []
    print(f"goal 8: seed {SEED}, {DAMAGES} damages of a record of {len(sound):,} bytes, {DAMAGES} refused unparsed")


def test_an_inspection_names_the_entry_and_the_digest(scratch: Path) -> None:
    rng, root = random.Random(SEED), make_store(scratch / "store", 16)
    with Store.open(root, read_only=True) as store:
        named = [entry for entry in store.ledger.entries() if entry.record is not None]
        for entry in named:
            path = store.objects.path(str(entry.record))
            sound = path.read_bytes()
            path.write_bytes(flipped(sound, rng.randrange(8 * len(sound))))
            (problem,) = inspect(store).problems
            assert problem.startswith(f"entry {entry.seq}: object {entry.record} ")
            path.write_bytes(sound)
        assert len(named) > 10 and inspect(store).problems == ()

"""Goal 13: no name from outside becomes a path, and no link leads out of the store."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from lifelong_edit.errors import LifelongEditError, StoreCorrupt, StoreError
from lifelong_edit.facts import canonical_json
from lifelong_edit.store import GENESIS, Entry, Store
from lifelong_edit.store.objects import is_digest
from tests.reliability.specimens import contents, delta_record, edit_body, make_store
from tests.reliability.watching import PathWatch, touched_in

pytestmark = pytest.mark.reliability
SEED = 13
STRINGS, BATCH = 10_000, 20
OWN = re.compile(r"[0-9a-f]{2}|[0-9a-f]{64}\.safetensors(\.[0-9a-f]{16}\.tmp)?")  # below a folder held open

PIECES = [
    "..",
    ".",
    "",
    "etc",
    "passwd",
    "ab",
    "a" * 64,
    "\0",
    "~",
    "~root",
    "%2e%2e",
    "C:",
    "file:",
    "$HOME",
    "|ls",
    "．．",
]
PATHS = st.builds(
    str.join, st.sampled_from(["/", "\\", "//", "／", "%2f"]), st.lists(st.sampled_from(PIECES), max_size=9)
)
NEAR_DIGESTS = st.builds(
    lambda at, odd: "a" * at + odd + "a" * (64 - at - len(odd)),
    st.integers(0, 63),
    st.sampled_from(["", "A", "g", "/", "../", "\n", "\0", "٣", "ａ", " ", "-", ".safetensors", "\ud800"])
    | st.characters(),
)
HOSTILE = st.one_of(
    PATHS,
    NEAR_DIGESTS,
    st.text(),
    st.sampled_from(
        ["a" * 64 + "\n", "\n" + "a" * 64, "A" * 64, "a" * 63, "a" * 65, "a" * 100_000, "/" * 64, "0x" + "a" * 62]
    ),
).filter(lambda text: not is_digest(text))


def try_everywhere(store: Store, head: Entry, name: str) -> None:
    """Use `name` wherever the store takes a digest."""
    for use in (store.objects.path, store.objects.get, store.objects.has):
        with pytest.raises(StoreCorrupt):
            use(name)
    with pytest.raises(LifelongEditError):
        store.ledger.append("edit", {**edit_body("x"), "record": name}, {}, head.digest)
    text = canonical_json({**edit_body("x"), "kind": "edit", "seq": 1, "prev": head.digest, "record": name})
    with pytest.raises(StoreCorrupt):
        Entry.from_row(1, hashlib.sha256(text.encode(errors="replace")).hexdigest(), head.digest, text)


def escaped(root: Path, path: str) -> bool:
    """Whether a path leads out of the store, or anywhere but to a record below a folder that is held open."""
    return not OWN.fullmatch(path) and not os.path.abspath(path).startswith(f"{root}/")


def try_all(root: Path) -> tuple[int, list[str]]:
    """How many strings were tried, and the paths used that lead out of the store."""
    watch, tried = PathWatch(), 0
    with Store.open(root) as store:
        head = store.ledger.head()
        assert head is not None

        @seed(SEED)
        @settings(
            max_examples=STRINGS // BATCH,
            database=None,
            phases=[Phase.generate],
        )
        @given(st.lists(HOSTILE, min_size=BATCH, max_size=BATCH))
        def check(names: list[str]) -> None:
            nonlocal tried
            for name in names:
                with watch.watching():
                    try_everywhere(store, head, name)
                tried += 1

        check()
        assert watch.paths == []  # not even one inside
        with watch.watching():
            store.objects.get(store.objects.put(b"a path of the store's own"))
            Path("/dev/null").read_bytes()
    assert len(watch.paths) > 3  # the watch was awake
    return tried, [path for path in watch.paths if escaped(root, path)]


def test_no_string_becomes_a_path(scratch: Path) -> None:
    root = make_store(scratch / "store", 2)
    code = (
        "import json, pathlib, sys; from tests.reliability.test_hostile_paths import try_all;"
        "print(json.dumps(try_all(pathlib.Path(sys.argv[1]))))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4_000:]
    tried, foreign = json.loads(run.stdout)
    assert tried >= STRINGS and foreign == ["/dev/null"]  # the one opened on purpose
    print(f"goal 13: seed {SEED}, {tried} hostile strings, 0 opens outside the store")


def link(place: Path, outside: Path) -> None:
    """Move what is at `place` outside, and leave a link to it."""
    place.rename(outside / place.name)
    place.symlink_to(outside / place.name)


@pytest.mark.parametrize("place", ["record", "its folder", "all objects"])
@pytest.mark.parametrize("read_only", [True, False], ids=["reading", "writing"])
def test_a_link_out_of_the_store_is_not_followed(scratch: Path, place: str, read_only: bool) -> None:
    outside = scratch / "outside"
    outside.mkdir()
    data, body = delta_record(["a"]).to_bytes(), edit_body("a")
    with Store.create(scratch / "store") as store:
        digest = store.commit("edit", body, data, contents(body), GENESIS).record
    assert digest is not None
    path = store.objects.path(digest)
    linked = {"record": path, "its folder": path.parent, "all objects": store.layout.objects}[place]
    link(linked, outside)
    assert path.read_bytes() == data  # who follows the link finds what he wants
    folders = [outside, *(folder for folder in outside.rglob("*") if folder.is_dir())]
    with Store.open(store.layout.root, read_only) as store, ExitStack() as stack:
        touched = [stack.enter_context(touched_in(folder)) for folder in folders]
        with pytest.raises(StoreCorrupt, match=digest):
            store.objects.get(digest)
        if not read_only and place != "record":  # a record's own name is replaced, which follows nothing
            with pytest.raises(StoreError):
                store.objects.put(data)
    assert touched == [[] for _ in folders]
    with touched_in(folders[-1]) as control:
        next(file for file in folders[-1].iterdir() if file.is_file()).read_bytes()
    assert control != []

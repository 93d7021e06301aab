"""Goal 22: whatever ids, subjects and filters say, they are data: a ledger answers as a dictionary would."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lifelong_edit.errors import LifelongEditError, RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.store import GENESIS, Store, lives
from lifelong_edit.store.verify import inspect
from tests.reliability.specimens import COMMON, contents, delta_record, edit_body, edit_record, init_body, revert_body

pytestmark = pytest.mark.reliability
SEED = 22
TEXTS, BATCH = 200, 8
FRAGMENTS = [
    "'", '"', "''", "`", "]", ";", "--", "/*", "*/", "\\", "%", "_", "*", "?", "?1", ":id", "@id", "{}", "\t", "\n",
    "' OR '1'='1", '" OR 1=1 --', "'); DROP TABLE entries; --", "'; DELETE FROM requests; --", "1 UNION SELECT body",
    "' || (SELECT digest FROM entries) || '", "ATTACH 'x' AS y", "PRAGMA user_version = 9", "load_extension('x')",
    "x'ff'", "NULL", "0", "1e400", "-0", "true", "$.id", "$.facts[0]", '{"id":"a"}', "[]", "\\u0000", "%s", "%n", "{0}",
    "{0.__class__}", "é", "e\u0301", "ſ", "İ", "ı", "ß", "Σς", "\u202e", "\ufeff", "\u2028", "💥", "A", "a", "Ａ", " ",
    "\u00a0", "٣", "NEW.id",
]  # fmt: skip
UNSTORABLE = ["\ud800", "a\udfff", "' OR \udc00 --"]
Facts = dict[str, tuple[str, int, str]]  # id to subject, seq and status


def hostile_texts(rng: random.Random) -> list[str]:
    """Distinct texts that a request may have as its id and its subject."""
    texts = dict.fromkeys(FRAGMENTS)
    while len(texts) < TEXTS + len(FRAGMENTS):
        texts[" ".join("".join(rng.choices(FRAGMENTS, k=rng.randint(2, 6))).split())] = None
    return [text for text in texts if text and text == " ".join(text.split())]


def schema_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master ORDER BY type, name")
        return hashlib.sha256(repr(rows.fetchall()).encode()).hexdigest()


def commit_all(store: Store, texts: list[str], rng: random.Random) -> tuple[Facts, dict[str, tuple[int, str]]]:
    """Edit all texts, as ids and in another order as subjects, and revert one of each batch; what a model expects."""
    facts: Facts = {}
    requests: dict[str, tuple[int, str]] = {}
    subjects = rng.sample(texts, len(texts))
    head = store.commit("init", init_body(), None, {}, GENESIS)
    for first in range(0, len(texts), BATCH):
        ids, about = texts[first : first + BATCH], subjects[first : first + BATCH]
        for id, subject in zip(ids, about, strict=True):
            EditRequest("{} lives in", subject, "Tarsis", id=id)  # whoever asks may ask for this
        body = {**edit_body(*ids, subjects=about), "reason": about[0], "actor": ids[0]}
        head = store.commit("edit", body, edit_record(ids, first).to_bytes(), contents(body), head.digest)
        facts |= {id: (subject, head.seq, "active") for id, subject in zip(ids, about, strict=True)}
        requests |= {id: (head.seq, content) for id, content in contents(body).items()}
        gone = rng.choice(ids)
        head = store.commit("revert", revert_body(gone), delta_record([gone]).to_bytes(), {}, head.digest)
        facts[gone] = (*facts[gone][:2], "reverted")
    return facts, requests


def select(store: Store, query: str, *values: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = store.ledger.db.execute(query, values).fetchall()
    return rows


def test_hostile_texts_are_found_as_they_were_given(scratch: Path) -> None:
    rng = random.Random(SEED)
    texts = hostile_texts(rng)
    assert len(set(texts)) >= TEXTS
    with Store.create(scratch / "store") as store:
        before = schema_of(store.layout.ledger)
        facts, requests = commit_all(store, texts, rng)
        filters = [
            *texts,
            *(change(text) for text in texts for change in (str.swapcase, lambda t: t + "'", lambda t: t[1:])),
        ]
        for text in filters:
            assert store.ledger.request(text) == requests.get(text), f"seed {SEED}: {text!r}"
            assert [id for (id,) in select(store, "SELECT id FROM facts WHERE subject = ?", text)] == [
                id for id, (subject, *_) in facts.items() if subject == text
            ]
            assert select(store, "SELECT count(*) FROM facts WHERE instr(subject, ?) > 0", text) == [
                (sum(text in subject for subject, *_ in facts.values()),)
            ]
        assert {id: (f.request.subject, f.seq, f.status) for id, f in lives(store.ledger.entries()).items()} == facts
        assert select(store, "SELECT id, subject, seq, status FROM facts") == [
            (id, *fact) for id, fact in facts.items()
        ]
        said = [(e.seq, e.body.get("actor"), e.body.get("reason")) for e in store.ledger.entries()]
        assert select(store, "SELECT seq, actor, reason FROM commits ORDER BY seq") == said
        assert inspect(store).problems == () and schema_of(store.layout.ledger) == before
    print(f"goal 22: seed {SEED}, {len(facts)} hostile ids and subjects, {len(filters)} filters, 0 wrong answers")


@pytest.mark.parametrize("place", ["actor", "reason", "kind", "tag", "id"])
def test_a_hostile_text_elsewhere_in_an_entry_stays_a_text(scratch: Path, place: str) -> None:
    rng = random.Random(SEED)
    with Store.create(scratch / "store") as store:
        before, head = schema_of(store.layout.ledger), GENESIS
        for number, text in enumerate(hostile_texts(rng)[:TEXTS]):
            kind = text if place == "kind" else "tag"
            body = {**COMMON, "tag": "x", "target": 0, **({place: text} if place not in ("kind", "id") else {})}
            requests = {text: "c" * 64} if place == "id" else {}
            head = store.commit(kind, body, None, requests, head).digest
            assert select(store, "SELECT kind FROM entries WHERE seq = ?", number) == [(kind,)]
        entries = store.ledger.entries()
        assert len(entries) == TEXTS and schema_of(store.layout.ledger) == before
        for text in UNSTORABLE:
            with pytest.raises(RequestError, match="not valid Unicode"):
                store.ledger.request(text)
            with pytest.raises(LifelongEditError):
                store.ledger.append("tag", {**COMMON, "tag": text}, {}, head)
        assert store.ledger.entries() == entries

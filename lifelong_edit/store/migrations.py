"""How a ledger comes to this version's format: one step a format, noted in the file by sqlite-utils."""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from lifelong_edit.store.schema import FORMAT_1, FORMAT_2

STEPS = Migrations("lifelong-edit")
NOTES = Migrations.migrations_table
"""The table in which sqlite-utils notes the steps taken; the only one whose SQL is not ours."""


def format_of(db: Database) -> int:
    """The format of the ledger; 0 when it has none yet."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(db: Database) -> None:
    """Take the steps that are missing, within the transaction that the caller began: all of them count, or none."""
    STEPS.apply(db)


def fresh(format: int) -> Database:
    """An empty ledger of this format, in memory."""
    db = Database(sqlite3.connect(":memory:", isolation_level=None), execute_plugins=False)
    STEPS.apply(db, stop_before=f"format {format + 1}")
    return db


@STEPS(name="format 1")
def _format_1(db: Database) -> None:
    """Tables, triggers, views; a ledger that was made before steps were noted has them already."""
    if format_of(db) == 0:
        db.executescript(FORMAT_1)


@STEPS(name="format 2")
def _format_2(db: Database) -> None:
    """Views of what supersedes, restores and measures; the format stands in user_version alone."""
    db.executescript(FORMAT_2)

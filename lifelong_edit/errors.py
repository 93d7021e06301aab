"""Every way the engine says no. Each class carries the exit code its command ends with."""

from __future__ import annotations


class LifelongEditError(Exception):
    """Root of all errors raised on purpose; the message says what, where and what to do."""

    exit_code = 1


class RequestError(LifelongEditError):
    """An edit request, a fact id or an option is wrong; nothing was computed."""

    exit_code = 2


class HealthStop(LifelongEditError):
    """An edit would take the model over a limit of its health budget; it was not committed."""

    exit_code = 3


class StoreError(LifelongEditError):
    """Reading or writing the store failed."""

    exit_code = 5


class StoreCorrupt(StoreError):
    """The ledger or an object is not what its digest says, or was made by a newer version."""

    exit_code = 4


class StoreBusy(StoreError):
    """Another process is writing to the store, or has moved its head."""

    exit_code = 6


class StoreReadOnly(StoreError):
    """The store cannot be written by this user or on this file system."""


class SolveError(LifelongEditError):
    """A linear system of an edit has no trustworthy solution; the message names facts and a remedy."""

    exit_code = 7


class ModelError(LifelongEditError):
    """The model cannot be opened or edited."""

    exit_code = 8


class ModelMismatch(ModelError):
    """The model is not the one the store was made with."""


class UnsupportedModel(ModelError):
    """No row of the architecture table describes this model type."""


class NotSaid(LifelongEditError):
    """Facts of a commit do not hold; it was made all the same, and nothing was written after it."""

    exit_code = 9

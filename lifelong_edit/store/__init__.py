"""The store on disk: an append-only ledger beside content-addressed records. Neither torch nor a model is needed."""

from lifelong_edit.store.entries import GENESIS, Entry
from lifelong_edit.store.history import FactLife, active, lives
from lifelong_edit.store.layout import StoreLayout
from lifelong_edit.store.ledger import Ledger
from lifelong_edit.store.lock import WriterLock
from lifelong_edit.store.objects import ObjectStore
from lifelong_edit.store.records import KernelPart, KernelRecord, Record, read_record
from lifelong_edit.store.store import Store

__all__ = [
    "GENESIS",
    "Entry",
    "FactLife",
    "KernelPart",
    "KernelRecord",
    "Ledger",
    "ObjectStore",
    "Record",
    "Store",
    "StoreLayout",
    "WriterLock",
    "active",
    "lives",
    "read_record",
]

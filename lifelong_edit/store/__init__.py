"""The store on disk: an append-only ledger beside content-addressed records. Neither torch nor a model is needed."""

from lifelong_edit.store.copies import Copied, backup, clone
from lifelong_edit.store.history import ADDING, EDITS, REFITS, Column, FactLife, History, lives
from lifelong_edit.store.ledger import GENESIS, Entry, Ledger
from lifelong_edit.store.objects import KernelPart, KernelRecord, ObjectStore, Record, read_record
from lifelong_edit.store.store import Store, StoreLayout, WriterLock
from lifelong_edit.store.upkeep import Stray, clear_cache, collect_garbage, list_cache, list_strays
from lifelong_edit.store.verify import Check, Inspection, inspect

__all__ = [
    "ADDING",
    "EDITS",
    "GENESIS",
    "REFITS",
    "Check",
    "Column",
    "Copied",
    "Entry",
    "FactLife",
    "History",
    "Inspection",
    "KernelPart",
    "KernelRecord",
    "Ledger",
    "ObjectStore",
    "Record",
    "Store",
    "StoreLayout",
    "Stray",
    "WriterLock",
    "backup",
    "clear_cache",
    "clone",
    "collect_garbage",
    "inspect",
    "list_cache",
    "list_strays",
    "lives",
    "read_record",
]

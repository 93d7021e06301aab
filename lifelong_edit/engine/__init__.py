"""The engine: where the model side and the store meet."""

from lifelong_edit.engine.change.commit import Commit
from lifelong_edit.engine.editor import LifelongEditor
from lifelong_edit.engine.reader import Reader

__all__ = ["Commit", "LifelongEditor", "Reader"]

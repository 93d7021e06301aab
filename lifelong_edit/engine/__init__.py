"""The engine: where the model side and the store meet."""

from lifelong_edit.engine.commit import Commit
from lifelong_edit.engine.editor import LifelongEditor

__all__ = ["Commit", "LifelongEditor"]

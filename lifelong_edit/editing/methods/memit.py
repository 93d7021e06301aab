"""MEMIT (arXiv 2210.07229): facts are memorised softly; the ridge is the weight of the preserved second moment."""

from __future__ import annotations

from lifelong_edit.editing.methods.method import Method

METHOD = Method("memit", relative_ridge=0.5)

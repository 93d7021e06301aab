"""MEMIT (arXiv 2210.07229): facts are memorised softly; the ridge is the weight of the preserved second moment.

It is large at first, and halved for the facts that need it: docs/default_combination.md.
"""

from __future__ import annotations

from lifelong_edit.methods import ClosedForm

METHOD = ClosedForm("memit", relative_ridge=8.0)

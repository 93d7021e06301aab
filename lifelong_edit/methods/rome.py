"""ROME (arXiv 2202.05262), with the same averaged key everywhere (r-ROME, arXiv 2403.07175): one fact, no ridge."""

from __future__ import annotations

from lifelong_edit.methods import ClosedForm

METHOD = ClosedForm("rome", relative_ridge=0.0, max_batch=1)

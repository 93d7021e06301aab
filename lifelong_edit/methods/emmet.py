"""EMMET (arXiv 2403.14236): the facts of a batch are equality constraints, so there is no ridge.

Its damped form with preservation weight w and damping lambda_E is the ridge w * lambda_E.
"""

from __future__ import annotations

from lifelong_edit.methods import ClosedForm

METHOD = ClosedForm("emmet", relative_ridge=0.0)

"""What edits that are known to be harmless do to the vital signs: the noise that no limit of health may be within."""

from __future__ import annotations

from collections.abc import Sequence

from lifelong_edit.defaults import METHOD
from lifelong_edit.engine.change.validate import take_in
from lifelong_edit.engine.measure.vital_signs import vital_signs
from lifelong_edit.engine.state.session import Session, signed
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest


def noise_of(session: Session, harmless: Sequence[EditRequest]) -> dict[str, float]:
    """The largest growth of every sign that one of these requests causes by itself; nothing is committed."""
    if not harmless:
        raise RequestError("Calibration needs edits that are known to be harmless. Give some requests.")
    kind, head = session.kind, session.head
    before = vital_signs(session, session.state)
    noise = dict.fromkeys(before, 0.0)
    for request in harmless:
        batch = take_in(session.at_head(), session.kind.forms, head.history.facts, [request])
        body = {**signed(None, None, session.settings.seed), "method": METHOD, **batch.body()}
        change = kind.write(head, "edit", body, kind.choose(METHOD, None, 1))
        after = vital_signs(session, change.state)
        noise = {name: max(value, after[name] - before[name]) for name, value in noise.items()}
    return noise

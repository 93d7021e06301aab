"""Refits: the same facts held in another way, and what that does to efficacy and drift."""

from __future__ import annotations

from dataclasses import replace

from lifelong_edit.defaults import EFFICACY
from lifelong_edit.engine.measure.vital_signs import vital_signs
from lifelong_edit.engine.state.session import Session
from lifelong_edit.kinds.kind import Change, Effect
from lifelong_edit.tracking.scores import scored, scores_body


def weighed(session: Session, change: Change) -> tuple[Change, Effect]:
    """The change with the scores of all active facts after it in its body, and what it does to efficacy and drift."""
    facts = [fact for fact in session.head.history.active.values() if not fact.protected]
    figures, effect = {}, {}
    for when, state in (("before", session.state), ("after", change.state)):
        with session.kind.showing(state) as editable:
            figures = scored(editable, facts, (EFFICACY,))
        signs = vital_signs(session, state)
        effect[when] = {
            EFFICACY: figures[EFFICACY].value or 0.0,
            "drift": signs.get("kl", signs.get("preservation", 0.0)),
        }
    told = {name: (effect["before"][name], effect["after"][name]) for name in effect["before"]}
    body = {**change.body, **scores_body(facts, figures), "effect": {name: list(pair) for name, pair in told.items()}}
    return replace(change, body=body), told

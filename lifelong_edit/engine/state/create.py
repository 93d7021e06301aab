"""Making a store: everything that is decided once, for a model and its settings, and pinned in the first entry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.defaults import METHOD
from lifelong_edit.editing.contexts import drawn_sentences, sample_contexts
from lifelong_edit.editing.keys import collect_keys
from lifelong_edit.editing.profile import Profile
from lifelong_edit.editing.second_moments import (
    Progress,
    blended_moment,
    collected_moments,
    mixed_moment,
    read_moment,
    shipped_moments,
)
from lifelong_edit.editing.sensitivity import collected_sensitivities
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.editing.statistics import digest_of
from lifelong_edit.engine.state.known import known_in
from lifelong_edit.engine.state.probes import take_probes
from lifelong_edit.engine.state.session import Session, signed
from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds import DEFAULT, kind_named
from lifelong_edit.model.chat import rendered
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.fingerprint import fingerprint
from lifelong_edit.store import GENESIS, ObjectStore, Store
from lifelong_edit.tracking.watch import Watch, Watched

Model = str | Path | EditableModel | tuple[PreTrainedModel, PreTrainedTokenizerBase]


def opened(model: Model, dtype: torch.dtype | None, device: str) -> EditableModel:
    """The model as something editable: a folder is loaded onto `device`, a loaded pair is wrapped."""
    if isinstance(model, EditableModel):
        return model
    return EditableModel(*model) if isinstance(model, tuple) else EditableModel.open(model, dtype, device)


def found(
    path: Path,
    editable: EditableModel,
    beside: Path | None,
    settings: EditorSettings,
    text: Sequence[str] | None,
    actor: str | None,
    reason: str | None,
    progress: Progress | None,
    watch: Watch | None,
    protect: Sequence[EditRequest] = (),
    memory_kind: str = DEFAULT,
    method: str = METHOD,
    prompts: Sequence[str] | None = None,
    profile: Profile | None = None,
) -> Store:
    """A new store whose first entry says what it is pinned to. `beside` is the model's folder, if it has one.

    What `settings` leave open is what `profile` says. The keys of `prompts` and of `protect` are mixed into the second
    moments. Nothing is committed until everything was computed. Raises `RequestError` when there is neither text nor
    second moments beside the model, nothing of `watch` is said, or the profile is for another shape of model;
    `SolveError` when the moments cannot be inverted.
    """
    kind = kind_named(memory_kind)
    _check_texts(text, prompts, kind.needs_moments)
    if profile is not None:
        settings = profile.fitted(settings, editable)
    settings, base = settings.pinned(editable), fingerprint(editable)
    editable.read_by(settings.text)
    protect = [rendered(editable, request) for request in protect]
    if kind.needs_moments and text is None and beside is None:
        raise RequestError("A model given as an object has no second moments beside it. Give generic text (text=...).")
    shipped = kind.needs_moments and text is None and beside is not None
    widths = {layer: editable.shape(layer)[1] for layer in settings.layers}
    moments = shipped_moments(beside, widths, base) if shipped and beside is not None else {}
    with _pinning(Store.create(path)) as store:
        scratch = store.layout.statistics
        # First: an interrupted collection of moments goes on where it was, and this begins anew.
        sensitivities = _sensitivities(editable, settings, text, prompts) if kind.needs_sensitivities else {}
        if kind.needs_moments:
            moments = _with_texts(moments, editable, base, settings, text, prompts, scratch, progress)
        contexts = _contexts(editable, settings, text or ())
        moments = _sparing(moments, editable, protect, settings, contexts)
        body = _body(editable, base, settings, contexts) | _kept_away(editable, watch, protect)
        body |= kind.pin(editable, settings, method, moments, ObjectStore(scratch))
        if prompts:
            body |= {"prompts": {"count": len(prompts), "digest": digest_of(prompts)}}
            body |= {"known": known_in(editable, prompts, settings.seed)}
        named = {str(layer): ObjectStore(scratch).put(data) for layer, data in sensitivities.items()}
        body |= {"sensitivity": named} if named else {}
        body |= {} if profile is None else {"profile": {"name": profile.name, "digest": profile.digest}}
        body |= {} if memory_kind == DEFAULT else {"memory_kind": memory_kind}
        store.commit("init", body | signed(actor, reason, settings.seed), None, {}, GENESIS)
    return store


# What of its settings a store's second moments, sensitivities and prefixes were made with.
MADE_WITH = ("contexts", "protection", "prompt_share", "text", "statistics", "seed")
SHARED = ("fingerprint", "contexts", "probes", "known", "watch", "protected", "prompts", "memory_kind")


def sibling(
    path: Path,
    session: Session,
    base: EditableModel,
    settings: EditorSettings,
    actor: str | None,
    reason: str | None,
) -> Store:
    """A new store under other settings, made from the second moments, sensitivities and prefixes of an open one.

    `base` is the unedited model. `RequestError` for layers that the open store does not edit.
    """
    init, kind = cast(dict[str, Any], session.init), session.kind_type
    settings = replace(settings, **{name: getattr(session.settings, name) for name in MADE_WITH})
    settings = settings.pinned(base)
    if missing := set(settings.layers) - set(session.settings.layers):
        raise RequestError(
            f"The store edits layers {list(session.settings.layers)} and has no second moments of {sorted(missing)}. "
            "Choose among its layers, or make the new store from text."
        )
    own = ObjectStore(session.store.layout.statistics)

    def copied(name: str) -> dict[int, bytes]:
        digests = init.get(name, {})
        return {layer: own.get(digests[str(layer)]) for layer in settings.layers if digests}

    with _pinning(Store.create(path)) as store:
        objects = ObjectStore(store.layout.statistics)
        body = {name: init[name] for name in SHARED if name in init} | {"config": settings.to_dict()}
        body |= kind.pin(base, settings, METHOD, copied("statistics"), objects)
        named = {str(layer): objects.put(data) for layer, data in copied("sensitivity").items()}
        body |= {"sensitivity": named} if named else {}
        store.commit("init", body | signed(actor, reason, settings.seed), None, {}, GENESIS)
    return store


@contextmanager
def _pinning(store: Store) -> Iterator[Store]:
    """The store, closed when the block fails."""
    try:
        yield store
    except BaseException:
        store.close()
        raise


def _check_texts(text: Sequence[str] | None, prompts: Sequence[str] | None, needs_moments: bool) -> None:
    """`RequestError` for one text where a list is wanted, and for prompts that are none or that nothing is made of."""
    for name, texts in (("text", text), ("prompts", prompts)):
        if isinstance(texts, str) or not all(isinstance(one, str) for one in texts or ()):
            raise RequestError(f"{name} is a list of texts. Give {name}=[...].")
    if prompts is not None and not any(prompt.strip() for prompt in prompts):
        raise RequestError("There is no prompt among prompts. Give true statements, each a prompt with its answer.")
    if prompts is not None and not needs_moments:
        raise RequestError("This kind of memory has no second moments that prompts could change. Leave them out.")


def _with_texts(
    shipped: dict[int, bytes],
    editable: EditableModel,
    base: str,
    settings: EditorSettings,
    text: Sequence[str] | None,
    prompts: Sequence[str] | None,
    scratch: Path,
    progress: Progress | None,
) -> dict[int, bytes]:
    """The second moments of `text`, or the shipped ones, in which the keys of `prompts` have their share."""
    corpora = [texts for texts in (text, prompts) if texts is not None]
    collected = collected_moments(editable, base, settings.layers, corpora, settings.statistics, scratch, progress)
    generic = shipped if text is None else collected[0]
    if prompts is None:
        return generic
    return {n: blended_moment(data, collected[-1][n], settings.prompt_share) for n, data in generic.items()}


def _contexts(editable: EditableModel, settings: EditorSettings, text: Sequence[str]) -> tuple[str, ...]:
    """Prefixes for facts: sentences of the text where facts draw from a pool, and samples where these are too few."""
    sentences = drawn_sentences(text, settings.recipe.pool, settings.seed) if settings.contexts else ()
    return sentences + sample_contexts(editable, max(0, settings.contexts - len(sentences)), settings.seed)


def _sensitivities(
    editable: EditableModel, settings: EditorSettings, text: Sequence[str] | None, prompts: Sequence[str] | None
) -> dict[int, bytes]:
    """What the model is sensitive to at each edited layer, where targets are measured by it and there is text."""
    tokens = settings.recipe.sensitivity_tokens
    if text is None or not tokens:
        return {}
    corpora = [text, prompts] if prompts else [text]
    return collected_sensitivities(editable, settings.layers, corpora, tokens, settings.seed)


def _sparing(
    moments: dict[int, bytes],
    editable: EditableModel,
    protect: Sequence[EditRequest],
    settings: EditorSettings,
    contexts: Sequence[str],
) -> dict[int, bytes]:
    """The second moments with the keys of protected requests mixed in."""
    if not protect:
        return moments
    forms, mixed = settings.recipe.forms(contexts), {}
    for layer, data in moments.items():
        average = settings.recipe.average(Metric.from_moment(read_moment(data)[0], settings.shrinkage))
        mixed[layer] = mixed_moment(data, collect_keys(editable, protect, layer, forms, average), settings.protection)
    return mixed


def _kept_away(editable: EditableModel, watch: Watch | None, protect: Sequence[EditRequest]) -> dict[str, Any]:
    """What the first entry says of facts that edits are to leave alone."""
    watched = {"watch": Watched.on_base(editable, watch).to_dict()} if watch else {}
    return watched | ({"protected": [request.to_dict() for request in protect]} if protect else {})


def _body(editable: EditableModel, base: str, settings: EditorSettings, contexts: Sequence[str]) -> dict[str, Any]:
    """What the first entry says whatever the kind of memory."""
    return {
        "config": settings.to_dict(),
        "fingerprint": base,
        "contexts": list(contexts),
        "probes": take_probes(editable, settings.seed),
    }

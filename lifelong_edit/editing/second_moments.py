"""Second moments on disk: beside a model, or collected from a user's text for a new store, resumably."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifelong_edit.algebra.second_moment import RunningSecondMoment, SecondMoment
from lifelong_edit.editing.statistics import Collected, StatisticsSettings, begin, collect, digest_of, statistics_key
from lifelong_edit.errors import RequestError, StoreCorrupt, StoreError
from lifelong_edit.facts import canonical_digest
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.store.objects import decode, encode, most_bytes, read_file, replace_file

KIND = "second_moment"
PASSES_PER_SAVE = 20
PARTIAL_FIELDS = {"kind", "count", "texts", "bounds"}
Progress = Callable[[int, int], None]


def moment_bytes(moment: SecondMoment, about: dict[str, Any]) -> bytes:
    """The file of a second moment; `about` says what it was taken from."""
    meta = {**about, "kind": KIND, "count": moment.count}
    return encode({KIND: moment.matrix.cpu().numpy()}, meta)


def read_moment(data: bytes) -> tuple[SecondMoment, dict[str, Any]]:
    """The second moment of a file and what it was taken from; `StoreCorrupt` when it is none."""
    tensors, meta = decode(data)
    if meta.get("kind") != KIND or set(tensors) != {KIND} or not isinstance(meta.get("count"), int):
        raise StoreCorrupt("A file that should hold a second moment holds something else. Collect it again.")
    return SecondMoment(torch.from_numpy(tensors[KIND]), meta["count"]), meta


def beside_model(folder: Path, layer: int) -> Path:
    """Where a model's folder keeps the second moment of a layer."""
    return folder / "second_moments" / f"layer-{layer}.safetensors"


def shipped_moments(folder: Path, widths: Mapping[int, int], fingerprint: str) -> dict[int, bytes]:
    """The second moments that lie beside the model, for layers of which `widths` says how many inputs each has.

    Raises `RequestError` when one is missing or damaged, or is of another model.
    """
    return {layer: _shipped(beside_model(folder, layer), layer, width, fingerprint) for layer, width in widths.items()}


def _shipped(path: Path, layer: int, width: int, fingerprint: str) -> bytes:
    if not path.is_file():
        raise RequestError(
            f"The model's folder has no second moment of layer {layer} ({path.name} in {path.parent.name}/). "
            "Give some generic text to take it from (text=...)."
        )
    if path.stat().st_size > most_bytes(width * width):
        raise RequestError(f"{path} is too large for {width} inputs. Give text=... to take it anew.")
    data = path.read_bytes()
    try:
        moment, about = read_moment(data)
    except StoreCorrupt as error:
        raise RequestError(f"{path} is damaged: {error} Fetch it again, or give text=... to take it anew.") from error
    if about.get("layer") != layer or moment.matrix.shape != (width, width):
        raise RequestError(f"{path} was taken from another layer. Give text=... to take it anew.")
    if about.get("fingerprint") != fingerprint:
        raise RequestError(
            f"{path} was taken from another model, or from this one before it was edited or cast (float16 rounds "
            "what bfloat16 and float32 hold). Open the model as it was, or give text=... to take it anew."
        )
    return data


def collected_moments(
    editable: EditableModel,
    fingerprint: str,
    layers: Sequence[int],
    corpora: Sequence[Sequence[str]],
    settings: StatisticsSettings,
    scratch: Path,
    progress: Progress | None = None,
) -> list[dict[int, bytes]]:
    """Second moments taken from each of the `corpora`, lists of texts: of each, to each layer its file.

    What is collected is saved in the folder `scratch` every few passes, and a later call with the same model, layers,
    texts and settings goes on from there. `progress` is told tokens so far and tokens wanted of the corpus being read.
    """
    collected, saved = [], []
    for texts in corpora:
        text = digest_of(texts)
        keys = {layer: statistics_key(fingerprint, layer, text, settings) for layer in layers}
        saved.append(scratch / f"{canonical_digest(sorted(keys.values()))}.partial")
        state = _collected(editable, layers, texts, settings, saved[-1], progress)
        about = {"fingerprint": fingerprint, "text": text, **asdict(settings)}
        moments = {layer: state.moments[layer].value() for layer in layers}
        collected.append(
            {n: moment_bytes(moment, {**about, "layer": n, "key": keys[n]}) for n, moment in moments.items()}
        )
    for path in saved:
        path.unlink(missing_ok=True)
    return collected


def _collected(
    editable: EditableModel,
    layers: Sequence[int],
    texts: Sequence[str],
    settings: StatisticsSettings,
    saved: Path,
    progress: Progress | None,
) -> Collected:
    """All sums over one corpus, from what `saved` holds of them; in the end it holds them all."""
    state = resumed = _resumed(saved, begin(editable, layers))
    for number, state in enumerate(collect(editable, texts, settings, resumed), start=1):
        if progress:
            progress(state.tokens, settings.tokens)
        if number % PASSES_PER_SAVE == 0:
            replace_file(saved, _partial_bytes(state))
    replace_file(saved, _partial_bytes(state))
    return state


def blended_moment(generic: bytes, prompts: bytes, share: float) -> bytes:
    """The file of (1 - share) C + share C_p, for the files of C, of generic text, and of C_p, of true prompts.

    Each is a mean over its own tokens, so `share` says what the prompts weigh however few they are.
    """
    (moment, about), (own, its) = read_moment(generic), read_moment(prompts)
    matrix = (1 - share) * moment.matrix + share * own.matrix
    blend = {"prompts": its["text"], "prompt_tokens": own.count, "prompt_share": share}
    return moment_bytes(SecondMoment(matrix, moment.count + own.count), {**about, **blend})


def mixed_moment(data: bytes, keys: Tensor, weight: float) -> bytes:
    """The file of C + weight / n K K' for protected keys K [d_in, n], and of the C in `data`.

    With weight 1 what the protected prompts give counts as much as generic text does.
    """
    moment, about = read_moment(data)
    matrix = moment.matrix.to(keys.device) + weight * (keys @ keys.T) / keys.shape[1]
    about = {name: value for name, value in about.items() if name not in ("kind", "count")}
    return moment_bytes(SecondMoment(matrix, moment.count), {**about, "protected": keys.shape[1], "weight": weight})


def _partial_bytes(state: Collected) -> bytes:
    totals = {str(layer): moment.total.cpu().numpy() for layer, moment in state.moments.items()}
    bounds = {str(layer): moment.bound for layer, moment in state.moments.items()}
    return encode(totals, {"kind": "partial", "count": state.tokens, "texts": state.texts, "bounds": bounds})


def _resumed(path: Path, fresh: Collected) -> Collected:
    """What an interrupted run left; `fresh` when that is nothing, or nothing sound: it can be collected again."""
    shapes = {str(layer): tuple(moment.total.shape) for layer, moment in fresh.moments.items()}
    try:
        tensors, meta = decode(read_file(path, most_bytes(sum(d * d for d, _ in shapes.values()))))
    except StoreError:
        return fresh
    if {layer: total.shape for layer, total in tensors.items()} != shapes or meta.keys() != PARTIAL_FIELDS:
        return fresh
    moments = {
        int(layer): RunningSecondMoment(len(total), torch.from_numpy(total), meta["count"], meta["bounds"][layer])
        for layer, total in tensors.items()
    }
    return Collected(moments, meta["texts"])

"""The kernel kind at work: the columns of a store's records, and the weights they lead to."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

from torch import Tensor

from lifelong_edit.algebra.second_moment import Metric
from lifelong_edit.algebra.system import Memory, Pair
from lifelong_edit.algebra.telemetry import BaseSize, Telemetry
from lifelong_edit.editing.keys import collect_keys
from lifelong_edit.editing.second_moments import read_moment
from lifelong_edit.editing.sensitivity import even, read_sensitivity
from lifelong_edit.editing.settings import EditorSettings
from lifelong_edit.errors import RequestError, StoreCorrupt
from lifelong_edit.facts import EditRequest
from lifelong_edit.kinds.deviation import Deviation
from lifelong_edit.kinds.kernel import blame, forecast, refit, telemetry, why
from lifelong_edit.kinds.kernel.cache import keep_pairs, kept_pairs
from lifelong_edit.kinds.kernel.state import KernelState, Library, record_of, standing, survived
from lifelong_edit.kinds.kernel.write import KernelChange, Strength, plan
from lifelong_edit.kinds.kind import Change, Effect, Forecast, Head, How, Kind, Rehearsed, State, Weigh
from lifelong_edit.kinds.stage import Stage
from lifelong_edit.methods import SECOND_MOMENT, method_named, metric_named
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.store import Entry, History, KernelRecord, ObjectStore, Store

HOLD = 0.5  # the ridge of a protected fact, in mean key masses: it is to stay, so there is nothing to spare
REBUILT_OTHERWISE = (
    "The weights rebuilt from the store are not those recorded, and the rounding of another processor does not explain "
    "it. `verify --replay` says at which entries; restore the store from a backup."
)


class Kernel(Kind):
    """Facts as columns of one system a layer; `docs/mathematics.md` has the formulas.

    `library` has the columns of the records, `metrics` and `sizes` what each edited layer measures changes by.
    """

    name = "kernel"
    promise = "exact"
    exports = ("weights", "adapter")
    needs_moments = needs_sensitivities = True

    base: KernelState

    def __init__(
        self, store: Store, entries: Sequence[Entry], settings: EditorSettings, editable: EditableModel
    ) -> None:
        super().__init__(store, entries, settings, editable)
        self._check_pinned("statistics", self.init.get("statistics", {}))
        self._check_pinned("calibration", self.init.get("calibration", {}))
        self.library = Library(store, entries, editable.device)
        self.metrics = self._pinned_metrics(ObjectStore(store.layout.statistics), editable)
        self.sizes = {n: BaseSize.of(layer.base, self.metrics[n]) for n, layer in self.base.layers.items()}
        self._read: tuple[KernelState, dict[str, Telemetry]] | None = None
        self._cached: str | None = None  # the weights digest whose pairs the cache has

    @classmethod
    def pin(
        cls,
        editable: EditableModel,
        settings: EditorSettings,
        method: str,
        moments: Mapping[int, bytes],
        objects: ObjectStore,
    ) -> dict[str, Any]:
        """Second moments by digest, the mean key mass that ridges are relative to, and the base weights' digest."""
        chosen = method_named(method, settings.ridge)
        metrics = {n: chosen.metric(read_moment(data)[0], settings.shrinkage) for n, data in moments.items()}
        named = {} if chosen.metric_name == SECOND_MOMENT else {"metric": chosen.metric_name}
        return {
            **named,
            "statistics": {str(n): objects.put(data) for n, data in moments.items()},
            "calibration": {str(n): metric.mean_key_mass for n, metric in metrics.items()},
            "condition": {str(n): metric.condition for n, metric in metrics.items()},
            "base_weights": KernelState.unedited(editable, list(moments), settings.memory).digest,
        }

    @classmethod
    def check_record(cls, data: bytes) -> tuple[str, ...]:
        """The facts of a kernel record."""
        return KernelRecord.from_bytes(data).facts

    @cached_property
    def shapes(self) -> dict[int, Tensor]:
        """What the size of a target is measured by at each edited layer [d_out, d_out]; empty for the plain size."""
        named = self.init.get("sensitivity", {})
        if not named:
            return {}
        self._check_pinned("sensitivity", named)
        objects, device = ObjectStore(self.store.layout.statistics), self.live.device
        return {n: even(read_sensitivity(objects.get(named[str(n)])).to(device)) for n in self.settings.layers}

    def unedited(self, editable: EditableModel) -> KernelState:
        """The edited layers as they are in a model without edits."""
        return KernelState.unedited(editable, self.settings.layers, self.settings.memory)

    def state_of(self, head: Head) -> KernelState:
        """The state at a head, which a store with a model has."""
        return cast(KernelState, head.state)

    def fold(self, history: History, start: State) -> KernelState:
        """The state in which the columns of a history stand; batches that `start` begins with are not solved anew."""
        return cast(KernelState, start).becoming(standing(history, self.settings.memory), self.library.reader)

    def folded(self, history: History, digest: str) -> KernelState:
        """The state with the pairs in the cache, when these lead to the recorded digest, else from records.

        Another digest that rounding explains is taken as well: the store was written on another processor.
        """
        batches, folder = standing(history, self.settings.memory), self.store.layout.cache
        kept = kept_pairs(folder, digest, batches, self.base.layers.values())
        for known in (kept, None) if kept else (None,):
            state = self.base.becoming(batches, self.library.reader, known)
            if state.digest == digest or state.deviation(self._summed()).is_rounding:
                self._cached = digest if known else None
                return state
        warnings.warn(REBUILT_OTHERWISE, stacklevel=2)
        return state

    def _summed(self) -> dict[str, Tensor]:
        """The base weights plus every recorded delta, by name: another way to the weights of the head."""
        summed = {layer.name: layer.weight for layer in self.base.layers.values()}
        for seq in self.library.recorded:
            summed = _added(summed, self.library.deltas(seq))
        return summed

    def choose(self, method: str, ridge: float | None, count: int, protecting: bool = False) -> Strength:
        """The ridges of a batch: the method's own in units of the mean key mass, or the absolute one that is given."""
        chosen, pinned = method_named(method, self.settings.ridge), self.init.get("metric", SECOND_MOMENT)
        if chosen.metric_name != pinned:
            raise RequestError(
                f"{method} measures changes by {chosen.metric_name}, this store by {pinned} since its first entry. "
                f"Choose another method, or make a store for it: init --method {method}."
            )
        if protecting:
            chosen = replace(chosen, relative_ridge=min(chosen.relative_ridge, HOLD))
        chosen.check_batch(count)
        ridges = chosen.ridges(self.init["calibration"], ridge)
        return Strength(method, {"ridge": ridges}, ridges, self.settings.halvings if ridge is None else 0)

    def write(self, head: Head, kind: str, body: dict[str, Any], how: How | None = None) -> KernelChange:
        """Solve for new values and fold; see `write.plan`."""
        return plan(self, head, kind, body, cast("Strength | None", how))

    def record(self, change: Change, facts: Sequence[str]) -> bytes:
        """Deltas and new columns of a change."""
        own = cast(KernelChange, change)
        return record_of(own.deltas, own.columns, facts).to_bytes()

    def taken(self, entry: Entry, change: Change) -> None:
        """The new columns can be read without their record."""
        self.library.add(entry, cast(KernelChange, change).columns)

    def survival(self, before: State, after: State) -> dict[str, float]:
        """See `state.survived`; raises `ModelError` for weights that are not finite in the live dtype."""
        one, other = cast(KernelState, before), cast(KernelState, after)
        return {
            layer.name: survived(
                layer.base, one.layers[n].weight, layer.weight, self.live.weight(n), self.live.cast(n, layer.weight)
            )
            for n, layer in other.layers.items()
        }

    def distances(self, one: State, other: State) -> dict[str, float]:
        """|W_b - W_a| / |W_0| of every edited weight."""
        mine, theirs = cast(KernelState, one).layers, cast(KernelState, other).layers
        return {
            layer.name: float((theirs[n].weight - layer.weight).norm() / layer.base.double().norm())
            for n, layer in mine.items()
        }

    def telemetry(self, state: State) -> dict[str, Telemetry]:
        """Telemetry by weight; that of the last state asked about is kept."""
        own = cast(KernelState, state)
        read = self._read  # one name for it: another thread may ask about another state
        if read is None or read[0] is not own:
            read = self._read = own, telemetry.read_out(own, self.sizes)
        return read[1]

    def told(self, head: Head, change: Change) -> dict[str, Any]:
        """The telemetry that an entry keeps."""
        return {"telemetry": telemetry.telemetry_body(cast(KernelChange, change), self.telemetry(change.state))}

    def signs(self, state: State) -> dict[str, float]:
        """The worst of all edited weights: preservation loss, capacity, and the relative norm of the change."""
        read = self.telemetry(state).values()
        return {
            "preservation": max(one.preservation for one in read),
            "capacity": max(one.capacity for one in read),
            "norm": max(one.relative_norm for one in read),
        }

    def figures(self, state: State) -> list[tuple[str, float, float | None]]:
        """Size and spectrum of the change of every edited weight."""
        return [row for name, read in self.telemetry(state).items() for row in telemetry.figures(name, read)]

    def residuals(self, history: History, state: State) -> dict[str, float]:
        """See `telemetry.residuals`."""
        return telemetry.residuals(history, cast(KernelState, state), self.telemetry(state))

    def risks(self, history: History, state: State) -> dict[str, float]:
        """See `telemetry.at_risk`."""
        return telemetry.at_risk(history, cast(KernelState, state), self.telemetry(state))

    def shifts(self, head: Head, change: Change, facts: Sequence[str]) -> dict[str, float]:
        """See `telemetry.shifts`."""
        return telemetry.shifts(head.history, self.state_of(head), cast(KernelChange, change).deltas, facts)

    def recomputed(self, head: Head, change: Change) -> tuple[int, ...]:
        """The batches whose pairs are others after a change."""
        pairs, after = self.state_of(head).one.pairs, cast(KernelState, change.state).one.pairs
        return tuple(seq for seq, pair in after.items() if seq in pairs and pairs[seq] is not pair)

    def replay(self, entries: Sequence[Entry], every: bool) -> Iterator[tuple[Entry, State | None, Deviation]]:
        """The fold after every entry, beside the sum of all recorded deltas."""
        library = Library(self.store, entries, self.live.device)
        summed = {layer.name: layer.weight for layer in self.base.layers.values()}
        changing = [entry.seq for entry in entries if entry.weights]
        history, state = History.of(entries[:1]), self.base
        for entry in entries[1:]:
            history = history.then(entry.seq, entry.kind, entry.body)
            if entry.record is not None:
                summed = _added(summed, library.deltas(entry.seq))
            if entry.weights and (every or entry.seq == changing[-1]):
                state = state.becoming(standing(history, self.settings.memory), library.reader)
                yield entry, state, state.deviation(summed)
            else:
                yield entry, None, Deviation()

    def key_drift(self, head: Head) -> dict[str, float]:
        """The largest |k now - k recorded| / |k recorded| over the slots that stand."""
        state, history = self.state_of(head), head.history
        values = list(history.last_columns().values())
        requests = [history.facts[min(value.facts)].request for value in values]
        drift = {layer.name: 0.0 for layer in state.layers.values()}
        for number, layer in state.layers.items() if requests else ():
            with self.showing(state) as editable:
                now = self.keys(editable, requests, number)  # [d_in, slots]
            recorded = self.library.reader(layer.name)(values).keys
            drift[layer.name] = float(((now - recorded).norm(dim=0) / recorded.norm(dim=0)).max())
        return drift

    def keys(self, editable: EditableModel, requests: Sequence[EditRequest], layer: int) -> Tensor:
        """The averaged keys [d_in, n] of facts at a layer, as this store takes them."""
        average = self.recipe.average(self.metrics[layer])
        return collect_keys(editable, requests, layer, self.forms, average)

    def forecast(self, head: Head, rehearsed: Rehearsed, how: How) -> Forecast:
        """See `forecast.forecast`."""
        return forecast.forecast(self, head, rehearsed, cast(Strength, how))

    def kept(self, head: Head) -> None:
        """The pairs of the head go into the cache, so that the next open need not solve for them."""
        if head.recorded != self._cached:
            keep_pairs(self.store.layout.cache, head.recorded, self.state_of(head).layers.values())

    @property
    def relaxes(self) -> bool:
        """Joint memory solves for earlier facts again, with lower ridges where these may be halved."""
        return self.settings.memory == Memory.joint and bool(self.settings.halvings)

    def check_protectable(self) -> None:
        """Only joint memory has regard for earlier columns."""
        if self.settings.memory != Memory.joint:
            raise RequestError(
                "Batch memory treats earlier columns as finished. Protection needs joint memory: init --memory joint."
            )

    def relaxed(self, head: Head, body: Mapping[str, Any], halvings: int) -> KernelChange | None:
        """See `refit.relaxed`."""
        return refit.relaxed(self, head, body, halvings)

    def at_ridge(self, head: Head, ridge: float) -> KernelState:
        """See `refit.at_ridge`."""
        return refit.at_ridge(self, head, ridge)

    def repaired(self, head: Head, body: Mapping[str, Any], weigh: Weigh) -> tuple[Change, Effect]:
        """See `refit.repaired`."""
        return refit.repaired(self, head, body, weigh)

    def deltas(self, state: State) -> dict[str, Pair]:
        """All that was added to each weight, as one pair."""
        return {layer.name: layer.earlier for layer in cast(KernelState, state).layers.values()}

    def shares(self, head: Head, prompt: str) -> tuple[dict[str, float], float]:
        """See `blame.shares`."""
        return blame.shares(self, head, prompt)

    def suspects(self, head: Head, fact: str) -> tuple[dict[int, float], int, float]:
        """See `blame.suspects`."""
        return blame.suspects(self, head, fact)

    def own_stages(self, head: Head, fact: str) -> tuple[Stage, ...]:
        """See `why.own_stages`."""
        return why.own_stages(self, head, fact)

    def held_by(self, head: Head, seq: int) -> set[str]:
        """The facts of the columns that stand in the batch `seq`."""
        return {id for placed in self.state_of(head).one.batches[seq] for id in placed.value.facts}

    def without(self, head: Head, slot: str | None = None, seq: int | None = None) -> KernelState:
        """The weights without a slot's columns, or without a batch, all others with their stored keys and values."""
        return self.state_of(head).leaving_out(lambda placed, batch: placed.value.slot == slot or batch == seq)

    def _pinned_metrics(self, statistics: ObjectStore, editable: EditableModel) -> dict[int, Metric]:
        """The metrics of the edited layers, from the second moments that the store is pinned to by digest."""
        make, metrics = metric_named(self.init.get("metric", SECOND_MOMENT)), {}
        for layer in self.settings.layers:
            moment = read_moment(statistics.get(self.init["statistics"][str(layer)]))[0]
            own = replace(moment, matrix=moment.matrix.to(editable.device))
            metrics[layer] = make(own, self.settings.shrinkage)
        return metrics

    def _check_pinned(self, name: str, by_layer: Mapping[str, object]) -> None:
        """Raise `StoreCorrupt` when what the first entry pins does not reach every edited layer."""
        if missing := [layer for layer in self.settings.layers if str(layer) not in by_layer]:
            raise StoreCorrupt(
                f"ledger entry 0: its field {name!r} says nothing of layer {missing[0]}. Restore the ledger from a "
                "backup."
            )


def _added(weights: Mapping[str, Tensor], deltas: Mapping[str, Pair]) -> dict[str, Tensor]:
    return {name: weights[name] + pair.dense() for name, pair in deltas.items()}

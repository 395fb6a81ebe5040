"""What of which model is in the devices' memory, and who leaves when the next one needs the room.

What a run has loaded stays, for the next run of the same model. When something else does not fit beside it,
the least recently used leaves; `free_all` lets everything go.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypeVar

import jax
from jax.sharding import Mesh

from crystools_pipelines.errors import OutOfMemoryError
from crystools_pipelines.runtime.out_of_memory import shortage
from crystools_pipelines.runtime.programs import Component, Programs, compiler
from crystools_pipelines.weights.loading import Merged, StatePlan
from crystools_pipelines.weights.source import WeightSource
from crystools_tpu import telemetry
from crystools_tpu.telemetry import ModelFreed, StageName
from crystools_tpu.telemetry.evictions import eviction_text

logger = logging.getLogger(__name__)

Reason: TypeAlias = Literal["evicted", "freed", "out_of_memory"]
Module = TypeVar("Module")
Result = TypeVar("Result")
Key = TypeVar("Key")
Device = TypeVar("Device", bound=Hashable)
InUse: TypeAlias = Callable[[], bool]

_run: ContextVar[telemetry.RunRecorder | None] = ContextVar("run", default=None)

_WHY: Final = {
    "evicted": "for another that needed the room",
    "out_of_memory": "to try once more what had run out of memory",
}
"""What the run warns of that caused it; not of what somebody asked for."""


@contextmanager
def on_behalf_of(run: telemetry.RunRecorder) -> Iterator[None]:
    """What is freed within was freed because of this run, which warns of it."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


@dataclass(frozen=True)
class Identity:
    """What makes two components the same.

    `model` is the checkpoint's location, `source` the identity of what its weights come from, `build` what
    `identify` makes of the function that builds it.
    """

    model: str
    component: str
    source: Hashable
    build: Hashable
    mesh: Mesh
    dtype: str


@dataclass(frozen=True)
class Resident:
    """A component in the devices' memory; `device_bytes` by device, as `tpu:0`."""

    model: str
    component: str
    device_bytes: dict[str, int]


@dataclass(eq=False)
class _Entry:
    identity: Identity
    stamp: Hashable
    component: Component[Any]
    device_bytes: int
    merged: Hashable
    """What of LoRAs is in it, as its source says."""
    merged_tensors: Merged
    users: list[InUse] = field(default_factory=list)
    leaving: bool = False

    def in_use(self) -> bool:
        """Whether anybody still uses it; who does not is forgotten."""
        self.users = [user for user in self.users if user()]
        return bool(self.users)


def evicted(
    residents: Iterable[tuple[Key, Iterable[Device], int]],
    free_bytes: Mapping[Device, int],
    needed_bytes: int,
) -> list[Key]:
    """Which residents leave, in their order, so that each device has so many bytes free, or all are out.

    A resident is its key, its devices and its bytes on one of them, the least recently used first. It stays
    where it is on no device that lacks bytes by then.
    """
    free, leaving = dict(free_bytes), []
    for key, devices, device_bytes in residents:
        shared = [device for device in devices if device in free]
        if any(free[device] < needed_bytes for device in shared):
            leaving.append(key)
            free |= {device: free[device] + device_bytes for device in shared}
    return leaving


def device_limit_bytes(device: jax.Device) -> int | None:
    """Bytes that arrays and programs may have of the device; None where its backend does not say."""
    limit: int | None = (device.memory_stats() or {}).get("bytes_limit")
    return None if limit is None or limit < 0 else limit


class Residency:
    """Keeps the books. Thread-safe; one component is loaded at a time."""

    def __init__(self, bus: telemetry.Bus = telemetry.bus) -> None:
        self._bus = bus
        self._entries: list[_Entry] = []  # the least recently used first
        self._books = threading.RLock()
        self._loading = threading.Lock()

    def residents(self) -> tuple[Resident, ...]:
        """What is in the devices' memory, the least recently used first."""
        with self._books:
            return tuple(
                Resident(
                    entry.identity.model,
                    entry.identity.component,
                    {
                        f"{device.platform}:{device.id}": entry.device_bytes
                        for device in entry.identity.mesh.devices.flat
                    },
                )
                for entry in self._entries
            )

    def holds(self, identity: Identity, source: WeightSource) -> bool:
        """Whether the component is in memory, of what `source` holds now."""
        with self._books:
            entry = next((entry for entry in self._entries if entry.identity == identity), None)
            if entry is None or entry.leaving:
                return False
            return entry.stamp == source.stamp() and entry.merged == source.merged

    def load(
        self,
        identity: Identity,
        source: WeightSource,
        plan: Callable[[], tuple[Module, StatePlan]],
        in_use: InUse,
    ) -> Component[Module]:
        """The component with this identity, from memory or else as `plan` says, after making room for it.

        It is neither evicted nor freed for as long as `in_use()` is true. Where what is stored has changed
        since it is loaded anew; where only other LoRAs are merged, and nobody uses it, the tensors are read
        that these change. Raises OutOfMemoryError where there is no room even so.
        """
        with self._loading:
            stamp, merged = source.stamp(), source.merged
            if (entry := self._take(identity, stamp, merged, in_use)) is None:
                module, state = plan()
                self._make_room(identity.mesh, state.device_bytes)
                platform = identity.mesh.devices.flat[0].platform
                programs = Programs(state.shapes, compiler(platform, self.retry_out_of_memory))
                component = Component(module, programs, state.load())
                entry = _Entry(identity, stamp, component, state.device_bytes, merged, state.merged, [in_use])
                with self._books:
                    self._entries.append(entry)
            elif entry.merged != merged:
                _, state = plan()
                self._merge(entry, merged, state)
            return entry.component

    def _merge(self, entry: _Entry, merged: Hashable, state: StatePlan) -> None:
        """Makes of what the entry holds what is now asked for; where that fails, it leaves."""
        try:
            count = state.update(entry.component.weights, entry.merged_tensors)
        except BaseException:
            with self._books:
                self._free(entry, "evicted", "as other LoRAs were merged into a part of it only")
            raise
        entry.merged, entry.merged_tensors = merged, state.merged
        logger.info("%d tensors of %s read again for other LoRAs", count, entry.identity.component)

    def free_all(self) -> tuple[ModelFreed, ...]:
        """Frees everything and says what, as telemetry is told.

        What a running stage uses is kept until that stage has ended, and is freed at the next occasion: when
        its run ends or loads something.
        """
        with self._books:
            for entry in self._entries:
                entry.leaving = True
            return self.free_leaving("freed")

    def free_leaving(self, reason: Reason = "freed", why: str | None = None) -> tuple[ModelFreed, ...]:
        """Frees what had to stay for its stage when somebody asked to free it."""
        with self._books:
            leaving = [entry for entry in self._entries if entry.leaving and not entry.in_use()]
            return tuple(self._free(entry, reason, why) for entry in leaving)

    def retry_out_of_memory(self, function: Callable[..., Result], *args: Any) -> Result:
        """`function(*args)`; if that exhausts the devices' memory, once more with idle models out.

        For a load, a compile and a step. A step is tried again only while all its inputs exist: those that
        it was given for good (donated) may be gone. An error that shows only when the output is waited for is
        too late for a second try; it leaves the run as OutOfMemoryError all the same.
        """
        try:
            return function(*args)
        except jax.errors.JaxRuntimeError as error:
            if shortage(error) is None or _any_deleted(args):
                raise
            logger.warning("out of device memory, freeing what is idle to try again: %s", error)
        with self._books:
            for entry in [entry for entry in self._entries if not entry.in_use()]:
                self._free(entry, "out_of_memory")
        return function(*args)

    def _take(self, identity: Identity, stamp: Hashable, merged: Hashable, in_use: InUse) -> _Entry | None:
        """The entry with this identity, if what it holds is or can be made what is asked for."""
        with self._books:
            self.free_leaving()
            for entry in self._entries[:]:
                if entry.identity != identity or entry.leaving:
                    continue
                is_same = entry.stamp == stamp
                if is_same and (entry.merged == merged or not entry.in_use()):
                    entry.users.append(in_use)
                    self._entries.remove(entry)
                    self._entries.append(entry)
                    return entry
                entry.leaving = True
                if not is_same:
                    self.free_leaving("evicted", "as its files have changed")
            return None

    def _make_room(self, mesh: Mesh, needed_bytes: int) -> None:
        with self._books:
            idle = [
                (entry, entry.identity.mesh.devices.flat, entry.device_bytes)
                for entry in self._entries
                if not entry.in_use()
            ]
            for entry in evicted(idle, self._free_bytes(mesh), needed_bytes):
                self._free(entry, "evicted")
            available = min(self._free_bytes(mesh).values(), default=needed_bytes)
            if available < needed_bytes:
                raise OutOfMemoryError(
                    StageName.LOAD, needed_bytes, available, [f"more devices (now {mesh.size})"]
                )

    def _free_bytes(self, mesh: Mesh) -> dict[jax.Device, int]:
        """Bytes that no resident holds, of the mesh's devices of which it is known how many they have."""
        limits = {device: device_limit_bytes(device) for device in mesh.devices.flat}
        return {
            device: limit
            - sum(entry.device_bytes for entry in self._entries if device in entry.identity.mesh.devices.flat)
            for device, limit in limits.items()
            if limit is not None
        }

    def _free(self, entry: _Entry, reason: Reason, why: str | None = None) -> ModelFreed:
        self._entries.remove(entry)
        entry.component.free()
        identity, freed_bytes = entry.identity, entry.device_bytes * entry.identity.mesh.size
        run = _run.get()
        run_id = None if run is None else run.run_id
        freed = ModelFreed(run_id, identity.model, identity.component, freed_bytes, reason)
        logger.info("%s: %s of %s, %d bytes", reason, freed.component, freed.model, freed.freed_bytes)
        self._bus.publish(freed)
        why = why or _WHY.get(reason)
        if run is not None and why is not None:
            what = "freed" if reason == "out_of_memory" else reason
            run.warn(eviction_text(what, identity.component, identity.model, freed_bytes, why))
        return freed


residency = Residency()


def free_all() -> tuple[ModelFreed, ...]:
    """Frees every component of every model in this process's devices: `Residency.free_all`."""
    return residency.free_all()


def _any_deleted(arguments: Any) -> bool:
    return any(
        isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree_util.tree_leaves(arguments)
    )

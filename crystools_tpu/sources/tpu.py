"""The TPU runtime's own metrics: HBM, its bandwidth, duty cycle and distributions, over tpu-info's gRPC.

libtpu serves `tpu.monitoring.runtime.RuntimeMetricService` in the process that holds the chips, one port
a process (`TPU_RUNTIME_METRICS_PORTS`, else 8431).
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from crystools_tpu.sources.base import Histograms, Quiet, Reading, SourceError, SourceUnavailable
from crystools_tpu.sources.tpu_discovery import SYSFS, FoundChip, attached_chips, find_chips, kind_name
from crystools_tpu.sources.tpu_histograms import PortDistributions, histograms
from crystools_tpu.sources.tpu_idle import unserved
from crystools_tpu.sources.tpu_payload import PortMetrics, chip_readings
from crystools_tpu.sources.tpu_users import PROC, ChipUsers

if TYPE_CHECKING:
    from crystools_tpu.sources.tpu_client import RuntimeClient

PortAnswer: TypeAlias = tuple[PortMetrics, PortDistributions]

DEFAULT_PORT: Final = 8431
PORTS_VARIABLE: Final = "TPU_RUNTIME_METRICS_PORTS"

_UNREAD: Final = Quiet("waiting", "waits for what the TPU runtime says")

_CONNECT_SECONDS: Final = 0.2
_NO_SUCH_ADDRESS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH})
"""What connecting to `::1` says on a machine without IPv6."""


class TpuSource:
    """Reads every runtime at `addresses` (`host:port`), or at the ports the environment names.

    Chip ids are the runtime's device ids over the devices a chip has, so they agree with jax's, on a
    slice of several hosts too. Two processes that both count from 0 are numbered on in the order of
    their ports. A metric that a runtime lacks is None; a port that does not answer loses its chips.
    Distributions are up to five seconds old, and never the reason for which a read fails.
    Where every port refuses the connection nobody serves it: chips that are attached are idle then, or are
    held by a program that serves no metrics. A port that hangs or answers something else is a fault.
    gRPC is imported at the first read that finds somebody at a port.
    """

    name: Final = "tpu"

    def __init__(
        self,
        *,
        sysfs: Path = SYSFS,
        proc: Path = PROC,
        addresses: Sequence[str] | None = None,
        environ: Mapping[str, str] = os.environ,
        timeout_seconds: float = 0.8,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sysfs = sysfs
        self._addresses = addresses
        self._environ = environ
        self._timeout_seconds = timeout_seconds
        self._clients: dict[str, RuntimeClient] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._chips: tuple[FoundChip, ...] = ()
        self._users = ChipUsers(proc, monotonic=monotonic)
        self.chip_ids: tuple[str, ...] = ()
        """The chips of the last read that had figures, in order of their number."""
        self._quiet: Quiet | None = _UNREAD
        self._shifts: dict[str, int] = {}
        self._distributions: dict[str, PortDistributions] = {}
        self._histograms: Histograms | None = None

    def read(self) -> Reading:
        """All runtimes at once. Raises `SourceError` when none answers, unless that is because none runs."""
        try:
            reading = self._read()
        except SourceError:
            self._quiet = None
            raise
        self._quiet = reading.quiet
        return reading

    def why_quiet(self, look: bool) -> Quiet | None:
        """Why the last read had no figures though nothing is wrong; None where it had, or something is.

        Where it had, `look` looks whether nobody serves them any more.
        """
        if self._quiet is None and look and all(map(_nobody_listens, self._all_addresses())):
            return _UNREAD
        return self._quiet

    def close(self) -> None:
        """Closes the channels. A later read opens them again."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    def _read(self) -> Reading:
        if not self._chips:
            self._chips = find_chips(self._sysfs)
        if not self._chips and self._addresses is None:
            raise SourceUnavailable("no TPU chip is attached to this machine")
        addresses = self._all_addresses()
        ports, errors = self._read_ports(addresses)
        if not ports:
            return self._without_runtime(errors)
        self._users.forget()
        chip = self._chips[0].chip if self._chips else None
        kind = kind_name(chip.value.name) if chip else None
        per_chip = chip.value.devices_per_chip if chip else None
        readings = chip_readings(ports, kind, per_chip, self._shifts)
        self.chip_ids = tuple(reading.chip for reading in readings)
        return Reading(
            chips=readings,
            histograms=self._histograms_of(ports, per_chip),
            attached=attached_chips(self._chips),
        )

    def _all_addresses(self) -> Sequence[str]:
        return self._addresses if self._addresses is not None else runtime_addresses(self._environ)

    def _without_runtime(self, errors: Sequence[SourceError]) -> Reading:
        """What there is to say where no port answered. Raises `SourceError` where that is a fault."""
        self._chips = find_chips(self._sysfs)  # they may be what is gone, and who has them open changes
        self._shifts.clear()
        attached = attached_chips(self._chips)
        if attached is not None and all(isinstance(error, _NobodyListensError) for error in errors):
            return unserved(attached, self._users.look(self._chips))
        if attached is not None:
            attached = replace(
                attached, sentence=f"{attached.label}, of which no figures come", word="no figures"
            )
        raise SourceError("; ".join(map(str, errors)), known=Reading(attached=attached))

    def _histograms_of(self, ports: dict[str, PortAnswer], per_chip: int | None) -> Histograms | None:
        """Converted anew where a port gave others (which are the same objects as long as it did not)."""
        distributions = {address: port for address, (_, port) in ports.items()}
        if distributions != self._distributions:
            self._distributions = distributions
            self._histograms = histograms(ports, per_chip, self._shifts)
        return self._histograms

    def _read_ports(self, addresses: Sequence[str]) -> tuple[dict[str, PortAnswer], list[SourceError]]:
        """What each runtime that answers says, by address, and why others do not.

        Several are asked at once: one may hang.
        """
        reads: list[Callable[[], PortAnswer]]
        if len(addresses) == 1:
            reads = [partial(self._read_port, addresses[0])]
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(len(addresses), thread_name_prefix="crystools-tpu-port")
            reads = [self._pool.submit(self._read_port, address).result for address in addresses]
        ports: dict[str, PortAnswer] = {}
        errors: list[SourceError] = []
        for address, read in zip(addresses, reads, strict=True):
            try:
                ports[address] = read()
            except SourceError as error:
                errors.append(error)
        return ports, errors

    def _read_port(self, address: str) -> PortAnswer:
        client = self._clients.get(address)
        if client is None:
            if _nobody_listens(address):
                raise _NobodyListensError(address)
            from crystools_tpu.sources.tpu_client import RuntimeClient  # imports gRPC

            client = self._clients[address] = RuntimeClient(address)
        ends = time.monotonic() + self._timeout_seconds
        try:
            metrics = client.read(self._timeout_seconds)
        except SourceError:
            if not _nobody_listens(address):
                raise
            self._clients.pop(address).close()  # whoever comes next is met by a new one, at once
            raise _NobodyListensError(address) from None
        return metrics, client.distributions(max(ends - time.monotonic(), 0.001))


class _NobodyListensError(SourceError):
    """The port refuses the connection."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the TPU runtime at {address} did not answer (nobody listens); is a process using the TPU?"
        )


def _nobody_listens(address: str) -> bool:
    """Whether the port refuses the connection, on every address that the name has on this machine."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS, all_errors=True).close()
    except ExceptionGroup as group:
        codes = {error.errno for error in group.exceptions if isinstance(error, OSError)}
        return errno.ECONNREFUSED in codes and codes <= {errno.ECONNREFUSED, *_NO_SUCH_ADDRESS}
    except OSError:  # no such name
        return False
    return False


def runtime_addresses(environ: Mapping[str, str]) -> tuple[str, ...]:
    """`localhost:port` for each port that the environment names. Raises `SourceError` for a bad one."""
    ports = environ.get(PORTS_VARIABLE, "").strip() or str(DEFAULT_PORT)
    addresses = []
    for port in ports.split(","):
        if not port.strip().isdecimal() or not 0 < int(port) < 65536:
            raise SourceError(f"{PORTS_VARIABLE} must be port numbers separated by commas, got {ports!r}")
        addresses.append(f"localhost:{int(port)}")
    return tuple(dict.fromkeys(addresses))

"""The TPU runtime's own metrics: HBM, its bandwidth, duty cycle and distributions, over tpu-info's gRPC.

libtpu serves `tpu.monitoring.runtime.RuntimeMetricService` in the process that holds the chips, one port
a process (`TPU_RUNTIME_METRICS_PORTS`, else 8431).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from crystools_tpu.sources.base import Histograms, Reading, SourceError, SourceUnavailable
from crystools_tpu.sources.tpu_discovery import SYSFS, find_chips, kind_name
from crystools_tpu.sources.tpu_histograms import PortDistributions, histograms
from crystools_tpu.sources.tpu_payload import PortMetrics, chip_readings

if TYPE_CHECKING:
    from tpu_info.device import TpuChip

    from crystools_tpu.sources.tpu_client import RuntimeClient

PortAnswer: TypeAlias = tuple[PortMetrics, PortDistributions]

DEFAULT_PORT: Final = 8431
PORTS_VARIABLE: Final = "TPU_RUNTIME_METRICS_PORTS"


class TpuSource:
    """Reads every runtime at `addresses` (`host:port`), or at the ports the environment names.

    Chip ids are the runtime's device ids over the devices a chip has, so they agree with jax's, on a
    slice of several hosts too. Two processes that both count from 0 are numbered on in the order of
    their ports. A metric that a runtime lacks is None; a port that does not answer loses its chips.
    Distributions are up to five seconds old, and never the reason for which a read fails.
    gRPC is imported at the first read that finds a chip or was given an address.
    """

    name: Final = "tpu"

    def __init__(
        self,
        *,
        sysfs: Path = SYSFS,
        addresses: Sequence[str] | None = None,
        environ: Mapping[str, str] = os.environ,
        timeout_seconds: float = 0.8,
    ) -> None:
        self._sysfs = sysfs
        self._addresses = addresses
        self._environ = environ
        self._timeout_seconds = timeout_seconds
        self._clients: dict[str, RuntimeClient] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._chips: tuple[TpuChip, ...] = ()
        self.chip_ids: tuple[str, ...] = ()
        """The chips of the last successful read, in order of their number."""
        self._shifts: dict[str, int] = {}
        self._distributions: dict[str, PortDistributions] = {}
        self._histograms: Histograms | None = None

    def read(self) -> Reading:
        """All runtimes at once. Raises `SourceError` when none answers."""
        if not self._chips:
            self._chips = find_chips(self._sysfs)
        if not self._chips and self._addresses is None:
            raise SourceUnavailable("no TPU chip is attached to this machine")
        try:
            ports = self._read_ports()
        except SourceError:
            self._chips = ()  # look again: the chips may be what is gone
            self._shifts.clear()
            raise
        chip = self._chips[0] if self._chips else None
        kind = kind_name(chip.value.name) if chip else None
        per_chip = chip.value.devices_per_chip if chip else None
        readings = chip_readings(ports, kind, per_chip, self._shifts)
        self.chip_ids = tuple(reading.chip for reading in readings)
        return Reading(chips=readings, histograms=self._histograms_of(ports, per_chip))

    def close(self) -> None:
        """Closes the channels. A later read opens them again."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None

    def _histograms_of(self, ports: dict[str, PortAnswer], per_chip: int | None) -> Histograms | None:
        """Converted anew where a port gave others (which are the same objects as long as it did not)."""
        distributions = {address: port for address, (_, port) in ports.items()}
        if distributions != self._distributions:
            self._distributions = distributions
            self._histograms = histograms(ports, per_chip, self._shifts)
        return self._histograms

    def _read_ports(self) -> dict[str, PortAnswer]:
        """What each runtime that answers says, by address. Several are asked at once: one may hang."""
        addresses = self._addresses if self._addresses is not None else runtime_addresses(self._environ)
        if len(addresses) == 1:
            return {addresses[0]: self._read_port(addresses[0])}
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(addresses), thread_name_prefix="crystools-tpu-port")
        answers = {address: self._pool.submit(self._read_port, address) for address in addresses}
        ports: dict[str, PortAnswer] = {}
        errors: list[str] = []
        for address, answer in answers.items():
            try:
                ports[address] = answer.result()
            except SourceError as error:
                errors.append(str(error))
        if not ports:
            raise SourceError("; ".join(errors))
        return ports

    def _read_port(self, address: str) -> PortAnswer:
        from crystools_tpu.sources.tpu_client import RuntimeClient  # imports gRPC

        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = RuntimeClient(address)
        ends = time.monotonic() + self._timeout_seconds
        metrics = client.read(self._timeout_seconds)
        return metrics, client.distributions(max(ends - time.monotonic(), 0.001))


def runtime_addresses(environ: Mapping[str, str]) -> tuple[str, ...]:
    """`localhost:port` for each port that the environment names. Raises `SourceError` for a bad one."""
    ports = environ.get(PORTS_VARIABLE, "").strip() or str(DEFAULT_PORT)
    addresses = []
    for port in ports.split(","):
        if not port.strip().isdecimal() or not 0 < int(port) < 65536:
            raise SourceError(f"{PORTS_VARIABLE} must be port numbers separated by commas, got {ports!r}")
        addresses.append(f"localhost:{int(port)}")
    return tuple(dict.fromkeys(addresses))

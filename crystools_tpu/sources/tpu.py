"""The TPU runtime's own metrics: HBM, its bandwidth, and duty cycle, over the gRPC that tpu-info speaks.

libtpu serves `tpu.monitoring.runtime.RuntimeMetricService` in the process that holds the chips, one port
a process (`TPU_RUNTIME_METRICS_PORTS`, else 8431).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crystools_tpu.sources.base import ChipReading, Reading, SourceError, SourceUnavailable
from crystools_tpu.sources.tpu_discovery import SYSFS, find_chips, kind_name
from crystools_tpu.sources.tpu_payload import PortMetrics, chip_readings

if TYPE_CHECKING:
    from tpu_info.device import TpuChip

    from crystools_tpu.sources.tpu_client import RuntimeClient

DEFAULT_PORT: Final = 8431
PORTS_VARIABLE: Final = "TPU_RUNTIME_METRICS_PORTS"


class TpuSource:
    """Reads every runtime at `addresses` (`host:port`), or at the ports the environment names.

    Chip ids are the runtime's device ids over the devices a chip has, so they agree with jax's, on a
    slice of several hosts too. Two processes that both count from 0 are numbered on in the order of
    their ports. A metric that a runtime lacks is None; a port that does not answer loses its chips.
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
        self._chip_ids: tuple[str, ...] = ()

    @property
    def chip_ids(self) -> tuple[str, ...]:
        """The chips of the last successful read, in order of their number."""
        return self._chip_ids

    def read(self) -> Reading:
        """All runtimes at once. Raises `SourceError` when none answers."""
        chips = find_chips(self._sysfs)
        if not chips and self._addresses is None:
            raise SourceUnavailable("no TPU chip is attached to this machine")
        readings = self._read_runtimes(chips[0] if chips else None)
        self._chip_ids = tuple(reading.chip for reading in readings)
        return Reading(chips=readings)

    def close(self) -> None:
        """Closes the channels. A later read opens them again."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _read_runtimes(self, chip: TpuChip | None) -> tuple[ChipReading, ...]:
        from crystools_tpu.sources.tpu_client import RuntimeClient  # imports gRPC

        addresses = self._addresses if self._addresses is not None else runtime_addresses(self._environ)
        for address in addresses:
            if address not in self._clients:
                self._clients[address] = RuntimeClient(address)
        pending = [self._clients[address].ask(self._timeout_seconds) for address in addresses]
        ports: list[PortMetrics] = []
        errors: list[str] = []
        for answer in pending:
            try:
                ports.append(answer.result())
            except SourceError as error:
                errors.append(str(error))
        if not ports:
            raise SourceError("; ".join(errors))
        kind = kind_name(chip) if chip is not None else None
        return chip_readings(ports, kind, chip.value.devices_per_chip if chip is not None else None)


def runtime_addresses(environ: Mapping[str, str]) -> tuple[str, ...]:
    """`localhost:port` for each port that the environment names. Raises `SourceError` for a bad one."""
    ports = environ.get(PORTS_VARIABLE, "").strip() or str(DEFAULT_PORT)
    addresses = []
    for port in ports.split(","):
        if not port.strip().isdecimal() or not 0 < int(port) < 65536:
            raise SourceError(f"{PORTS_VARIABLE} must be port numbers separated by commas, got {ports!r}")
        addresses.append(f"localhost:{int(port)}")
    return tuple(dict.fromkeys(addresses))

"""A whole simulated TPU host: what stands behind `serve --simulate v6e-8` and ComfyUI's variable for it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from crystools_tpu.simulation.figures import ChipFigures, plausible_figures
from crystools_tpu.simulation.runtime import FakeRuntime
from crystools_tpu.simulation.sysfs import write_tree
from crystools_tpu.simulation.topology import parse_topology
from crystools_tpu.sources.base import Source
from crystools_tpu.sources.host import HostSource
from crystools_tpu.sources.libtpu_sdk import LibtpuSdkSource
from crystools_tpu.sources.tpu import TpuSource

FAKE_SDK: Final = Path(__file__).with_name("fake_sdk")
SDK_ADDRESS_VARIABLE: Final = "CRYSTOOLS_TPU_SIMULATED_RUNTIME"


class Simulation:
    """A fake runtime over real gRPC, a fake sysfs tree, and the real sources pointed at them.

    `topology` is one of `TOPOLOGIES`; any other raises `ValueError`. With `moving` the figures follow
    `clock` (seconds), else they stay as they are at its start. Show what it yields as simulated:
    `Monitor(simulation.sources(), simulated=True)`. A context manager; `close` leaves nothing behind.
    """

    def __init__(
        self, topology: str, *, moving: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.topology = parse_topology(topology)
        started = clock()

        def figures() -> Sequence[ChipFigures]:
            return plausible_figures(self.topology, clock() - started if moving else 0.0)

        self.runtime = FakeRuntime(self.topology, figures=figures).start()
        self._folder = tempfile.TemporaryDirectory(prefix="crystools-tpu-", ignore_cleanup_errors=True)
        self.sysfs = write_tree(Path(self._folder.name), self.topology)

    def figures(self) -> Sequence[ChipFigures]:
        """The figures that the chips show now, one entry a chip."""
        return self.runtime.current_figures()

    def sources(self, *, disks: Sequence[str] | None = None) -> list[Source]:
        """The sources, in the order in which their values win. CPU, memory and disks are real."""
        proc = Path(self._folder.name) / "proc"  # of which there is none: nobody's real chips are meant
        tpu = TpuSource(sysfs=self.sysfs, proc=proc, addresses=[self.runtime.address])
        environ = {**os.environ, SDK_ADDRESS_VARIABLE: self.runtime.address}
        sdk = LibtpuSdkSource(
            sysfs=self.sysfs,
            chip_ids=lambda: tpu.chip_ids,
            quiet=tpu.why_quiet,
            libtpu_path=FAKE_SDK,
            environ=environ,
        )
        return [HostSource(disks=disks), tpu, sdk]

    def close(self) -> None:
        """Ends the runtime and removes the tree. Close the sources first (the monitor's `stop` does)."""
        self.runtime.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

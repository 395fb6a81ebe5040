"""NVIDIA GPUs through NVML (nvidia-ml-py)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from crystools_tpu.sources.base import ChipReading, Reading, SourceError, SourceUnavailable


class NvmlSource:
    """Utilisation, memory and temperature of each GPU. What a GPU does not tell is None.

    NVML's "utilization" is the share of time in which any kernel ran: a duty cycle. A GPU that is lost
    is left out, the others go on. `nvml` is the module `pynvml`, imported at the first read if not given.
    """

    name: Final = "nvml"

    def __init__(self, *, nvml: Any = None) -> None:
        self._nvml = nvml
        self._initialised = False

    def read(self) -> Reading:
        """All GPUs. Raises `SourceUnavailable` without nvidia-ml-py or a driver."""
        nvml = self._initialise()
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self.close()  # the driver was reloaded: start afresh next time
            raise SourceError(f"NVML failed: {error}") from error
        readings = (_read_gpu(nvml, index) for index in range(count))
        return Reading(chips=tuple(reading for reading in readings if reading is not None))

    def close(self) -> None:
        """Shuts NVML down. A later read starts it again."""
        if not self._initialised:
            return
        self._initialised = False
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return  # there is nothing left to shut down

    def _initialise(self) -> Any:
        if self._nvml is None:
            try:
                self._nvml = importlib.import_module("pynvml")
            except ImportError:
                raise SourceUnavailable("nvidia-ml-py is not installed; pip install nvidia-ml-py") from None
        if not self._initialised:
            try:
                self._nvml.nvmlInit()
            except (self._nvml.NVMLError_LibraryNotFound, self._nvml.NVMLError_DriverNotLoaded):
                raise SourceUnavailable("no NVIDIA driver is loaded on this machine") from None
            except self._nvml.NVMLError as error:
                raise SourceError(f"NVML cannot be started: {error}") from error
            self._initialised = True
        return self._nvml


def _read_gpu(nvml: Any, index: int) -> ChipReading | None:
    def ask(question: Callable[..., Any], *args: Any) -> Any:
        try:
            return question(*args)
        except nvml.NVMLError:
            return None  # not supported by this GPU, or not permitted

    handle = ask(nvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return None
    memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    utilization = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
    temperature = ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    if memory is None and utilization is None and temperature is None:
        return None
    return ChipReading(
        chip=f"gpu{index}",
        kind=ask(nvml.nvmlDeviceGetName, handle),
        hbm_used_bytes=memory.used if memory is not None else None,
        hbm_total_bytes=memory.total if memory is not None else None,
        duty_cycle_ratio=utilization.gpu / 100 if utilization is not None else None,
        temperature_celsius=float(temperature) if temperature is not None else None,
    )

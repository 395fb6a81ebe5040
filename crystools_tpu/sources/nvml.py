"""NVIDIA GPUs through NVML (nvidia-ml-py)."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, Final

from crystools_tpu.sources.base import ChipReading, Reading, SourceError, SourceUnavailable

_log = logging.getLogger(__name__)


class NvmlSource:
    """Utilisation, memory and temperature of each GPU. What a GPU does not tell is None.

    NVML's "utilization" is the share of time in which any kernel ran: a duty cycle. A GPU that is lost
    is left out with a warning, the others go on. `nvml` is the module `pynvml`, imported at the first read
    if not given.
    """

    name: Final = "nvml"

    def __init__(self, *, nvml: Any = None) -> None:
        self._nvml = nvml
        self._initialised = False
        self._lost: dict[int, str] = {}

    def read(self) -> Reading:
        """All GPUs. Raises `SourceUnavailable` without library or driver, `SourceError` if none answers."""
        nvml = self._initialise()
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self.close()  # the driver was reloaded: start afresh next time
            raise SourceError(f"NVML failed: {error}") from error
        chips: list[ChipReading] = []
        lost: dict[int, str] = {}
        for index in range(count):
            try:
                chips.append(_read_gpu(nvml, index))
            except _GpuLostError as error:
                lost[index] = str(error)
        if lost and not chips:
            self.close()
            raise SourceError(f"none of {count} GPUs answers ({lost[0]}); the kernel's log (dmesg) says more")
        self._say_what_is_lost(lost)
        return Reading(chips=tuple(chips))

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

    def _say_what_is_lost(self, lost: dict[int, str]) -> None:
        for index in lost.keys() - self._lost.keys():
            _log.warning("gpu%d does not answer (%s): it is left out, the others go on", index, lost[index])
        for index in self._lost.keys() - lost.keys():
            _log.info("gpu%d is back", index)
        self._lost = lost


class _GpuLostError(Exception):
    """A GPU answers nothing at all; the message is what it says instead."""


def _read_gpu(nvml: Any, index: int) -> ChipReading:
    """One GPU. One that says no more than what it cannot tell is there all the same. Raises _GpuLostError."""
    withheld = {nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION}
    withheld |= {nvml.NVML_ERROR_FUNCTION_NOT_FOUND, nvml.NVML_ERROR_NO_DATA}
    faults: list[str] = []

    def ask(question: Callable[..., Any], *args: Any) -> Any:
        try:
            return question(*args)
        except nvml.NVMLError as error:
            if getattr(error, "value", None) not in withheld:
                faults.append(str(error))
            return None

    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        raise _GpuLostError(str(error)) from None
    memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    utilization = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
    temperature = ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    if faults and memory is None and utilization is None and temperature is None:
        raise _GpuLostError(faults[0])
    return ChipReading(
        chip=f"gpu{index}",
        kind=ask(_name, nvml, handle),
        hbm_used_bytes=memory.used if memory is not None else None,
        hbm_total_bytes=memory.total if memory is not None else None,
        duty_cycle_ratio=utilization.gpu / 100 if utilization is not None else None,
        temperature_celsius=float(temperature) if temperature is not None else None,
    )


def _name(nvml: Any, handle: Any) -> str | None:
    """The GPU's name as text. The library decodes it as UTF-8, which fails, or, of old, gives the bytes."""
    try:
        name = nvml.nvmlDeviceGetName(handle)
    except UnicodeDecodeError as error:
        name = error.object
    text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return text.strip("\0 ") or None

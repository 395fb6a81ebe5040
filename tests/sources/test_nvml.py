"""NVIDIA GPUs: the real library where there is no driver, and a stand-in where there is."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from crystools_tpu.sources.base import ChipReading, SourceError, SourceUnavailable
from crystools_tpu.sources.nvml import NvmlSource

GIB = 2**30


class Nvml:
    """NVML of a machine with two GPUs, with the real library's exceptions. A name in `broken` fails."""

    NVMLError = pynvml.NVMLError
    NVMLError_LibraryNotFound = pynvml.NVMLError_LibraryNotFound
    NVMLError_DriverNotLoaded = pynvml.NVMLError_DriverNotLoaded
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self) -> None:
        self.broken: dict[str, int] = {}
        self.initialised = 0

    def _check(self, function: str, handle: object = "") -> None:
        error = self.broken.get(function) or self.broken.get(f"{function}/{handle}")
        if error is not None:
            raise pynvml.NVMLError(error)

    def nvmlInit(self) -> None:
        self._check("nvmlInit")
        self.initialised += 1

    def nvmlShutdown(self) -> None:
        self._check("nvmlShutdown")
        self.initialised -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._check("nvmlDeviceGetCount")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._check("nvmlDeviceGetHandleByIndex", index)
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        self._check("nvmlDeviceGetMemoryInfo", handle)
        return SimpleNamespace(used=(handle + 1) * GIB, total=80 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        self._check("nvmlDeviceGetUtilizationRates", handle)
        return SimpleNamespace(gpu=75, memory=10)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._check("nvmlDeviceGetTemperature", handle)
        return 60 + handle


def gpu(index: int) -> ChipReading:
    return ChipReading(
        chip=f"gpu{index}",
        kind="NVIDIA H100 80GB HBM3",
        hbm_used_bytes=(index + 1) * GIB,
        hbm_total_bytes=80 * GIB,
        duty_cycle_ratio=0.75,
        temperature_celsius=60.0 + index,
    )


def test_utilisation_memory_and_temperature() -> None:
    nvml = Nvml()
    source = NvmlSource(nvml=nvml)
    assert source.read().chips == (gpu(0), gpu(1))
    assert source.read().chips == (gpu(0), gpu(1))
    assert nvml.initialised == 1
    source.close()
    source.close()
    assert nvml.initialised == 0


def test_what_a_gpu_does_not_support_is_none() -> None:
    nvml = Nvml()
    nvml.broken["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    for chip in NvmlSource(nvml=nvml).read().chips:
        assert chip.duty_cycle_ratio is None
        assert chip.hbm_total_bytes == 80 * GIB
        assert chip.tensorcore_utilization_ratio is None


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"])
def test_a_lost_gpu_leaves_the_other(function: str) -> None:
    nvml = Nvml()
    for name in (function, "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature"):
        nvml.broken[f"{name}/0"] = pynvml.NVML_ERROR_GPU_IS_LOST
    assert NvmlSource(nvml=nvml).read().chips == (gpu(1),)


def test_a_driver_that_was_reloaded_is_opened_anew() -> None:
    nvml = Nvml()
    source = NvmlSource(nvml=nvml)
    source.read()
    nvml.broken = dict.fromkeys(("nvmlDeviceGetCount", "nvmlShutdown"), pynvml.NVML_ERROR_UNINITIALIZED)
    with pytest.raises(SourceError, match="NVML failed: Uninitialized"):
        source.read()
    nvml.broken = {}
    assert source.read().chips == (gpu(0), gpu(1))
    assert nvml.initialised == 2


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_machine_without_driver_is_no_fault(error: int) -> None:
    nvml = Nvml()
    nvml.broken["nvmlInit"] = error
    with pytest.raises(SourceUnavailable, match="no NVIDIA driver is loaded"):
        NvmlSource(nvml=nvml).read()


def test_the_real_library_reads_the_gpus_there_are_or_says_that_there_are_none() -> None:
    source = NvmlSource()
    try:
        assert all(chip.hbm_total_bytes for chip in source.read().chips)
    except SourceUnavailable:
        with pytest.raises(SourceUnavailable, match="no NVIDIA driver is loaded on this machine"):
            source.read()
    source.close()

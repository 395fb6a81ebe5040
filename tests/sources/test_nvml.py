"""NVIDIA GPUs: the real library where there is no driver, and a stand-in where there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
    NVML_ERROR_NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
    NVML_ERROR_NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION
    NVML_ERROR_FUNCTION_NOT_FOUND = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    NVML_ERROR_NO_DATA = pynvml.NVML_ERROR_NO_DATA

    def __init__(self) -> None:
        self.broken: dict[str, int] = {}
        self.names: dict[int, str | bytes] = {}
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

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        self._check("nvmlDeviceGetName", handle)
        return self.names.get(handle, "NVIDIA H100 80GB HBM3")

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


FIGURES = ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature")
LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_UNINITIALIZED)


@pytest.mark.parametrize("functions", [("nvmlDeviceGetHandleByIndex",), FIGURES])
@pytest.mark.parametrize("error", LOST)
def test_a_lost_gpu_leaves_the_other_and_is_said_once(
    functions: Sequence[str], error: int, caplog: pytest.LogCaptureFixture
) -> None:
    nvml = Nvml()
    nvml.broken = {f"{name}/0": error for name in functions}
    source = NvmlSource(nvml=nvml)
    assert [source.read().chips for _ in range(3)] == [(gpu(1),)] * 3
    said = f"gpu0 does not answer ({pynvml.NVMLError(error)}): it is left out, the others go on"
    assert caplog.messages == [said]
    nvml.broken = {}
    assert source.read().chips == (gpu(0), gpu(1))


@pytest.mark.parametrize("functions", [("nvmlDeviceGetHandleByIndex",), FIGURES])
@pytest.mark.parametrize("error", LOST)
def test_a_source_all_of_whose_gpus_are_lost_is_down_until_they_are_back(
    functions: Sequence[str], error: int
) -> None:
    nvml = Nvml()
    source = NvmlSource(nvml=nvml)
    source.read()
    nvml.broken = dict.fromkeys(functions, error)
    with pytest.raises(SourceError, match=r"none of 2 GPUs answers \(.+\)") as down:
        source.read()
    assert not isinstance(down.value, SourceUnavailable)
    nvml.broken = {}
    assert source.read().chips == (gpu(0), gpu(1))


def test_a_gpu_that_may_tell_nothing_is_there_without_figures() -> None:
    """A slice of a GPU in a container: its memory needs a right, its utilisation is not supported."""
    nvml = Nvml()
    nvml.broken = dict.fromkeys((f"{name}/1" for name in FIGURES), pynvml.NVML_ERROR_NOT_SUPPORTED)
    nvml.broken["nvmlDeviceGetMemoryInfo/1"] = pynvml.NVML_ERROR_NO_PERMISSION
    assert NvmlSource(nvml=nvml).read().chips == (gpu(0), ChipReading("gpu1", "NVIDIA H100 80GB HBM3"))


class UndecodableName(Nvml):
    """As nvidia-ml-py answers for a name that is no UTF-8."""

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        name = self.names.get(handle, b"")
        return name.decode() if isinstance(name, bytes) else name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"NVIDIA A10G", "NVIDIA A10G"),
        ("NVIDIA L4", "NVIDIA L4"),
        (b"Tesla\xff T4\x00", "Tesla\ufffd T4"),
        (b"\x80\x81", "\ufffd\ufffd"),
        ("", None),
        (b"\x00", None),
    ],
)
def test_whatever_a_name_is_it_is_text_and_every_figure_stays(name: str | bytes, kind: str | None) -> None:
    for nvml in (Nvml(), UndecodableName()):
        nvml.names = {0: name, 1: "NVIDIA H100 80GB HBM3"}
        first, second = NvmlSource(nvml=nvml).read().chips
        assert first == dataclasses.replace(gpu(0), kind=kind)
        assert second == gpu(1)


def test_a_name_that_cannot_be_asked_for_leaves_the_figures() -> None:
    nvml = Nvml()
    nvml.broken["nvmlDeviceGetName/0"] = pynvml.NVML_ERROR_UNKNOWN
    assert NvmlSource(nvml=nvml).read().chips == (dataclasses.replace(gpu(0), kind=None), gpu(1))


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

"""libtpu's SDK in a child process: what it says, and what happens when it stalls or dies."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from crystools_tpu.simulation.machine import Simulation
from crystools_tpu.simulation.sysfs import write_tree
from crystools_tpu.simulation.topology import parse_topology
from crystools_tpu.sources.base import ChipReading, Reading, SourceError, SourceUnavailable
from crystools_tpu.sources.libtpu_sdk import LibtpuSdkSource

PREAMBLE = """
import os, pathlib, sys, time
HERE = pathlib.Path(__file__).parent

class Metric:
    def __init__(self, data):
        self._data = data
    def data(self):
        return self._data

class tpumonitoring:
    @staticmethod
    def get_metric(name):
        return Metric(data(name))
"""


class Sdk:
    """A folder with a `libtpu` of the test's own, whose `data(name)` the test writes in Python."""

    def __init__(self, folder: Path, data: str) -> None:
        self.package = folder / "libtpu"
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").touch()
        self.write(data)

    def write(self, data: str) -> None:
        body = "\n".join(f"    {line}" for line in data.strip().splitlines())
        (self.package / "sdk.py").write_text(f"{PREAMBLE}\ndef data(name):\n{body}\n")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LibtpuSdkSource]]:
    """Makes a source on a host of the given topology with an SDK of the test's own."""
    sources = []

    def make(data: str, *, topology: str = "v6e-4", **options: Any) -> LibtpuSdkSource:
        sysfs = write_tree(tmp_path, parse_topology(topology))
        Sdk(tmp_path / "sdk", data)
        options = {"timeout_seconds": 20.0, **options}
        sources.append(LibtpuSdkSource(sysfs=sysfs, libtpu_path=tmp_path / "sdk", **options))
        return sources[-1]

    yield make
    for source in sources:
        source.close()
    assert children() == []


def children() -> list[psutil.Process]:
    """This process's children, but for the tracker that multiprocessing keeps once anything has used it."""
    every = psutil.Process().children()
    return [child for child in every if "multiprocessing.resource_tracker" not in " ".join(child.cmdline())]


def tensorcore(reading: Reading) -> dict[str, float | None]:
    return {chip.chip: chip.tensorcore_utilization_ratio for chip in reading.chips}


# What it says


def test_percentages_become_ratios_by_chip(make: Callable[..., LibtpuSdkSource]) -> None:
    source = make(
        "return {'tensorcore_util': ['0.00', '12.50', '25', '100.00'], 'hbm_util': ['1'] * 4}[name]"
    )
    assert source.read().chips == tuple(
        ChipReading(f"tpu{n}", tensorcore_utilization_ratio=ratio, hbm_bandwidth_utilization_ratio=0.01)
        for n, ratio in enumerate((0.0, 0.125, 0.25, 1.0))
    )


def test_figures_by_core_become_the_mean_of_the_chip(make: Callable[..., LibtpuSdkSource]) -> None:
    source = make(
        "if name == 'hbm_util': raise RuntimeError\nreturn ['10', '30', '0', '0', '50', '50', '100', '0']",
        topology="7x-8",
    )
    expected = {"tpu0": 0.2, "tpu1": 0.0, "tpu2": 0.5, "tpu3": 0.5}
    assert tensorcore(source.read()) == expected


def test_the_chips_have_the_names_that_the_runtime_gives_them(make: Callable[..., LibtpuSdkSource]) -> None:
    source = make("return ['10', '20', '30', '40']", chip_ids=lambda: ("tpu8", "tpu9", "tpu12", "tpu13"))
    assert tensorcore(source.read()) == {"tpu8": 0.1, "tpu9": 0.2, "tpu12": 0.3, "tpu13": 0.4}


def test_the_first_name_with_data_wins(make: Callable[..., LibtpuSdkSource]) -> None:
    source = make(
        """
if name == 'tensorcore_util': return []
if name == 'tensorcore_utilization': return ['10', '20', '30', '40']
raise RuntimeError('unsupported metric')
"""
    )
    assert source.read().chips[3] == ChipReading("tpu3", tensorcore_utilization_ratio=0.4)


def test_no_data_at_all_is_no_reading_and_no_fault(make: Callable[..., LibtpuSdkSource]) -> None:
    assert make("return []").read() == Reading()


def test_negative_is_unknown(make: Callable[..., LibtpuSdkSource]) -> None:
    source = make("return ['10', '-1', '30', '40']")
    assert tensorcore(source.read()) == {"tpu0": 0.1, "tpu2": 0.3, "tpu3": 0.4}


def test_what_libtpu_prints_is_no_answer(make: Callable[..., LibtpuSdkSource]) -> None:
    source = make("os.write(1, b'WARNING: chatter\\n'); print('more'); return ['10'] * 4")
    assert tensorcore(source.read())["tpu0"] == 0.1
    assert tensorcore(source.read())["tpu0"] == 0.1


def test_one_child_is_kept(make: Callable[..., LibtpuSdkSource]) -> None:
    source = make("return [str(os.getpid() % 100)] * 4")
    assert source.read() == source.read() == source.read()
    assert len(children()) == 1


# Faults


def test_figures_that_fit_no_number_of_chips_are_an_error(make: Callable[..., LibtpuSdkSource]) -> None:
    with pytest.raises(SourceError, match="gave 3 figures of tensorcore_utilization for 4 chips"):
        make("return ['10'] * 3").read()


def test_eight_figures_for_four_chips_of_one_core_are_an_error(make: Callable[..., LibtpuSdkSource]) -> None:
    with pytest.raises(SourceError, match="gave 8 figures of tensorcore_utilization for 4 chips"):
        make("return ['10'] * 8").read()


def test_every_metric_failing_is_an_error_that_a_kept_child_recovers_from(
    make: Callable[..., LibtpuSdkSource], tmp_path: Path
) -> None:
    source = make(
        """
if (HERE / 'broken').exists(): raise RuntimeError('the runtime is gone')
return ['10'] * 4
"""
    )
    source.read()
    (tmp_path / "sdk/libtpu/broken").touch()
    with pytest.raises(SourceError, match="gave no metric: tensorcore_util: the runtime is gone"):
        source.read()
    (tmp_path / "sdk/libtpu/broken").unlink()
    assert len(source.read().chips) == 4


def test_a_child_that_stalls_is_killed_and_loaded_again_after_a_pause_that_doubles(
    make: Callable[..., LibtpuSdkSource], tmp_path: Path
) -> None:
    now = 0.0
    source = make(
        """
while (HERE / 'stalled').exists(): time.sleep(0.01)
return ['10'] * 4
""",
        monotonic=lambda: now,
    )
    source.read()
    (child,) = children()
    (tmp_path / "sdk/libtpu/stalled").touch()
    source._timeout_seconds = 0.2
    with pytest.raises(SourceError, match=r"did not answer within 0\.2 s; it is loaded again in 1 s"):
        source.read()
    assert not child.is_running()

    now = 0.4
    with pytest.raises(SourceError, match=r"loaded again in 0\.6 s"):
        source.read()
    assert children() == []

    now = 1.0
    with pytest.raises(SourceError, match="being loaded again"):
        source.read()
    now = 31.0  # it stalls while it loads
    with pytest.raises(SourceError, match="was not loaded within 30 s; it is loaded again in 2 s"):
        source.read()

    (tmp_path / "sdk/libtpu/stalled").unlink()
    now = 33.0
    source._timeout_seconds = 20.0
    assert len(source.read().chips) == 4


def test_a_child_that_crashes_is_an_error_and_started_again(
    make: Callable[..., LibtpuSdkSource], tmp_path: Path
) -> None:
    now = 0.0
    source = make(
        """
if (HERE / 'crash').exists(): os.abort()
return ['10'] * 4
""",
        monotonic=lambda: now,
    )
    source.read()
    (tmp_path / "sdk/libtpu/crash").touch()
    with pytest.raises(SourceError, match="ended unexpectedly"):
        source.read()
    (tmp_path / "sdk/libtpu/crash").unlink()
    now = 1.0
    assert len(source.read().chips) == 4


def test_while_it_loads_for_the_first_time_the_source_is_absent_and_not_down(
    make: Callable[..., LibtpuSdkSource], tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    source = make(
        f"""
while pathlib.Path({str(tmp_path / "hold")!r}).exists(): time.sleep(0.01)
return ['10'] * 4
""",
        timeout_seconds=0.1,
    )
    with pytest.raises(SourceUnavailable, match="is being loaded"):
        source.read()
    (tmp_path / "hold").unlink()
    source._timeout_seconds = 20.0
    assert len(source.read().chips) == 4


# Absence


def test_without_a_chip_no_child_is_started(make: Callable[..., LibtpuSdkSource], tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="no TPU chip"):
        LibtpuSdkSource(sysfs=tmp_path).read()
    assert children() == []


def test_libtpu_that_is_not_installed_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs = write_tree(tmp_path, parse_topology("v6e-4"))
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(SourceUnavailable, match="libtpu is not installed; pip install libtpu"):
        LibtpuSdkSource(sysfs=sysfs).read()


def test_a_libtpu_without_sdk_is_no_fault(tmp_path: Path) -> None:
    sysfs = write_tree(tmp_path, parse_topology("v6e-4"))
    (tmp_path / "sdk/libtpu").mkdir(parents=True)
    (tmp_path / "sdk/libtpu/__init__.py").touch()
    source = LibtpuSdkSource(sysfs=sysfs, libtpu_path=tmp_path / "sdk", timeout_seconds=20.0)
    with pytest.raises(SourceUnavailable, match="cannot be loaded: cannot import name 'sdk'"):
        source.read()
    assert children() == []


def test_the_simulated_sdk_shows_the_rigs_figures() -> None:
    with Simulation("v5p-8") as simulation:
        _, tpu, source = simulation.sources()
        tpu.read()  # says that there is a runtime to ask
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            try:
                reading = source.read()
                break
            except SourceUnavailable:
                continue
        source.close()
        tpu.close()
        assert tensorcore(reading) == pytest.approx(
            {"tpu0": 0.38, "tpu1": 0.4171, "tpu2": 0.4478, "tpu3": 0.4666}
        )

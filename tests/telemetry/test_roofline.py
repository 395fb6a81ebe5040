"""MFU, MBU and the verdict on chips of the table, by hand-computed figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from crystools_tpu.telemetry import Device
from crystools_tpu.telemetry.chips import CHIPS, chip_spec
from crystools_tpu.telemetry.device import describe_devices
from crystools_tpu.telemetry.memory import device_memory
from tests.telemetry.conftest import Bench, DeviceStep


def fake_devices(kind: str, count: int, platform: str = "tpu", **stats: Any) -> list[Any]:
    """Objects with the attributes of `jax.Device` that telemetry reads: the hardware is not here."""
    return [
        SimpleNamespace(id=i, platform=platform, device_kind=kind, memory_stats=lambda: dict(stats))
        for i in range(count)
    ]


def described(kind: str, count: int) -> Device:
    device = describe_devices(fake_devices(kind, count))
    assert device is not None
    return device


def test_wan21_on_a_v6e_8_reproduces_the_published_mfu(bench: Bench) -> None:
    with bench.run(devices=fake_devices("TPU v6 lite", 8, bytes_in_use=1)) as run:
        with run.stage("denoise", flops_per_step=2 * 6.523e15, flops_method="architecture") as stage:
            bench.clock.advance(4.54)
            stage.step(None)
    mfu = run.report.stages[0].mfu
    assert mfu is not None
    assert mfu.numerator == 13.046e15
    assert mfu.denominator == pytest.approx(4.54 * 8 * 918e12)
    assert mfu.ratio == pytest.approx(0.391, abs=0.001)


@pytest.mark.parametrize(
    ("kind", "devices", "chips", "last_chip"),
    [
        ("TPU v2", 8, 4, "tpu3"),
        ("TPU v3", 8, 4, "tpu3"),
        ("TPU v4", 4, 4, "tpu3"),
        ("TPU v5 lite", 8, 8, "tpu7"),
        ("TPU v5", 4, 4, "tpu3"),
        ("TPU v6 lite", 8, 8, "tpu7"),
        ("TPU7x", 8, 4, "tpu3"),
    ],
)
def test_a_device_is_a_chip_or_half_of_one(kind: str, devices: int, chips: float, last_chip: str) -> None:
    device = described(kind, devices)
    assert (device.count, device.chips, device.chip_ids[-1]) == (devices, chips, last_chip)


def test_the_table_gives_what_google_publishes() -> None:
    teraflops = {spec.name: spec.peak_bf16_flops / 1e12 for spec in CHIPS}
    assert teraflops == {
        "v2": 46,
        "v3": 123,
        "v4": 275,
        "v5e": 197,
        "v5p": 459,
        "v6e": 918,
        "7x": 2307,
        "H100": 989,
        "H200": 989,
    }
    assert all(spec.source for spec in CHIPS)


def test_the_table_agrees_with_what_jaxs_own_kernels_assume() -> None:
    """`get_tpu_info_for_chip` is per TensorCore; v3 differs there (140, with 825 GB/s) and is left out."""
    pltpu = pytest.importorskip("jax._src.pallas.mosaic.tpu_info")
    names = {"TPU_V4": "v4", "TPU_V5E": "v5e", "TPU_V5P": "v5p", "TPU_V6E": "v6e", "TPU_7X": "7x"}
    specs = {spec.name: spec for spec in CHIPS}
    assert {name: specs[name].tensorcores for name in names.values()} == {
        "v4": 2, "v5e": 1, "v5p": 2, "v6e": 1, "7x": 2,
    }  # fmt: skip
    for version, name in names.items():
        info = pltpu.get_tpu_info_for_chip(pltpu.ChipVersion[version], 1)
        peak = info.bf16_ops_per_second * specs[name].tensorcores
        assert peak == pytest.approx(specs[name].peak_bf16_flops, rel=0.01)


def test_an_unknown_chip_has_no_peak_unless_the_user_gives_one() -> None:
    assert chip_spec("TPU v99") is None
    device = described("TPU v99", 2)
    assert (device.peak_flops_per_chip, device.peak_source) == (None, None)
    given = describe_devices(fake_devices("TPU v99", 2), peak_flops_per_chip=5e14)
    assert given is not None
    assert (given.peak_flops_per_chip, given.peak_source) == (5e14, "given by the user")


@pytest.mark.parametrize(
    ("flops", "moved_bytes", "verdict"),
    [(9.18e14, 1.638e11, "compute"), (9.18e13, 1.638e12, "bandwidth"), (9.18e14, None, None)],
)
def test_the_longer_roofline_time_is_what_binds(
    bench: Bench, flops: float, moved_bytes: float | None, verdict: str | None
) -> None:
    step = DeviceStep()
    with bench.run(devices=fake_devices("TPU v6 lite", 1, bytes_in_use=1)) as run:
        with run.stage("denoise", flops_per_step=flops, bytes_per_step=moved_bytes) as stage:
            stage.step(step)
            assert step.waited_for.wait(30)
            bench.clock.advance(2)
            step.finish()
    assert run.report.stages[0].bound == verdict


def test_a_device_that_waits_for_its_host_is_host_bound(bench: Bench) -> None:
    step = DeviceStep()
    with bench.run(devices=fake_devices("TPU v6 lite", 1, bytes_in_use=1)) as run:
        with run.stage("denoise", flops_per_step=9.18e14, bytes_per_step=1e9) as stage:
            bench.clock.advance(3)  # the host prepares; nothing runs
            stage.step(step)
            assert step.waited_for.wait(30)
            bench.clock.advance(1)
            step.finish()
    assert run.report.stages[0].bound == "host"
    assert run.report.stages[0].host_wait_seconds == 3


def test_a_compile_is_not_time_that_the_device_waited_for_its_host(bench: Bench) -> None:
    steps = [DeviceStep(), DeviceStep()]
    with bench.run(devices=fake_devices("TPU v6 lite", 1, bytes_in_use=1)) as run:
        with run.stage("denoise", flops_per_step=9.18e14, bytes_per_step=1e9) as stage:
            bench.clock.advance(38)
            stage.compile_log.duration("/jax/core/compile/backend_compile_duration", 38, "jit(step)")
            for step in steps:
                stage.step(step)
                assert step.waited_for.wait(30)
                bench.clock.advance(2)
                step.finish()
                event = bench.next("step_finished")
    assert [step.compiled for step in run.report.stages[0].steps] == [True, False]
    assert event.bound == run.report.stages[0].bound == "compute"


def test_memory_stats_are_preferred_and_minus_one_is_unknown() -> None:
    devices = fake_devices("TPU v6 lite", 1, bytes_in_use=5, peak_bytes_in_use=7, bytes_limit=-1)
    (memory,) = device_memory(devices)
    assert (memory.used_bytes, memory.peak_bytes, memory.limit_bytes) == (5, 7, None)
    assert memory.method == "memory_stats"


def test_the_allocators_peak_is_the_stages_own_only_if_it_rose_in_it(bench: Bench) -> None:
    stats = {"bytes_in_use": 10, "peak_bytes_in_use": 50, "bytes_limit": 100}
    device = fake_devices("TPU v6 lite", 1)[0]
    device.memory_stats = lambda: dict(stats)
    with bench.run(devices=[device]) as run:
        with run.stage("denoise"):
            stats.update(bytes_in_use=20, peak_bytes_in_use=80)
        with run.stage("vae_decode"):
            stats.update(bytes_in_use=30)
    (denoise,), (decode,) = (stage.hbm for stage in run.report.stages)
    assert (denoise.peak_bytes, denoise.method, denoise.limit_bytes) == (80, "memory_stats", 100)
    assert (decode.peak_bytes, decode.method) == (30, "memory_stats_sampled")

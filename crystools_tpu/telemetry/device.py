"""Describes the devices of a run, and measures the peak of a CPU, which no table has."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

from crystools_tpu.telemetry.chips import chip_spec
from crystools_tpu.telemetry.events import Device
from crystools_tpu.telemetry.guard import Guard

_guard = Guard(logging.getLogger(__name__))


def describe_devices(devices: Sequence[Any], peak_flops_per_chip: float | None = None) -> Device | None:
    """The `Device` of a run on these jax devices (all of one kind); None for no devices.

    `peak_flops_per_chip` overrides the table. A kind that the table lacks has no peak, hence no MFU; on
    a CPU the peak is measured once by a matrix product and labelled so.
    """
    if not devices:
        return None
    first = devices[0]
    spec = chip_spec(first.device_kind)
    per_chip = spec.devices_per_chip if spec else 1
    peak, source = peak_flops_per_chip, "given by the user"
    if peak is None and spec is not None:
        peak, source = spec.peak_bf16_flops, spec.source
    elif peak is None and first.platform == "cpu":
        # Virtual CPU devices share the machine's cores: those of this run have all of them, however few.
        with _guard("the CPU's peak could not be measured"):
            peak = measured_cpu_flops(first) / len(devices)
        source = "measured by a float32 matrix product"
    return Device(
        platform=first.platform,
        kind=first.device_kind,
        count=len(devices),
        chips=len(devices) / per_chip,
        chip_ids=tuple(dict.fromkeys(f"{first.platform}{device.id // per_chip}" for device in devices)),
        peak_flops_per_chip=peak,
        peak_source=source if peak is not None else None,
        hbm_bytes_per_chip=spec.hbm_bytes if spec else None,
        hbm_bandwidth_bytes_per_second_per_chip=spec.hbm_bandwidth_bytes_per_second if spec else None,
    )


@functools.cache
def measured_cpu_flops(device: Any, size: int = 1024, repeats: int = 5) -> float:
    """FLOP/s of the machine's cores: the best of `repeats` float32 products of two size x size matrices."""
    import jax
    import jax.numpy as jnp

    with jax.default_device(device):
        matrix = jnp.ones((size, size), jnp.float32)
        product = jax.jit(lambda a: a @ a).lower(matrix).compile()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            product(matrix).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)

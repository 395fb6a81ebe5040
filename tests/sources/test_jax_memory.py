"""Device memory as jax knows it: real jax on eight virtual CPU devices, and stand-ins for TPU devices."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from crystools_tpu.sources.base import ChipReading, SourceUnavailable
from crystools_tpu.sources.jax_memory import JaxMemorySource

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, sys
from crystools_tpu.sources.base import SourceUnavailable
from crystools_tpu.sources.jax_memory import JaxMemorySource

source = JaxMemorySource()
def read():
    try:
        return {c.chip: [c.kind, c.hbm_used_bytes, c.hbm_total_bytes] for c in source.read().chips}
    except SourceUnavailable as error:
        return str(error)

out = [read(), "jax" in sys.modules]
import jax, jax.numpy as jnp
from jax._src import xla_bridge
out += [read(), xla_bridge.backends_are_initialized()]
first, last = jax.devices()[0], jax.devices()[7]
array = jax.device_put(jnp.zeros((1024, 256), jnp.float32), last)
out.append(read())
print(json.dumps(out))
"""


def test_jax_is_neither_imported_nor_initialised_and_read_once_somebody_else_did() -> None:
    environ = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "PATH": "/usr/bin:/bin"}
    output = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True, cwd=ROOT, env=environ)
    before, imported, uninitialised, initialised, after = json.loads(output)
    assert (before, imported) == ("jax is not in use in this process", False)
    assert (uninitialised, initialised) == ("jax is not in use in this process", False)
    assert list(after) == [f"cpu{n}" for n in range(8)]
    assert after["cpu7"] == ["cpu", 1024 * 256 * 4, None]


@dataclass
class Device:
    """As much of a jax device as is looked at."""

    id: int
    device_kind: str
    stats: dict[str, int] | Exception
    platform: str = "tpu"
    client: Any = field(default_factory=lambda: SimpleNamespace(live_arrays=list))

    def memory_stats(self) -> dict[str, int]:
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


def source(*devices: Device) -> JaxMemorySource:
    jax, bridge = ModuleType("jax"), ModuleType("jax._src.xla_bridge")
    jax.__dict__["local_devices"] = lambda: list(devices)
    bridge.__dict__["backends_are_initialized"] = lambda: True
    return JaxMemorySource(modules={"jax": jax, "jax._src.xla_bridge": bridge})


def stats(used: int, limit: int = 1000) -> dict[str, int]:
    return {"bytes_in_use": used, "peak_bytes_in_use": used, "bytes_limit": limit}


def test_v6e_devices_are_chips_by_their_global_id() -> None:
    devices = [Device(id_, "TPU v6 lite", stats(10 * id_)) for id_ in (8, 9, 12)]
    assert source(*devices).read().chips == (
        ChipReading("tpu8", "TPU v6e", hbm_used_bytes=80, hbm_total_bytes=1000),
        ChipReading("tpu9", "TPU v6e", hbm_used_bytes=90, hbm_total_bytes=1000),
        ChipReading("tpu12", "TPU v6e", hbm_used_bytes=120, hbm_total_bytes=1000),
    )


@pytest.mark.parametrize("kind", ["TPU v2", "TPU v3", "TPU7x"])
def test_two_devices_are_one_chip_where_a_device_is_a_core(kind: str) -> None:
    devices = [Device(id_, kind, stats(10 + id_)) for id_ in range(4)]
    assert source(*devices).read().chips == (
        ChipReading("tpu0", kind, hbm_used_bytes=21, hbm_total_bytes=2000),
        ChipReading("tpu1", kind, hbm_used_bytes=25, hbm_total_bytes=2000),
    )


def test_a_limit_that_is_unset_is_unknown() -> None:
    (chip,) = source(Device(0, "TPU v4", stats(10, limit=-1))).read().chips
    assert (chip.hbm_used_bytes, chip.hbm_total_bytes) == (10, None)


def test_one_device_that_fails_leaves_the_others() -> None:
    broken = Device(1, "TPU v4", RuntimeError("device is lost"))
    chips = source(Device(0, "TPU v4", stats(10)), broken, Device(2, "TPU v4", stats(30))).read().chips
    assert [(chip.chip, chip.hbm_used_bytes) for chip in chips] == [("tpu0", 10), ("tpu2", 30)]


def test_without_jax_it_is_absent() -> None:
    with pytest.raises(SourceUnavailable):
        JaxMemorySource(modules={}).read()

"""The one table of chip specifications: peak FLOP/s, HBM, bandwidths and clock, with a source each."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class ChipSpec:
    """What a chip can do, dense bf16. `devices_per_chip` is how many jax devices one chip shows as.

    `tensorcores` counts those of a TPU; no other chip has any. The last three are known of the TPUs that can
    be planned for. `usable_hbm_bytes` is what libtpu's compiler (0.0.42) lets programs have, on all devices
    of a chip. `clock_hz` is the TensorCore's: that at which its matrix units reach the peak.
    `ici_link_bytes_per_second` is of one link to another chip, one way, as in the book "How to Scale Your
    Model" (jax-ml.github.io/scaling-book/tpus).
    """

    name: str
    device_kinds: tuple[str, ...]
    peak_bf16_flops: float
    hbm_bytes: int
    hbm_bandwidth_bytes_per_second: float
    devices_per_chip: int
    source: str
    tensorcores: int = 0
    usable_hbm_bytes: int | None = None
    clock_hz: float | None = None
    ici_link_bytes_per_second: float | None = None


_TPU_DOCS = "cloud.google.com/tpu/docs"
_NVIDIA = "NVIDIA data sheet, dense bf16, SXM"

# Name, kinds, peak, HBM, its bandwidth, devices, source.
# fmt: off
CHIPS: tuple[ChipSpec, ...] = (
    ChipSpec("v2", ("TPU v2",), 46e12, 16 * GIB, 716e9, 2, f"{_TPU_DOCS}/v2", tensorcores=2),
    ChipSpec("v3", ("TPU v3",), 123e12, 32 * GIB, 900e9, 2, f"{_TPU_DOCS}/v3", tensorcores=2),
    ChipSpec("v4", ("TPU v4",), 275e12, 32 * GIB, 1228e9, 1, f"{_TPU_DOCS}/v4",
        tensorcores=2, usable_hbm_bytes=int(30.75 * GIB), clock_hz=1.05e9, ici_link_bytes_per_second=45e9),
    ChipSpec("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, 819e9, 1, f"{_TPU_DOCS}/v5e",
        tensorcores=1, usable_hbm_bytes=int(15.75 * GIB), clock_hz=1.5e9, ici_link_bytes_per_second=45e9),
    ChipSpec("v5p", ("TPU v5", "TPU v5p"), 459e12, 95 * GIB, 2765e9, 1, f"{_TPU_DOCS}/v5p",
        tensorcores=2, usable_hbm_bytes=int(95.73 * GIB), clock_hz=1.75e9, ici_link_bytes_per_second=90e9),
    ChipSpec("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * GIB, 1638e9, 1, f"{_TPU_DOCS}/v6e",
        tensorcores=1, usable_hbm_bytes=int(31.24 * GIB), clock_hz=1.75e9, ici_link_bytes_per_second=90e9),
    ChipSpec("7x", ("TPU7x", "TPU v7x"), 2307e12, 192 * GIB, 7380e9, 2, f"{_TPU_DOCS}/tpu7x",
        tensorcores=2, usable_hbm_bytes=int(2 * 94.74 * GIB), clock_hz=2.2e9, ici_link_bytes_per_second=90e9),
    ChipSpec("H100", ("NVIDIA H100 80GB HBM3",), 989e12, 80 * GIB, 3350e9, 1, _NVIDIA),
    ChipSpec("H200", ("NVIDIA H200",), 989e12, 141 * 10**9, 4800e9, 1, _NVIDIA),
)
# fmt: on

CHIPS_BY_NAME = {spec.name: spec for spec in CHIPS}
_BY_KIND = {kind: spec for spec in CHIPS for kind in spec.device_kinds}


def chip_spec(device_kind: str) -> ChipSpec | None:
    """The specification for jax's `Device.device_kind`; None for a device the table does not have."""
    return _BY_KIND.get(device_kind)

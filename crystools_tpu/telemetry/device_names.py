"""What chips, jax's devices and their memory are called wherever somebody reads it: one name for one thing.

Reports, the wire and metrics keep the machine's own words (`TPU v6 lite`, `tpu:7`), by which runs compare.
`web/device-names.js` says the same to the page.
"""

from __future__ import annotations

import re
from typing import Final

from crystools_tpu.telemetry.chips import chip_spec

_MEMORIES: Final = {"tpu": "HBM", "gpu": "VRAM", "cuda": "VRAM", "rocm": "VRAM"}


def kind_label(kind: str) -> str:
    """`v6e` for `TPU v6 lite` and `TPU v6e`, `TPU7x` for what is `7x` elsewhere; what is no TPU as it is."""
    spec = chip_spec(kind)
    if spec is None or not spec.tensorcores:
        return kind
    return spec.name if spec.name.startswith("v") else f"TPU{spec.name}"


def device_label(device: str, devices_per_chip: float = 1) -> str:
    """A jax device by its chip: `tpu7` for `tpu:7`, and `tpu7 core 1` for `tpu:15` where a chip is two."""
    match = re.fullmatch(r"([a-z]+):([0-9]+)", device)
    if match is None:
        return device
    platform, number = match[1], int(match[2])
    if devices_per_chip <= 1:
        return f"{platform}{number}"
    chip, core = divmod(number, round(devices_per_chip))
    return f"{platform}{chip} core {core}"


def memory_label(platform: str) -> str:
    """What the memory of a platform's devices is called: HBM is a TPU's, VRAM a GPU's."""
    return _MEMORIES.get(platform, "memory")

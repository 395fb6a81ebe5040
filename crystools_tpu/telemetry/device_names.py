"""What chips, jax's devices and their memory are called wherever somebody reads it: one name for one thing.

Reports, the wire and metrics keep the machine's own words (`TPU v6 lite`, `tpu:7`), by which runs compare.
`web/device-names.js` says the same to the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from crystools_tpu.telemetry.chips import chip_spec
from crystools_tpu.telemetry.events import Device, RunReport

_MEMORIES: Final = {"tpu": "HBM", "gpu": "VRAM", "cuda": "VRAM", "rocm": "VRAM"}


def kind_label(kind: str) -> str:
    """`v6e` for `TPU v6 lite` and `TPU v6e`, `TPU7x` for what is `7x` elsewhere; what is no TPU as it is."""
    spec = chip_spec(kind)
    if spec is None or not spec.tensorcores:
        return kind
    return spec.name if spec.name.startswith("v") else f"TPU{spec.name}"


def device_label(device: str, devices_per_chip: float = 1) -> str:
    """A jax device by its chip: `tpu7` for `tpu:7`, and `tpu7 core 1` for `tpu:15` where a chip is two."""
    match = re.fullmatch(r"(tpu|gpu|cpu):([0-9]+)", device)
    if match is None:
        return device
    platform, number = match[1], int(match[2])
    if devices_per_chip <= 1:
        return f"{platform}{number}"
    chip, core = divmod(number, round(devices_per_chip))
    return f"{platform}{chip} core {core}"


def devices_label(device: Device) -> str:
    """`8 x v6e`, and `2 x cpu` of what is no chip."""
    number = device.count if device.platform == "cpu" else round(device.chips, 1)
    return f"{number:g} x {kind_label(device.kind)}"


def memory_label(devices: Iterable[str]) -> str:
    """What the memory of these devices (`tpu:7`, `cuda:0`) is called: HBM is a TPU's, VRAM a GPU's."""
    names = {_MEMORIES.get(re.match("[a-z]*", device)[0], "memory") for device in devices}  # type: ignore[index]
    return names.pop() if len(names) == 1 else "memory"


def memory_of(report: RunReport) -> str:
    """What the memory of a run's devices is called."""
    used = [usage.device for stage in report.stages for usage in stage.hbm]
    return memory_label(used or ([] if report.device is None else [report.device.platform]))


def device_of(report: RunReport, device: str) -> str:
    """`device_label` of one of a run's devices."""
    known = report.device
    return device_label(device, 1 if known is None or not known.chips else known.count / known.chips)

"""XLA's out-of-memory errors: recognised, and made OutOfMemoryErrors that help."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from crystools_pipelines.errors import OutOfMemoryError
from crystools_tpu import telemetry
from crystools_tpu.telemetry import StageName
from crystools_tpu.telemetry.events import Params

_AMOUNT = r"([\d.]+) ?([KMGTPE]?)"
_TEXTS = (  # the bytes wanted and, where they are said, those available
    rf"\({_AMOUNT}\) exceeds available HBM \({_AMOUNT}",  # TPU, when compiling
    rf"Used {_AMOUNT} of {_AMOUNT} hbm",  # TPU, when compiling, older
    rf"Attempting to (?:allocate|reserve) {_AMOUNT}.*There are {_AMOUNT} free",  # TPU, when running
    rf"Out of memory (?:while trying to allocate|allocating) {_AMOUNT}",  # GPU and CPU
)
_EXPONENTS = {unit: 10 * exponent for exponent, unit in enumerate(["", *"KMGTPE"])}

# In these stages nothing depends on the size of what is made.
FIXED_SIZE_STAGES = (StageName.LOAD, StageName.TEXT_ENCODE)


@dataclass(frozen=True)
class Shortage:
    """What XLA wanted of a device and what there was, in bytes; None where its text does not say."""

    wanted_bytes: int | None
    available_bytes: int | None


def shortage(error: BaseException) -> Shortage | None:
    """What the device's memory lacked, where that is what `error` is about; else None."""
    text = str(error)
    if not isinstance(error, jax.errors.JaxRuntimeError) or "RESOURCE_EXHAUSTED" not in text:
        return None
    for pattern in _TEXTS:
        if match := re.search(pattern, text, re.DOTALL):
            amounts = [*match.groups(), None, None]
            return Shortage(_bytes(amounts[0], amounts[1]), _bytes(amounts[2], amounts[3]))
    return Shortage(None, None) if re.search(r"\bhbm\b|failed to allocate", text, re.IGNORECASE) else None


def _bytes(amount: str | None, unit: str | None) -> int | None:
    return None if amount is None else round(float(amount.rstrip(".")) * 2 ** _EXPONENTS[unit or ""])


@contextmanager
def translating_out_of_memory(run: telemetry.RunRecorder) -> Iterator[None]:
    """An out-of-memory error of XLA's within becomes an OutOfMemoryError about the run's last stage."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        lacking, report = shortage(error), run.report
        if lacking is None or not report.stages:
            raise
        stage = report.stages[-1].name
        raise OutOfMemoryError(
            stage, lacking.wanted_bytes, lacking.available_bytes, _remedies(stage, report.params, run.devices)
        ) from error


def _remedies(stage: StageName, params: Params, devices: tuple[Any, ...]) -> list[str]:
    remedies = []
    if stage not in FIXED_SIZE_STAGES:
        frames, height, width = (params.get(name) for name in ("num_frames", "height", "width"))
        if isinstance(frames, int) and frames > 1:
            remedies.append(f"fewer frames (num_frames is {frames})")
        if height is not None and width is not None:
            remedies.append(f"a smaller height and width (now {height} x {width})")
    return [*remedies, f"more devices (now {len(devices)})"]

"""XLA's out-of-memory errors: recognised, met by freeing what is idle, and said in words that help."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import jax

from crystools_pipelines.runtime.errors import OutOfMemoryError
from crystools_pipelines.runtime.residency import residency
from crystools_tpu import telemetry
from crystools_tpu.telemetry import StageName
from crystools_tpu.telemetry.events import Params

logger = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_AMOUNT = r"([\d.]+) ?([KMGTPE]?)"
_TEXTS = (  # the bytes wanted and, where they are said, those available
    rf"\({_AMOUNT}\) exceeds available HBM \({_AMOUNT}",  # TPU, when compiling
    rf"Used {_AMOUNT} of {_AMOUNT} hbm",  # TPU, when compiling, older
    rf"Attempting to (?:allocate|reserve) {_AMOUNT}.*There are {_AMOUNT} free",  # TPU, when running
    rf"Out of memory (?:while trying to allocate|allocating) {_AMOUNT}",  # GPU and CPU
)
_EXPONENTS = {unit: 10 * exponent for exponent, unit in enumerate(["", *"KMGTPE"])}

# In these stages nothing depends on the size of what is made.
_FIXED_SIZE = (StageName.LOAD, StageName.TEXT_ENCODE)


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


def with_room(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """`function(*args, **kwargs)`; if that exhausts the devices' memory, once more with idle models out.

    For a compile, and for a step. A step is tried again only while all its inputs exist: those that it was
    given for good (donated) may be gone. An error that shows only when the output is waited for is too late
    for a second try; it leaves the run as `OutOfMemoryError` all the same (`in_words`).
    """
    try:
        return function(*args, **kwargs)
    except jax.errors.JaxRuntimeError as error:
        if shortage(error) is None or _any_deleted((args, kwargs)):
            raise
        logger.warning("out of device memory, freeing what is idle to try again: %s", error)
    residency.free_idle("out_of_memory")
    return function(*args, **kwargs)


def _any_deleted(arguments: Any) -> bool:
    return any(
        isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree_util.tree_leaves(arguments)
    )


@contextmanager
def in_words(run: telemetry.Run) -> Iterator[None]:
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
    if stage not in _FIXED_SIZE:
        frames, height, width = (params.get(name) for name in ("num_frames", "height", "width"))
        if isinstance(frames, int) and frames > 1:
            remedies.append(f"fewer frames (num_frames is {frames})")
        if height is not None and width is not None:
            remedies.append(f"a smaller height and width (now {height} x {width})")
    return [*remedies, f"more devices (now {len(devices)})"]

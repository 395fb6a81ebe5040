"""Checks of requests' fields: RequestError names the field that cannot be served, and what would do."""

import math

from crystools_pipelines.errors import RequestError


def check_size(field: str, pixels: int, multiple: int) -> None:
    """Raises RequestError for a height or width, in pixels, that is no positive multiple of `multiple`."""
    if pixels < multiple or pixels % multiple:
        low = max(multiple, pixels // multiple * multiple)
        raise RequestError(field, f"{pixels} is not a positive multiple of {multiple}; {low} would do")


def check_frames(field: str, frames: int, multiple: int, form: str, *, or_multiple: bool = False) -> None:
    """Raises RequestError unless there is a frame more than a multiple, with `or_multiple` at most one more.

    `form` says so.
    """
    if frames < 1 or frames % multiple not in ((0, 1) if or_multiple else (1,)):
        low = max(0, frames - 1) // multiple * multiple + 1
        raise RequestError(field, f"{frames} is not {form}; {low} or {low + multiple} would do")


def check_steps(field: str, steps: int) -> None:
    """Raises RequestError for fewer than one denoising step."""
    if steps < 1:
        raise RequestError(field, f"{steps} is too few; give 1 or more")


def check_range(field: str, value: float, low: float, high: float) -> None:
    """Raises RequestError for a number that is not from `low` to `high`, both included."""
    if not low <= value <= high:
        raise RequestError(field, f"{value} is out of range; give {low} to {high}")


def check_guidance(field: str, scale: float) -> None:
    """Raises RequestError for a guidance scale, which has no unit, that is not finite or below 0."""
    if not (math.isfinite(scale) and scale >= 0):
        raise RequestError(field, f"{scale} is negative or not finite; give 0 or more")


def check_seed(field: str, seed: int) -> None:
    """Raises RequestError for a seed that is not from 0 to 2**64 - 1.

    Those are what `torch.Generator.manual_seed` and ComfyUI's own samplers take.
    """
    if not 0 <= seed < 2**64:
        raise RequestError(field, f"{seed} is out of range; give 0 to 2**64 - 1")

"""What every request checks: RequestError names the field that cannot be served, and what would."""

import math

from crystools_pipelines.errors import RequestError


def check_size(height: int, width: int, multiple: int) -> None:
    """Both in pixels, positive multiples of `multiple`."""
    for field, size in (("height", height), ("width", width)):
        if size < multiple or size % multiple:
            low = max(multiple, size // multiple * multiple)
            raise RequestError(field, f"{size} is not a positive multiple of {multiple}; {low} would do")


def check_steps(steps: int) -> None:
    """At least one denoising step."""
    if steps < 1:
        raise RequestError("num_inference_steps", f"{steps} is too few; give 1 or more")


def check_guidance(field: str, scale: float) -> None:
    """A finite scale from 0."""
    if not (math.isfinite(scale) and scale >= 0):
        raise RequestError(field, f"{scale} is negative or not finite; give 0 or more")


def check_seed(seed: int) -> None:
    """What `torch.Generator.manual_seed` and ComfyUI's own samplers take: 0 to 2**64 - 1."""
    if not 0 <= seed < 2**64:
        raise RequestError("seed", f"{seed} is out of range; give 0 to 2**64 - 1")

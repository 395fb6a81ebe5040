"""Every tiny model in its folder, and the smallest thing that one can ask of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystools_pipelines.models import MODELS
from crystools_pipelines.run import Generation, generate

# Runs a model's smallest request, but for these fields, on that many devices.
Run = Callable[..., Generation]

SMALLEST: dict[str, dict[str, Any]] = {
    "cogvideox-t2v": {"num_frames": 1, "guidance_scale": 1.0},
    "wan2.1-t2v": {"num_frames": 1, "guidance_scale": 1.0},
    "wan2.2-t2v": {"num_frames": 1, "guidance_scale": 1.0, "boundary_ratio": 0.95, "num_inference_steps": 2},
    "wan2.2-i2v": {
        "num_frames": 1,
        "guidance_scale": 1.0,
        "num_inference_steps": 2,  # one for each transformer
        "image": np.full((16, 16, 3), 0.5, np.float32),
    },
    "flux.2": {},
}


def smallest(model: str, **fields: Any) -> Any:
    """The model's smallest request, but for these fields."""
    small = {"height": 32, "width": 32, "num_inference_steps": 1} | SMALLEST[model]
    return MODELS[model].request_class()("a cat", **small | fields)


@pytest.fixture(scope="session")
def checkpoints(
    tiny_cogvideox: Path, tiny_wan21: Path, tiny_wan22_t2v: Path, tiny_wan22_i2v: Path, tiny_flux2: Path
) -> dict[str, Path]:
    """The folder of each model's tiny checkpoint."""
    folders = tiny_cogvideox, tiny_wan21, tiny_wan22_t2v, tiny_wan22_i2v, tiny_flux2
    return dict(zip(SMALLEST, folders, strict=True))


@pytest.fixture(scope="session")
def run(checkpoints: dict[str, Path]) -> Run:
    def run_model(model: str, devices: int = 1, **fields: Any) -> Generation:
        return generate(smallest(model, **fields), checkpoint=checkpoints[model], devices=devices)

    return run_model

"""Whatever the nodes' widgets can be set to works, or is refused with a value that works."""

from __future__ import annotations

import dataclasses
import re
from itertools import product
from typing import Any

import numpy as np
import pytest

from crystools_pipelines.errors import RequestError
from crystools_pipelines.models import MODELS
from tests.pipelines.all_models.conftest import SMALLEST, Run


def steps(low: float, high: float, step: float) -> list[float]:
    """The settings of a widget."""
    return [round(low + index * step, 2) for index in range(int((high - low) / step + 1.5))]


WAN = {
    "height": range(256, 1281, 16),
    "width": range(256, 1281, 16),
    "num_frames": range(17, 122, 4),
}
SIZES: dict[str, dict[str, range]] = {
    "cogvideox-t2v": {
        "height": range(256, 1081, 8),
        "width": range(256, 1921, 8),
        "num_frames": range(17, 162, 8),
    },
    "wan2.1-t2v": WAN,
    "wan2.2-t2v": WAN,
    "wan2.2-i2v": WAN,
    "flux.2": {"height": range(256, 2049, 16), "width": range(256, 2049, 16)},
}
NUMBERS: dict[str, dict[str, Any]] = {
    "cogvideox-t2v": {"guidance_scale": steps(1, 20, 0.1)},
    "wan2.1-t2v": {"guidance_scale": steps(0, 20, 0.1), "flow_shift": steps(1, 10, 0.5)},
    "wan2.2-t2v": {
        "guidance_scale": steps(0, 20, 0.1),
        "guidance_scale_2": steps(0, 20, 0.1),
        "shift": steps(1, 20, 0.1),
        "boundary_ratio": steps(0, 1, 0.005),
    },
    "wan2.2-i2v": {
        "guidance_scale": steps(0, 20, 0.1),
        "shift": steps(1, 20, 0.1),
        "boundary_ratio": steps(0, 1, 0.01),
    },
    "flux.2": {"guidance_scale": steps(0, 20, 0.1)},
}
REMEDIES = re.compile(r"(\d+)(?: or (\d+))? would do$")


def ask(model: str, **fields: Any) -> Any:
    given = {"image": "cat.png"} if "image" in SMALLEST[model] else {}
    return MODELS[model].request_class()("a cat", **given, **fields)


def refusal(model: str, **fields: Any) -> RequestError | None:
    try:
        ask(model, **fields)
    except RequestError as error:
        return error
    return None


def remedies(error: RequestError) -> list[int]:
    match = REMEDIES.search(error.message)
    assert match, error.message
    return [int(value) for value in match.groups() if value]


@pytest.mark.parametrize("model", MODELS)
def test_every_size_is_taken_or_refused_with_one_that_is(model: str) -> None:
    grid = SIZES[model]
    refused = {}
    for values in product(*grid.values()):
        fields = dict(zip(grid, values, strict=True))
        for _ in grid:  # a remedy at a time
            if (error := refusal(model, **fields)) is None:
                break
            value, *_others = remedies(error)
            assert value in grid[error.field]
            refused[error.field, fields[error.field]] = value
            fields[error.field] = value
        else:
            assert refusal(model, **fields) is None
    if model == "cogvideox-t2v":  # whose patches the widgets' step of 8 does not know
        odd = [(field, size) for field in ("height", "width") for size in grid[field] if size % 16]
        assert refused == {(field, size): size - 8 for field, size in odd}
    else:
        assert refused == {}


@pytest.mark.parametrize("model", MODELS)
def test_what_no_widget_offers_is_taken_or_refused_with_what_would_do(model: str) -> None:
    for field, widget in SIZES[model].items():
        for value in range(-1, widget.stop + 8):
            if (error := refusal(model, **{field: value})) is None:
                continue
            assert error.field == field
            for remedy in remedies(error):
                assert refusal(model, **{field: remedy}) is None


@pytest.mark.parametrize("model", MODELS)
def test_every_number_is_taken(model: str) -> None:
    everywhere: dict[str, Any] = {"num_inference_steps": range(1, 101), "seed": (0, 2**32, 2**63, 2**64 - 1)}
    for field, values in (everywhere | NUMBERS[model]).items():
        assert field in {known.name for known in dataclasses.fields(MODELS[model].request_class())}
        for value in values:
            assert getattr(ask(model, **{field: value}), field) == value


@pytest.mark.parametrize(("model", "frames"), [("cogvideox-t2v", 161), ("wan2.1-t2v", 121)])
def test_the_most_frames_work(run: Run, model: str, frames: int) -> None:
    generation = run(model, height=16, width=16, num_frames=frames)
    assert generation.frames.shape == (frames, 16, 16, 3)
    assert np.isfinite(generation.latents).all()
    assert all(step.finite for stage in generation.report.stages for step in stage.steps)

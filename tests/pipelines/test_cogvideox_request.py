"""A request that cannot be served says which field is wrong and what would do."""

from __future__ import annotations

from typing import Any

import pytest

from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.cogvideox.request import latent_frames as latent_frames_of
from crystools_pipelines.errors import RequestError


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("height", 1080, "1080 is not a positive multiple of 16; 1072 would do"),
        ("width", 0, "0 is not a positive multiple of 16; 16 would do"),
        ("num_frames", 21, "21 is not of the form 8n or 8n+1; 17 or 25 would do"),
        ("num_frames", 0, "0 is not of the form 8n or 8n+1; 1 or 9 would do"),
        ("num_inference_steps", 0, "0 is out of range; give 1 to 1000"),
        ("num_inference_steps", 1001, "1001 is out of range; give 1 to 1000"),
        ("guidance_scale", -1.0, "-1.0 is negative or not finite; give 0 or more"),
        ("seed", -1, "-1 is out of range; give 0 to 2**64 - 1"),
        ("seed", 2**64, "18446744073709551616 is out of range; give 0 to 2**64 - 1"),
    ],
)
def test_a_field_that_cannot_be_served_is_named_with_its_remedy(field: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError) as error:
        CogVideoXRequest("a cat", **{field: value})
    assert error.value.field == field
    assert str(error.value) == f"{field}: {message}"


@pytest.mark.parametrize(
    ("num_frames", "latent_frames", "padding"), [(81, 21, 1), (17, 5, 1), (16, 4, 0), (1, 1, 1)]
)
def test_latents_are_padded_in_front_to_whole_patches(
    num_frames: int, latent_frames: int, padding: int
) -> None:
    request = CogVideoXRequest("a cat", num_frames=num_frames)
    assert (latent_frames_of(num_frames), request.padding_frames) == (latent_frames, padding)
    assert request.latent_shape == (1, latent_frames + padding, 16, 90, 160)


@pytest.mark.parametrize(("guidance_scale", "branches"), [(6.0, 2), (1.0, 1), (0.0, 1)])
def test_the_negative_branch_runs_above_a_scale_of_one(guidance_scale: float, branches: int) -> None:
    assert CogVideoXRequest("a cat", guidance_scale=guidance_scale).branches == branches

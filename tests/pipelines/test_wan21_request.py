"""A request that cannot be served says which field is wrong and what would do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crystools_pipelines.errors import RequestError
from crystools_pipelines.runtime.job import initial_noise
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("height", 100, "100 is not a positive multiple of 16; 96 would do"),
        ("width", 0, "0 is not a positive multiple of 16; 16 would do"),
        ("num_frames", 80, "80 is not of the form 4n+1; 77 or 81 would do"),
        ("num_frames", 0, "0 is not of the form 4n+1; 1 or 5 would do"),
        ("num_inference_steps", 0, "0 is too few; give 1 or more"),
        ("guidance_scale", -1.0, "-1.0 is negative or not finite; give 0 or more"),
        ("guidance_scale", float("nan"), "nan is negative or not finite; give 0 or more"),
        ("flow_shift", 0.0, "0.0 is not a positive number; 3 to 5 is usual"),
        ("seed", -1, "-1 is out of range; give 0 to 2**64 - 1"),
        ("seed", 2**64, "18446744073709551616 is out of range; give 0 to 2**64 - 1"),
    ],
)
def test_a_field_that_cannot_be_served_is_named_with_its_remedy(field: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError) as error:
        Wan21Request("a cat", **{field: value})
    assert error.value.field == field
    assert str(error.value) == f"{field}: {message}"


def test_the_defaults_are_720p_in_81_frames() -> None:
    assert Wan21Request("a cat").latent_shape == (1, 16, 21, 90, 160)


@pytest.mark.parametrize(("guidance_scale", "branches"), [(5.0, 2), (1.0, 1), (0.0, 1)])
def test_the_negative_branch_runs_above_a_scale_of_one(guidance_scale: float, branches: int) -> None:
    assert Wan21Request("a cat", guidance_scale=guidance_scale).branches == branches


@pytest.mark.parametrize("seed", [0, 2025, 2**63, 2**64 - 1])
def test_any_seed_of_torchs_draws_what_torch_draws(seed: int) -> None:
    expected = torch.randn((1, 16, 2, 4, 6), generator=torch.Generator().manual_seed(seed))
    assert Wan21Request("a cat", seed=seed).seed == seed
    np.testing.assert_array_equal(initial_noise((1, 16, 2, 4, 6), seed), expected)

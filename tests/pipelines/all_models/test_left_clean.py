"""A generation leaves the process as it found it."""

from __future__ import annotations

import os
import random
import warnings
from typing import Any

import jax
import numpy as np
import pytest
import torch
import torchax
import transformers

from crystools_pipelines.errors import OutOfMemoryError
from crystools_pipelines.interop.functional import call
from crystools_pipelines.models import MODELS
from crystools_pipelines.runtime.residency import free_all
from tests.pipelines.all_models.conftest import Run
from tests.pipelines.conftest import limited_to


def state() -> dict[str, Any]:
    """What others in the process rely on."""
    torchaxs_own = torchax.default_env()
    return {
        "torch dtype": torch.get_default_dtype(),
        "torch device": torch.get_default_device(),
        "torch gradients": torch.is_grad_enabled(),
        "torch fast attention": torch.backends.mha.get_fastpath_enabled(),
        "torch function modes": torch.overrides._get_current_function_mode_stack(),
        "torch dispatch modes": torch.utils._python_dispatch._get_current_dispatch_mode_stack(),
        "torch threads": torch.get_num_threads(),
        "torch sums": type(torch.ones(2) + 1),
        "torchax environment": (id(torchaxs_own), torchaxs_own.enabled, vars(torchaxs_own.config).copy()),
        "jax configuration": dict(jax.config.values),
        "random numbers": (
            torch.random.get_rng_state().tolist(),
            random.getstate(),
            [np.asarray(part).tolist() for part in np.random.get_state(legacy=True)],
        ),
        "warning filters": list(warnings.filters),
        "transformers' verbosity": transformers.logging.get_verbosity(),
        "transformers' progress bars": transformers.logging.is_progress_bar_enabled(),
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize("model", MODELS)
def test_the_process_is_left_as_it_was(model: str, run: Run) -> None:
    MODELS[model].pipeline()  # whose libraries set variables of their own when they are imported
    before = state()
    run(model)
    assert state() == before


@pytest.mark.parametrize("model", MODELS)
def test_a_generation_that_fails_leaves_the_process_as_it_was(model: str, run: Run) -> None:
    MODELS[model].pipeline()
    free_all()
    before = state()
    with limited_to(0), pytest.raises(OutOfMemoryError):
        run(model)
    assert state() == before


def test_a_module_that_fails_leaves_no_mode_behind() -> None:
    class Failing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ArithmeticError(type(x + 1).__module__)

    before = state()
    with pytest.raises(ArithmeticError, match=r"^torchax\.tensor$"):
        call(Failing(), {}, jax.numpy.ones(2))
    assert state() == before

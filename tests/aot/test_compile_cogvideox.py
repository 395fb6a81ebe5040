"""CogVideoX compiled for TPUs that are not here, beside the other models' compiles, which take as long."""

from __future__ import annotations

from pathlib import Path

import pytest

from crystools_pipelines.planning.aot import TpuCompiler
from crystools_tpu.telemetry import StageName
from tests.aot.full_size import VAE, every_stage_compiles_and_fits


@pytest.mark.timeout(600)  # a minute or two on an idle machine
@pytest.mark.parametrize(
    ("model", "topology", "without"),
    [
        # Its VAE is the slowest compile of all, whatever its size; benchmarks/plans.py has it.
        ("cogvideox-t2v", "v6e-8", VAE),
    ],
    ids=["v6e"],
)
def test_every_stage_compiles_and_fits_the_chip(
    compiler: TpuCompiler, tmp_path: Path, model: str, topology: str, without: tuple[StageName, ...]
) -> None:
    every_stage_compiles_and_fits(compiler, tmp_path, model, topology, without)

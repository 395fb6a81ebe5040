"""FLUX.2, Wan2.1, and what Wan2.2 has beside it, compiled for TPUs that are not here."""

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
        ("wan2.1-t2v", "v6e-8", VAE),
        ("wan2.1-t2v", "v5p-8", VAE),
        # The family's decoder, and nothing of Wan2.2 text-to-video, whose two transformers have the shapes
        # of Wan2.1's one; benchmarks/plans.py compiles all the rest as well.
        ("wan2.2-i2v", "v6e-8", (StageName.TEXT_ENCODE, StageName.DENOISE, StageName.VAE_ENCODE)),
        ("flux.2", "v6e-8", ()),
        ("flux.2", "v5p-8", VAE),
    ],
    ids=["wan2.1-v6e", "wan2.1-v5p", "wan2.2-v6e", "flux.2-v6e", "flux.2-v5p"],
)
def test_every_stage_compiles_and_fits_the_chip(
    compiler: TpuCompiler, tmp_path: Path, model: str, topology: str, without: tuple[StageName, ...]
) -> None:
    every_stage_compiles_and_fits(compiler, tmp_path, model, topology, without)

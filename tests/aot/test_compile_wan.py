"""Both Wan models, whose compiles have much in common, compiled for TPUs that are not here."""

from __future__ import annotations

from pathlib import Path

import pytest

from crystools_pipelines.runtime.aot import TpuCompiler
from crystools_tpu.telemetry import StageName
from tests.aot.full_size import every_stage_compiles_and_fits, topologies


@pytest.mark.timeout(600)  # a minute or two on an idle machine
@topologies
@pytest.mark.parametrize("model", ["wan2.1-t2v", "wan2.2-i2v"])
def test_every_full_size_stage_compiles_and_fits_the_chip(
    compiler: TpuCompiler, tmp_path: Path, model: str, topology: str, without: tuple[StageName, ...]
) -> None:
    every_stage_compiles_and_fits(compiler, tmp_path, model, topology, without)

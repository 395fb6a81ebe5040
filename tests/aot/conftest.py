"""The TPU's own compiler, one process for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crystools_pipelines.planning.aot import TpuCompiler


@pytest.fixture(scope="module")
def compiler() -> Iterator[TpuCompiler]:
    with TpuCompiler() as compiler:
        yield compiler

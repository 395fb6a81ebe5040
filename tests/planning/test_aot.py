"""What the compiler's process makes of a compiler that fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from crystools_pipelines.errors import CompileError
from crystools_pipelines.planning import aot


def test_a_kernel_that_does_not_compile_alone_is_a_compile_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(traced: Any, folder: Path) -> dict[Any, int]:
        raise jax.errors.JaxRuntimeError("INTERNAL: Mosaic failed\nwith a page of details")

    stage = SimpleNamespace(name="denoise", programs=[SimpleNamespace(traced=None)])
    monkeypatch.setattr(aot, "_rehearse", lambda spec: SimpleNamespace(stages=[stage]))
    monkeypatch.setattr(aot, "kernel_cycles", fails)
    with pytest.raises(CompileError, match=r"^denoise: the compiler failed; .*INTERNAL: Mosaic failed$"):
        aot._kernel_cycles(Any, 0, tmp_path)  # type: ignore[arg-type]

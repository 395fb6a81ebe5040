"""A ComfyUI of the test's own: stand-ins for its modules, or the real one from the checkout in `COMFYUI_DIR`.

ComfyUI is in no package registry. Without a checkout the tests of the real one are deselected, and the last
lines of the run say so; skipped they would fail on CI, where there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from .fake_execution import FakeExecution

COMFYUI_DIR = os.environ.get("COMFYUI_DIR")

_left_out: list[pytest.Item] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what needs a checkout where there is none."""
    if COMFYUI_DIR is None:
        _left_out[:] = [item for item in items if item.get_closest_marker("real_comfyui")]
        items[:] = [item for item in items if item not in _left_out]
        config.hook.pytest_deselected(items=_left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What did not run must not go unnoticed."""
    if _left_out:
        terminalreporter.section("ComfyUI", yellow=True)
        terminalreporter.line(
            f"{len(_left_out)} tests of the real ComfyUI DID NOT RUN: set COMFYUI_DIR to a checkout, "
            "and COMFYUI_PYTHON to a Python with its requirements and ours"
        )


@dataclass
class StandIn:
    """Stands in for the modules of a running ComfyUI. The application is a real one, as ComfyUI's is."""

    custom_nodes: Path
    app: web.Application = field(default_factory=web.Application)
    unloads: int = 0
    on_prompt: list[Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=list)

    def modules(self, enable_cors_header: str | None = None, **options: object) -> dict[str, ModuleType]:
        """As they are in `sys.modules`; `options` are ComfyUI's own, of its command line."""
        server, execution = ModuleType("server"), FakeExecution()
        instance = SimpleNamespace(app=self.app, prompt_queue=execution.prompt_queue)
        instance.add_on_prompt_handler = self.on_prompt.append
        server.PromptServer = SimpleNamespace(instance=instance)  # type: ignore[attr-defined]
        cli_args = ModuleType("comfy.cli_args")
        cli_args.args = SimpleNamespace(enable_cors_header=enable_cors_header, **options)  # type: ignore[attr-defined]
        management = ModuleType("comfy.model_management")
        management.unload_all_models = self._unload  # type: ignore[attr-defined]
        of_its_own = {module.__name__: module for module in (server, cli_args, management)}
        return {**of_its_own, **execution.modules()}

    def folder(self, name: str) -> Path:
        """A node pack's folder of that name."""
        path = self.custom_nodes / name
        path.mkdir(parents=True)
        return path

    def _unload(self) -> None:
        self.unloads += 1


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """A ComfyUI with no node packs yet."""
    return StandIn(tmp_path / "custom_nodes")

"""Grafana's published schema is not part of this repository: where it is not beside it, the run says so."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

SCHEMA: Final = Path(__file__).parents[3] / "shared" / "data" / "grafana-dashboard.schema.json"

_left_out: list[pytest.Item] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what needs the schema where there is none."""
    if not SCHEMA.exists():
        _left_out[:] = [item for item in items if item.get_closest_marker("grafana_schema")]
        items[:] = [item for item in items if item not in _left_out]
        config.hook.pytest_deselected(items=_left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What did not run must not go unnoticed."""
    if _left_out:
        terminalreporter.section("Grafana", yellow=True)
        terminalreporter.line(
            f"{len(_left_out)} dashboards were NOT checked by Grafana's schema: no {SCHEMA}"
        )

"""Writes the dashboards that Grafana is provisioned with. Needs the extra `dev`.

python grafana/generate.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from crystools_grafana import chips, cost, fleet, pipelines
from crystools_grafana.dashboard import to_json

DASHBOARDS: Final = Path(__file__).parent / "dashboards"
MODULES: Final = (pipelines, chips, fleet, cost)


def generated() -> dict[str, str]:
    """The text of each dashboard's file, by its name."""
    dashboards = (module.dashboard() for module in MODULES)
    return {f"{dashboard.uid}.json": to_json(dashboard) for dashboard in dashboards}


def main() -> None:
    """Writes the files. One that no program makes any more is removed."""
    files = generated()
    for stale in DASHBOARDS.glob("*.json"):
        if stale.name not in files:
            stale.unlink()
    for name, text in files.items():
        (DASHBOARDS / name).write_text(text)


if __name__ == "__main__":
    main()

"""Writes the dashboards that Grafana is provisioned with. Needs the extra `dev`.

python grafana/generate.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from crystools_grafana import generated

DASHBOARDS: Final = Path(__file__).parent / "dashboards"


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

"""The doors to what is built upon telemetry, which keeps and shows its runs.

Telemetry imports the standard library alone, so that any script can afford it, and knows nothing of what is
above it. Whoever writes `telemetry.run(...)` means to see the run all the same. So what does that is opened
by name, when it is needed and no sooner.
"""

from __future__ import annotations

import importlib
from typing import Any


def exporting() -> Any:
    """The module that writes this process's runs where they are kept."""
    return importlib.import_module("crystools_exporters.exporting")


def page() -> Any:
    """The module that serves the page."""
    return importlib.import_module("crystools_tpu.page")

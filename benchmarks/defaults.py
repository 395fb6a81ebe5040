"""How what `plan` finds best becomes a default: entries of `crystools_pipelines/parallel/defaults.json`."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from crystools_pipelines.parallel.defaults import DEFAULTS


def how_found(command: str) -> dict[str, str]:
    """What an entry says of that."""
    return {"command": f"crystools-tpu {command}", "libtpu": version("libtpu")}


def keep(kind: str, key: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Puts what was found in the place of what the file has for the key; nothing, where nothing was."""
    defaults = json.loads(DEFAULTS.read_text())
    others = [entry for entry in defaults[kind] if not key.items() <= entry.items()]
    entries = [*others, {**key, **found}] if found else others
    defaults[kind] = sorted(entries, key=lambda entry: [entry[name] for name in key])
    DEFAULTS.write_text(json.dumps(defaults, indent=2) + "\n")

"""What a user says of where a checkpoint is: a folder's name, or a hub id. Imports nothing heavy."""

import re
from pathlib import Path

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

_MOST_NAMED = 5


def is_hub_id(location: str) -> bool:
    """Whether it has the form org/name. `./folder`, `../folder` and `~/folder` are folders' names."""
    return _HUB_ID.fullmatch(location) is not None


def folders_beside(location: str) -> str:
    """The folders beside one that is not there, so that a mistyped name shows; empty where none are known."""
    parent = Path(location).parent
    if not location or parent == Path():
        return ""
    try:
        beside = sorted(path.name for path in parent.iterdir() if path.is_dir())
    except OSError:
        return ""
    return f"; the folder {parent} has {', '.join(beside[:_MOST_NAMED]) or 'no other in it'}"

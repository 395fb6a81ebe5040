"""Files that a command writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[str]]:
    """A file that is there only once the block is done."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w") as out:
            yield out
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)

"""What is mounted where, by the kernel's own table (`/proc/self/mountinfo`)."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount. `device` is the same for all mounts of one file system, whichever of its folders is `top`.

    `options` are those of the file system, not of the mount.
    """

    device: str
    top: str
    path: str
    fs_type: str
    source: str
    options: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The path as text: bytes of it that are no UTF-8 are spelled out."""
        return readable(self.path)

    def folder(self, root: Path) -> Path:
        """Where it is, for whoever sees the machine's `/` at `root`."""
        return root / self.path.lstrip("/")


def read_mounts(proc: Path) -> tuple[Mount, ...]:
    """All mounts, in the kernel's order; one that hides another at the same path is there in its stead.

    Raises OSError where there is no such table (it is Linux's).
    """
    return _table((proc / "self/mountinfo").read_bytes())


def readable(path: str) -> str:
    """Any path as text that every encoding of Unicode has."""
    return os.fsencode(path).decode(errors="backslashreplace")


@functools.lru_cache(maxsize=2)
def _table(text: bytes) -> tuple[Mount, ...]:
    """The mounts in the table, which is read at every sample, changes hardly ever and may have thousands."""
    mounts = [mount for line in text.splitlines() if (mount := _parsed(line)) is not None]
    return tuple({mount.path: mount for mount in mounts}.values())


def _parsed(line: bytes) -> Mount | None:
    """`36 35 98:0 /top /path rw,noatime shared:1 - ext3 /dev/root rw,errors=continue`."""
    mount, separator, file_system = line.partition(b" - ")
    fields, rest = mount.split(b" "), file_system.split(b" ")
    if not separator or len(fields) < 6 or len(rest) < 2:
        return None
    device, top, path = (_unescaped(field) for field in fields[2:5])
    options = os.fsdecode(rest[2]).split(",") if len(rest) > 2 else ()
    return Mount(device, top, path, _unescaped(rest[0]), _unescaped(rest[1]), frozenset(options))


def _unescaped(field: bytes) -> str:
    """The kernel writes blanks, line breaks and backslashes in octal."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 255]), field))

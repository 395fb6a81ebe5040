"""Which file systems are reported, and how full they are."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import psutil

from crystools_tpu.environment import DISKS
from crystools_tpu.sources.base import DiskReading
from crystools_tpu.sources.mounts import Mount, read_mounts, readable

_log = logging.getLogger(__name__)

Usage: TypeAlias = Callable[[str], Any]
"""What `psutil.disk_usage` is: `total`, `used` and `free` of the file system at a path."""

_IMAGES: Final = frozenset({"squashfs", "iso9660", "udf", "erofs"})
"""File systems that are images: always full, and nobody can free anything on them."""

_LAYERS: Final = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
"""What a container's `/` is: folders of another file system in layers, which is as full as that."""

_PROMPT: Final = _LAYERS | {"tmpfs", "ramfs", "rootfs"}
"""File systems without a device that are local all the same: asking them does not hang."""

_NO_STORAGE: Final = frozenset(
    {
        "autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts",
        "devtmpfs", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nfsd", "nsfs", "proc", "pstore",
        "rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sysfs", "tracefs",
    }
)  # fmt: skip

_HANGS_SECONDS: Final = 5.0
_KEPT_SECONDS: Final = 60.0


class Disks:
    """The chosen file systems, or every local disk once, by its shortest mount point.

    `chosen` may name what is not mounted yet. File systems of a network and of FUSE, which may take their
    time or never answer, are reported where they are chosen; each is asked in a thread of its own. `root` is
    where the machine's `/` is.
    """

    def __init__(
        self,
        chosen: Sequence[str] | None = None,
        *,
        root: Path = Path("/"),
        usage: Usage = psutil.disk_usage,
        clock: Callable[[], float] = time.monotonic,
        patience_seconds: float = 0.02,
    ) -> None:
        self._chosen = None if chosen is None else tuple(dict.fromkeys(_tidied(path) for path in chosen))
        self._root = root
        self._usage = usage
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._remote: dict[str, _Remote] = {}
        self._missing: set[str] = set()
        self._root_disk: set[str] = set()

    def read(self) -> tuple[DiskReading, ...]:
        """The disks that there are and that say how full they are. Waits for no network."""
        if self._chosen == ():
            return ()
        mounts, devices = self._mounts()
        if self._chosen is None:
            return self._local(mounts, devices)
        there = {mount.name: mount for mount in mounts if mount.fs_type not in _NO_STORAGE}
        self._say_what_is_missing(set(self._chosen) - there.keys(), there)
        readings = (self._reading(there[name], devices) for name in self._chosen if name in there)
        return tuple(reading for reading in readings if reading is not None)

    def _mounts(self) -> tuple[Sequence[Mount], frozenset[str]]:
        """What is mounted, `/` in any case, and which types of file systems lie on devices."""
        try:
            mounts = list(read_mounts(self._root / "proc"))
            lines = (self._root / "proc/filesystems").read_text().splitlines()
            devices = frozenset(line.strip() for line in lines if not line.startswith("nodev")) | {"zfs"}
        except OSError:  # no Linux
            mounts = _mounts_elsewhere()
            devices = frozenset(mount.fs_type for mount in mounts)
        if os.name == "posix" and all(mount.path != "/" for mount in mounts):  # chroot
            mounts.append(Mount(_device("/"), "/", "/", "rootfs", "", frozenset()))
        return mounts, devices

    def _local(self, mounts: Iterable[Mount], devices: frozenset[str]) -> tuple[DiskReading, ...]:
        """`/`, and of each other device the mount with the shortest path."""
        local = [m for m in mounts if m.path == "/" or (m.fs_type in devices and m.fs_type not in _IMAGES)]
        disks: dict[str, DiskReading] = {}
        for mount in sorted(local, key=lambda mount: len(mount.path)):
            file_system = _file_system(mount)
            # Containers mount single files (/etc/hosts) from the machine's disk: no disk of theirs.
            if (
                file_system in disks
                or file_system in self._root_disk
                or not mount.folder(self._root).is_dir()
            ):
                continue
            reading = self._reading(mount, devices)
            if reading is None:
                continue
            if mount.path != "/" and self._is_below_root(mount, local):
                self._root_disk.add(file_system)
                continue
            disks[file_system] = reading
        return tuple(disks.values())

    def _is_below_root(self, mount: Mount, local: Sequence[Mount]) -> bool:
        """Whether this is the disk on which a container's `/` lies in layers: then both are equally full."""
        root = next(other for other in local if other.path == "/")
        if root.fs_type not in _LAYERS:
            return False
        for _ in range(3):  # something may be written between the two questions
            try:
                if self._usage(str(root.folder(self._root))) == self._usage(str(mount.folder(self._root))):
                    return True
            except OSError:
                return False
        return False

    def _reading(self, mount: Mount, devices: frozenset[str]) -> DiskReading | None:
        """One file system, None if it is gone, refuses or takes too long to tell, or has no size."""
        path = str(mount.folder(self._root))
        if mount.fs_type in devices or mount.fs_type in _PROMPT:
            try:
                usage = self._usage(path)
            except OSError:
                return None
        else:
            if path not in self._remote:
                self._remote[path] = _Remote(mount.name, path, self._usage, self._clock)
            usage = self._remote[path].usage(self._patience_seconds)
        if usage is None or usage.total <= 0:
            return None
        return DiskReading(mount.name, usage.used, usage.total)

    def _say_what_is_missing(self, missing: set[str], there: Mapping[str, Mount]) -> None:
        for name in sorted(missing - self._missing):
            known = ", ".join(sorted(there))
            _log.warning(
                "%s: %s is not mounted here; it is shown once it is. There are %s", DISKS, name, known
            )
        self._missing = missing


class _Remote:
    """A file system that may not answer. Whoever asks waits a moment, unless it is being asked already."""

    def __init__(self, name: str, path: str, usage: Usage, clock: Callable[[], float]) -> None:
        self._name = name
        self._path = path
        self._usage = usage
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._asked_at = 0.0
        self._answer: tuple[float, Any] | None = None
        self._fault: str | None = None
        self._said: str | None = None

    def usage(self, patience_seconds: float) -> Any:
        """The last answer if it is young enough, else None."""
        now = self._clock()
        if self._thread is None or not self._thread.is_alive():
            self._asked_at = now
            self._thread = threading.Thread(target=self._ask, name="crystools-tpu-disk", daemon=True)
            self._thread.start()
            self._thread.join(patience_seconds)
        elif now - self._asked_at > _HANGS_SECONDS:
            self._answer, self._fault = None, "it does not answer"
        self._say()
        fresh = self._answer is not None and now - self._answer[0] <= _KEPT_SECONDS
        return self._answer[1] if self._answer is not None and fresh else None

    def _ask(self) -> None:
        try:
            usage = self._usage(self._path)
        except OSError as error:
            self._answer, self._fault = None, error.strerror or str(error)
        else:
            self._answer, self._fault = (self._clock(), usage), None

    def _say(self) -> None:
        fault = self._fault
        if fault is not None and self._said is None:
            _log.warning("the disk %s is left out until it is back: %s", self._name, fault)
        elif fault is None and self._said is not None:
            _log.info("the disk %s is back", self._name)
        self._said = fault


def chosen_disks(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """The mount points that the environment names, None where it names none."""
    paths = tuple(path for path in environ.get(DISKS, "").split(os.pathsep) if path.strip())
    return paths or None


def _file_system(mount: Mount) -> str:
    """A key that all mounts share whose space is shared: of one file system, or of a pool of them."""
    return f"zfs {mount.source.split('/')[0]}" if mount.fs_type == "zfs" else mount.device


def _mounts_elsewhere() -> list[Mount]:
    """The local mounts, where there is no table of the kernel's."""
    try:
        parts = psutil.disk_partitions(all=False)
    except OSError:
        return []
    return [Mount(_device(p.mountpoint), "/", p.mountpoint, p.fstype, p.device) for p in parts]


def _device(path: str) -> str:
    try:
        return str(Path(path).stat().st_dev)
    except OSError:
        return path


def _tidied(path: str) -> str:
    text = readable(path.strip())
    return text.rstrip("/") or text

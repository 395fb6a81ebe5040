"""The limits that this process's control groups set: what its container, or its service, may use.

Both versions, and both at once. Groups are nested: the tightest limit of the path from this process's group
up to the highest that can be seen is the one that counts, and with it what that group uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from crystools_tpu.sources.mounts import Mount, read_mounts


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The memory that a group may have, and what it has that cannot be dropped, as Docker counts it."""

    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """How many CPUs a group may have, and the time that it has had of them, in all."""

    group: Path
    cpus: float
    used_seconds: float


class ControlGroups:
    """The groups that this process was in when it was first asked; their limits as they are now.

    `root` is where the machine's `/` is.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        proc = root / "proc"
        self._memory = _folders(root, proc, "memory")
        self._cpu = _folders(root, proc, "cpu")
        self._time = _folders(root, proc, "cpuacct")
        self._cpuset = _folders(root, proc, "cpuset")

    def memory(self, machine_bytes: int) -> MemoryLimit | None:
        """The tightest limit, None where none is below what the machine has."""
        limits = [(limit, folder) for folder in self._memory if (limit := _memory_limit(folder)) is not None]
        limit, folder = min(limits, key=lambda found: found[0], default=(machine_bytes, Path()))
        used = _memory_used(folder) if limit < machine_bytes else None
        return None if used is None else MemoryLimit(limit, used)

    def cpu(self, machine_cpus: int) -> CpuLimit | None:
        """The tightest limit, None where none is below what the machine has."""
        if len(self._time) != len(self._cpu):
            return None  # counted by other groups than those that limit it
        groups = zip(self._cpu, self._time, strict=True)
        limits = [(quota, time) for folder, time in groups if (quota := _quota(folder)) is not None]
        allowed = next((n for folder in self._cpuset if (n := _allowed_cpus(folder)) is not None), None)
        if allowed is not None and self._time:
            limits.append((float(allowed), self._time[0]))
        cpus, group = min(limits, key=lambda found: found[0], default=(float(machine_cpus), Path()))
        used = _cpu_seconds(group) if cpus < machine_cpus else None
        return None if used is None else CpuLimit(group, cpus, used)


def _folders(root: Path, proc: Path, controller: str) -> tuple[Path, ...]:
    """The folder of this process's group for a controller, then those above it; none where it has none."""
    try:
        mounts = read_mounts(proc)
        lines = (proc / "self/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ()
    entries = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    for _, controllers, path in entries:
        if controller in controllers.split(","):
            of_it = [m for m in mounts if m.fs_type == "cgroup" and controller in m.options]
            if folders := _path_up(root, of_it, path):
                return folders
    for _, controllers, path in entries:
        if not controllers:
            return _path_up(root, [m for m in mounts if m.fs_type == "cgroup2"], path)
    return ()


def _path_up(root: Path, mounts: list[Mount], path: str) -> tuple[Path, ...]:
    """The folders from the group at `path` up to what is mounted.

    Where a container sees its own part of the hierarchy alone, but the path as the machine has it, what is
    mounted is its group. A `..` is a group outside of what this process may see.
    """
    visible = [mount for mount in mounts if ".." not in PurePosixPath(mount.top).parts]
    group = PurePosixPath(path)
    if not visible or ".." in group.parts:
        return ()
    holding = [mount for mount in visible if group.is_relative_to(mount.top)]
    mount = max(holding, key=lambda mount: len(mount.top), default=visible[0])
    inner = group.relative_to(mount.top) if holding else PurePosixPath()
    top = mount.folder(root)
    return tuple(top.joinpath(*inner.parts[:depth]) for depth in range(len(inner.parts), -1, -1))


def _memory_limit(folder: Path) -> int | None:
    limit = _number(folder / "memory.max")
    return _number(folder / "memory.limit_in_bytes") if limit is None else limit


def _memory_used(folder: Path) -> int | None:
    used, droppable = _number(folder / "memory.current"), "inactive_file"
    if used is None:
        used, droppable = _number(folder / "memory.usage_in_bytes"), "total_inactive_file"
    return None if used is None else max(used - (_entry(folder / "memory.stat", droppable) or 0), 0)


def _quota(folder: Path) -> float | None:
    """The quota in CPUs; None without one."""
    quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us") or "", _text(folder / "cpu.cfs_period_us") or ""
    if not quota.isdecimal() or not period.isdecimal() or int(quota) == 0 or int(period) == 0:
        return None  # max, or -1: none
    return int(quota) / int(period)


def _cpu_seconds(folder: Path) -> float | None:
    microseconds = _entry(folder / "cpu.stat", "usage_usec")
    if microseconds is not None:
        return microseconds / 1e6
    nanoseconds = _number(folder / "cpuacct.usage")
    return None if nanoseconds is None else nanoseconds / 1e9


def _allowed_cpus(folder: Path) -> int | None:
    """The number of CPUs in a list such as `0-3,8`."""
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        if text := _text(folder / name):
            ranges = [part.partition("-") for part in text.split(",")]
            try:
                return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)
            except ValueError:
                return None
    return None


def _entry(path: Path, key: str) -> int | None:
    lines = (line.split() for line in (_text(path) or "").splitlines())
    value = next((words[1] for words in lines if len(words) == 2 and words[0] == key), "")
    return int(value) if value.isdecimal() else None


def _number(path: Path) -> int | None:
    text = _text(path) or ""
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None

"""CPU, memory and disks: from a fake machine with absolute values, and from this one."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from crystools_tpu.sources.base import HostReading
from crystools_tpu.sources.host import HostSource

MEMINFO = """\
MemTotal:       16000000 kB
MemFree:         1000000 kB
MemAvailable:   10000000 kB
Buffers:          200000 kB
Cached:          8000000 kB
Active:          4000000 kB
Inactive:        3000000 kB
Shmem:             50000 kB
Slab:             100000 kB
SReclaimable:      80000 kB
"""


class FakeProc:
    """A `/proc` whose CPU counters the test sets, in ticks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "meminfo").write_text(MEMINFO)
        (folder / "filesystems").write_text("nodev\tproc\n\text4\n")
        (folder / "self").mkdir()
        self.set_cpu(user=0, idle=0)

    def source(self) -> HostSource:
        return HostSource(disks=[], root=self._folder.parent)

    def set_cpu(self, *, user: int, idle: int, iowait: int = 0, guest: int = 0) -> None:
        # user nice system idle iowait irq softirq steal guest guest_nice
        line = f"cpu  {user} 0 0 {idle} {iowait} 0 0 0 {guest} 0\n"
        (self._folder / "stat").write_text(line + "cpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    return FakeProc(tmp_path / "proc")


def read(source: HostSource) -> HostReading:
    host = source.read().host
    assert host is not None
    return host


def test_memory_used_is_total_less_available(proc: FakeProc) -> None:
    host = read(proc.source())
    assert (host.memory_used_bytes, host.memory_total_bytes) == (6_000_000 * 1024, 16_000_000 * 1024)


def test_cpu_is_over_all_cores_since_the_last_read_and_unknown_at_the_first(proc: FakeProc) -> None:
    source = proc.source()
    proc.set_cpu(user=1000, idle=9000)
    assert read(source).cpu_utilization_ratio is None
    proc.set_cpu(user=1030, idle=9070)
    assert read(source).cpu_utilization_ratio == pytest.approx(0.3)
    proc.set_cpu(user=1130, idle=9070)
    assert read(source).cpu_utilization_ratio == pytest.approx(1.0)


def test_waiting_for_disks_is_idle_and_guest_time_counts_once(proc: FakeProc) -> None:
    source = proc.source()
    proc.set_cpu(user=0, idle=0)
    read(source)
    proc.set_cpu(user=40, guest=40, idle=40, iowait=20)
    assert read(source).cpu_utilization_ratio == pytest.approx(0.4)


def test_a_read_before_the_counters_moved_repeats_the_last_figure(proc: FakeProc) -> None:
    source = proc.source()
    read(source)
    proc.set_cpu(user=30, idle=70)
    read(source)
    assert read(source).cpu_utilization_ratio == pytest.approx(0.3)


def test_two_sources_do_not_share_the_counters_last_seen(proc: FakeProc) -> None:
    first, second = proc.source(), proc.source()
    read(first)
    proc.set_cpu(user=50, idle=50)
    read(second)
    assert read(first).cpu_utilization_ratio == pytest.approx(0.5)


def test_a_container_has_the_cpu_and_memory_of_its_limits_and_the_machines_beside_them(
    proc: FakeProc, tmp_path: Path
) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    table = "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(table)
    files = {"memory.max": "8000000000", "memory.current": "3000000000", "cpu.max": "150000 100000"}
    files |= {"memory.stat": "inactive_file 1000000000", "cpu.stat": "usage_usec 0"}
    for name, text in files.items():
        (group / name).write_text(text)
    now = [100.0]
    source = HostSource(disks=[], root=tmp_path, clock=lambda: now[0])

    first = read(source)
    assert (first.memory_used_bytes, first.memory_total_bytes) == (2_000_000_000, 8_000_000_000)
    assert first.machine_memory_bytes == 16_000_000 * 1024
    assert (first.cpu_count, first.machine_cpu_count) == (1.5, 2)
    assert first.cpu_utilization_ratio is None

    now[0], proc_is_busy = 102.0, 90
    proc.set_cpu(user=proc_is_busy, idle=10)
    (group / "cpu.stat").write_text("usage_usec 1500000")
    assert read(source).cpu_utilization_ratio == pytest.approx(0.5)  # 1.5 s of the 3 s that it could have

    now[0] = 104.0
    (group / "cpu.stat").write_text("usage_usec 9000000")  # a burst is no more than all
    assert read(source).cpu_utilization_ratio == 1.0

    (group / "cpu.max").write_text("max 100000")
    lifted = read(source)
    assert (lifted.cpu_count, lifted.cpu_utilization_ratio) == (2.0, None)
    proc.set_cpu(user=proc_is_busy + 25, idle=85)
    assert read(source).cpu_utilization_ratio == pytest.approx(0.25)


def test_a_machine_without_limits_has_all_that_it_has(proc: FakeProc, tmp_path: Path) -> None:
    host = read(HostSource(disks=[], root=tmp_path))
    assert (host.cpu_count, host.machine_cpu_count) == (2.0, 2)
    assert host.memory_total_bytes == host.machine_memory_bytes == 16_000_000 * 1024


def test_the_disks_of_this_machine_are_each_there_once_with_the_size_that_the_file_system_says() -> None:
    root, *others = read(HostSource(environ={})).disks
    size = os.statvfs("/")
    assert root.mount == "/"
    assert root.total_bytes == size.f_blocks * size.f_frsize
    assert 0 < root.used_bytes < root.total_bytes
    mounts = [root.mount, *(disk.mount for disk in others)]
    assert len({Path(mount).stat().st_dev for mount in mounts}) == len(mounts)


def test_the_environment_chooses_the_disks_unless_the_caller_does() -> None:
    environ = {"CRYSTOOLS_TPU_DISKS": "/dev/shm:/"}
    assert [disk.mount for disk in read(HostSource(environ=environ)).disks] == ["/dev/shm", "/"]
    assert [disk.mount for disk in read(HostSource(disks=["/"], environ=environ)).disks] == ["/"]


def test_a_disk_that_cannot_be_read_is_left_out() -> None:
    def usage(path: str) -> object:
        if path == "/dev/shm":
            raise FileNotFoundError(path)
        return psutil.disk_usage(path)

    assert [disk.mount for disk in read(HostSource(disks=["/", "/dev/shm"], usage=usage)).disks] == ["/"]

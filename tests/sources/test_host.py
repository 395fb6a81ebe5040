"""CPU, memory and disks: from a fake `/proc` with absolute values, and from this machine."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from crystools_tpu.sources.base import HostReading
from crystools_tpu.sources.host import HostSource, check_disks, local_disks, mounts

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
        (folder / "meminfo").write_text(MEMINFO)
        (folder / "filesystems").write_text("nodev\tproc\n\text4\n")
        (folder / "self").mkdir()
        (folder / "self/mounts").write_text("/dev/sda1 / ext4 rw 0 0\n")
        self.set_cpu(user=0, idle=0)

    def set_cpu(self, *, user: int, idle: int, iowait: int = 0, guest: int = 0) -> None:
        # user nice system idle iowait irq softirq steal guest guest_nice
        line = f"cpu  {user} 0 0 {idle} {iowait} 0 0 0 {guest} 0\n"
        (self._folder / "stat").write_text(line)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    return FakeProc(tmp_path)


def read(source: HostSource) -> HostReading:
    host = source.read().host
    assert host is not None
    return host


def test_memory_used_is_total_less_available(proc: FakeProc) -> None:
    host = read(HostSource(disks=[]))
    assert (host.memory_used_bytes, host.memory_total_bytes) == (6_000_000 * 1024, 16_000_000 * 1024)


def test_cpu_is_over_all_cores_since_the_last_read_and_unknown_at_the_first(proc: FakeProc) -> None:
    source = HostSource(disks=[])
    proc.set_cpu(user=1000, idle=9000)
    assert read(source).cpu_utilization_ratio is None
    proc.set_cpu(user=1030, idle=9070)
    assert read(source).cpu_utilization_ratio == pytest.approx(0.3)
    proc.set_cpu(user=1130, idle=9070)
    assert read(source).cpu_utilization_ratio == pytest.approx(1.0)


def test_waiting_for_disks_is_idle_and_guest_time_counts_once(proc: FakeProc) -> None:
    source = HostSource(disks=[])
    proc.set_cpu(user=0, idle=0)
    read(source)
    proc.set_cpu(user=40, guest=40, idle=40, iowait=20)
    assert read(source).cpu_utilization_ratio == pytest.approx(0.4)


def test_a_read_before_the_counters_moved_repeats_the_last_figure(proc: FakeProc) -> None:
    source = HostSource(disks=[])
    read(source)
    proc.set_cpu(user=30, idle=70)
    read(source)
    assert read(source).cpu_utilization_ratio == pytest.approx(0.3)


def test_two_sources_do_not_share_the_counters_last_seen(proc: FakeProc) -> None:
    first, second = HostSource(disks=[]), HostSource(disks=[])
    read(first)
    proc.set_cpu(user=50, idle=50)
    read(second)
    assert read(first).cpu_utilization_ratio == pytest.approx(0.5)


def test_the_default_disks_are_the_local_ones_each_device_once() -> None:
    disks = local_disks()
    assert disks[0] == "/"
    devices = [Path(disk).stat().st_dev for disk in disks]
    assert len(set(devices)) == len(devices)
    assert tuple(disk.mount for disk in read(HostSource()).disks) == disks


def test_a_disk_has_the_size_that_the_file_system_says() -> None:
    (root,) = read(HostSource(disks=["/"])).disks
    size = os.statvfs("/")
    assert root.total_bytes == size.f_blocks * size.f_frsize
    assert 0 < root.used_bytes < root.total_bytes


def test_a_memory_backed_disk_may_be_chosen() -> None:
    assert "/dev/shm" in mounts()
    source = HostSource()
    source.disks = ["/dev/shm", "/", "/"]
    assert source.disks == ("/dev/shm", "/")
    assert [disk.mount for disk in read(source).disks] == ["/dev/shm", "/"]


@pytest.mark.parametrize("path", ["/etc", "../../etc/passwd", "", "/does/not/exist", "/proc"])
def test_a_disk_that_is_no_local_file_system_is_refused(path: str) -> None:
    source = HostSource(disks=["/"])
    with pytest.raises(ValueError, match=r"disks: .* is not a local file system; those are /"):
        source.disks = ["/", path]
    assert source.disks == ("/",)


def test_checking_changes_nothing_and_none_stands_for_the_default() -> None:
    assert check_disks(None) is None
    assert check_disks([]) == ()
    assert HostSource().disks is None


def test_a_disk_that_is_unmounted_later_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    source = HostSource(disks=["/", "/dev/shm"])
    real = psutil.disk_usage

    def usage(path: str) -> object:
        if path == "/dev/shm":
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(psutil, "disk_usage", usage)
    assert [disk.mount for disk in read(source).disks] == ["/"]

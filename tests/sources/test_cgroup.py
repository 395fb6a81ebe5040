"""The limits of containers and services, from fake trees of every layout that is met."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from crystools_tpu.sources.cgroup import ControlGroups, CpuLimit, MemoryLimit

GIB = 2**30
MACHINE = 64 * GIB
NONE_V1 = "9223372036854771712"  # what version 1 says where there is no limit

V2 = "29 23 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"


def v1(controllers: str, top: str = "/") -> str:
    return f"35 31 0:32 {top} /sys/fs/cgroup/{controllers} rw,relatime - cgroup cgroup rw,{controllers}"


def machine(root: Path, cgroup: str, mounts: list[str], files: Mapping[str, str]) -> ControlGroups:
    """A machine whose `/` is at `root`: its two tables, and files by their paths below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup + "\n")
    (root / "proc/self/mountinfo").write_text(
        "\n".join(["22 27 0:21 / /proc rw - proc proc rw", *mounts]) + "\n"
    )
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return ControlGroups(root)


def v2_files(folder: str = "", *, memory: str = "max", cpu: str = "max 100000") -> dict[str, str]:
    """12 GiB in use, 2 of them of files that could be dropped; 90 seconds of CPU."""
    below = f"{folder}/" if folder else ""
    return {
        f"{below}memory.max": memory,
        f"{below}memory.current": str(12 * GIB),
        f"{below}memory.stat": f"anon {9 * GIB}\nfile {3 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}",
        f"{below}cpu.max": cpu,
        f"{below}cpu.stat": "usage_usec 90000000\nuser_usec 80000000\nsystem_usec 10000000",
        f"{below}cpuset.cpus.effective": "0-63",
    }


def v1_files(path: str = "", *, memory: str = NONE_V1, quota: str = "-1") -> dict[str, str]:
    below = f"{path}/" if path else ""
    return {
        f"memory/{below}memory.limit_in_bytes": memory,
        f"memory/{below}memory.usage_in_bytes": str(12 * GIB),
        f"memory/{below}memory.stat": f"inactive_file 5\ntotal_rss 1\ntotal_inactive_file {3 * GIB}",
        f"cpu,cpuacct/{below}cpu.cfs_quota_us": quota,
        f"cpu,cpuacct/{below}cpu.cfs_period_us": "100000",
        f"cpu,cpuacct/{below}cpuacct.usage": "90000000000",
        f"cpuset/{below}cpuset.cpus": "0-63",
    }


def v1_cgroup(path: str) -> str:
    return f"9:memory:{path}\n4:cpu,cpuacct:{path}\n3:cpuset:{path}\n1:name=systemd:{path}\n0::{path}"


V1_MOUNTS = ("memory", "cpu,cpuacct", "cpuset")


def test_a_container_of_version_2_with_a_namespace_of_its_own(tmp_path: Path) -> None:
    files = v2_files(memory=str(16 * GIB), cpu="250000 100000")
    groups = machine(tmp_path, "0::/", [V2.format(top="/")], files)
    assert groups.memory(MACHINE) == MemoryLimit(16 * GIB, 10 * GIB)
    assert groups.cpu(64) == CpuLimit(tmp_path / "sys/fs/cgroup", 2.5, 90.0)


def test_a_container_of_version_2_that_sees_the_machines_hierarchy(tmp_path: Path) -> None:
    path = "system.slice/docker-abc.scope"
    files = {
        **v2_files(),
        **v2_files("system.slice"),
        **v2_files(path, memory=str(8 * GIB), cpu="50000 100000"),
    }
    del files["memory.max"], files["memory.current"]  # the machine's own group has no limits
    groups = machine(tmp_path, f"0::/{path}", [V2.format(top="/")], files)
    assert groups.memory(MACHINE) == MemoryLimit(8 * GIB, 10 * GIB)
    assert groups.cpu(64) == CpuLimit(tmp_path / "sys/fs/cgroup" / path, 0.5, 90.0)


@pytest.mark.parametrize("top", ["/kubepods/pod1/c1", "/kubepods/pod1"])
def test_a_part_of_the_hierarchy_that_is_mounted_alone(tmp_path: Path, top: str) -> None:
    inner = "/kubepods/pod1/c1".removeprefix(top).strip("/")
    files = v2_files(inner, memory=str(4 * GIB), cpu="300000 100000")
    groups = machine(tmp_path, "0::/kubepods/pod1/c1", [V2.format(top=top)], files)
    assert groups.memory(MACHINE) == MemoryLimit(4 * GIB, 10 * GIB)
    assert groups.cpu(64) == CpuLimit(tmp_path / "sys/fs/cgroup" / inner, 3.0, 90.0)


def test_of_nested_groups_the_tightest_counts_wherever_it_is(tmp_path: Path) -> None:
    files = {
        **v2_files(),
        **v2_files("pod", memory=str(6 * GIB), cpu="max 100000"),
        **v2_files("pod/main", memory=str(32 * GIB), cpu="400000 100000"),
        **v2_files("pod/main/worker", memory="max", cpu="800000 100000"),
    }
    files["pod/memory.current"] = str(5 * GIB)
    groups = machine(tmp_path, "0::/pod/main/worker", [V2.format(top="/")], files)
    assert groups.memory(MACHINE) == MemoryLimit(6 * GIB, 3 * GIB)
    assert groups.cpu(64) == CpuLimit(tmp_path / "sys/fs/cgroup/pod/main", 4.0, 90.0)


@pytest.mark.parametrize(("path", "top"), [("/docker/abc", "/docker/abc"), ("/", "/"), ("/", "/docker/abc")])
def test_a_container_of_version_1(tmp_path: Path, path: str, top: str) -> None:
    files = v1_files(memory=str(16 * GIB), quota="150000")
    groups = machine(tmp_path, v1_cgroup(path), [v1(name, top) for name in V1_MOUNTS], files)
    assert groups.memory(MACHINE) == MemoryLimit(16 * GIB, 9 * GIB)
    assert groups.cpu(64) == CpuLimit(tmp_path / "sys/fs/cgroup/cpu,cpuacct", 1.5, 90.0)


def test_a_job_of_version_1_is_limited_by_a_group_above_its_own(tmp_path: Path) -> None:
    files = {**v1_files(), **v1_files("slurm/job_7", memory=str(24 * GIB)), **v1_files("slurm/job_7/step_0")}
    groups = machine(tmp_path, v1_cgroup("/slurm/job_7/step_0"), [v1(name) for name in V1_MOUNTS], files)
    assert groups.memory(MACHINE) == MemoryLimit(24 * GIB, 9 * GIB)
    assert groups.cpu(64) is None


def test_both_versions_at_once_are_read_where_the_controller_is(tmp_path: Path) -> None:
    files = {**v1_files(memory=str(2 * GIB), quota="100000"), "unified/cpu.stat": "usage_usec 1"}
    groups = machine(tmp_path, v1_cgroup("/"), [UNIFIED, *(v1(name) for name in V1_MOUNTS)], files)
    assert groups.memory(MACHINE) == MemoryLimit(2 * GIB, 9 * GIB)
    assert groups.cpu(64) == CpuLimit(tmp_path / "sys/fs/cgroup/cpu,cpuacct", 1.0, 90.0)


@pytest.mark.parametrize(
    ("cpus", "allowed"), [("0-3", 4.0), ("5", 1.0), ("0-1,8,10-12", 6.0), ("0-63", None), ("", None)]
)
def test_the_cpus_that_it_may_run_on_are_a_limit_too(
    tmp_path: Path, cpus: str, allowed: float | None
) -> None:
    files = {**v2_files(cpu="700000 100000"), "cpuset.cpus.effective": cpus}
    limit = machine(tmp_path, "0::/", [V2.format(top="/")], files).cpu(64)
    assert limit is not None
    assert limit.cpus == (allowed or 7.0)


@pytest.mark.parametrize("memory", ["max", str(MACHINE), str(2 * MACHINE), NONE_V1, "", "many"])
@pytest.mark.parametrize("cpu", ["max 100000", "6400000 100000", "9900000 100000", "", "0 0"])
def test_no_limit_and_one_above_the_machine_are_none(tmp_path: Path, memory: str, cpu: str) -> None:
    groups = machine(tmp_path, "0::/", [V2.format(top="/")], v2_files(memory=memory, cpu=cpu))
    assert (groups.memory(MACHINE), groups.cpu(64)) == (None, None)


def test_no_limits_of_version_1_are_none(tmp_path: Path) -> None:
    groups = machine(tmp_path, v1_cgroup("/"), [v1(name) for name in V1_MOUNTS], v1_files())
    assert (groups.memory(MACHINE), groups.cpu(64)) == (None, None)


@pytest.mark.parametrize(
    ("cgroup", "top"),
    [
        ("0::/../../system.slice", "/"),  # moved out of its namespace
        ("0::/", "/../.."),  # the machine's hierarchy, seen from a namespace within it
        ("nonsense", "/"),
        ("", "/"),
    ],
)
def test_a_group_that_cannot_be_found_has_no_limits(tmp_path: Path, cgroup: str, top: str) -> None:
    files = v2_files(memory=str(GIB), cpu="100000 100000")
    groups = machine(tmp_path, cgroup, [V2.format(top=top)], files)
    assert (groups.memory(MACHINE), groups.cpu(64)) == (None, None)


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    groups = ControlGroups(tmp_path)
    assert (groups.memory(MACHINE), groups.cpu(64)) == (None, None)


def test_a_limit_without_its_use_is_none_rather_than_half(tmp_path: Path) -> None:
    files = v2_files(memory=str(GIB), cpu="100000 100000")
    del files["memory.current"], files["cpu.stat"]
    groups = machine(tmp_path, "0::/", [V2.format(top="/")], files)
    assert (groups.memory(MACHINE), groups.cpu(64)) == (None, None)


def test_more_that_could_be_dropped_than_there_is_is_nothing_in_use(tmp_path: Path) -> None:
    files = {**v2_files(memory=str(16 * GIB)), "memory.current": str(GIB)}
    groups = machine(tmp_path, "0::/", [V2.format(top="/")], files)
    assert groups.memory(MACHINE) == MemoryLimit(16 * GIB, 0)

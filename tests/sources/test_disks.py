"""Each disk once, those of a network where they are chosen, and nothing waits for one that hangs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crystools_tpu.environment import DISKS
from crystools_tpu.sources.base import DiskReading
from crystools_tpu.sources.disks import Disks, chosen_disks
from crystools_tpu.sources.mounts import Mount, read_mounts

GIB = 2**30
FILESYSTEMS = (
    "nodev\tproc\nnodev\ttmpfs\nnodev\toverlay\nnodev\tnfs4\n\text4\n\tbtrfs\n\tsquashfs\n\tfuseblk\n"
)
ROOT = "27 1 8:1 / / rw - ext4 /dev/sda1 rw"


class Machine:
    """A machine whose `/` is in a folder. `sizes` are total and used GiB by mount point."""

    def __init__(self, root: Path, mounts: Sequence[str], sizes: dict[str, tuple[int, int]]) -> None:
        self.root = root
        self.sizes = sizes
        self.hanging = threading.Event()
        self.hanging.set()
        self.now = 0.0
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/filesystems").write_text(FILESYSTEMS)
        self.mount(mounts)
        for path in sizes:
            (root / path.strip("/")).mkdir(parents=True, exist_ok=True)

    def mount(self, mounts: Sequence[str]) -> None:
        (self.root / "proc/self/mountinfo").write_bytes("\n".join(mounts).encode() + b"\n")

    def disks(self, chosen: Sequence[str] | None = None, patience_seconds: float = 30.0) -> Disks:
        return Disks(
            chosen,
            root=self.root,
            usage=self.usage,
            clock=lambda: self.now,
            patience_seconds=patience_seconds,
        )

    def usage(self, path: str) -> Any:
        mount = "/" + os.path.relpath(path, self.root).removeprefix(".")
        if mount.startswith("/hangs"):
            self.hanging.wait()
        if mount not in self.sizes:
            raise OSError(107, "Transport endpoint is not connected")
        total, used = self.sizes[mount]
        return SimpleNamespace(total=total * GIB, used=used * GIB, free=(total - used) * GIB)


def answered() -> None:
    """Every question that is under way has its answer."""
    for thread in threading.enumerate():
        if thread.name == "crystools-tpu-disk":
            thread.join()


def reading(mount: str, total: int, used: int) -> DiskReading:
    return DiskReading(mount, used * GIB, total * GIB)


def test_subvolumes_bind_mounts_and_pools_are_one_disk_by_their_shortest_mount_point(tmp_path: Path) -> None:
    mounts = [
        "27 1 0:25 /@ / rw - btrfs /dev/nvme0n1p2 rw,subvol=/@",
        "28 27 0:25 /@home /home rw - btrfs /dev/nvme0n1p2 rw,subvol=/@home",
        "29 27 0:25 /@snapshots /.snapshots rw - btrfs /dev/nvme0n1p2 rw",
        "30 27 8:17 / /mnt/data rw - ext4 /dev/sdb1 rw",
        "31 27 8:17 /models /srv/comfyui/models rw - ext4 /dev/sdb1 rw",
        "32 27 8:17 / /d rw - ext4 /dev/sdb1 rw",
        "33 27 0:40 / /tank/media rw - zfs tank/media rw",
        "34 27 0:41 / /tank rw - zfs tank rw",
        "35 27 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro",
        "36 27 0:50 / /run rw - tmpfs tmpfs rw",
        "37 27 0:51 / /mnt/nfs rw - nfs4 server:/export rw",
        "38 27 8:33 / /media/usb rw - fuseblk /dev/sdc1 rw",
    ]
    paths = ["/", "/home", "/.snapshots", "/mnt/data", "/srv/comfyui/models", "/d", "/tank/media", "/tank"]
    sizes = dict.fromkeys([*paths, "/snap/core/1", "/run", "/mnt/nfs", "/media/usb"], (100, 40))
    shown = Machine(tmp_path, mounts, sizes).disks().read()
    assert shown == tuple(reading(mount, 100, 40) for mount in ("/", "/d", "/tank", "/media/usb"))


def test_a_containers_layers_and_what_is_mounted_from_the_same_disk_are_one(tmp_path: Path) -> None:
    mounts = [
        "500 400 0:99 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
        "501 500 8:1 /var/lib/docker/containers/c/hosts /etc/hosts rw - ext4 /dev/sda1 rw",
        "502 500 8:1 /var/lib/docker/volumes/v/_data /data rw - ext4 /dev/sda1 rw",
        "503 500 8:17 /scratch /scratch rw - ext4 /dev/sdb1 rw",
    ]
    machine = Machine(tmp_path, mounts, {"/": (200, 150), "/data": (200, 150), "/scratch": (200, 20)})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").touch()
    disks = machine.disks()
    assert disks.read() == (reading("/", 200, 150), reading("/scratch", 200, 20))
    machine.sizes["/"] = (200, 151)  # written to while it is read
    assert [disk.mount for disk in disks.read()] == ["/", "/scratch"]


def test_a_file_of_another_disk_that_is_mounted_is_no_disk(tmp_path: Path) -> None:
    mounts = [ROOT, "501 27 8:17 /pods/p/hosts /etc/hosts rw - ext4 /dev/sdb1 rw"]
    machine = Machine(tmp_path, mounts, {"/": (10, 1)})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").touch()
    assert machine.disks().read() == (reading("/", 10, 1),)


@pytest.mark.parametrize(
    "mount",
    [
        "40 27 0:51 / /mnt/far rw - nfs4 server:/export rw",
        "40 27 0:51 / /mnt/far rw - cifs //server/share rw",
        "40 27 0:51 / /mnt/far rw - fuse.gcsfuse bucket rw",
        "40 27 0:51 / /mnt/far rw - fuse.s3fs s3fs rw",
        "40 27 0:51 / /mnt/far rw - 9p C:\\134 rw,aname=drvfs",
        "40 27 0:51 / /mnt/far rw - virtiofs share rw",
        "40 27 0:51 / /mnt/far rw - lustre 10.0.0.1@tcp:/fs rw",
        "40 27 0:51 / /mnt/far rw - a_type_of_tomorrow x rw",
        "40 27 0:51 / /mnt/far rw - tmpfs tmpfs rw",
        "40 27 7:1 / /mnt/far ro - squashfs /dev/loop1 ro",
    ],
)
def test_a_file_system_that_is_no_local_disk_is_shown_where_it_is_chosen(tmp_path: Path, mount: str) -> None:
    machine = Machine(tmp_path, [ROOT, mount], {"/": (10, 1), "/mnt/far": (5000, 700)})
    assert machine.disks().read() == (reading("/", 10, 1),)
    both = (reading("/mnt/far", 5000, 700), reading("/", 10, 1))
    assert machine.disks(["/mnt/far/", "/", "/mnt/far"]).read() == both


def test_one_that_hangs_is_left_out_and_said_and_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = "40 27 0:51 / /hangs rw - nfs4 server:/export rw"
    near = "41 27 0:52 / /mnt/near rw - fuse.gcsfuse bucket rw"
    sizes = {"/": (10, 1), "/hangs": (100, 50), "/mnt/near": (20, 2)}
    machine = Machine(tmp_path, [ROOT, far, near], sizes)
    disks = machine.disks(["/hangs", "/", "/mnt/near"], patience_seconds=0.0)
    others = (reading("/", 10, 1), reading("/mnt/near", 20, 2))
    disks.read()
    answered()
    assert disks.read() == (reading("/hangs", 100, 50), *others)

    answered()
    machine.hanging.clear()
    threads = threading.active_count()
    assert disks.read() == (reading("/hangs", 100, 50), *others)  # what it said a moment ago
    machine.now = 5.5
    for _ in range(20):
        assert disks.read() == others
    assert threading.active_count() <= threads + 2
    assert caplog.messages == ["the disk /hangs is left out until it is back: it does not answer"]

    machine.hanging.set()
    answered()
    assert disks.read() == (reading("/hangs", 100, 50), *others)


def test_one_that_has_lost_its_server_is_left_out_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mount = "40 27 0:51 / /mnt/far rw - fuse.sshfs host:/ rw"
    machine = Machine(tmp_path, [ROOT, mount], {"/": (10, 1), "/mnt/far": (5, 1)})
    disks = machine.disks(["/mnt/far"])
    size = machine.sizes.pop("/mnt/far")
    assert [disks.read() for _ in range(3)] == [(), (), ()]
    machine.sizes["/mnt/far"] = size
    assert disks.read() == (reading("/mnt/far", 5, 1),)
    assert caplog.messages == [
        "the disk /mnt/far is left out until it is back: Transport endpoint is not connected",
        "the disk /mnt/far is back",
    ]


def test_one_that_is_not_mounted_yet_is_said_once_and_shown_once_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(tmp_path, [ROOT], {"/": (10, 1), "/later": (5, 1)})
    disks = machine.disks(["/", "/later"])
    assert [disks.read(), disks.read()] == [(reading("/", 10, 1),)] * 2
    assert caplog.messages == [
        "CRYSTOOLS_TPU_DISKS: /later is not mounted here; it is shown once it is. There are /"
    ]
    machine.mount([ROOT, "40 27 8:17 / /later rw - ext4 /dev/sdb1 rw"])
    assert disks.read() == (reading("/", 10, 1), reading("/later", 5, 1))


@pytest.mark.parametrize("path", ["/proc", "/etc", "../../etc/passwd", "x"])
def test_what_holds_no_files_of_its_own_is_not_shown(tmp_path: Path, path: str) -> None:
    machine = Machine(
        tmp_path, [ROOT, "22 27 0:21 / /proc rw - proc proc rw"], {"/": (10, 1), "/proc": (0, 0)}
    )
    assert machine.disks([path]).read() == ()


def test_the_table_of_mounts_is_read_whatever_a_path_holds(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_bytes(
        b"1 0 8:1 / / rw,noatime shared:1 master:2 - ext4 /dev/sda1 rw,errors=remount-ro\n"
        b"2 1 8:2 /a\\040b /mnt/my\\040disk\\011\\134x rw - ext4 /dev/sd\\040b rw\n"
        b"3 1 8:3 / /mnt/\xff\xe4 rw - vfat /dev/sdc rw\n"
        b"4 1 8:4 / /mnt/\xe6\xa8\xa1 rw - ext4 /dev/sdd rw\n"
        b"5 1 0:9 / /mnt/my\\040disk\\011\\134x rw - tmpfs none rw\n"
        b"no line of it\n\n"
    )
    root, hiding, undecodable, chinese = read_mounts(tmp_path)
    assert root == Mount("8:1", "/", "/", "ext4", "/dev/sda1", frozenset({"rw", "errors=remount-ro"}))
    assert (hiding.path, hiding.fs_type) == ("/mnt/my disk\t\\x", "tmpfs")
    assert os.fsencode(undecodable.path) == b"/mnt/\xff\xe4"
    assert undecodable.name == "/mnt/\\xff\\xe4"
    assert chinese.name == "/mnt/模"


def test_an_undecodable_mount_point_is_shown_and_can_be_chosen(tmp_path: Path) -> None:
    machine = Machine(tmp_path, [ROOT], {"/": (10, 1)})
    path = os.fsdecode(b"/mnt/\xff")
    (tmp_path / path.strip("/")).mkdir(parents=True)
    machine.sizes[path] = (7, 3)
    table = ROOT.encode() + b"\n40 27 8:17 / /mnt/\xff rw - ext4 /dev/sdb1 rw\n"
    (tmp_path / "proc/self/mountinfo").write_bytes(table)
    assert machine.disks().read() == (reading("/", 10, 1), reading("/mnt/\\xff", 7, 3))
    for chosen in (path, "/mnt/\\xff"):
        assert machine.disks([chosen]).read() == (reading("/mnt/\\xff", 7, 3),)


def test_in_a_chroot_the_root_is_shown_though_it_is_no_mount(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ["22 1 0:21 / /proc rw - proc proc rw"], {"/": (10, 1)})
    assert machine.disks().read() == (reading("/", 10, 1),)


def test_the_environment_names_mount_points_as_path_does() -> None:
    assert chosen_disks({DISKS: os.pathsep.join(["/", "/mnt/my models", ""])}) == ("/", "/mnt/my models")
    assert chosen_disks({DISKS: ""}) is None
    assert chosen_disks({}) is None

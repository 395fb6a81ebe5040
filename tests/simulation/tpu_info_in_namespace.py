"""Runs tpu-info's own command on a simulated host. Started by `unshare`, in namespaces of its own.

tpu-info looks at `/sys`, `/dev`, `/proc` and `localhost:8431`, all fixed. Here the simulated trees are
mounted over the first two, and processes, mounts and network are those of this namespace alone. So the
real command needs no change, and the machine sees nothing of it.

Usage: tpu_info_in_namespace.py FOLDER TOPOLOGY [ARGUMENT OF tpu-info ...]
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

from crystools_tpu.simulation.machine import FAKE_SDK, SDK_ADDRESS_VARIABLE
from crystools_tpu.simulation.runtime import FakeRuntime
from crystools_tpu.simulation.sysfs import write_tree
from crystools_tpu.simulation.topology import parse_topology

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def main() -> int:
    folder, name, *arguments = Path(sys.argv[1]), *sys.argv[2:]
    topology = parse_topology(name)
    sysfs = write_tree(folder / "tree", topology)
    raise_loopback()
    mount("--bind", sysfs / "bus/pci/devices", "/sys/bus/pci/devices")
    replace_dev(folder / "dev", folder / "tree/dev")
    # This process holds the chips, as a pipeline would.
    held = [path.open() for path in (*Path("/dev").glob("accel*"), *Path("/dev").glob("vfio/*"))]
    with FakeRuntime(topology, port=8431) as runtime:
        environ = {**os.environ, "PYTHONPATH": str(FAKE_SDK), SDK_ADDRESS_VARIABLE: runtime.address}
        command = Path(sys.executable).with_name("tpu-info")
        result = subprocess.run([command, *arguments], env=environ, check=False)
    for file in held:
        file.close()
    return result.returncode


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def replace_dev(new: Path, simulated: Path) -> None:
    """Mounts a `/dev` with the simulated device nodes, and the few real ones that Python needs."""
    new.mkdir()
    for node in ("null", "zero", "random", "urandom"):
        (new / node).touch()
        mount("--bind", Path("/dev") / node, new / node)
    (new / "shm").mkdir()
    shutil.copytree(simulated, new, dirs_exist_ok=True)
    mount("--rbind", new, "/dev")


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())

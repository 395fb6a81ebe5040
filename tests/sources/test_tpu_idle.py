"""Chips that are attached and of which nobody serves metrics: idle, held by whom, or broken."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crystools_tpu.simulation.runtime import FakeRuntime
from crystools_tpu.simulation.sysfs import open_chips, write_tree
from crystools_tpu.simulation.topology import parse_topology
from crystools_tpu.sources.base import AttachedChips, ChipUser, Quiet, SourceError, SourceUnavailable
from crystools_tpu.sources.libtpu_sdk import LibtpuSdkSource
from crystools_tpu.sources.tpu import TpuSource
from crystools_tpu.sources.tpu_users import ChipUsers

ROOT = Path(__file__).parents[2]
V6E_ADDRESSES = tuple(f"0000:{chip:02x}:05.0" for chip in range(8))


class Host:
    """A TPU machine as sysfs and /proc show it, with a port where nobody listens."""

    def __init__(self, folder: Path, topology: str = "v6e-8") -> None:
        self.topology = parse_topology(topology)
        self.sysfs = write_tree(folder, self.topology)
        self.proc = folder / "proc"
        self.now = 100.0
        self.runtime = FakeRuntime(self.topology).start()
        self.runtime.kill()
        self.source = TpuSource(
            sysfs=self.sysfs,
            proc=self.proc,
            addresses=[self.runtime.address],
            timeout_seconds=0.3,
            monotonic=lambda: self.now,
        )

    def process(self, pid: int, name: str, *opened: str) -> Path:
        """A process that has these files open."""
        folder = self.proc / str(pid) / "fd"
        folder.mkdir(parents=True)
        (folder.parent / "comm").write_text(f"{name}\n")
        for number, path in enumerate(opened):
            (folder / str(number)).symlink_to(path)
        return folder

    def is_root_of_the_machine(self) -> None:
        """Every process is listed, the kernel's own among them."""
        self.process(2, "kthreadd")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.source.close()
    made.runtime.close()


# Idle


def test_chips_that_the_kernel_says_nobody_has_open_are_idle(host: Host) -> None:
    reading = host.source.read()
    assert reading.chips == ()
    assert reading.quiet == Quiet("idle", "idle: no program uses the chips")
    assert reading.attached == AttachedChips(
        "TPU v6e", 8, V6E_ADDRESSES, "8 x v6e, idle: no program uses them", "idle"
    )


@pytest.mark.parametrize(
    ("topology", "sentence"),
    [
        ("v6e-1", "1 x v6e, idle: no program uses it"),
        ("v5p-8", "4 x v5p, idle: no program uses them"),
        ("7x-8", "4 x TPU7x, idle: no program uses them"),
    ],
)
def test_of_each_kind_as_many_as_there_are(tmp_path: Path, topology: str, sentence: str) -> None:
    attached = Host(tmp_path, topology).source.read().attached
    assert attached is not None
    assert attached.sentence == sentence
    assert len(attached.pci_addresses) == (8 if topology == "7x-8" else attached.count)


def test_what_another_user_does_is_not_claimed(host: Host) -> None:
    open_chips(host.sysfs)  # by somebody whom this user does not see
    host.process(40, "python3", "/dev/null", "/dev/vfio/88", "socket:[7]")
    reading = host.source.read()
    said = "no program of yours uses {}; whether another's does cannot be seen"
    assert reading.quiet == Quiet("idle", said.format("the chips"))
    assert reading.attached is not None
    assert (reading.attached.sentence, reading.attached.word) == (f"8 x v6e, {said.format('them')}", "idle?")


def test_who_sees_every_process_says_that_none_uses_them(tmp_path: Path) -> None:
    host = Host(tmp_path, "v4-8")  # whose driver does not say whether they are open
    host.is_root_of_the_machine()
    host.process(40, "python3", "/dev/null")
    assert host.source.read().quiet == Quiet("idle", "idle: no program uses the chips")


def test_one_process_that_may_not_be_looked_into_leaves_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, "v4-8")
    host.is_root_of_the_machine()
    others = host.process(40, "python3")
    scandir = os.scandir

    def refused(path: Path) -> object:
        if path == others:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    quiet = host.source.read().quiet
    assert quiet is not None
    assert quiet.reason.startswith("no program of yours uses the chips")


def test_an_idle_machine_loads_neither_grpc_nor_libtpus_sdk(tmp_path: Path) -> None:
    host = Host(tmp_path)
    program = f"""
import json, sys
from pathlib import Path
from crystools_tpu.sources.libtpu_sdk import LibtpuSdkSource
from crystools_tpu.sources.tpu import TpuSource
sysfs = Path({str(host.sysfs)!r})
tpu = TpuSource(sysfs=sysfs, addresses=[{host.runtime.address!r}])
sdk = LibtpuSdkSource(sysfs=sysfs, quiet=tpu.why_quiet, libtpu_path=Path({str(tmp_path)!r}))
states = [sdk.read().quiet.state, tpu.read().quiet.state, sdk.read().quiet.state]
print(json.dumps([states, sdk._child is None, "grpc" in sys.modules]))
"""
    (tmp_path / "libtpu").mkdir()
    answer = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT)
    assert json.loads(answer) == [["waiting", "idle", "idle"], True, False]


# Held


def test_a_program_that_holds_the_chips_is_named_and_given_time_to_serve_them(host: Host) -> None:
    open_chips(host.sysfs)
    host.process(123, "python3", "/dev/vfio/vfio", "/dev/vfio/0", "/dev/vfio/7")
    reading = host.source.read()
    assert reading.quiet == Quiet("waiting", "held by pid 123 (python3), which serves no metrics yet")
    assert reading.attached is not None
    assert (reading.attached.word, reading.attached.users) == ("in use", (ChipUser(123, "python3"),))

    host.now += 15
    with pytest.raises(SourceError) as error:
        host.source.read()
    said = "8 x v6e, held by pid 123 (python3), which serves no metrics"
    assert str(error.value) == said
    assert error.value.known is not None
    assert error.value.known.attached is not None
    assert error.value.known.attached.sentence == said
    assert host.source.why_quiet(False) is None


def test_several_programs_are_named_and_many_are_counted(tmp_path: Path) -> None:
    host = Host(tmp_path, "v4-8")
    for number in range(2):
        host.process(123 + number, "python3", f"/dev/accel{number}")
    quiet = host.source.read().quiet
    assert quiet is not None
    assert quiet.reason == "held by pid 123 (python3) and pid 124 (python3), which serve no metrics yet"
    for number in range(2, 4):
        host.process(123 + number, "vllm", f"/dev/accel{number}")
    host.now += 5  # all processes are looked through no more often
    quiet = host.source.read().quiet
    assert quiet is not None
    assert quiet.reason.startswith(
        "held by pid 123 (python3), pid 124 (python3), pid 125 (vllm) and 1 more, which serve"
    )


def test_chips_come_to_life_with_a_program_and_are_idle_after_it(host: Host) -> None:
    assert host.source.read().quiet is not None
    for _ in range(2):
        open_chips(host.sysfs)
        host.runtime.start()
        reading = host.source.read()
        assert (len(reading.chips), reading.quiet) == (8, None)
        assert reading.attached == AttachedChips("TPU v6e", 8, V6E_ADDRESSES)
        host.runtime.kill()
        open_chips(host.sysfs, opened=False)
        assert host.source.read().quiet == Quiet("idle", "idle: no program uses the chips")


def test_chips_that_fall_off_an_idle_machine_are_missed(host: Host) -> None:
    from crystools_tpu.simulation.sysfs import remove_chip

    host.source.read()
    remove_chip(host.sysfs, 7)
    attached = host.source.read().attached
    assert attached is not None
    assert attached.sentence == "7 x v6e, idle: no program uses them"


# Broken


def test_a_runtime_that_hangs_is_down_and_its_chips_are_known_all_the_same(host: Host) -> None:
    host.runtime.start()
    host.runtime.hang()
    with pytest.raises(SourceError, match="DEADLINE_EXCEEDED") as error:
        host.source.read()
    assert error.value.known is not None
    assert error.value.known.attached == AttachedChips(
        "TPU v6e", 8, V6E_ADDRESSES, "8 x v6e, of which no figures come", "no figures"
    )


def test_something_else_at_the_port_is_down(host: Host) -> None:
    with closing(socket.create_server(("localhost", host.runtime.port))) as server:

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:  # closed
                    return
                with client:
                    client.sendall(b"SSH-2.0-nothing of ours\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with pytest.raises(SourceError, match="did not answer") as error:
                host.source.read()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert not isinstance(error.value, SourceUnavailable)
    assert "nobody listens" not in str(error.value)


def test_one_port_that_hangs_among_others_where_nobody_listens_is_down(host: Host) -> None:
    with FakeRuntime(host.topology) as hung:
        hung.hang()
        addresses = [host.runtime.address, hung.address]
        source = TpuSource(sysfs=host.sysfs, proc=host.proc, addresses=addresses, timeout_seconds=0.3)
        with pytest.raises(SourceError, match=r"nobody listens.*DEADLINE_EXCEEDED"):
            source.read()
        source.close()


def test_the_sdk_of_a_program_that_has_just_ended_is_no_fault(tmp_path: Path) -> None:
    host = Host(tmp_path)
    looks: list[bool] = []

    def quiet(look: bool) -> Quiet | None:
        looks.append(look)
        return host.source.why_quiet(look)

    host.runtime.start()
    assert len(host.source.read().chips) == 8
    assert quiet(True) is None
    host.runtime.kill()
    assert quiet(False) is None  # what the last read said
    assert quiet(True) == Quiet("waiting", "waits for what the TPU runtime says")
    host.source.close()


# The look at all processes


def test_all_processes_are_looked_through_every_five_seconds_at_most(tmp_path: Path) -> None:
    from crystools_tpu.sources.tpu_discovery import find_chips

    host = Host(tmp_path, "v4-8")
    chips = find_chips(host.sysfs)
    users = ChipUsers(host.proc, monotonic=lambda: host.now)
    assert users.look(chips).users == ()
    host.process(123, "python3", "/dev/accel0")
    host.now += 4.9
    assert users.look(chips).users == ()
    host.now += 0.1
    assert users.look(chips).users == (ChipUser(123, "python3"),)


def test_a_sdk_source_of_its_own_knows_of_no_quiet() -> None:
    assert LibtpuSdkSource()._quiet(True) is None

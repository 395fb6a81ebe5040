"""The command that reaches a page from another machine, by where this one is."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path

import pytest

from crystools_tpu.cli.tunnel import tunnel_command
from crystools_tpu.page import Address

LOOPBACK = Address("127.0.0.1", 8189, None, "http")
TPU_ENV = "ACCELERATOR_TYPE: 'v6e-8'\nNODE_ID: 'my-tpu'\nWORKER_ID: '0'\nZONE: 'us-east5-b'\n"


def ssh(server: str) -> Mapping[str, str]:
    return {"SSH_CONNECTION": f"10.1.2.3 50000 {server}"}


def nobody(what: str) -> str:
    raise AssertionError(f"asked for {what}, off Google's machines")


@pytest.fixture
def googles(tmp_path: Path) -> Path:
    """The /sys of a machine of Google's."""
    (tmp_path / "class/dmi/id").mkdir(parents=True)
    (tmp_path / "class/dmi/id/product_name").write_text("Google Compute Engine\n")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("127.0.0.1", "localhost"),
        ("0.0.0.0", "localhost"),
        ("::", "localhost"),
        ("::1", "[::1]"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_it_leads_to_where_the_page_listens(host: str, target: str, tmp_path: Path) -> None:
    address = Address(host, 8190, "secret", "http")
    command = tunnel_command(address, {}, sys_root=tmp_path, ask=nobody)
    assert command == f"ssh -N -L 8190:{target}:8190 USER@HOST"


def test_a_page_with_an_address_for_others_needs_none(tmp_path: Path) -> None:
    address = Address("10.0.0.5", 8189, "secret", "http")
    assert tunnel_command(address, ssh("10.0.0.5 22"), sys_root=tmp_path, ask=nobody) is None


@pytest.mark.parametrize(
    ("server", "command"),
    [
        ("10.0.0.5 22", "ssh -N -L 8189:localhost:8189 {user}@10.0.0.5"),
        ("10.0.0.5 2222", "ssh -p 2222 -N -L 8189:localhost:8189 {user}@10.0.0.5"),
    ],
)
def test_who_came_by_ssh_goes_the_same_way(server: str, command: str, tmp_path: Path) -> None:
    environ = {**ssh(server), "DISPLAY": "localhost:10.0"}
    found = tunnel_command(LOOPBACK, environ, sys_root=tmp_path, ask=nobody)
    assert found == command.format(user=getpass.getuser())


@pytest.mark.parametrize("screen", ["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"])
def test_at_a_desk_with_a_screen_nothing_is_in_the_way(screen: str, tmp_path: Path) -> None:
    assert tunnel_command(LOOPBACK, {screen: ":0"}, sys_root=tmp_path, ask=nobody) is None


def test_in_a_pod_kubectl_leads_there(googles: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "worker-0", **ssh("10.0.0.5 22")}
    command = tunnel_command(LOOPBACK, environ, sys_root=googles, ask=nobody)
    assert command == "kubectl port-forward pod/worker-0 8189:8189"


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ({"instance/attributes/tpu-env": TPU_ENV}, "tpus tpu-vm ssh my-tpu --zone us-east5-b"),
        (
            {"instance/attributes/tpu-env": TPU_ENV.replace("WORKER_ID: '0'", "WORKER_ID: '3'")},
            "tpus tpu-vm ssh my-tpu --zone us-east5-b --worker 3",
        ),
        (
            {"instance/name": "gpu-1", "instance/zone": "projects/7/zones/us-central1-a"},
            "ssh gpu-1 --zone us-central1-a",
        ),
        ({}, "ssh NAME --zone ZONE"),
    ],
    ids=["a TPU VM", "another worker", "a VM without a TPU", "a VM that knows nothing"],
)
def test_on_googles_machines_gcloud_leads_there(said: dict[str, str], command: str, googles: Path) -> None:
    def ask(what: str) -> str:
        if what not in said:
            raise FileNotFoundError(what)
        return said[what]

    found = tunnel_command(LOOPBACK, ssh("10.0.0.5 22"), sys_root=googles, ask=ask)
    assert found == f"gcloud compute {command} -- -N -L 8189:localhost:8189"


def test_where_the_metadata_server_is_silent_it_is_asked_once(googles: Path) -> None:
    asked = []

    def ask(what: str) -> str:
        asked.append(what)
        raise TimeoutError

    command = tunnel_command(LOOPBACK, {}, sys_root=googles, ask=ask)
    assert command == "gcloud compute tpus tpu-vm ssh NAME --zone ZONE -- -N -L 8189:localhost:8189"
    assert asked == ["instance/attributes/tpu-env"]

"""How to reach a page from another machine, where nothing but ssh leads to this one."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from crystools_tpu.page import Address

# By its number: a name may take a resolver as long as it likes.
_METADATA: Final = "169.254.169.254"
_ANSWER_SECONDS: Final = 0.5
_LONGEST_ANSWER: Final = 65536

Ask: TypeAlias = Callable[[str], str]
"""What Google's metadata server says of this machine. Raises OSError where it says nothing."""


def tunnel_command(
    address: Address,
    environ: Mapping[str, str] = os.environ,
    *,
    sys_root: Path = Path("/sys"),
    ask: Ask | None = None,
) -> str | None:
    """What to type on another machine, after which the page is at this port there too.

    None where the page listens for others at an address of its own, or where this is a desk with a screen.
    Google's metadata server is asked for names on Google's machines alone, and not for long.
    """
    if not (address.is_everywhere or address.is_loopback):
        return None
    port = address.port
    if "KUBERNETES_SERVICE_HOST" in environ:
        pod = environ.get("HOSTNAME") or socket.gethostname()
        return f"kubectl port-forward pod/{shlex.quote(pod)} {port}:{port}"
    forward = f"-N -L {port}:{_target(address)}:{port}"
    if _is_googles(sys_root):
        return f"{_gcloud(ask or _ask)} -- {forward}"
    if (connection := environ.get("SSH_CONNECTION", "").split())[3:]:
        _, _, host, ssh_port = connection[:4]
        by_port = "" if ssh_port == "22" else f"-p {shlex.quote(ssh_port)} "
        return f"ssh {by_port}{forward} {shlex.quote(f'{getpass.getuser()}@{host}')}"
    return None if _has_screen(environ) else f"ssh {forward} USER@HOST"


def _target(address: Address) -> str:
    """The page, as seen from this machine."""
    if address.is_everywhere or address.host == "127.0.0.1":
        return "localhost"
    return f"[{address.host}]" if ":" in address.host else address.host


def _has_screen(environ: Mapping[str, str]) -> bool:
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME")
    return sys.platform != "linux" or any(environ.get(name) for name in screens)


def _is_googles(sys_root: Path) -> bool:
    try:
        return "Google" in (sys_root / "class/dmi/id/product_name").read_text()
    except OSError:
        return False


def _gcloud(ask: Ask) -> str:
    """A TPU VM by the name of its TPU, any other by its own; what is not known is in capitals."""
    try:
        known = _tpu_env(ask("instance/attributes/tpu-env"))
    except FileNotFoundError:
        known = {}
    except OSError:  # nobody answers, and nobody will
        return "gcloud compute tpus tpu-vm ssh NAME --zone ZONE"
    if name := known.get("NODE_ID"):
        zone, worker = known.get("ZONE", "ZONE"), known.get("WORKER_ID", "0")
        of_worker = "" if worker == "0" else f" --worker {shlex.quote(worker)}"
        return f"gcloud compute tpus tpu-vm ssh {shlex.quote(name)} --zone {shlex.quote(zone)}{of_worker}"
    try:
        name, zone = ask("instance/name"), ask("instance/zone").rpartition("/")[2]
    except OSError:
        name, zone = "NAME", "ZONE"
    return f"gcloud compute ssh {shlex.quote(name)} --zone {shlex.quote(zone)}"


def _tpu_env(text: str) -> Mapping[str, str]:
    """Lines like `ZONE: 'us-east5-b'`."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip().strip("'\"") for name, _, value in lines if value}


def _ask(what: str) -> str:
    url = f"http://{os.environ.get('GCE_METADATA_HOST', _METADATA)}/computeMetadata/v1/{what}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=_ANSWER_SECONDS) as answer:
            text: str = answer.read(_LONGEST_ANSWER).decode(errors="replace")
            return text.strip()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError(what) from None
        raise

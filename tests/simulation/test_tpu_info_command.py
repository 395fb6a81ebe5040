"""tpu-info's own unmodified command on a simulated host, in namespaces of its own (Linux)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--mount-proc")
ROOT = Path(__file__).parents[2]
LAUNCHER = Path(__file__).with_name("tpu_info_in_namespace.py")


def namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not namespaces_work(), reason="tpu-info reads fixed paths, and this system permits no mount namespace"
)


def tpu_info(folder: Path, topology: str, *arguments: str) -> dict[str, list[list[str]]]:
    """The tables that the command prints: rows of cells by title."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    result = subprocess.run(
        [*UNSHARE, sys.executable, str(LAUNCHER), str(folder), topology, *arguments],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    tables: dict[str, list[list[str]]] = {}
    title = ""
    for line in map(str.strip, result.stdout.splitlines()):
        if line.startswith("|"):
            tables.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
        elif line:
            title = line
    return {title: rows[2:] for title, rows in tables.items()}


def test_v6e(tmp_path: Path) -> None:
    tables = tpu_info(tmp_path, "v6e-8")
    assert tables["TPU Chips"] == [[f"/dev/vfio/{n}", "TPU v6e chip", "1", "1"] for n in range(8)]
    assert tables["TPU Runtime Utilization"][:2] == [
        ["0", "21.76 GiB / 32.00 GiB", "84.00%"],
        ["1", "23.06 GiB / 32.00 GiB", "88.09%"],
    ]
    assert tables["TensorCore Utilization"][0] == ["0", "38.00%"]
    assert len(tables["TensorCore Utilization"]) == 8
    assert tables["TPU Buffer Transfer Latency"] == [
        ["8MB+", "1400.00 us", "1848.00 us", "1904.00 us", "1948.80 us"]
    ]


def test_7x_shows_four_chips_of_two_devices(tmp_path: Path) -> None:
    tables = tpu_info(tmp_path, "7x-8")
    assert tables["TPU Chips"] == [[f"/dev/vfio/{n}", "TPU7x chip", "2", "1"] for n in (0, 2, 4, 6)]
    assert tables["TPU Runtime Utilization"][:2] == [
        ["0", "65.28 GiB / 96.00 GiB", "84.00%"],
        ["1", "65.28 GiB / 96.00 GiB", "84.00%"],
    ]
    assert len(tables["TPU Runtime Utilization"]) == 8


@pytest.mark.parametrize(
    ("topology", "device"), [("v2-8", "/dev/accel"), ("v4-8", "/dev/accel"), ("v5e-4", "/dev/vfio/")]
)
def test_the_process_that_holds_the_chips(tmp_path: Path, topology: str, device: str) -> None:
    tables = tpu_info(tmp_path, topology, "--process")
    rows = tables["TPU Process Info"]
    assert [row[:2] for row in rows] == [[f"{device}{n}", "1"] for n in range(4)]


@pytest.mark.parametrize("metric", ["hbm_usage", "hlo_queue_size", "hlo_exec_timing", "core_state"])
def test_single_metrics(tmp_path: Path, metric: str) -> None:
    (rows,) = tpu_info(tmp_path, "v6e-4", "--metric", metric).values()
    assert len(rows) == 4

"""The rig that starts a ComfyUI, with programs that start, or do not, as ComfyUI would."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
import pytest

from tests.rigs.comfyui import running_comfyui

STARTS = """\
import json, os, pathlib, sys, time
nodes = pathlib.Path(sys.argv[sys.argv.index("--base-directory") + 1]) / "custom_nodes"
print(json.dumps([sorted(os.listdir(nodes)), sys.argv[-1], os.environ["MARK"]]), flush=True)
print("To see the GUI go to: http://127.0.0.1", flush=True)
time.sleep(600)
"""


def checkout(folder: Path, main: str) -> Path:
    path = folder / "checkout"
    path.mkdir()
    (path / "main.py").write_text(main)
    return path


def test_it_runs_with_the_packs_arguments_and_environment_given_and_ends_with_the_block(
    tmp_path: Path,
) -> None:
    base, pack = tmp_path / "base", tmp_path / "pack"
    base.mkdir()
    pack.mkdir()
    with running_comfyui(
        base,
        {"some.name": pack},
        checkout=checkout(tmp_path, STARTS),
        python=sys.executable,
        arguments=["--more"],
        environ={"MARK": "ours"},
    ) as comfyui:
        first, _ = comfyui.log_file.read_text().splitlines()
        assert json.loads(first) == [["some.name"], "--more", "ours"]
        assert comfyui.url.startswith("http://127.0.0.1:")
        assert psutil.pid_exists(comfyui.process_id)
    assert not psutil.pid_exists(comfyui.process_id)


def test_one_that_ends_while_it_starts_is_an_error_with_its_log(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    broken = checkout(tmp_path, "raise SystemExit('no torch here')")
    with pytest.raises(RuntimeError, match=r"(?s)ended while it started:.*no torch here"):
        with running_comfyui(base, {}, checkout=broken, python=sys.executable):
            pass

"""The repository as a node pack: loaded as ComfyUI loads one, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["crystools_tpu", "pipelines/crystools_pipelines", "exporters/crystools_exporters"]

# As ComfyUI's nodes.py does it: the module's name is its path, and nothing is put on sys.path. What is tested
# must not be found where it was installed to test it.
LOAD = """
import importlib.util, json, logging, sys, threading
from pathlib import Path
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
ours = "crystools_tpu/__init__.py"
sys.path[:] = {installed!r} + [entry for entry in sys.path if not Path(entry, ours).exists()]
path = list(sys.path)
{before}
for folder in {folders!r}:
    name = folder.replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py")
    pack = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
import crystools_tpu.telemetry, crystools_pipelines, crystools_exporters
print(json.dumps({{
    "path_unchanged": sys.path == path,
    "threads": threading.active_count(),
    "heavy": sorted({{"jax", "torch", "grpc", "diffusers", "matplotlib"}} & set(sys.modules)),
    "telemetry": [name for name in sys.modules if name.endswith("crystools_tpu.telemetry")],
    "file": crystools_tpu.__file__,
    "nodes": sorted(pack.NODE_CLASS_MAPPINGS),
    "web": pack.WEB_DIRECTORY,
    "pipelines": getattr(sys.modules.get("pipelines"), "OWNER", None),
}}))
"""


@dataclass
class Loaded:
    """How a load ended, and what the process knew at its end."""

    returncode: int
    log: str
    answer: dict[str, Any]


def load(folders: Sequence[Path], *, installed: Sequence[Path] = (), before: str = "") -> Loaded:
    """Loads these node packs where nothing of ours but `installed` is importable, and `before` has run."""
    code = LOAD.format(folders=list(map(str, folders)), installed=list(map(str, installed)), before=before)
    environment = {"HOME": os.environ["HOME"]}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    return Loaded(done.returncode, done.stderr, json.loads(done.stdout or "{}"))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository under another name, one that is no name of a module."""
    folder = tmp_path / "custom_nodes" / "my-renamed.clone"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "__init__.py", folder)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def installed_copy(clone: Path, folder: Path, version: str) -> Path:
    """What pip would have put there: the three packages side by side."""
    for package in PACKAGES:
        shutil.copytree(clone / package, folder / Path(package).name)
    init = folder / "crystools_tpu" / "__init__.py"
    init.write_text(f'__version__ = "{version}"\n')
    return folder


def current_version() -> str:
    from crystools_tpu import __version__

    return __version__


def test_a_clone_under_any_name_is_a_node_pack_and_puts_nothing_on_sys_path(clone: Path) -> None:
    loaded = load([clone])
    assert (loaded.returncode, loaded.log) == (0, "")
    assert loaded.answer["file"] == str(clone / "crystools_tpu" / "__init__.py")
    assert loaded.answer["path_unchanged"]
    assert loaded.answer["web"] == str(clone / "crystools_tpu" / "comfyui" / "extension")
    assert {"TPUTimingReport", "TPUTimingPlot"} <= set(loaded.answer["nodes"])


def test_loading_it_imports_nothing_heavy_and_starts_no_thread(clone: Path) -> None:
    """The monitor that this one replaces initialises jax and polls from import on."""
    loaded = load([clone])
    assert (loaded.answer["heavy"], loaded.answer["threads"]) == ([], 1)


def test_a_rival_pack_that_owns_the_name_pipelines_keeps_it(clone: Path) -> None:
    rival = "sys.modules['pipelines'] = type(sys)('pipelines'); sys.modules['pipelines'].OWNER = 'rival'"
    assert load([clone], before=rival).answer["pipelines"] == "rival"


def test_a_clone_beside_the_installed_package_uses_that_one(clone: Path, tmp_path: Path) -> None:
    site = installed_copy(clone, tmp_path / "site", current_version())
    loaded = load([clone], installed=[site])
    assert loaded.answer["file"] == str(site / "crystools_tpu" / "__init__.py")
    assert loaded.answer["telemetry"] == ["crystools_tpu.telemetry"]
    assert loaded.log == ""


def test_a_folder_that_pip_left_behind_is_not_the_package(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "site" / "crystools_tpu" / "comfyui").mkdir(parents=True)
    loaded = load([clone], installed=[tmp_path / "site"])
    assert loaded.answer["file"] == str(clone / "crystools_tpu" / "__init__.py")


def test_another_version_installed_is_a_warning_that_names_both(clone: Path, tmp_path: Path) -> None:
    site = installed_copy(clone, tmp_path / "site", "9.8.7")
    log = load([clone], installed=[site]).log
    assert log.startswith(
        f"WARNING crystools-tpu 9.8.7 is installed and is used instead of the {current_version()}"
    )
    assert "pip install --upgrade crystools-tpu" in log


def test_two_clones_share_one_telemetry_registry(clone: Path) -> None:
    second = clone.with_name("second")
    shutil.copytree(clone, second)
    loaded = load([clone, second])
    assert loaded.answer["telemetry"] == ["crystools_tpu.telemetry"]
    assert loaded.answer["file"] == str(clone / "crystools_tpu" / "__init__.py")


def test_a_broken_requirement_is_one_error_with_its_reason(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "psutil.py").write_text("raise OSError('_psutil_linux.so: not an ELF file')")
    loaded = load([clone], before=f"sys.path.insert(0, {str(tmp_path / 'broken')!r})")
    assert loaded.returncode == 1
    assert "ImportError: crystools-tpu cannot be loaded: psutil " in loaded.log
    assert " is there, but cannot be imported (OSError: _psutil_linux.so: not an ELF file): " in loaded.log


def test_a_missing_requirement_is_one_error_with_the_command_that_installs_it(clone: Path) -> None:
    loaded = load([clone], before="sys.modules['prometheus_client'] = None")
    assert loaded.returncode == 1
    assert loaded.log.rstrip().endswith(
        "ImportError: crystools-tpu cannot be loaded: prometheus_client is not installed: "
        f"{sys.executable} -m pip install -r {clone / 'requirements.txt'}"
    )

"""What is installed but was not run with is said in one line, and never refused."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from crystools_tpu import bounds
from crystools_tpu.bounds import declared, out_of_bounds, warn_of_what_is_out_of_bounds

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

METADATA = """Metadata-Version: 2.4
Name: some-monitor
Version: 1
Requires-Dist: rich<16,>=13
Requires-Dist: torch<2.15,>=2.8; extra == 'pipelines'
Requires-Dist: imageio[ffmpeg]<3,>=2.36; extra == 'pipelines'
Requires-Dist: some-monitor[pipelines]; extra == 'comfyui'
Requires-Dist: torch<2.15,>=2.8; extra == 'comfyui'
Requires-Dist: matplotlib<4,>=3.9; extra == 'comfyui'
Requires-Dist: pywin32>=1; sys_platform == 'win32'
Requires-Dist: mypy>=1.18; extra == 'dev'
"""


@pytest.fixture(autouse=True)
def _not_said_yet() -> None:
    warn_of_what_is_out_of_bounds.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages that comes before the real ones."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def install(folder: Path, name: str, version: str, metadata: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata or f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")


def said(requirements: list[str], versions: dict[str, str]) -> list[str]:
    def version(name: str) -> str:
        try:
            return versions[name]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    return list(map(str, out_of_bounds(map(Requirement, requirements), version)))


def test_the_bounds_of_an_installation_are_its_metadata_and_those_of_its_extras(installed: Path) -> None:
    install(installed, "some-monitor", "1", METADATA)
    names = [(each.name, str(each.specifier)) for each in declared("some-monitor")]
    assert names == [
        ("rich", "<16,>=13"),
        ("torch", "<2.15,>=2.8"),
        ("imageio", "<3,>=2.36"),
        ("matplotlib", "<4,>=3.9"),
    ]


def test_a_clone_that_is_not_installed_has_them_in_its_requirements(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    assert declared("no-such-distribution", requirements) == []
    requirements.write_text("# for a clone\nimageio[ffmpeg]>=2.36,<3\n\njax>=0.10,<0.13\n")
    assert list(map(str, declared("no-such-distribution", requirements))) == [
        "imageio[ffmpeg]<3,>=2.36",
        "jax<0.13,>=0.10",
    ]


def test_both_declare_the_same() -> None:
    of_clone = declared("no-such-distribution", ROOT / "requirements.txt")
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["pipelines"], *extras["comfyui"][1:]]
    assert set(of_clone) == set(map(Requirement, wanted))


def test_every_dependency_has_both_bounds() -> None:
    for requirement in declared("no-such-distribution", ROOT / "requirements.txt"):
        assert sorted(each.operator for each in requirement.specifier) == ["<", ">="], str(requirement)


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ("2.8.0", []),
        ("2.14.1+cu130", []),
        ("2.14.0a0+git1f3", []),
        ("2.7.1", ["torch 2.7.1 (<2.15,>=2.8)"]),
        ("2.15.0", ["torch 2.15.0 (<2.15,>=2.8)"]),
    ],
)
def test_a_version_is_within_or_out_of_bounds(installed: str, expected: list[str]) -> None:
    assert said(["torch>=2.8,<2.15"], {"torch": installed}) == expected


def test_what_is_missing_is_left_to_its_import() -> None:
    assert said(["torch>=2.8,<2.15", "rich>=13,<16"], {"rich": "12.0"}) == ["rich 12.0 (<16,>=13)"]


def test_it_is_one_line_once_with_the_command_that_mends(
    installed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bounds, "declared", lambda: [*map(Requirement, ["jax>=0.10,<0.13", "rich>=13,<16"])])
    install(installed, "jax", "0.13.1")
    install(installed, "rich", "12.6")
    warn_of_what_is_out_of_bounds()
    warn_of_what_is_out_of_bounds()
    assert caplog.messages == [
        "crystools-tpu was not run with what is installed: jax 0.13.1 (<0.13,>=0.10), rich 12.6 (<16,>=13). "
        f"Should it fail: {sys.executable} -m pip install 'jax<0.13,>=0.10' 'rich<16,>=13'"
    ]


def test_within_the_bounds_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_what_is_out_of_bounds()
    assert caplog.messages == []


def test_a_command_says_it_before_the_import_that_fails(installed: Path, tmp_path: Path) -> None:
    install(installed, "torch", "2.7.0")
    (installed / "torch.py").write_text("raise RuntimeError('made for another libc')")
    install(installed, "crystools-tpu", "1", METADATA.replace("some-monitor", "crystools-tpu"))
    path = os.pathsep.join(map(str, (installed, ROOT, ROOT / "pipelines", ROOT / "exporters")))
    command = ["generate", "wan2.1-t2v", "--checkpoint", str(tmp_path), "--prompt", "a"]
    done = subprocess.run(
        [sys.executable, "-m", "crystools_tpu", *command, "--out", str(tmp_path / "a.mp4")],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("WARNING: crystools-tpu was not run with what is installed: torch 2.7.0 (<2.15,")
    assert last.startswith(
        "crystools-tpu: torch 2.7.0 is there, but cannot be imported (RuntimeError: made for another libc): "
    )

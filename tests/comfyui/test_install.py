"""`crystools-tpu comfyui install`, and what else a ComfyUI is given: requirements, the Registry's zip."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pathspec
import pytest

from crystools_tpu.cli import main

from .test_door import ROOT, load

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    """A ComfyUI's folder."""
    (tmp_path / "custom_nodes").mkdir()
    return tmp_path


def test_install_makes_the_installed_package_a_node_pack(comfyui: Path) -> None:
    assert main(["comfyui", "install", str(comfyui)]) == 0
    folder = comfyui / "custom_nodes" / "crystools-tpu"
    loaded = load([folder], installed=[ROOT, ROOT / "pipelines", ROOT / "exporters"])
    assert (loaded.returncode, loaded.log) == (0, "")
    assert "TPUTimingReport" in loaded.answer["nodes"]
    assert loaded.answer["web"] == str(ROOT / "crystools_tpu" / "comfyui" / "extension")


def test_install_twice_is_install_once_and_remove_takes_all_of_it_away(
    comfyui: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["comfyui", "install", str(comfyui)]) == 0
    folder = comfyui / "custom_nodes" / "crystools-tpu"
    assert {path.name for path in folder.iterdir()} == {"__init__.py", "example_workflows"}
    templates = [path.name for path in (folder / "example_workflows").iterdir()]
    assert sorted(templates) == sorted(path.name for path in (ROOT / "example_workflows").iterdir())
    assert main(["comfyui", "remove", str(comfyui)]) == 0
    assert list((comfyui / "custom_nodes").iterdir()) == []
    assert capsys.readouterr().out.splitlines()[-1] == f"removed {folder}; restart ComfyUI"


@pytest.mark.parametrize("action", ["install", "remove"])
def test_what_is_no_comfyui_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    assert main(["comfyui", action, str(tmp_path)]) == 2
    expected = f"crystools-tpu: {tmp_path} has no folder custom_nodes: give the folder of ComfyUI\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("action", ["install", "remove"])
def test_a_clone_of_that_name_is_left_alone(
    comfyui: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    init = comfyui / "custom_nodes" / "crystools-tpu" / "__init__.py"
    init.parent.mkdir()
    init.write_text("# a clone\n")
    assert main(["comfyui", action, str(comfyui)]) == 2
    assert "(a clone needs none): it is left alone" in capsys.readouterr().err
    assert init.read_text() == "# a clone\n"


def test_remove_where_nothing_is_installed_says_so(comfyui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["comfyui", "remove", str(comfyui)]) == 2
    assert "nothing is installed there" in capsys.readouterr().err


def test_in_another_python_than_the_packages_the_folder_says_what_to_do(comfyui: Path) -> None:
    main(["comfyui", "install", str(comfyui)])
    folder = comfyui / "custom_nodes" / "crystools-tpu"
    loaded = load([folder], before="sys.modules['crystools_tpu'] = None")
    assert "ImportError: crystools-tpu is not installed where ComfyUI runs: " in loaded.log
    assert f"pip install 'crystools-tpu[comfyui]', or remove {folder}" in loaded.log


def test_where_a_package_that_it_needs_is_missing_the_folder_says_which(comfyui: Path) -> None:
    main(["comfyui", "install", str(comfyui)])
    folder = comfyui / "custom_nodes" / "crystools-tpu"
    loaded = load(
        [folder],
        installed=[ROOT, ROOT / "pipelines", ROOT / "exporters"],
        before="sys.modules['prometheus_client'] = None",
    )
    assert "ImportError: crystools-tpu cannot be loaded: prometheus_client is not installed: " in loaded.log
    assert loaded.log.rstrip().endswith("-m pip install 'crystools-tpu[comfyui]'")


def test_the_managers_requirements_are_those_of_the_extra() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    comfyui = [name for name in extras["comfyui"] if name != "crystools-tpu[pipelines]"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    expected = sorted([*project["dependencies"], *extras["pipelines"], *comfyui])
    assert [line for line in lines if not line.startswith("#")] == expected


def test_the_registrys_metadata_is_complete_and_does_not_load_the_extension_twice() -> None:
    """ComfyUI serves `[tool.comfy] web` beside `WEB_DIRECTORY`, and the page would import both."""
    comfy = PROJECT["tool"]["comfy"]
    assert set(comfy) == {"PublisherId", "DisplayName", "requires-comfyui"}
    assert re.fullmatch(r"[a-z][a-z0-9-]*", PROJECT["project"]["name"])


def test_a_published_zip_is_a_node_pack_and_no_more(tmp_path: Path) -> None:
    """comfy-cli publishes what git tracks, without what .comfyignore names."""
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".comfyignore").read_text().splitlines())
    published = [name for name in tracked if not ignored.match_file(name)]
    folder = tmp_path / "custom_nodes" / "crystools-tpu"
    for name in published:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    assert {Path(name).parts[0] for name in published} >= {
        "__init__.py",
        "requirements.txt",
        "pyproject.toml",
        "example_workflows",
    }
    assert not {Path(name).parts[0] for name in published} & {"tests", "benchmarks", ".ci", "package.json"}
    loaded = load([folder])
    assert loaded.returncode == 0, loaded.log
    assert "TPUTimingReport" in loaded.answer["nodes"]

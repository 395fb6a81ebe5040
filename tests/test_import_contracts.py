"""Who imports whom: the contracts in pyproject.toml, and no circles."""

from __future__ import annotations

import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter import api

ROOT = Path(__file__).parents[1]
PYPROJECT = str(ROOT / "pyproject.toml")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    packages = api.read_configuration(PYPROJECT)["session_options"]["root_packages"]
    return grimp.build_graph(*packages, include_external_packages=True, cache_dir=None)


def test_the_contracts_are_kept() -> None:
    """In a process of its own: it sets up logging anew, and silences every logger that there is."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", PYPROJECT]
    path = os.pathsep.join(str(ROOT / folder) for folder in (".", "pipelines", "exporters", "grafana"))
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_imports_itself_through_others(graph: grimp.ImportGraph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_telemetry_imports_the_standard_library_and_jax_alone_when_it_watches_it(
    graph: grimp.ImportGraph,
) -> None:
    modules = {"crystools_tpu.telemetry", *graph.find_descendants("crystools_tpu.telemetry")}
    imported = set().union(*map(graph.find_modules_directly_imported_by, modules)) - modules
    assert imported - set(sys.stdlib_module_names) == {"jax"}


def test_an_import_in_a_function_or_for_types_is_an_import(graph: grimp.ImportGraph) -> None:
    in_a_function = ("crystools_tpu.watching", "crystools_tpu.simulation.machine")
    for_types = ("crystools_tpu.sources.tpu_payload", "tpu_info")
    for importer, imported in (in_a_function, for_types):
        assert graph.direct_import_exists(importer=importer, imported=imported)

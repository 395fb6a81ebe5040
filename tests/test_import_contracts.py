"""Who imports whom: the contracts in pyproject.toml, and no circles."""

from __future__ import annotations

import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter import api
from importlinter.cli import lint_imports

PYPROJECT = str(Path(__file__).parents[1] / "pyproject.toml")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    packages = api.read_configuration(PYPROJECT)["session_options"]["root_packages"]
    return grimp.build_graph(*packages, include_external_packages=True, cache_dir=None)


def test_the_contracts_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=PYPROJECT, no_cache=True, no_logo=True)
    assert status == 0, capsys.readouterr().out


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

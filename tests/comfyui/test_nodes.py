"""The registry of nodes: every node of every model, and what it says where a package is missing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from crystools_tpu.comfyui.nodes import (
    NODE_CLASS_MAPPINGS,
    NODE_DISPLAY_NAME_MAPPINGS,
    MissingPackageError,
    collect,
    install_command,
)


class Sampler:
    """A model's node, as the pipelines will have them: what is heavy is imported in its function."""

    FUNCTION = "sample"
    RETURN_TYPES: ClassVar = ("STRING", "BOOLEAN")
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"package": ("STRING", {})}}

    def sample(self, package: str) -> tuple[str, bool]:
        name = importlib.import_module(package).__name__
        import torch

        return name, torch.is_inference_mode_enabled()


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The node as the registry has it."""
    module = ModuleType("a_model_nodes")
    module.NODE_CLASS_MAPPINGS = {"Sampler": Sampler}  # type: ignore[attr-defined]
    module.NODE_DISPLAY_NAME_MAPPINGS = {"Sampler": "A Sampler"}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    classes, names = collect([module.__name__])
    assert names == {"Sampler": "A Sampler"}
    return classes["Sampler"]


def test_a_models_node_is_what_its_module_says(sampler: type[Any]) -> None:
    assert sampler.INPUT_TYPES() == Sampler.INPUT_TYPES()
    assert (sampler.__name__, sampler.__doc__, sampler.FUNCTION) == ("Sampler", Sampler.__doc__, "sample")
    assert sampler().sample(package="json") == ("json", False)


def test_a_missing_package_is_an_error_of_the_node_with_the_command_that_installs_it(
    sampler: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchax", None)
    with pytest.raises(MissingPackageError) as raised:
        sampler().sample(package="torchax")
    assert str(raised.value) == f"torchax is not installed. Run this and restart ComfyUI: {install_command()}"


def test_a_broken_package_is_an_error_of_the_node_with_its_name_and_reason(
    sampler: type[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "halfvision.py").write_text("raise RuntimeError('operator halfvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackageError) as raised:
        sampler().sample(package="halfvision")
    assert str(raised.value) == (
        f"halfvision ({tmp_path / 'halfvision.py'}) is there, but cannot be imported (RuntimeError: operator "
        f"halfvision::nms does not exist). Run this and restart ComfyUI: {install_command()}"
    )


def test_a_node_runs_outside_of_the_inference_mode_that_comfyui_runs_nodes_in(sampler: type[Any]) -> None:
    """In it, torchax does not decompose operators."""
    import torch

    with torch.inference_mode():
        assert sampler().sample(package="torch") == ("torch", False)
        assert torch.is_inference_mode_enabled()


def test_any_other_error_of_a_node_is_its_own(sampler: type[Any]) -> None:
    with pytest.raises(AttributeError):
        sampler().sample(package=None)


def test_a_clone_installs_its_requirements_and_a_package_its_extra(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    assert install_command(requirements) == f"{sys.executable} -m pip install 'crystools-tpu[comfyui]'"
    requirements.touch()
    assert install_command(requirements) == f"{sys.executable} -m pip install -r {requirements}"


def test_every_node_has_a_name_to_show_and_what_comfyui_asks_of_it() -> None:
    assert set(NODE_CLASS_MAPPINGS) == set(NODE_DISPLAY_NAME_MAPPINGS)
    for node in NODE_CLASS_MAPPINGS.values():
        assert callable(getattr(node, node.FUNCTION))
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        assert node.CATEGORY.startswith("crystools-tpu")
        assert set(node.INPUT_TYPES()) <= {"required", "optional", "hidden"}

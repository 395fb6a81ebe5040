"""The node of a LoRA: what may be chosen, what it hands on, and when it is executed again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from crystools_pipelines.nodes import lora as lora_node
from crystools_pipelines.requests.lora import Lora
from crystools_pipelines.tiny.on_demand import make_missing
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS

NODE = NODE_CLASS_MAPPINGS["TPULora"]
TINY = "tiny-wan2.1-t2v-lora.safetensors"


class FolderPaths(ModuleType):
    """Stands in for ComfyUI's module of this name, with one folder of LoRAs."""

    def __init__(self, folder: Path) -> None:
        super().__init__("folder_paths")
        self.folder = folder

    def get_folder_paths(self, kind: str) -> list[str]:
        assert kind == "loras"
        return [str(self.folder)]

    def get_filename_list(self, kind: str) -> Sequence[str]:
        assert kind == "loras"
        files = self.folder.rglob("*.*") if self.folder.is_dir() else ()
        return sorted(str(file.relative_to(self.folder)) for file in files)

    def get_full_path(self, kind: str, name: str) -> str | None:
        assert kind == "loras"
        path = self.folder / name
        return str(path) if path.is_file() else None


@pytest.fixture
def loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's folder, with two LoRAs, and one in a format that is not read."""
    folder = tmp_path / "models" / "loras"
    (folder / "style").mkdir(parents=True)
    for name in ("detail.safetensors", "style/ink.safetensors", "old.pt"):
        (folder / name).write_text(name)
    monkeypatch.setitem(sys.modules, "folder_paths", FolderPaths(folder))
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "data"))
    return folder


def chain(**inputs: Any) -> tuple[Lora, ...]:
    given = {"lora_name": "detail.safetensors", "strength": 1.0, "expert": "both", **inputs}
    (chained,) = getattr(NODE(), NODE.FUNCTION)(**given)
    return tuple(chained)


def test_it_has_the_inputs_and_the_output_that_workflows_rely_on(loras: Path) -> None:
    types = json.loads(json.dumps(NODE.INPUT_TYPES()))
    assert list(types["required"]) == ["lora_name", "strength", "expert"]
    assert list(types["optional"]) == ["lora"]
    strength = types["required"]["strength"][1]
    del strength["tooltip"]
    assert strength == {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}
    assert types["required"]["expert"][0] == ["both", "high noise", "low noise"]
    assert types["optional"]["lora"][0] == "TPU_LORA"
    assert (NODE.RETURN_TYPES, NODE.RETURN_NAMES, NODE.CATEGORY) == (
        ("TPU_LORA",),
        ("lora",),
        "crystools-tpu",
    )


def test_comfyuis_files_may_be_chosen_then_a_tiny_one_for_each_model(loras: Path) -> None:
    names = NODE.INPUT_TYPES()["required"]["lora_name"][0]
    assert names[:2] == ["detail.safetensors", "style/ink.safetensors"]
    assert len(names) == 2 + 5
    assert TINY in names


def test_a_chain_of_two_has_both_in_their_order_each_with_its_strength_and_expert(loras: Path) -> None:
    first = chain(strength=0.8, expert="high noise")
    both = chain(lora_name="style/ink.safetensors", expert="low noise", lora=first)
    assert both == (
        Lora(str(loras / "detail.safetensors"), 0.8, "high"),
        Lora(str(loras / "style" / "ink.safetensors"), 1.0, "low"),
    )
    assert chain()[0].expert is None


def test_a_name_without_a_file_is_refused_with_the_folder_and_what_is_in_it(loras: Path) -> None:
    assert NODE.VALIDATE_INPUTS(lora_name="detail.safetensors") is True
    assert NODE.VALIDATE_INPUTS(lora_name=TINY) is True
    assert NODE.VALIDATE_INPUTS(lora_name=None) is True  # another node gives it
    assert NODE.VALIDATE_INPUTS(lora_name="4step.safetensors") == (
        f"lora_name: '4step.safetensors' is no file in {loras}; put it there, and press R. "
        "The folder has detail.safetensors, old.pt, style/ink.safetensors"
    )
    assert NODE.VALIDATE_INPUTS(lora_name="old.pt") == (
        "lora_name: 'old.pt' is no .safetensors file; convert it, or choose one that is"
    )


def test_an_empty_folder_is_said_to_be_empty_and_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "folder_paths", FolderPaths(tmp_path / "loras"))
    assert NODE.VALIDATE_INPUTS(lora_name="a.safetensors") == (
        f"lora_name: 'a.safetensors' is no file in {tmp_path / 'loras'}; put it there, and press R. "
        "The folder has no file yet"
    )
    monkeypatch.delitem(sys.modules, "folder_paths")
    assert NODE.VALIDATE_INPUTS(lora_name="a.safetensors").startswith(
        "lora_name: 'a.safetensors' is no file in models/loras; put it there"
    )


def test_a_file_that_is_replaced_under_its_name_is_executed_again(loras: Path) -> None:
    asked = {"lora_name": "detail.safetensors", "strength": 1.0, "expert": "both", "lora": None}
    before = NODE.IS_CHANGED(**asked)
    assert NODE.IS_CHANGED(**asked) == before
    (loras / "detail.safetensors").write_text("another of it")
    os.utime(loras / "detail.safetensors", ns=(1, 1))
    assert NODE.IS_CHANGED(**asked) != before
    assert NODE.IS_CHANGED(**{**asked, "lora_name": "gone.safetensors"}) == ""


def test_a_tiny_one_is_made_once_where_the_sampler_runs_and_is_then_no_other(
    loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(model: str, file: Path) -> Path:
        file.write_text(model)
        return file

    monkeypatch.setattr("crystools_pipelines.tiny.on_demand.write_tiny_lora", write)
    before = NODE.IS_CHANGED(lora_name=TINY)
    (tiny,) = chain(lora_name=TINY)
    assert not Path(tiny.location).exists()
    assert make_missing(tiny.location) == (
        f"{TINY} was made in {tiny.location}: its weights are random, and so is what it shows"
    )
    assert Path(tiny.location).read_text() == "wan2.1-t2v"
    assert make_missing(tiny.location) is None
    assert NODE.IS_CHANGED(lora_name=TINY) == before
    (loras / TINY).write_text("the user's own of that name")
    assert lora_node.location_of(TINY) == str(loras / TINY)

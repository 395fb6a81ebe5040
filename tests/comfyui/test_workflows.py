"""Templates, and workflows that were published for the packs whose nodes ours replace."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from PIL import Image

from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS

from .test_door import ROOT
from .workflows import prompt_of

FOLDER: Final = ROOT / "example_workflows"
TEMPLATES: Final = sorted(path.stem for path in FOLDER.glob("*.json"))
OBJECT_INFO: Final = {
    name: {"input": node.INPUT_TYPES(), "output": node.RETURN_TYPES}
    for name, node in NODE_CLASS_MAPPINGS.items()
}

# The nodes of published workflows: the values of their widgets, and their sockets by those packs' type names;
# Wan2.2 text-to-video is no other pack's, and its order is ours to keep.
PUBLISHED: Final[dict[str, tuple[list[Any], dict[str, str]]]] = {
    "CogVideoXTextEncoder": (["a cat", "dark", "zai-org/CogVideoX1.5-5B"], {}),
    "CogVideoXTPUSampler": ([480, 720, 49, 30, 6.5, 7, "randomize", 4], {"embeddings": "COGVIDEO_EMBEDS"}),
    "CogVideoXTPUVAEDecoder": ([8], {"latents": "LATENT"}),
    "Wan21TextEncoder": (["a cat", "dark", "org/wan"], {}),
    "Wan21TPUSampler": (
        [480, 832, 49, 30, 4.5, 7, "fixed", "org/wan", 3.0],
        {"prompt_embeds": "WAN_EMBEDS", "negative_prompt_embeds": "WAN_EMBEDS"},
    ),
    "Wan21TPUVAEDecoder": (["org/wan", 24], {"latents": "LATENT"}),
    "Wan22T2VTextEncoder": (["a cat", "dark", "org/wan"], {}),
    "Wan22T2VTPUSampler": (
        [480, 832, 49, 30, 4.5, 3.5, 8.0, 7, "fixed", "org/wan", 0.85],
        {"prompt_embeds": "WAN22_T2V_EMBEDDINGS", "negative_prompt_embeds": "WAN22_T2V_EMBEDDINGS"},
    ),
    "Wan22T2VTPUVAEDecoder": (["org/wan", 24], {"latents": "WAN22_T2V_LATENTS"}),
    "Wan22I2VImageEncoder": ([480, 832, 49, "org/wan"], {"image": "IMAGE"}),
    "Wan22I2VTextEncoder": (["a cat", "dark", "org/wan"], {}),
    "Wan22I2VTPUSampler": (
        [30, 4.5, 3.0, 7, "increment", "org/wan", 0.85],
        {
            "prompt_embeds": "WAN_EMBEDS",
            "negative_prompt_embeds": "WAN_EMBEDS",
            "condition": "WAN_CONDITION",
            "latent_info": "WAN_INFO",
        },
    ),
    "Wan22I2VTPUVAEDecoder": (["org/wan", 24], {"latents": "LATENT"}),
    "Wan21TPUPipeline": (["a cat", "dark", 480, 832, 49, 30, 4.5, 7, "fixed", "org/wan", 24, 3.0], {}),
    "Flux2TPUPipeline": (["a cat", 512, 768, 30, 3.5, 7, "fixed", "org/flux"], {}),
    "Flux2TextEncoder": (["a cat", "org/flux"], {}),
    "Flux2TPUSampler": ([512, 768, 30, 3.5, 7, "decrement", "org/flux"], {"prompt_embeds": "FLUX_EMBEDS"}),
    "Flux2TPUVAEDecoder": ([512, 768, "org/flux"], {"latents": "LATENT"}),
}
LATER: Final = {"scheduler": "checkpoint's own", "sigmas": "", "timesteps": "", "step_cache": ""}
"""What no published workflow says: it is asked for as if it were not there."""
EXPECTED: Final = {
    "CogVideoXTPUSampler": {
        "height": 480,
        "width": 720,
        "num_frames": 49,
        "num_inference_steps": 30,
        "guidance_scale": 6.5,
        "seed": 7,
        "num_devices": 4,
    },
    "Wan21TPUSampler": {
        "height": 480,
        "width": 832,
        "num_frames": 49,
        "num_inference_steps": 30,
        "guidance_scale": 4.5,
        "seed": 7,
        "model_id": "org/wan",
        "flow_shift": 3.0,
        "num_devices": 0,
    },
    "Wan22T2VTPUSampler": {
        "height": 480,
        "width": 832,
        "num_frames": 49,
        "num_inference_steps": 30,
        "guidance_scale": 4.5,
        "guidance_scale_2": 3.5,
        "shift": 8.0,
        "seed": 7,
        "model_id": "org/wan",
        "boundary_ratio": 0.85,
        "num_devices": 0,
    },
    "Wan22I2VTPUSampler": {
        "num_inference_steps": 30,
        "guidance_scale": 4.5,
        "shift": 3.0,
        "seed": 7,
        "model_id": "org/wan",
        "boundary_ratio": 0.85,
        "num_devices": 0,
    },
    "Wan21TPUPipeline": {
        "prompt": "a cat",
        "negative_prompt": "dark",
        "height": 480,
        "width": 832,
        "num_frames": 49,
        "num_inference_steps": 30,
        "guidance_scale": 4.5,
        "seed": 7,
        "model_id": "org/wan",
        "fps": 24,
        "flow_shift": 3.0,
        "num_devices": 0,
    },
    "Flux2TPUPipeline": {
        "prompt": "a cat",
        "height": 512,
        "width": 768,
        "num_inference_steps": 30,
        "guidance_scale": 3.5,
        "seed": 7,
        "model_id": "org/flux",
        "num_devices": 0,
    },
    "Flux2TPUSampler": {
        "height": 512,
        "width": 768,
        "num_inference_steps": 30,
        "guidance_scale": 3.5,
        "seed": 7,
        "model_id": "org/flux",
        "num_devices": 0,
    },
}


def published(name: str) -> dict[str, Any]:
    """A workflow with this node, and one that feeds all its sockets."""
    values, sockets = PUBLISHED[name]
    links = [[number, 1, 0, 2, number - 1, type_] for number, type_ in enumerate(sockets.values(), 1)]
    inputs = [
        {"name": socket, "type": type_, "link": number}
        for number, (socket, type_) in enumerate(sockets.items(), 1)
    ]
    return {
        "nodes": [{"id": 2, "type": name, "inputs": inputs, "widgets_values": values}],
        "links": links,
        "version": 0.4,
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_workflows_widgets_and_links_arrive_at_the_inputs_they_were_made_for(name: str) -> None:
    inputs = prompt_of(published(name), OBJECT_INFO)["2"]["inputs"]
    declared = OBJECT_INFO[name]["input"]
    assert inputs.keys() | {"lora"} == {*declared["required"], *declared.get("optional", {}), "lora"}
    for socket in PUBLISHED[name][1]:
        assert inputs.pop(socket) == ["1", 0]
    for later in LATER.keys() & inputs.keys():
        assert inputs.pop(later) == LATER[later]
    assert EXPECTED.get(name, inputs) == inputs
    types: dict[str, type[object]] = {"STRING": str, "INT": int, "FLOAT": float}
    for input_, value in inputs.items():
        type_, _ = {**declared["required"], **declared.get("optional", {})}[input_]
        assert type(value) is types[type_], input_


@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_keep_their_places_and_timing_comes_last(name: str) -> None:
    """Links are by number: `frames` and `fps` of a decoder go to CreateVideo's first two inputs."""
    names = NODE_CLASS_MAPPINGS[name].RETURN_NAMES
    assert names[-1] == "timing"
    if name.endswith("VAEDecoder") and "Flux" not in name:
        assert names[:2] == ("frames", "fps")


def test_without_num_devices_a_prompt_of_an_older_workflow_runs() -> None:
    for node in NODE_CLASS_MAPPINGS.values():
        assert "num_devices" not in node.INPUT_TYPES()["required"]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program that writes the templates."""
    spec = importlib.util.spec_from_file_location("make_workflows", ROOT / "docs" / "make_workflows.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_templates_are_as_their_program_writes_them(program: ModuleType) -> None:
    assert {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in TEMPLATES} == (
        json.loads(json.dumps(program.workflows()))
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_search_for_tpu_finds_a_template_and_its_name_can_be_a_file_and_an_address_everywhere(
    name: str,
) -> None:
    """The name is the title in the list, which cuts a longer one, and a part of an address."""
    assert "TPU" in name
    assert re.fullmatch(r"[A-Za-z0-9., ]+[A-Za-z0-9]", name)
    assert len(name) <= 33


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_a_small_square_picture(name: str) -> None:
    file = FOLDER / f"{name}.jpg"
    with Image.open(file) as picture:
        assert picture.size == (512, 512)
    assert file.stat().st_size < 100_000


def test_no_two_templates_have_the_same_picture() -> None:
    assert len({(FOLDER / f"{name}.jpg").read_bytes() for name in TEMPLATES}) == len(TEMPLATES) == 16


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_readable_and_no_node_covers_another(name: str) -> None:
    """ComfyUI fits a graph to three quarters of the window, and draws no text below a scale of 8/14."""
    saved = json.loads((FOLDER / f"{name}.json").read_text())
    boxes = {node["title"] if "title" in node else node["type"]: _box(node) for node in saved["nodes"]}
    lefts, tops, rights, bottoms = zip(*boxes.values(), strict=True)
    width, height = max(rights) - min(lefts), max(bottoms) - min(tops)
    assert width < 1500
    assert 0.75 * min(1440 / width, 900 / height) > 0.65
    assert 0.75 * min(1280 / width, 800 / height) > 8 / 14
    for one, another in itertools.combinations(boxes, 2):
        a, b = boxes[one], boxes[another]
        assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3], (one, another)
    for group in saved["groups"]:
        left, top, across, down = group["bounding"]
        inside = [
            box
            for box in boxes.values()
            if left < box[0] and box[2] < left + across and top < box[1] < top + down
        ]
        assert inside
        assert all(box[3] < top + down for box in inside)


def _box(node: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a node with its title; a collapsed one is its title alone."""
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - 30, left + width, top + (0 if node["flags"].get("collapsed") else height)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_links_outputs_to_inputs_of_their_type_and_asks_for_what_works(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = json.loads((FOLDER / f"{name}.json").read_text())
    nodes = {node["id"]: node for node in saved["nodes"]}
    for _, source, output, target, slot, type_ in saved["links"]:
        assert nodes[source]["outputs"][output]["type"] == type_
        socket = nodes[target]["inputs"][slot]
        assert socket["type"] == type_ or (socket["name"], type_) == ("fps", "INT")
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(tmp_path / "data"))
    for node in prompt_of(saved, OBJECT_INFO).values():
        if "lightx2v" not in node["inputs"].get("lora_name", ""):  # which its user has to put there
            _check_values(node["class_type"], node["inputs"])
    assert not (tmp_path / "data").exists()


def _check_values(name: str, inputs: Mapping[str, Any]) -> None:
    node = NODE_CLASS_MAPPINGS[name]
    types = node.INPUT_TYPES()
    for input_, (_, about) in {**types["required"], **types.get("optional", {})}.items():
        if "min" in about:
            assert about["min"] <= inputs[input_] <= about["max"], input_
    validate = getattr(node, "VALIDATE_INPUTS", None)
    if validate is not None:
        asked = validate.__func__.__code__
        assert (
            validate(
                **{name: inputs[name] for name in asked.co_varnames[1 : asked.co_argcount] if name in inputs}
            )
            is True
        )

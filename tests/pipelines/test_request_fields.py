"""A field of a request is declared once: commands, nodes, plans and comparisons derive from that."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest

from crystools_pipelines.cogvideox.request import CogVideoXRequest
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS, NODE_MODULES
from crystools_pipelines.requests.fields import Role, names_of, node_input, settings_of, values_of
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request

NODES: dict[str, Any] = {
    name: node
    for module in NODE_MODULES
    for name, node in importlib.import_module(module).NODE_CLASS_MAPPINGS.items()
}


@pytest.mark.parametrize("model", MODELS)
def test_every_field_of_every_model_is_declared_and_says_what_it_means(model: str) -> None:
    request_class = MODELS[model].request_class()
    assert request_class.model == model
    declared = settings_of(request_class)
    assert [*declared] == [field.name for field in dataclasses.fields(request_class)]
    assert all(each.help for each in declared.values())


def test_a_field_has_one_role_one_option_and_one_metavar_whatever_the_model() -> None:
    declared: dict[str, set[Any]] = {}
    for model in MODELS.values():
        for name, each in settings_of(model.request_class()).items():
            declared.setdefault(name, set()).add((each.role, each.option, each.metavar))
    assert {name: len(each) for name, each in declared.items() if len(each) > 1} == {}


STEPS_SAID = ("scheduler", "sigmas", "timesteps")
EXPERTS = ("num_inference_steps", "guidance_scale", "guidance_scale_2")


@pytest.mark.parametrize(
    ("model", "content", "schedule", "shape"),
    [
        (
            "cogvideox-t2v",
            {"prompt", "negative_prompt", "seed"},
            {"num_inference_steps", "guidance_scale", "use_dynamic_cfg", "scheduler"},
            {"height", "width", "num_frames"},
        ),
        (
            "wan2.1-t2v",
            {"prompt", "negative_prompt", "seed"},
            {"num_inference_steps", "guidance_scale", "flow_shift", *STEPS_SAID},
            {"height", "width", "num_frames"},
        ),
        (
            "wan2.2-t2v",
            {"prompt", "negative_prompt", "seed"},
            {*EXPERTS, "shift", "boundary_ratio", *STEPS_SAID},
            {"height", "width", "num_frames"},
        ),
        (
            "wan2.2-i2v",
            {"prompt", "negative_prompt", "image", "seed"},
            {*EXPERTS, "shift", "boundary_ratio", *STEPS_SAID},
            {"height", "width", "num_frames"},
        ),
        (
            "flux.2",
            {"prompt", "seed"},
            {"num_inference_steps", "guidance_scale", "scheduler", "sigmas"},
            {"height", "width"},
        ),
    ],
)
def test_what_changes_no_time_what_changes_tables_alone_and_what_changes_programs(
    model: str, content: set[str], schedule: set[str], shape: set[str]
) -> None:
    request_class = MODELS[model].request_class()
    roles = [set(names_of(request_class, role)) for role in (Role.CONTENT, Role.SCHEDULE, Role.SHAPE)]
    assert roles == [content, schedule, shape]


def test_the_values_of_a_role_are_the_requests_own() -> None:
    request = Wan21Request("a cat", height=480, width=832)
    assert values_of(request, Role.SHAPE) == {"height": 480, "width": 832, "num_frames": 81}


PROMPT = ("STRING", {"multiline": True, "default": ""})
STEPS = ("INT", {"default": 50, "min": 1, "max": 100, "tooltip": "denoising steps"})


def whole(default: int, low: int, high: int, step: int) -> Any:
    return "INT", {"default": default, "min": low, "max": high, "step": step}


def real(default: float, low: float, high: float, step: float, tooltip: str) -> Any:
    return "FLOAT", {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip}


def seed(default: int) -> Any:
    return "INT", {"default": default, "min": 0, "max": 2**64 - 1, "control_after_generate": True}


WAN: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": PROMPT,
    "height": whole(720, 256, 1280, 16),
    "width": whole(1280, 256, 1280, 16),
    "num_frames": whole(81, 17, 121, 4),
    "num_inference_steps": STEPS,
    "guidance_scale": real(
        5.0, 0.0, 20.0, 0.1, "how closely to follow the prompt; 1 and below: unguided, faster"
    ),
}


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (
            "cogvideox-t2v",
            {
                "prompt": PROMPT,
                "negative_prompt": PROMPT,
                "height": whole(720, 256, 1080, 8),
                "width": whole(1280, 256, 1920, 8),
                "num_frames": whole(81, 17, 161, 8),
                "num_inference_steps": STEPS,
                "guidance_scale": real(
                    6.0, 1.0, 20.0, 0.1, "how closely to follow the prompt; 1: unguided, faster"
                ),
                "seed": seed(42),
            },
        ),
        (
            "wan2.1-t2v",
            {
                **WAN,
                "seed": seed(2025),
                "flow_shift": real(5.0, 1.0, 10.0, 0.5, "of the schedule: 5 suits 720p, 3 suits 480p"),
            },
        ),
        (
            "wan2.2-t2v",
            {
                **WAN,
                "num_inference_steps": ("INT", {**STEPS[1], "default": 40}),
                "guidance_scale": ("FLOAT", {**WAN["guidance_scale"][1], "default": 4.0}),
                "seed": seed(0),
                "shift": real(12.0, 1.0, 20.0, 0.1, "of the schedule: 12 is its authors'"),
                "guidance_scale_2": real(3.0, 0.0, 20.0, 0.1, "guidance_scale of transformer_2"),
                "boundary_ratio": real(
                    0.875, 0.0, 1.0, 0.005, "transformer_2 takes the timesteps below this share"
                ),
            },
        ),
        (
            "wan2.2-i2v",
            {
                **WAN,
                "image": ("IMAGE", {}),
                "seed": seed(0),
                "shift": real(5.0, 1.0, 20.0, 0.1, "of the schedule: 5 suits 720p, 3 suits 480p"),
                "boundary_ratio": real(
                    0.9, 0.0, 1.0, 0.01, "transformer_2 takes the timesteps below this share"
                ),
            },
        ),
        (
            "flux.2",
            {
                "prompt": PROMPT,
                "height": whole(1024, 256, 2048, 16),
                "width": whole(1024, 256, 2048, 16),
                "num_inference_steps": STEPS,
                "guidance_scale": real(4.0, 0.0, 20.0, 0.1, "how closely to follow the prompt"),
                "seed": seed(42),
            },
        ),
    ],
)
def test_the_inputs_of_nodes_are_made_of_the_fields(model: str, inputs: dict[str, Any]) -> None:
    request_class = MODELS[model].request_class()
    assert {name: node_input(request_class, name) for name in inputs} == inputs


@pytest.mark.parametrize("node", [name for name, node in NODES.items() if hasattr(node, "MODEL")])
def test_every_node_has_the_inputs_that_the_fields_of_its_models_request_declare(node: str) -> None:
    inputs = NODES[node].INPUTS
    request_class = MODELS[NODES[node].MODEL].request_class()
    fields = [name for name in settings_of(request_class) if name in inputs]
    larger_steps = {"step": 64} if node == "Flux2TPUPipeline" else {}
    for name in fields:
        type_, about = node_input(request_class, name)
        about |= larger_steps if name in ("height", "width") else {}
        assert inputs[name] == (type_, about)


def test_what_a_caller_does_to_a_nodes_input_stays_with_him() -> None:
    node_input(Wan21Request, "prompt")[1]["default"] = "spoiled"
    assert node_input(Wan21Request, "prompt")[1]["default"] == ""


def test_a_field_without_a_widget_is_no_input_of_a_node() -> None:
    with pytest.raises(ValueError, match=r"^use_dynamic_cfg has no widget$"):
        node_input(CogVideoXRequest, "use_dynamic_cfg")


@pytest.mark.parametrize("request_class", [Wan21Request, CogVideoXRequest])
def test_the_prompts_are_those_of_the_guidance_branches_the_prompts_first(request_class: Any) -> None:
    guided = request_class("a cat", "a dog")
    assert (guided.prompts, guided.branches) == (("a cat", "a dog"), 2)
    unguided = dataclasses.replace(guided, guidance_scale=1.0)
    assert (unguided.prompts, unguided.branches) == (("a cat",), 1)


def test_flux2_has_one_prompt_whatever_the_scale() -> None:
    request = Flux2Request("a cat", guidance_scale=4.0)
    assert (request.prompts, request.branches) == (("a cat",), 1)


@pytest.mark.parametrize("model", MODELS)
def test_a_request_of_any_content_needs_none_and_is_checked_as_another(model: str) -> None:
    request = MODELS[model].request_class().of_any_content(height=64, num_inference_steps=2)
    assert (request.prompt, request.height, request.num_inference_steps) == ("", 64, 2)
    assert request.height % request.size_multiple == 0

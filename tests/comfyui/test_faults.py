"""What is wrong with inputs of our nodes is said once, at those inputs, however ComfyUI words it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from crystools_tpu.comfyui.faults import say_faults_once
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS

Result = tuple[bool, list[dict[str, Any]], str]


class TheirNode:
    """Another pack's, which says that something is wrong and not with which input."""

    @classmethod
    def VALIDATE_INPUTS(cls, width: int, height: int) -> str:
        return f"{width} x {height}: too large\nheight: give less"


NODES: dict[str, Any] = {**NODE_CLASS_MAPPINGS, "TheirNode": TheirNode}


def validated_by_comfyui(prompt: dict[str, Any], item: str, validated: dict[str, Result]) -> Result:
    """As ComfyUI does: what a node says, at each of the inputs that it was given."""
    if item in validated:
        return validated[item]
    node = NODES[prompt[item]["class_type"]]
    asked = inspect.getfullargspec(node.VALIDATE_INPUTS).args
    given = {name: value for name, value in prompt[item]["inputs"].items() if name in asked}
    said = node.VALIDATE_INPUTS(**given)
    errors = [
        {
            "type": "custom_validation_failed",
            "details": f"{name} - {said}",
            "extra_info": {"input_name": name},
        }
        for name in given
        if said is not True
    ]
    if "seed" not in prompt[item]["inputs"]:
        errors.append({"type": "required_input_missing", "details": "seed", "extra_info": {}})
    validated[item] = (not errors, errors, item)
    return validated[item]


@pytest.fixture(params=["a function of today's ComfyUI", "a function of older ones"])
def validate(request: pytest.FixtureRequest) -> Callable[[Any, Any], Result]:
    """ComfyUI's own validation of node 1 of a prompt, with what it remembers, after `say_faults_once`."""
    execution: Any = ModuleType("execution")

    async def validate_inputs(prompt_id: str, prompt: Any, item: str, validated: Any) -> Result:
        return validated_by_comfyui(prompt, item, validated)

    is_of_today = request.param.endswith("today's ComfyUI")
    execution.validate_inputs = validate_inputs if is_of_today else validated_by_comfyui
    say_faults_once({"execution": execution}, NODE_CLASS_MAPPINGS)

    def validate(prompt: Any, validated: Any) -> Result:
        if is_of_today:
            result: Result = asyncio.run(execution.validate_inputs("id", prompt, "1", validated))
        else:
            result = execution.validate_inputs(prompt, "1", validated)
        return result

    return validate


def sampler(**inputs: Any) -> dict[str, Any]:
    size = {"height": 256, "width": 256, "num_frames": 17, "seed": 1, "model_id": "org/name"}
    return {"1": {"class_type": "Wan21TPUSampler", "inputs": {**size, **inputs}}}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, []),
        ({"num_frames": 18}, ["num_frames - 18 is not of the form 4n+1; 17 or 21 would do"]),
        (
            {"model_id": "wan"},
            [
                "model_id - 'wan' is no folder; give one, or a hub id of the form org/name, or "
                "tiny-wan2.1-t2v to try it: that is made for you"
            ],
        ),
        (
            {"height": 250, "width": 250, "num_frames": 18, "model_id": "tiny-flux.2"},
            [
                "height - 250 is out of range; give 256 to 1280",
                "width - 250 is out of range; give 256 to 1280",
                "num_frames - 18 is not of the form 4n+1; 17 or 21 would do",
                "model_id - tiny-flux.2 is of flux.2; give tiny-wan2.1-t2v, which is of wan2.1-t2v",
            ],
        ),
    ],
)
def test_each_fault_is_said_at_its_own_input_and_nowhere_else(
    validate: Callable[[Any, Any], Result], inputs: dict[str, Any], said: list[str]
) -> None:
    validated: dict[str, Result] = {}
    for _ in "once", "for another output, from what ComfyUI remembers":
        valid, errors, _ = validate(sampler(**inputs), validated)
        assert [error["details"] for error in errors] == said
        assert [error["extra_info"]["input_name"] for error in errors] == [*inputs][: len(said)]
        assert valid is not bool(said)


def test_what_comfyui_itself_finds_and_what_other_packs_say_stays_as_it_is(
    validate: Callable[[Any, Any], Result],
) -> None:
    prompt = sampler(height=8)
    del prompt["1"]["inputs"]["seed"]
    details = [error["details"] for error in validate(prompt, {})[1]]
    assert details == ["height - 8 is out of range; give 256 to 1280", "seed"]
    theirs = {"1": {"class_type": "TheirNode", "inputs": {"width": 9, "height": 8, "seed": 1}}}
    said = "9 x 8: too large\nheight: give less"
    assert [error["details"] for error in validate(theirs, {})[1]] == [f"width - {said}", f"height - {said}"]


def test_a_comfyui_with_another_function_or_none_is_left_alone() -> None:
    execution: Any = ModuleType("execution")
    say_faults_once({"execution": execution}, NODE_CLASS_MAPPINGS)
    say_faults_once({}, NODE_CLASS_MAPPINGS)
    assert not hasattr(execution, "validate_inputs")
    execution.validate_inputs = another = lambda graph: graph
    say_faults_once({"execution": execution}, NODE_CLASS_MAPPINGS)
    assert execution.validate_inputs is another

"""What the samplers and pipelines of ours in a workflow are asked, read from its graph: nothing is loaded."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from crystools_pipelines.errors import RequestError
from crystools_pipelines.nodes.base import ModelNode, fields_of
from crystools_pipelines.nodes.lora import TPULora
from crystools_pipelines.nodes.stages import DenoisingNode
from crystools_pipelines.nodes.whole import PipelineNode
from crystools_pipelines.requests.fields import Role, names_of, settings_of, values_of
from crystools_tpu.comfyui.prompt_graph import PromptGraph
from crystools_tpu.telemetry import Node

_NUMBERS: Final[Mapping[str, type[Any]]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


@dataclass(frozen=True)
class Sampling:
    """A sampler, or a whole pipeline, and what it is asked.

    `request` is None where another node's output decides of it, or where the model cannot serve it.
    `model_id` is what the node names, None where that is not in the graph; `num_devices` 0 for all.
    `shape_nodes` are the nodes of the model whose inputs say the shape, and `loras` the files and scales that
    the graph says: what another node gives is not known.
    """

    node: Node
    model: str
    request: Any | None
    model_id: str | None
    num_devices: int
    shape_nodes: tuple[str, ...]
    loras: tuple[str, ...]
    is_whole: bool


def as_validated(prompt: Mapping[str, Any], classes: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt with each value as ComfyUI has it once it has validated it: a FLOAT of 5 is 5.0."""
    return {
        node_id: {**node, "inputs": dict(_converted(node["inputs"], classes.get(node["class_type"])))}
        for node_id, node in prompt.items()
    }


def _converted(inputs: Mapping[str, Any], class_: Any) -> Iterator[tuple[str, Any]]:
    kinds = _kinds(class_)
    for name, value in inputs.items():
        if isinstance(value, dict) and "__value__" in value:
            value = value["__value__"]
        convert = None if is_link(value) else kinds.get(name)
        try:
            yield name, value if convert is None else convert(value)
        except (TypeError, ValueError, OverflowError):
            yield name, value  # ComfyUI will refuse it


@functools.cache
def _kinds(class_: Any) -> Mapping[str, type[Any]]:
    """What ComfyUI makes of a class's inputs that are no choice; asked once, for some look into folders."""
    types = class_.INPUT_TYPES() if class_ is not None else {}
    declared = {**types.get("required", {}), **types.get("optional", {})}
    named = {name: about[0] for name, about in declared.items() if isinstance(about, tuple | list) and about}
    return {
        name: _NUMBERS[kind] for name, kind in named.items() if isinstance(kind, str) and kind in _NUMBERS
    }


def is_link(value: Any) -> TypeGuard[list[Any]]:
    """Whether an input's value comes from another node."""
    return isinstance(value, list)


def samplings(graph: PromptGraph, needed: Collection[str]) -> list[Sampling]:
    """The samplers and whole pipelines of ours among these nodes."""
    found = []
    for node_id in needed:
        class_ = graph.class_of(node_id)
        if isinstance(class_, type) and issubclass(class_, DenoisingNode):
            found.append(_sampling(graph, node_id, class_, needed))
    return found


def _sampling(
    graph: PromptGraph, node_id: str, class_: type[DenoisingNode], needed: Collection[str]
) -> Sampling:
    inputs = graph.inputs(node_id)
    before = [
        inputs,
        *(graph.inputs(each) for each in _of_its_model(graph, class_, graph.needed_for([node_id]))),
    ]
    request = _request(class_, before)
    shape = {} if request is None else _shape(request)
    literal = (each["model_id"] for each in before if isinstance(each.get("model_id"), str))
    devices = inputs.get("num_devices", 0)
    return Sampling(
        node=graph.node(node_id),
        model=class_.MODEL,
        request=request,
        model_id=next(literal, None),
        num_devices=devices if isinstance(devices, int) else 0,
        shape_nodes=tuple(
            each
            for each in _of_its_model(graph, class_, needed)
            if shape.keys() & (own := graph.inputs(each)).keys()
            and all(own[name] == value for name, value in shape.items() if name in own)
        ),
        loras=tuple(_loras(graph, inputs)),
        is_whole=issubclass(class_, PipelineNode),
    )


def _loras(graph: PromptGraph, inputs: Mapping[str, Any]) -> list[str]:
    """`detail.safetensors=0.8` of each LoRA that is chained to these inputs, the first one first."""
    found: dict[str, str] = {}
    while is_link(link := inputs.get("lora")) and (node_id := link[0]) not in found:
        class_, inputs = graph.class_of(node_id), graph.inputs(node_id)
        if not (isinstance(class_, type) and issubclass(class_, TPULora)):
            break
        name, strength = inputs.get("lora_name"), inputs.get("strength")
        scale = f"={strength:g}" if isinstance(strength, int | float) else ""
        found[node_id] = f"{name}{scale}" if isinstance(name, str) else ""
    return [each for each in reversed(found.values()) if each]


def _of_its_model(graph: PromptGraph, class_: type[DenoisingNode], node_ids: Collection[str]) -> list[str]:
    """Those of the nodes that are of the sampler's model."""
    kinds = {each: graph.class_of(each) for each in node_ids}
    return [
        each
        for each, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, ModelNode) and kind.MODEL == class_.MODEL
    ]


def _request(class_: type[DenoisingNode], before: list[Mapping[str, Any]]) -> Any | None:
    """The request by the sampler's inputs, its shape else by those of the nodes before it."""
    kind = class_.request_class()
    content = names_of(kind, Role.CONTENT)
    values: dict[str, Any] = {}
    for name in settings_of(kind):
        if name in content:
            continue
        of_whom = before if name in names_of(kind, Role.SHAPE) else before[:1]
        given = next((inputs[name] for inputs in of_whom if name in inputs), None)
        if is_link(given):
            return None
        if given is not None:
            values[name] = given
    try:
        return kind.of_any_content(**fields_of(kind, values))
    except (RequestError, TypeError):
        return None


def _shape(request: Any) -> dict[str, Any]:
    return {name: value for name, value in values_of(request, Role.SHAPE).items() if value is not None}

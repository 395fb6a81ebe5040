"""From a workflow as ComfyUI's page saves it to a prompt, as that page makes one: widgets by their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def prompt_of(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """What is posted to `/prompt`. Inputs that the workflow has no value for have their defaults."""
    sources = {link: [str(source), slot] for link, source, slot, *_ in workflow["links"]}
    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": _widgets(node, object_info[node["type"]]["input"])
            | {
                socket["name"]: sources[socket["link"]]
                for socket in node.get("inputs", [])
                if socket.get("link") is not None
            },
        }
        for node in workflow["nodes"]
        if node["type"] in object_info
    }


def _widgets(node: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    values, given = list(node.get("widgets_values", [])), {}
    for name, (type_, *about) in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
        options = about[0] if about else {}
        if not (isinstance(type_, list) or type_ in WIDGETS):
            continue
        if values:
            given[name] = values.pop(0)
            if name == "seed" or options.get("image_upload"):  # the widgets that the page puts after it
                values[:1] = []
        elif "default" in options:
            given[name] = options["default"]
    return given

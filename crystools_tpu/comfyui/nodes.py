"""All nodes of the pack, by the ids that workflows use."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

from crystools_pipelines.models import NODE_MODULES
from crystools_pipelines.nodes.stages import DenoisingNode
from crystools_tpu.bounds import warn_of_what_is_out_of_bounds
from crystools_tpu.comfyui.previews import previews_of
from crystools_tpu.comfyui.progress import node_progress
from crystools_tpu.comfyui.timing_nodes import TPUTimingPlot, TPUTimingReport
from crystools_tpu.imports import import_failure

Node: TypeAlias = type[Any]

_REQUIREMENTS: Final = Path(__file__).parents[2] / "requirements.txt"


class MissingPackageError(Exception):
    """A node needs a package that cannot be imported. The message says why, and which command helps."""


def collect(modules: Iterable[str]) -> tuple[dict[str, Node], dict[str, str]]:
    """The node classes and display names of these modules together."""
    classes: dict[str, Node] = {}
    names: dict[str, str] = {}
    for module in map(importlib.import_module, modules):
        classes |= {id_: adapted(node) for id_, node in module.NODE_CLASS_MAPPINGS.items()}
        names |= module.NODE_DISPLAY_NAME_MAPPINGS
    return classes, names


def adapted(node: Node) -> Node:
    """The node as ComfyUI may run it.

    ComfyUI runs nodes in torch's inference mode, in which torchax meets operators whole (dropout) that it has
    no lowering for: the function runs outside of it. A package that is missing or broken is a
    MissingPackageError. A node that asks for `unique_id` has its progress shown, and calls `self.on_step`
    after each step. One with a LATENT_FORMAT has its latents previewed, by `self.on_latents`.
    """
    function = getattr(node, node.FUNCTION)

    @functools.wraps(function)
    def execute(self: Any, *args: Any, unique_id: str | None = None, **inputs: Any) -> Any:
        warn_of_what_is_out_of_bounds()
        try:
            import torch

            previews = previews_of(getattr(node, "LATENT_FORMAT", None))
            self.on_latents = None if previews is None else previews.on_latents
            steps = node.steps_of(inputs) if issubclass(node, DenoisingNode) else None
            progress = node_progress(unique_id, steps=steps, previews=previews)
            with torch.inference_mode(False), progress as self.on_step:
                return function(self, *args, **inputs)
        except Exception as error:
            if (failure := import_failure(error)) is None:
                raise
            cure = failure.cure(install_command())
            raise MissingPackageError(f"{failure.reason}. Run this and restart ComfyUI: {cure}") from error

    return type(node.__name__, (node,), {node.FUNCTION: execute, "__doc__": node.__doc__})


def install_command(requirements: Path = _REQUIREMENTS) -> str:
    """What installs all that the nodes need into the Python that runs here."""
    what = f"-r {requirements}" if requirements.exists() else "'crystools-tpu[comfyui]'"
    return f"{sys.executable} -m pip install {what}"


_model_classes, _model_names = collect(NODE_MODULES)

NODE_CLASS_MAPPINGS: Final[dict[str, Node]] = {
    **_model_classes,
    "TPUTimingReport": TPUTimingReport,
    "TPUTimingPlot": adapted(TPUTimingPlot),
}
NODE_DISPLAY_NAME_MAPPINGS: Final[dict[str, str]] = {
    **_model_names,
    "TPUTimingReport": "TPU Timing Report",
    "TPUTimingPlot": "TPU Timing Plot",
}

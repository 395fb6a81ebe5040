"""The node of a LoRA, for every model: a file of ComfyUI's `models/loras`, and how strongly."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final

from crystools_pipelines.errors import RequestError
from crystools_pipelines.nodes.base import LORA
from crystools_pipelines.requests.lora import Expert, Lora
from crystools_pipelines.tiny.on_demand import tiny_lora_location, tiny_lora_names

_FOLDER: Final = "loras"
_SUFFIX: Final = ".safetensors"
_MOST_NAMED: Final = 5

_EXPERTS: Final[Mapping[str, Expert | None]] = {"both": None, "high noise": "high", "low noise": "low"}
"""What the node calls whose LoRA it is."""


class TPULora:
    """A LoRA, and those that it is chained to."""

    CATEGORY = "crystools-tpu"
    DESCRIPTION = (
        "A LoRA for any of the samplers and pipelines: it is merged into the weights, and costs no step time."
    )
    FUNCTION = "chain"
    RETURN_TYPES = (LORA,)
    RETURN_NAMES = ("lora",)
    TIMELESS_INPUTS: ClassVar = ("lora_name", "strength", "expert")
    """A workflow with another LoRA takes the same time."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The names are those that are there now."""
        strength = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}
        return {
            "required": {
                "lora_name": (names(), {"tooltip": "a file of ComfyUI's models/loras"}),
                "strength": ("FLOAT", {**strength, "tooltip": "how strongly; 0 is as without it"}),
                "expert": ([*_EXPERTS], {"tooltip": "of Wan2.2's two transformers for which; else both"}),
            },
            "optional": {"lora": (LORA, {"tooltip": "another TPU LoRA, to have both"})},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None = None) -> bool | str:
        """True, or what is wrong with the name: a file may have gone since the page was told of it.

        ComfyUI hands over None where another node gives it.
        """
        try:
            if lora_name is not None:
                location_of(lora_name)
        except RequestError as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, lora_name: str | None = None, **_: Any) -> str:
        """Another text for another file under the same name, so that the nodes behind are executed again.

        One that is made on demand is the same before and after.
        """
        if lora_name is None or lora_name in tiny_lora_names():
            return ""
        try:
            found = Path(location_of(lora_name)).stat()
        except (RequestError, OSError):  # the node will say so
            return ""
        return f"{found.st_mtime_ns} {found.st_size}"

    def chain(
        self, lora_name: str, strength: float, expert: str, lora: Sequence[Lora] = ()
    ) -> tuple[tuple[Lora, ...]]:
        """This one after the others."""
        return ((*lora, Lora(location_of(lora_name), strength, _EXPERTS[expert])),)


def names(modules: Mapping[str, ModuleType] = sys.modules) -> list[str]:
    """What may be chosen: ComfyUI's files in the one format that is read, then what is made on demand."""
    comfyuis = modules.get("folder_paths")
    found: Sequence[str] = () if comfyuis is None else comfyuis.get_filename_list(_FOLDER)
    return [*(name for name in found if name.endswith(_SUFFIX)), *tiny_lora_names()]


def location_of(name: str, modules: Mapping[str, ModuleType] = sys.modules) -> str:
    """The file of that name, or where a tiny one will be once it is made. Raises RequestError for neither."""
    comfyuis = modules.get("folder_paths")
    path = None if comfyuis is None else comfyuis.get_full_path(_FOLDER, name)
    if path is None and (path := tiny_lora_location(name)) is None:
        raise RequestError("lora_name", _missing(name, comfyuis))
    if not name.endswith(_SUFFIX):
        raise RequestError("lora_name", f"{name!r} is no {_SUFFIX} file; convert it, or choose one that is")
    return str(path)


def _missing(name: str, comfyuis: Any) -> str:
    folders = " or ".join(() if comfyuis is None else comfyuis.get_folder_paths(_FOLDER)) or "models/loras"
    there = [] if comfyuis is None else comfyuis.get_filename_list(_FOLDER)
    has = ", ".join(there[:_MOST_NAMED]) or "no file yet"
    return f"{name!r} is no file in {folders}; put it there, and press R. The folder has {has}"


NODE_CLASS_MAPPINGS: Final = {"TPULora": TPULora}
NODE_DISPLAY_NAME_MAPPINGS: Final = {"TPULora": "TPU LoRA"}

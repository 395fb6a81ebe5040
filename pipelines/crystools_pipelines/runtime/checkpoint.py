"""Where a diffusers checkpoint is: a folder, or a repository of the Hugging Face hub, fetched in parts."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub import snapshot_download

from crystools_pipelines.runtime.errors import CheckpointError, RequestError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


class Checkpoint:
    """A checkpoint in diffusers' format: one subfolder a component.

    Raises RequestError where `location` is neither a folder nor a hub id.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        self._root = Path(location) if Path(location).is_dir() else None
        if self._root is None and not _HUB_ID.fullmatch(self.location):
            raise RequestError(
                "checkpoint", f"{self.location!r} is no folder; give one, or a hub id of the form org/name"
            )

    def index(self) -> dict[str, Any]:
        """The whole pipeline's configuration, `model_index.json`."""
        file = self._download(["model_index.json"]) / "model_index.json"
        if not file.is_file():
            raise CheckpointError(f"{self.location} has no {file.name}: it is not in diffusers' format")
        index: dict[str, Any] = json.loads(file.read_text())
        return index

    def config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        """The component's configuration: what stands in its file, and its diffusers class's defaults."""
        config: dict[str, Any] = json.loads((self._fetch(component, [file]) / file).read_text())
        return _defaults(config.get("_class_name", "")) | config

    def weights(self, component: str) -> Path:
        """The folder with the component's safetensors and configuration."""
        return self._fetch(component, ["config.json", *_WEIGHTS])

    def configurations(self) -> Path:
        """The folder in which the configurations of all components are."""
        return self._download(["model_index.json", "*/config.json", "*/scheduler_config.json"])

    def folder(self, component: str) -> Path:
        """The whole folder of a component, for one without weights."""
        return self._fetch(component, ["*"])

    def _fetch(self, component: str, patterns: list[str]) -> Path:
        root = self._download([f"{component}/{pattern}" for pattern in patterns])
        if not (root / component).is_dir():
            raise CheckpointError(
                f"{self.location} has no folder {component!r}: it is not in diffusers' format"
            )
        return root / component

    def _download(self, patterns: list[str]) -> Path:
        """The folder that holds, or would, what matches `patterns`."""
        return self._root or Path(snapshot_download(self.location, allow_patterns=patterns))


def _defaults(class_name: str) -> dict[str, Any]:
    """What a class of diffusers takes for what a file leaves out: older checkpoints lack newer settings."""
    if not hasattr(diffusers, class_name):
        return {}
    parameters = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }

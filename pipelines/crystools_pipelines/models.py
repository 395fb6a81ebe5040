"""The models there are, by the id that commands and telemetry use. Importing this imports none of them."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Model:
    """Where a model is: its package, and the name of its request class in `request.py`."""

    package: str
    request_name: str

    def request_class(self) -> type[Any]:
        """The dataclass of what one may ask; quick to import."""
        module = importlib.import_module(f"crystools_pipelines.{self.package}.request")
        request: type[Any] = getattr(module, self.request_name)
        return request

    def pipeline(self) -> ModuleType:
        """The module with `generate`; imports jax, torch and diffusers."""
        return importlib.import_module(f"crystools_pipelines.{self.package}.pipeline")


MODELS = {
    "cogvideox-t2v": Model("cogvideox", "CogVideoXRequest"),
    "wan2.1-t2v": Model("wan21", "Wan21Request"),
}

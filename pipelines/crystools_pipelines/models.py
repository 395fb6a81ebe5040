"""The models there are, by the id that commands and telemetry use. Importing this imports none of them."""

import importlib
import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
# Where a checkpoint in diffusers' format does not keep them under `config.json`.
_CONFIG_FILES = {"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}


@dataclass(frozen=True)
class Model:
    """Where a model is: its package, and the name of its request class in `request.py`.

    The package has `pipeline.py` (the stages), `nodes.py`, `tiny.py` and `published.json` too. `hub_id` is
    its published checkpoint.
    """

    id: str
    package: str
    request_name: str
    hub_id: str
    makes: Literal["image", "video"] = "video"

    def request_class(self) -> type[Any]:
        """The dataclass of what one may ask; quick to import."""
        request: type[Any] = getattr(self._module("request"), self.request_name)
        return request

    def pipeline(self) -> Any:
        """Its stages, a `runtime.pipeline.Pipeline`; imports jax, torch and diffusers."""
        return self._module("pipeline").PIPELINE

    def tiny_checkpoint(self) -> "DiffusionPipeline":
        """A tiny random one, as diffusers' own pipeline; imports torch and diffusers."""
        tiny: DiffusionPipeline = self._module("tiny").tiny_checkpoint()
        return tiny

    def _module(self, name: str) -> ModuleType:
        return importlib.import_module(f"crystools_pipelines.{self.package}.{name}")

    def write_published(self, folder: Path) -> Path:
        """The published checkpoint without weights and tokenizer: its configurations, in `folder`.

        Of each configuration there is what matters to the architecture.
        """
        for component, config in self.published().items():
            path = _config_file(folder, component)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(config))
        return folder

    def published(self) -> dict[str, dict[str, Any]]:
        """The published checkpoint's configurations, by component: what matters to the architecture."""
        resource = importlib.resources.files(f"crystools_pipelines.{self.package}") / "published.json"
        published: dict[str, dict[str, Any]] = json.loads(resource.read_text())
        return published

    def is_published(self, folder: Path) -> bool:
        """Whether a checkpoint's configurations say all that the published ones do."""
        try:
            return all(
                config.items() <= json.loads(_config_file(folder, component).read_text()).items()
                for component, config in self.published().items()
            )
        except (OSError, ValueError, AttributeError):
            return False


def _config_file(folder: Path, component: str) -> Path:
    return folder / _CONFIG_FILES.get(component, f"{component}/config.json")


MODELS = {
    model.id: model
    for model in (
        Model("cogvideox-t2v", "cogvideox", "CogVideoXRequest", "zai-org/CogVideoX1.5-5B"),
        Model("wan2.1-t2v", "wan.wan21_t2v", "Wan21Request", "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
        Model("wan2.2-t2v", "wan.wan22_t2v", "Wan22T2VRequest", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
        Model("wan2.2-i2v", "wan.wan22_i2v", "Wan22I2VRequest", "Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
        Model("flux.2", "flux2", "Flux2Request", "black-forest-labs/FLUX.2-dev", makes="image"),
    )
}

NODE_MODULES = (
    *(f"crystools_pipelines.{model.package}.nodes" for model in MODELS.values()),
    "crystools_pipelines.nodes.lora",
)
"""The modules with the models' nodes, and that of LoRAs. Each has `NODE_CLASS_MAPPINGS` and
`NODE_DISPLAY_NAME_MAPPINGS`, and imports jax, torch and diffusers in the nodes' functions alone."""

"""What the nodes of all models share: their inputs, a run of their own, and what one node hands to the next.

Importing it imports neither jax nor torch. ComfyUI is met by name alone, where it runs in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from crystools_pipelines.errors import RequestError
from crystools_pipelines.weights.location import folders_beside, is_hub_id
from crystools_tpu import telemetry

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh
    from numpy.typing import NDArray

    from crystools_pipelines.runtime.job import Job
    from crystools_pipelines.weights.checkpoint import Checkpoint
    from crystools_pipelines.weights.part import Part
    from crystools_tpu.telemetry.events import Params

Input: TypeAlias = tuple[str, dict[str, Any]]
Timing: TypeAlias = dict[str, Any]

TIMING: Final = "TPU_TIMING"
"""The socket of a run's report, as `telemetry.to_wire` gives it."""


class _RateType(str):
    """A whole number of frames a second. ComfyUI's own CreateVideo takes a FLOAT, and refuses an INT."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __ne__(self, other: object) -> bool:
        return other != "FLOAT" and str.__ne__(self, other)


RATE: Final = _RateType("INT")

PROMPT: Final[Input] = ("STRING", {"multiline": True, "default": ""})
STEPS: Final[Input] = ("INT", {"default": 50, "min": 1, "max": 100, "tooltip": "denoising steps"})
FPS: Final[Input] = (
    "INT",
    {"default": 16, "min": 1, "max": 60, "tooltip": "frames a second, handed on as it is"},
)
NUM_DEVICES: Final[Input] = (
    "INT",
    {"default": 0, "min": 0, "max": 256, "tooltip": "how many chips to use; 0 means all"},
)


def whole(default: int, low: int, high: int, step: int = 1) -> Input:
    """A whole number in steps from `low`."""
    return "INT", {"default": default, "min": low, "max": high, "step": step}


def real(default: float, low: float, high: float, step: float, tooltip: str) -> Input:
    """A number."""
    return "FLOAT", {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip}


def seed(default: int) -> Input:
    """A seed as KSampler has it, with the frontend's own widget after it: what becomes of it after a run."""
    return "INT", {"default": default, "min": 0, "max": 2**64 - 1, "control_after_generate": True}


def model_id(default: str) -> Input:
    """Where a model is."""
    tooltip = "a folder in diffusers' format, also one in ComfyUI's models/diffusers, or a hub id org/name"
    return "STRING", {"default": default, "tooltip": tooltip}


class ModelNode:
    """A node of a model. Each execution is a run of the model's pipeline.

    Whoever executes nodes sets `on_step`; it is called after each step, and what it raises ends the run.
    """

    PIPELINE: ClassVar[str]
    INPUTS: ClassVar[Mapping[str, Input]]
    CATEGORY: ClassVar[str]

    on_step: Callable[[], None] = staticmethod(lambda: None)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """As ComfyUI asks. Workflows that were made before there was `num_devices` run without it."""
        required = dict(cls.INPUTS)
        optional = {name: required.pop(name) for name in ("num_devices",) if name in required}
        types = {"required": required, "optional": optional, "hidden": {"unique_id": "UNIQUE_ID"}}
        return {kind: inputs for kind, inputs in types.items() if inputs}

    def job(
        self,
        checkpoint: Checkpoint,
        mesh: Mesh,
        params: Params,
        parts: Sequence[Part[Any]],
        request: Any = None,
    ) -> AbstractContextManager[Job]:
        """A run of the pipeline that loads `parts`. What was planned of all of `request` is its forecast."""
        from crystools_pipelines.planning.forecasting import kept_forecast
        from crystools_pipelines.runtime.job import started_job

        named = {"node": type(self).__name__, **params}
        forecast = None if request is None else kept_forecast(self.PIPELINE, request, checkpoint, mesh)
        return started_job(
            self.PIPELINE, named, checkpoint, mesh, on_step=self.on_step, forecast=forecast, parts=parts
        )

    @classmethod
    def verdict(cls, check: Callable[..., object], **given: Any) -> bool | str:
        """What `VALIDATE_INPUTS` answers: True, or what is wrong and what would do.

        Of the inputs that it is asked about ComfyUI checks no range, and those that another node gives are
        None. `check` gets the others.
        """
        known = {name: value for name, value in given.items() if value is not None}
        try:
            for name, value in known.items():
                _check_range(name, value, cls.INPUTS[name][1])
            if (location := known.pop("model_id", None)) is not None:
                locate(location)
            check(**known)
        except RequestError as error:
            return str(error)
        return True


def _check_range(name: str, value: Any, about: Mapping[str, Any]) -> None:
    if "min" in about and not about["min"] <= value <= about["max"]:
        raise RequestError(name, f"{value} is out of range; give {about['min']} to {about['max']}")


def timing_of(job: Job) -> Timing:
    """The report of a run that has ended, as the timing nodes take it."""
    return telemetry.to_wire(job.run.report)


def locate(model_id: str, modules: Mapping[str, ModuleType] = sys.modules) -> str:
    """Where the checkpoint is: a folder as named or in ComfyUI's folders of diffusers models, or a hub id.

    Raises RequestError where it is neither.
    """
    comfyuis = modules.get("folder_paths")
    roots: Sequence[str] = () if comfyuis is None else comfyuis.get_folder_paths("diffusers")
    name = model_id.strip()
    if name:
        for folder in (Path(name), *(Path(root, name) for root in roots)):
            if folder.is_dir():
                return str(folder)
    if not is_hub_id(name):
        here = "".join(f", nor one in {root}" for root in roots)
        raise RequestError(
            "model_id",
            f"{model_id!r} is no folder{here}; give one, or a hub id of the form org/name"
            f"{folders_beside(name)}",
        )
    return name


def checkpoint_at(model_id: str) -> Checkpoint:
    """The checkpoint that an input names."""
    from crystools_pipelines.weights.checkpoint import Checkpoint

    return Checkpoint(locate(model_id))


def devices(num_devices: int = 0) -> list[jax.Device]:
    """The first of the devices, all for 0. Raises RequestError for more than there are."""
    from crystools_pipelines.runtime.job import choose_devices

    try:
        return choose_devices(num_devices)
    except RequestError as error:
        raise RequestError("num_devices", error.message) from None


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A prompt as a text encoder sees it: `values` `[1, tokens, width]`, on the host in the encoder's dtype.

    On the host they outlive Unload Models, and go to any number of devices. `location` is the checkpoint's.
    """

    pipeline: str
    location: str
    prompt: str
    values: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Latents:
    """What a sampler made, float32 on the host as the model's own decoder takes it; sizes in pixels."""

    pipeline: str
    location: str
    values: NDArray[Any]
    height: int
    width: int
    num_frames: int = 1

    @property
    def size(self) -> dict[str, int]:
        """As a report has it."""
        return {"height": self.height, "width": self.width, "num_frames": self.num_frames}


def check_origin(name: str, handed: Embeddings | Latents, pipeline: str) -> None:
    """Raises RequestError for what a node of another model has made."""
    if handed.pipeline != pipeline:
        raise RequestError(name, f"these are of {handed.pipeline}; connect those of {pipeline}")


def check_width(name: str, embeddings: Embeddings, width: int) -> None:
    """Raises RequestError for embeddings that are not as wide as the transformer takes them."""
    given = embeddings.values.shape[-1]
    if given != width:
        raise RequestError(
            name,
            f"those of {embeddings.location} have width {given}, the transformer takes {width}; "
            "give the text encoder the sampler's model_id",
        )

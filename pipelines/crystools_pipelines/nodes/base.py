"""What the nodes of all models share: their inputs and outputs, and a run of their own.

Importing it imports neither jax nor torch. ComfyUI is met by name alone, where it runs in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from crystools_pipelines.errors import RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.requests.fields import Input, node_input, settings_of
from crystools_pipelines.tiny.on_demand import make_missing, tiny_location, tiny_name
from crystools_pipelines.weights.location import folders_beside, is_hub_id
from crystools_tpu import telemetry

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh

    from crystools_pipelines.requests.lora import Lora
    from crystools_pipelines.runtime.job import Job, OnLatents
    from crystools_pipelines.runtime.pipeline import Pipeline
    from crystools_pipelines.weights.checkpoint import Checkpoint
    from crystools_pipelines.weights.part import Part
    from crystools_tpu.telemetry import StageWork
    from crystools_tpu.telemetry.events import Params

Timing: TypeAlias = dict[str, Any]

LORA: Final = "TPU_LORA"
"""The socket of a tuple of `requests.lora.Lora`."""

TIMING: Final = "TPU_TIMING"
"""The socket of a run's report, as `telemetry.to_wire` gives it."""


class _RateType(str):
    """A whole number of frames a second. ComfyUI's own CreateVideo takes a FLOAT, and refuses an INT."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __ne__(self, other: object) -> bool:
        return other != "FLOAT" and str.__ne__(self, other)


_OUTPUTS: Final[Mapping[str, str]] = {
    "frames": "IMAGE",
    "image": "IMAGE",
    "fps": _RateType("INT"),
    "num_frames": "INT",
    "info": "STRING",
    "timing": TIMING,
}
"""The types of outputs that other nodes take too, by name."""

_SHARED_INPUTS: Final[Mapping[str, Input]] = {
    "fps": ("INT", {"default": 16, "min": 1, "max": 60, "tooltip": "frames a second, handed on as it is"}),
    "num_devices": (
        "INT",
        {"default": 0, "min": 0, "max": 256, "tooltip": "how many chips to use; 0 means all"},
    ),
}

_MODEL_ID: Final = (
    "a folder in diffusers' format, also one in ComfyUI's models/diffusers, or a hub id org/name"
)


class ModelNode:
    """A node of a model. Each execution is a run of the model's pipeline.

    Whoever executes nodes sets `on_step`; it is called after each step, and what it raises ends the run. Who
    previews latents sets `on_latents`.
    """

    MODEL: ClassVar[str]
    """The model's id among MODELS."""
    NAME: ClassVar[str]
    """The model's name in the node's title, before `TITLE`."""
    TITLE: ClassVar[str]
    SOCKETS: ClassVar[str]
    """The prefix of the types of the model's own sockets."""
    INPUT_NAMES: ClassVar[Sequence[str]]
    """The inputs that must be given, in their order: fields of the request, `model_id`, `fps`, or the model's
    own sockets."""
    RETURN_NAMES: ClassVar[Sequence[str]]

    INPUTS: ClassVar[Mapping[str, Input]]
    RETURN_TYPES: ClassVar[Sequence[str]]

    on_step: Callable[[], None] = staticmethod(lambda: None)
    on_latents: OnLatents | None = None

    def __init_subclass__(cls) -> None:
        """A model's node has the types of its inputs and outputs by their names."""
        super().__init_subclass__()
        if hasattr(cls, "MODEL"):
            names = (*cls.INPUT_NAMES, *cls.optional_names())
            cls.INPUTS = {name: cls._input(name) for name in names}
            cls.RETURN_TYPES = tuple(_OUTPUTS.get(name) or cls._socket(name) for name in cls.RETURN_NAMES)

    @classmethod
    def optional_names(cls) -> Sequence[str]:
        """The inputs that a workflow may be without, in their order after the others."""
        return ()

    @classmethod
    def _input(cls, name: str) -> Input:
        if name == "lora":
            return LORA, {"tooltip": "what a TPU LoRA node gives"}
        if name == "model_id":
            return "STRING", {"default": MODELS[cls.MODEL].hub_id, "tooltip": _MODEL_ID}
        if name in _SHARED_INPUTS:
            return _SHARED_INPUTS[name]
        if name in settings_of(cls.request_class()):
            return node_input(cls.request_class(), name)
        return cls._socket(name), {}

    @classmethod
    def _socket(cls, name: str) -> str:
        """The type of one of the model's own sockets: all kinds of embeddings are of one."""
        return f"{cls.SOCKETS}_{'EMBEDDINGS' if 'embed' in name else name.upper()}"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs in ComfyUI's form."""
        required = {name: cls.INPUTS[name] for name in cls.INPUT_NAMES}
        optional = {name: cls.INPUTS[name] for name in cls.optional_names()}
        types = {"required": required, "optional": optional, "hidden": {"unique_id": "UNIQUE_ID"}}
        return {kind: inputs for kind, inputs in types.items() if inputs}

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        model_id: str | None = None,
        sigmas: str | None = None,
        timesteps: str | None = None,
        step_cache: str | None = None,
    ) -> bool | str:
        """True, or what is wrong and what would do, a line for each input that is wrong: its name, and why.

        ComfyUI hands over those of these inputs that the node has; it checks no range of them, and those that
        another node gives are None.
        """
        fields = {
            "height": height,
            "width": width,
            "num_frames": num_frames,
            "num_inference_steps": num_inference_steps,
            "sigmas": sigmas,
            "timesteps": timesteps,
            "step_cache": step_cache,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        checks: list[Callable[[], object]] = [
            partial(cls._check_field, name, value) for name, value in given.items()
        ]
        if model_id is not None:
            checks.append(partial(locate, model_id, cls.MODEL))
        faults = _faults(checks) or _faults([partial(cls._check_together, given)])
        return "\n".join(faults) or True

    @classmethod
    def _check_field(cls, name: str, value: Any) -> None:
        _check_range(name, value, cls.INPUTS[name][1])
        cls._check_together({name: value})

    @classmethod
    def _check_together(cls, given: Mapping[str, Any]) -> None:
        kind = cls.request_class()
        kind.of_any_content(**fields_of(kind, given))

    @classmethod
    def request_class(cls) -> type[Any]:
        """The dataclass of what one may ask of the model."""
        return MODELS[cls.MODEL].request_class()

    @classmethod
    def pipeline(cls) -> Pipeline[Any, Any]:
        """The model's stages; imports jax, torch and diffusers."""
        pipeline: Pipeline[Any, Any] = MODELS[cls.MODEL].pipeline()
        return pipeline

    @contextmanager
    def job(
        self,
        checkpoint: Checkpoint,
        mesh: Mesh,
        params: Params,
        parts: Sequence[Part[Any]],
        request: Any = None,
        work: Sequence[StageWork] = (),
    ) -> Iterator[Job]:
        """A run of the pipeline that loads `parts`. What was planned of all of `request` is its forecast."""
        from crystools_pipelines.run import started_run

        params = {"node": type(self).__name__, **params}
        with started_run(
            self.MODEL,
            params,
            checkpoint,
            mesh,
            parts,
            request=request,
            work=work,
            on_step=self.on_step,
            on_latents=self.on_latents,
        ) as job:
            if checkpoint.news is not None:
                job.run.warn(checkpoint.news)
            yield job


def fields_of(request_class: type[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The request's fields by the inputs of their names: of a field that is parsed the text, none if empty.

    Raises RequestError for a text that is no value.
    """
    fields = {}
    for name, value in inputs.items():
        parse = settings_of(request_class)[name].parse
        if parse is None or not isinstance(value, str):
            fields[name] = value
        elif value.strip():
            fields[name] = parse(name, value)
    return fields


def node_mappings(*nodes: type[ModelNode]) -> tuple[dict[str, type[ModelNode]], dict[str, str]]:
    """ComfyUI's `NODE_CLASS_MAPPINGS` and `NODE_DISPLAY_NAME_MAPPINGS`: a node's id is its class's name."""
    classes = {node.__name__: node for node in nodes}
    return classes, {id_: f"{node.NAME} {node.TITLE} (TPU)" for id_, node in classes.items()}


def _faults(checks: Iterable[Callable[[], object]]) -> list[str]:
    """What they refuse."""
    faults = []
    for check in checks:
        try:
            check()
        except RequestError as error:
            faults.append(str(error))
    return faults


def _check_range(name: str, value: Any, about: Mapping[str, Any]) -> None:
    if "min" in about and not about["min"] <= value <= about["max"]:
        raise RequestError(name, f"{value} is out of range; give {about['min']} to {about['max']}")


def timing_of(job: Job) -> Timing:
    """The report of a run that has ended, as the timing nodes take it."""
    return telemetry.to_wire(job.run.report)


def locate(model_id: str, model: str | None = None, modules: Mapping[str, ModuleType] = sys.modules) -> str:
    """Where the checkpoint is: a folder as named or in ComfyUI's folders of diffusers models, or a hub id; or
    where a tiny one will be once it is made.

    Raises RequestError where it is none of these, and for a tiny one of another `model`.
    """
    comfyuis = modules.get("folder_paths")
    roots: Sequence[str] = () if comfyuis is None else comfyuis.get_folder_paths("diffusers")
    name = model_id.strip()
    if name:
        for folder in (Path(name), *(Path(root, name) for root in roots)):
            if folder.is_dir():
                return str(folder)
    if (tiny := tiny_location(name, model, "model_id")) is not None:
        return tiny
    if not is_hub_id(name):
        here = "".join(f", nor one in {root}" for root in roots)
        to_try = "" if model is None else f", or {tiny_name(model)} to try it: that is made for you"
        raise RequestError(
            "model_id",
            f"{model_id!r} is no folder{here}; give one, or a hub id of the form org/name{to_try}"
            f"{folders_beside(name)}",
        )
    return name


def checkpoint_at(model_id: str, loras: Sequence[Lora] = ()) -> Checkpoint:
    """The checkpoint that an input names. It and these LoRAs are made where they are tiny ones and missing.

    Raises CheckpointError where it cannot be written.
    """
    from crystools_pipelines.weights.checkpoint import Checkpoint

    location = locate(model_id)
    news = [made for each in (location, *(lora.location for lora in loras)) if (made := make_missing(each))]
    return Checkpoint(location, news="; ".join(news) or None)


def devices(num_devices: int = 0) -> list[jax.Device]:
    """The first of the devices, all for 0. Raises RequestError for more than there are."""
    from crystools_pipelines.runtime.job import choose_devices

    try:
        return choose_devices(num_devices)
    except RequestError as error:
        raise RequestError("num_devices", error.message) from None

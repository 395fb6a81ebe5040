"""Whether a checkpoint's configurations are those of a model, told before anything of it is loaded.

What stands in its files beside them is looked at where their headers are read (`weights.loading`).
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import diffusers

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.models import MODELS
from crystools_pipelines.weights.checkpoint import TOKENIZER, Checkpoint
from crystools_pipelines.weights.stored import UNQUANTISED

# What diffusers keeps with a pipeline, and what is not needed to make anything of a prompt.
_IDLE = ("feature_extractor", "image_processor", "safety_checker")

# What some names in `model_index.json` mean.
_MEANINGS = {
    "transformer_2": "two experts, as Wan2.2 has them",
    "boundary_ratio": "a boundary between two experts, as Wan2.2 has them",
    "expand_timesteps": "a timestep for each token, as Wan2.2 5B has them",
    "image_encoder": "an image encoder",
}


class Size(NamedTuple):
    """A size in a checkpoint's configurations, and what the model takes."""

    what: str
    found: Any
    wanted: Any


def check_all_heeded(model: str, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError where the model would not heed all that `model_index.json` says."""
    if not checkpoint.has_index:
        return
    index = checkpoint.index()
    published = MODELS[model].published()
    heeded = {*published, *published["model_index"], TOKENIZER, *_IDLE}
    known = _settings(index.get("_class_name"))
    beyond = [
        name
        for name, value in index.items()
        if not name.startswith("_") and name not in heeded and _means_something(name, value, known)
    ]
    if beyond:
        means = next((_MEANINGS[name] for name in _MEANINGS if name in beyond), "more than the model has")
        raise CheckpointError(
            f"{_named(checkpoint)} with {means} ({', '.join(beyond)} in model_index.json), of which {model} "
            f"would not make use; {_remedy(model, checkpoint)}"
        )


def check_classes(model: str, checkpoint: Checkpoint, components: Iterable[str]) -> None:
    """Raises CheckpointError unless these components are there, of the published checkpoint's classes."""
    published = MODELS[model].published()
    for component in components:
        config = checkpoint.config(component)
        for key in ("_class_name", "model_type"):
            wanted = published[component].get(key)
            if wanted is not None and config.get(key) != wanted:
                found = config.get("_class_name") or config.get("model_type") or "of no class"
                raise CheckpointError(
                    f"{_named(checkpoint)}: its {component} is {found}, {model} takes {wanted}; "
                    f"{_remedy(model, checkpoint)}"
                )


def check_unquantised(checkpoint: Checkpoint, components: Iterable[str]) -> None:
    """Raises CheckpointError where the configuration of one of these components says that it is quantised."""
    for component in components:
        config = checkpoint.config(component)
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            if quantisation := part.get("quantization_config"):
                how = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
                raise CheckpointError(
                    f"{checkpoint.location}: its {component} is quantised with {how or 'an unknown method'} "
                    f"(quantization_config in config.json); {UNQUANTISED}"
                )


def check_components(model: str, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless the parts of every model are this one's, heeded whole and unquantised."""
    components = ("transformer", "text_encoder", "vae")
    check_all_heeded(model, checkpoint)
    check_classes(model, checkpoint, components)
    check_unquantised(checkpoint, components)


def check_sizes(model: str, checkpoint: Checkpoint, sizes: Iterable[Size]) -> None:
    """Raises CheckpointError for the first size that is not what the model takes."""
    for what, found, wanted in sizes:
        if found != wanted:
            raise CheckpointError(
                f"{_named(checkpoint)}: {what} {found}, {model} takes {wanted}; {_remedy(model, checkpoint)}"
            )


def _settings(class_name: Any) -> Mapping[str, inspect.Parameter] | None:
    """What diffusers' class of that name takes, None where it has none."""
    if not isinstance(class_name, str) or not hasattr(diffusers, class_name):
        return None
    return inspect.signature(getattr(diffusers, class_name).__init__).parameters


def _means_something(name: str, value: Any, known: Mapping[str, inspect.Parameter] | None) -> bool:
    """Whether diffusers' own pipeline would heed it."""
    if value is None or value == [None, None]:
        return False
    if known is None:
        return value is not False
    return name in known and value != known[name].default


def _named(checkpoint: Checkpoint) -> str:
    """What it is, as far as it says so itself."""
    class_name = checkpoint.index().get("_class_name") if checkpoint.has_index else None
    return f"{checkpoint.location} is of {class_name}" if class_name else checkpoint.location


def _remedy(model: str, checkpoint: Checkpoint) -> str:
    """Which checkpoint would do, and which other model of ours takes checkpoints of this class."""
    class_name = checkpoint.index().get("_class_name") if checkpoint.has_index else None
    others = [
        other
        for other in MODELS
        if other != model and MODELS[other].published()["model_index"]["_class_name"] == class_name
    ]
    would_do = f"give a checkpoint such as {MODELS[model].hub_id}"
    return f"{would_do}, or use {others[0]}" if others else would_do

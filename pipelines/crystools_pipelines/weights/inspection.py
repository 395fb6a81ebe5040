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
    if beyond := _unheeded(model, checkpoint):
        means = next((_MEANINGS[name] for name in _MEANINGS if name in beyond), "more than the model has")
        raise misfit(
            model,
            checkpoint,
            f" with {means} ({', '.join(beyond)} in model_index.json), of which {model} would not make use",
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
                raise misfit(model, checkpoint, f": its {component} is {found}, {model} takes {wanted}")


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
            raise misfit(model, checkpoint, f": {what} {found}, {model} takes {wanted}")


def misfit(model: str, checkpoint: Checkpoint, what: str) -> CheckpointError:
    """An error that says what the checkpoint is, what about it does not fit the model, and what would do."""
    index = checkpoint.index() if checkpoint.has_index else {}
    class_name = index.get("_class_name")
    named = f"{checkpoint.location} is of {class_name}" if class_name else checkpoint.location
    others = [other for other in MODELS if other != model and class_name and _would_take(other, checkpoint)]
    or_use = f", or use {others[0]}" if others else ""
    return CheckpointError(f"{named}{what}; give a checkpoint such as {MODELS[model].hub_id}{or_use}")


def _would_take(model: str, checkpoint: Checkpoint) -> bool:
    """Whether `model_index.json` says what the model's published one does, and no more than it heeds."""
    index, published = checkpoint.index(), MODELS[model].published()["model_index"]
    same = index["_class_name"] == published["_class_name"] and all(
        bool(index.get(name)) == bool(value) for name, value in published.items()
    )
    return same and not _unheeded(model, checkpoint)


def _unheeded(model: str, checkpoint: Checkpoint) -> list[str]:
    """What diffusers' pipeline would heed of `model_index.json` and the model would not."""
    if not checkpoint.has_index:
        return []
    index, published = checkpoint.index(), MODELS[model].published()
    heeded = {*published, *published["model_index"], TOKENIZER, *_IDLE}
    known = _settings(index.get("_class_name"))
    return [
        name
        for name, value in index.items()
        if not name.startswith("_") and name not in heeded and _means_something(name, value, known)
    ]


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

"""Tiny checkpoints by name: `tiny-wan2.1-t2v` needs no folder, for it is made where it is missing.

So is a LoRA for each of them.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.tiny import write_tiny_checkpoint
from crystools_pipelines.tiny.lora import write_tiny_lora
from crystools_tpu.data_dir import TINY_MODELS, data_dir
from crystools_tpu.environment import DATA_DIR
from crystools_tpu.whole_file import reason

_PREFIX: Final = "tiny-"
_LORA: Final = "-lora.safetensors"

_making: Final = threading.Lock()


def tiny_name(model: str) -> str:
    """What the tiny checkpoint of a model is called."""
    return f"{_PREFIX}{model}"


def tiny_location(name: str, model: str | None, field: str) -> str | None:
    """Where the tiny checkpoint of that name is, or will be once it is made; None for any other name.

    Raises RequestError, for `field`, where it is of another model than is asked for.
    """
    if (tiny := _model_of(name)) is None:
        return None
    if model is not None and tiny != model:
        raise RequestError(field, f"{name} is of {tiny}; give {tiny_name(model)}, which is of {model}")
    return str(_folder(tiny))


def tiny_lora_name(model: str) -> str:
    """What the LoRA for the tiny checkpoint of a model is called."""
    return f"{tiny_name(model)}{_LORA}"


def tiny_lora_names() -> list[str]:
    """Those of all models."""
    return [*map(tiny_lora_name, MODELS)]


def tiny_lora_location(name: str) -> str | None:
    """Where the LoRA of that name is, or will be once it is made; None for any other name."""
    return str(data_dir() / TINY_MODELS / name) if name in tiny_lora_names() else None


def make_missing(location: str) -> str | None:
    """Makes the checkpoint or LoRA if it is a tiny one by its location and not there: whole, or not at all.

    What the user should know of it, or None where nothing was to be made, or another thread or process was
    faster. Raises CheckpointError where it cannot be written.
    """
    path = Path(location)
    if (write := _writer(path)) is None:
        return None
    with _making:
        if path.exists():
            return None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as unfinished:
                write(Path(unfinished) / path.name).rename(path)
        except Exception as error:
            if path.is_dir():  # another process was faster
                return None
            if not _is_of_the_disk(error):
                raise
            why = reason(error) if isinstance(error, OSError) else str(error)
            remedy = f"make room, or set {DATA_DIR} to a folder that can be written to"
            raise CheckpointError(
                f"{path.name} could not be made in {path.parent}: {why}; {remedy}"
            ) from error
    return f"{path.name} was made in {path}: its weights are random, and so is what it shows"


def _writer(path: Path) -> Callable[[Path], Path] | None:
    """What writes the checkpoint or the LoRA that is to be there; None where nothing is."""
    name = path.name.removesuffix(_LORA)
    model = _model_of(name)
    if model is None or path.parent != _folder(model).parent:
        return None
    return partial(write_tiny_checkpoint if name == path.name else write_tiny_lora, model)


def _model_of(name: str) -> str | None:
    model = name.removeprefix(_PREFIX)
    return model if name.startswith(_PREFIX) and model in MODELS else None


def _folder(model: str) -> Path:
    return data_dir() / TINY_MODELS / tiny_name(model)


def _is_of_the_disk(error: Exception) -> bool:
    """The library that writes weights has an error of its own for a full disk."""
    from safetensors import SafetensorError

    return isinstance(error, OSError | SafetensorError)

"""Tiny checkpoints by name: `tiny-wan2.1-t2v` needs no folder, for it is made where it is missing."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Final

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.tiny import write_tiny_checkpoint
from crystools_tpu.data_dir import TINY_MODELS, data_dir
from crystools_tpu.environment import DATA_DIR
from crystools_tpu.whole_file import reason

_PREFIX: Final = "tiny-"

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


def make_missing(location: str) -> str | None:
    """Makes the checkpoint if it is a tiny one by its location and not there: whole, or not at all.

    What the user should know of it, or None where nothing was to be made, or another thread or process was
    faster. Raises CheckpointError where it cannot be written.
    """
    folder = Path(location)
    model = _model_of(folder.name)
    if model is None or folder != _folder(model):
        return None
    with _making:
        if folder.is_dir():
            return None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as unfinished:
                write_tiny_checkpoint(model, Path(unfinished) / folder.name).rename(folder)
        except Exception as error:
            if folder.is_dir():  # another process was faster
                return None
            if not _is_of_the_disk(error):
                raise
            why = reason(error) if isinstance(error, OSError) else str(error)
            remedy = f"make room, or set {DATA_DIR} to a folder that can be written to"
            raise CheckpointError(
                f"{folder.name} could not be made in {folder.parent}: {why}; {remedy}"
            ) from error
    return f"{folder.name} was made in {folder}: its weights are random, and so is what it shows"


def _model_of(name: str) -> str | None:
    model = name.removeprefix(_PREFIX)
    return model if name.startswith(_PREFIX) and model in MODELS else None


def _folder(model: str) -> Path:
    return data_dir() / TINY_MODELS / tiny_name(model)


def _is_of_the_disk(error: Exception) -> bool:
    """The library that writes weights has an error of its own for a full disk."""
    from safetensors import SafetensorError

    return isinstance(error, OSError | SafetensorError)

"""A component of a checkpoint as a model's stages use it: declared once, for inspecting and for loading."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.parallel.sharding import Rules

Module = TypeVar("Module", bound=torch.nn.Module)


@dataclass(frozen=True)
class Part(Generic[Module]):
    """A component, what it becomes, and how its weights lie on the mesh.

    `build` makes the module from the component's folder, without weights. It is a module's function, or a
    partial of one: by it the next run knows what it wants again. `leftovers` are patterns of tensors that the
    component may have and the module does without. `dtype` is the job's own unless given. `tokenized` says
    that it is given what the checkpoint's tokenizer makes of prompts.
    """

    component: str
    build: Callable[[Path], Module]
    rules: Rules
    leftovers: tuple[str, ...] = ()
    dtype: str | None = None
    tokenized: bool = False


def built(part: Part[Module], folder: Path) -> Module:
    """The part's module. Raises CheckpointError where the configuration in `folder` makes none."""
    try:
        return part.build(folder)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OSError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(f"{folder}/config.json describes no {part.component}: {reason}") from error

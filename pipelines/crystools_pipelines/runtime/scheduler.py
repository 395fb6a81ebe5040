"""Which of diffusers' schedulers steps: the checkpoint's own, or another that is asked for by name."""

from collections.abc import Mapping
from typing import Any, TypeVar

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.weights.checkpoint import Checkpoint

Scheduler = TypeVar("Scheduler")


def scheduler_classes(
    checkpoint: Checkpoint, known: Mapping[str, type[Scheduler]], name: str | None
) -> tuple[dict[str, Any], type[Scheduler], type[Scheduler]]:
    """The configuration of the checkpoint's scheduler, its class, and the class that `name` asks for.

    Raises CheckpointError where the checkpoint's own is none of those that are known.
    """
    config: dict[str, Any] = dict(checkpoint.config("scheduler", "scheduler_config.json"))
    own = config.get("_class_name")
    for scheduler in known.values():
        if scheduler.__name__ == own:
            return config, scheduler, scheduler if name is None else known[name]
    would_do = " or ".join(scheduler.__name__ for scheduler in known.values())
    raise CheckpointError(f"the scheduler is {own}; give a checkpoint with {would_do}")

"""A checkpoint's scheduler, of one of the classes that a model tabulates."""

from typing import Any, TypeVar

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.weights.checkpoint import Checkpoint

Scheduler = TypeVar("Scheduler")


def load_scheduler(checkpoint: Checkpoint, *known: type[Scheduler], **changes: Any) -> Scheduler:
    """The scheduler, with these changes of its configuration. Raises CheckpointError where it is another."""
    config = checkpoint.config("scheduler", "scheduler_config.json")
    name = config.get("_class_name")
    for scheduler in known:
        if scheduler.__name__ == name:
            loaded: Scheduler = scheduler.from_config(config, **changes)  # type: ignore[attr-defined]
            return loaded
    would_do = " or ".join(scheduler.__name__ for scheduler in known)
    raise CheckpointError(f"the scheduler is {name}; give a checkpoint with {would_do}")

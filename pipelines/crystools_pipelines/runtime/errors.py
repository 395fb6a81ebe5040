"""What can go wrong before or while a pipeline runs.

PipelineError
├── RequestError       a field of the request cannot be served
└── CheckpointError    the checkpoint lacks something, or has something that we cannot run
    └── UnmatchedParametersError
"""

from collections.abc import Sequence


class PipelineError(Exception):
    """The root of what this package raises on purpose."""


class RequestError(PipelineError, ValueError):
    """A field of a request cannot be served; `message` names the remedy."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class CheckpointError(PipelineError):
    """The checkpoint lacks something that the model needs, or asks for something that we do not run."""


class UnmatchedParametersError(CheckpointError):
    """Parameters for which no sharding rule matches, all of them at once."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"no sharding rule matches {len(names)} parameter(s): {', '.join(names)}")
        self.names = tuple(names)

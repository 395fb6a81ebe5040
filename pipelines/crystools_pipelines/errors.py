"""What can go wrong before or while a pipeline runs.

PipelineError
├── RequestError       a field of the request cannot be served
├── CheckpointError    the checkpoint lacks something, or has something that we cannot run
│   └── UnmatchedParametersError
├── CompileError       the compiler fails, for another reason than memory
├── OutOfMemoryError   the devices' memory does not suffice
└── SaveError          the frames are made, and cannot be written where they were to be
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class PipelineError(Exception):
    """The root of what this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A compiler's process raises it in ours. Exception would call `__init__` with the message alone.
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[PipelineError], args: tuple[Any, ...]) -> PipelineError:
    return kind.__new__(kind, *args)


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


class CompileError(PipelineError):
    """The compiler fails on a stage, though not for want of memory: a fault of its own, or of ours."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: the compiler failed; another mesh or size may do. It said: {reason}")


class OutOfMemoryError(PipelineError):
    """A stage needs more memory than the devices have, with all idle models out of it.

    `wanted_bytes` and `available_bytes` are of one device, None where XLA does not say.
    """

    def __init__(
        self, stage: str, wanted_bytes: int | None, available_bytes: int | None, remedies: Sequence[str]
    ) -> None:
        amounts = f"{_amount(wanted_bytes)} wanted, {_amount(available_bytes)} available"
        super().__init__(
            f"{stage}: out of device memory ({amounts} on one device); try {' or '.join(remedies)}"
        )
        self.stage = stage
        self.wanted_bytes = wanted_bytes
        self.available_bytes = available_bytes
        self.remedies = tuple(remedies)


class SaveError(PipelineError):
    """The frames are made, but `out` could not be written; they are in `kept`, if anything could be."""

    def __init__(self, out: Path, why: str, kept: Path | None, why_not_kept: str) -> None:
        if kept is None:
            what = f"neither could they be kept elsewhere, so they are lost: {why_not_kept}"
        else:
            what = (
                f"they are kept in {kept}: numpy.load reads them, and "
                "crystools_pipelines.runtime.video.write_video makes the file of them"
            )
        super().__init__(f"{out}: the frames could not be written: {why}; {what}")
        self.out = out
        self.kept = kept


def _amount(count: int | None) -> str:
    if count is None:
        return "an unknown number of bytes"
    exponent = max(0, count.bit_length() - 1) // 10
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")[exponent]
    return f"{count / 2 ** (10 * exponent):.2f} {unit}" if exponent else f"{count} bytes"

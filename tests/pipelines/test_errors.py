"""What pipelines raise, as it comes out of a compiler's process."""

from __future__ import annotations

import pickle

import pytest

from crystools_pipelines.errors import (
    CheckpointError,
    CompileError,
    OutOfMemoryError,
    PipelineError,
    RequestError,
    UnmatchedParametersError,
)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RequestError("height", "65 is none"), "height: 65 is none"),
        (CheckpointError("no vae"), "no vae"),
        (UnmatchedParametersError(["a.b", "c"]), "no sharding rule matches 2 parameter(s): a.b, c"),
        (
            CompileError("denoise", "INTERNAL: a check failed"),
            "denoise: the compiler failed; another mesh or size may do. It said: INTERNAL: a check failed",
        ),
        (
            OutOfMemoryError("denoise", 2**31, None, ["fewer frames", "more devices"]),
            "denoise: out of device memory (2.00 GiB wanted, an unknown number of bytes available on one "
            "device); try fewer frames or more devices",
        ),
    ],
)
def test_an_error_is_the_same_in_another_process(error: PipelineError, text: str) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error) == text
    assert vars(again) == vars(error)

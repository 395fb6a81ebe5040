"""Loading holds the host to the weights and little more, and reads each file once."""

from __future__ import annotations

import pytest

from benchmarks.loading import measure

MIB = 2**20


def test_a_checkpoint_is_loaded_in_little_more_memory_than_its_own() -> None:
    loading = measure(
        256 * MIB
    )  # what Python and the libraries take is of the same size, hence the difference
    assert loading.checkpoint_bytes == pytest.approx(256 * MIB, rel=0.001)
    assert loading.peak_bytes - loading.idle_bytes < 1.3 * loading.checkpoint_bytes
    assert loading.read_ratio == pytest.approx(1, abs=0.01)

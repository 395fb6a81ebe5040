"""Who leaves the HBM for whom, and the largest size that fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import pytest

from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.planning.fitting import largest_that_fits
from crystools_pipelines.planning.residency import evictions
from crystools_pipelines.runtime.residency import Identity, Residency, evicted
from crystools_tpu.telemetry import Bus, ModelFreed
from tests.pipelines.conftest import limited_to

SIZES = range(1, 81)


def test_what_fits_together_stays() -> None:
    stages = [({"text_encoder": 10}, 12), ({"transformer": 50}, 80)]
    assert evictions(stages, 90) == [(), ()]


def test_the_oldest_leaves_for_the_weights_of_the_next_and_all_others_for_a_program() -> None:
    stages = [
        ({"text_encoder": 40}, 45),
        ({"transformer": 50}, 55),
        ({"transformer_2": 30}, 45),
        ({"vae": 5}, 96),
    ]
    assert evictions(stages, 100) == [(), (), ("text_encoder",), ("transformer", "transformer_2")]


def test_a_stage_whose_peak_is_not_known_only_loads() -> None:
    assert evictions([({"vae": 5}, 6), ({"other": 5}, None)], 10) == [(), ()]


def test_a_run_evicts_whom_a_plan_of_it_lets_leave() -> None:
    sizes = {"text_encoder": 40, "transformer": 50, "transformer_2": 30, "vae": 5, "other": 90}
    bus = Bus()
    books = Residency(bus)
    mesh = make_mesh(jax.devices()[:1], branches=1, widths=())
    source: Any = SimpleNamespace(stamp=lambda: 0, merged=None)
    left = []
    with limited_to(100), bus.subscribe() as events:
        for name, size in sizes.items():

            def plan(size: int = size) -> Any:
                return None, SimpleNamespace(shapes={}, device_bytes=size, load=dict, merged={})

            identity = Identity("model", name, name, "build", mesh, "float32")
            books.load(identity, source, plan, in_use=lambda: False)
            left.append(tuple(event.component for event in events.drain() if isinstance(event, ModelFreed)))
    assert left == [(), (), ("text_encoder",), (), ("transformer", "transformer_2")]
    assert left == evictions([({name: size}, None) for name, size in sizes.items()], 100)


def test_who_is_on_no_crowded_device_stays() -> None:
    residents = [("elsewhere", "c", 50), ("on both", "ab", 30), ("beside", "b", 20), ("late", "a", 10)]
    assert evicted(residents, {"a": 20, "b": 5}, 30) == ["on both"]
    assert evicted(residents, {"a": 20, "b": 5}, 50) == ["on both", "beside"]


def test_a_line_through_two_small_sizes_finds_the_largest_which_is_then_measured() -> None:
    measured = []

    def peak_of(size: int) -> int:
        measured.append(size)
        return 1000 + 10 * size

    assert largest_that_fits(SIZES, peak_of, 1605) == 60
    assert sorted(measured) == [20, 40, 60]


def test_where_the_line_was_wrong_it_is_drawn_anew() -> None:
    found = largest_that_fits(SIZES, lambda size: 1000 + 10 * size + (200 if size > 50 else 0), 1605)
    assert found == 50


@pytest.mark.parametrize("peak", [2000, 3000])
def test_nothing_fits_where_memory_does_not_depend_on_the_size(peak: int) -> None:
    assert largest_that_fits(SIZES, lambda size: peak, 1605) is None


def test_a_size_smaller_than_both_measured_is_found() -> None:
    assert largest_that_fits(SIZES, lambda size: 100 * size, 1000) == 10


def test_one_or_no_smaller_size_is_measured_or_not() -> None:
    assert largest_that_fits([3], lambda size: size, 5) == 3
    assert largest_that_fits([3], lambda size: size, 2) is None
    assert largest_that_fits([], lambda size: size, 5) is None

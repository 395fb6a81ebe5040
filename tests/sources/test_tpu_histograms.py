"""The TPU runtime's distributions as histograms: its own buckets, in seconds, never a quantile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tpu_info.proto import tpu_metric_service_pb2 as proto

from crystools_tpu.simulation import payload
from crystools_tpu.simulation.figures import ChipFigures
from crystools_tpu.simulation.runtime import FakeRuntime
from crystools_tpu.simulation.sysfs import write_tree
from crystools_tpu.simulation.topology import parse_topology
from crystools_tpu.sources import tpu_client
from crystools_tpu.sources.base import Durations, Histograms, HloExecutions, MegascaleLatencies
from crystools_tpu.sources.tpu import TpuSource
from crystools_tpu.sources.tpu_histograms import HLO_EXECUTION, MEGASCALE_OPERATIONS, durations, histograms
from crystools_tpu.sources.tpu_payload import Metric, PortMetrics
from tests.rigs.scenarios import Scenario, run_scenario

BOUNDS = (0.001, 0.0014, 0.00196)
BucketOptions = proto.Distribution.BucketOptions


def exponential(
    counts: Sequence[int],
    *,
    finite: int = 2,
    growth: float = 1.4,
    scale: float = 1000.0,
    mean: float = 1400.0,
) -> proto.Distribution:
    buckets = BucketOptions.Exponential(num_finite_buckets=finite, growth_factor=growth, scale=scale)
    return proto.Distribution(
        count=sum(counts),
        mean=mean,
        bucket_options=BucketOptions(exponential_buckets=buckets),
        bucket_counts=counts,
    )


def execution(ordinal: int, counts: Sequence[int], **options: float) -> proto.Metric:
    pairs = [
        proto.Attribute(key="device_ordinal", value=proto.AttrValue(string_attr=str(ordinal))),
        proto.Attribute(key="core_type", value=proto.AttrValue(string_attr="TENSOR_CORE")),
    ]
    return proto.Metric(
        attribute=proto.Attribute(value=proto.AttrValue(kvlist_attr=proto.KeyValueList(attributes=pairs))),
        distribution=exponential(counts, **options),  # type: ignore[arg-type]
    )


def of_one_port(*entries: proto.Metric, gauges: PortMetrics | None = None, shift: int = 0) -> Histograms:
    shifts = {"localhost:8431": shift}
    return histograms({"localhost:8431": (gauges or {}, {HLO_EXECUTION: list(entries)})}, 1, shifts)


def test_microseconds_become_seconds_and_the_buckets_stay() -> None:
    assert durations(exponential([3, 50, 40, 7])) == Durations(BOUNDS, (3, 50, 40, 7), 0.14)


def test_counts_left_out_at_the_end_are_zero() -> None:
    assert durations(exponential([0, 4])) == Durations(BOUNDS, (0, 4, 0, 0), 0.0056)


def test_of_nothing_at_all_the_counts_are_zero_and_no_quantile_is_1() -> None:
    assert durations(exponential([], mean=0.0)) == Durations(BOUNDS, (0, 0, 0, 0), 0.0)


def test_where_the_number_of_buckets_is_not_said_the_counts_tell_it() -> None:
    assert durations(exponential([0, 1, 1, 0], finite=0)) == Durations(BOUNDS, (0, 1, 1, 0), 0.0028)


@pytest.mark.parametrize(
    "distribution",
    [
        proto.Distribution(),
        proto.Distribution(count=2, mean=1.0),
        exponential([], finite=0),
        exponential([1, 1, 1, 1, 1]),
        exponential([0, -1, 2, 0]),
        exponential([0, 1], scale=0.0),
        exponential([0, 1], growth=1.0),
        exponential([0, 1], mean=float("nan")),
        exponential([0, 1], finite=2**31 - 1),
        exponential([0, 1], finite=900, growth=10.0),
        proto.Distribution(
            count=1,
            mean=1.0,
            bucket_options=BucketOptions(
                linear_buckets=BucketOptions.Linear(num_finite_buckets=1, width=1.0)
            ),
            bucket_counts=[0, 1, 0],
        ),
    ],
)
def test_what_has_no_such_buckets_is_nothing(distribution: proto.Distribution) -> None:
    assert durations(distribution) is None


def test_v6e_8_shows_the_programs_of_each_chip_and_the_operations(tmp_path: Path) -> None:
    with run_scenario(Scenario.HEALTHY, "v6e-8", tmp_path) as rig:
        source = rig.tpu_source()
        shown = source.read().histograms
        source.close()
    counted = Durations(BOUNDS, (0, 50, 50, 0), 0.14)
    assert shown is not None
    assert shown.hlo_executions == tuple(HloExecutions(f"tpu{n}", "tensor_core", counted) for n in range(8))
    operations = MEGASCALE_OPERATIONS.values()
    assert shown.megascale_latencies == tuple(MegascaleLatencies(o, "8MB+", counted) for o in operations)


@pytest.mark.parametrize("topology", ["v3-8", "7x-8"])
def test_the_two_devices_of_a_chip_add_up(tmp_path: Path, topology: str) -> None:
    with run_scenario(Scenario.HEALTHY, topology, tmp_path) as rig:
        source = rig.tpu_source()
        shown = source.read().histograms
        source.close()
    assert shown is not None
    assert [(one.chip, one.durations.counts) for one in shown.hlo_executions] == [
        (f"tpu{n}", (0, 100, 100, 0)) for n in range(4)
    ]


def test_two_processes_that_both_count_from_zero_are_numbered_on_and_their_operations_add_up(
    tmp_path: Path,
) -> None:
    sysfs, half = write_tree(tmp_path, parse_topology("v6e-8")), parse_topology("v6e-4")
    with FakeRuntime(half) as first, FakeRuntime(half) as second:
        source = TpuSource(sysfs=sysfs, addresses=[first.address, second.address])
        shown = source.read().histograms
        first.kill()
        left = source.read().histograms
        source.close()
    assert shown is not None
    assert left is not None
    assert [one.chip for one in shown.hlo_executions] == [f"tpu{n}" for n in range(8)]
    assert {one.durations.counts for one in shown.megascale_latencies} == {(0, 100, 100, 0)}
    assert [one.chip for one in left.hlo_executions] == [f"tpu{n}" for n in range(4, 8)]
    assert {one.durations.counts for one in left.megascale_latencies} == {(0, 50, 50, 0)}


def test_ordinals_that_are_no_device_ids_count_the_devices() -> None:
    gauges: PortMetrics = {Metric.HBM_USED_BYTES: {8: 1, 9: 1, 12: 1, 13: 1}}
    shown = of_one_port(*(execution(n, [0, 1]) for n in range(4)), gauges=gauges)
    assert [one.chip for one in shown.hlo_executions] == ["tpu8", "tpu9", "tpu12", "tpu13"]
    assert of_one_port(execution(4, [0, 1]), gauges=gauges) == Histograms((), ())


def test_distributions_whose_buckets_differ_do_not_add_up() -> None:
    shown = of_one_port(execution(0, [0, 1]), execution(0, [0, 1], scale=500.0), execution(1, [0, 1]))
    assert [one.chip for one in shown.hlo_executions] == ["tpu1"]


def test_a_runtime_without_distributions_shows_its_chips_and_no_histogram(tmp_path: Path) -> None:
    sysfs, topology = write_tree(tmp_path, parse_topology("v6e-4")), parse_topology("v6e-4")
    with FakeRuntime(topology, missing={payload.HLO_TIMING, *payload.TRANSFERS}) as runtime:
        source = TpuSource(sysfs=sysfs, addresses=[runtime.address])
        reading = source.read()
        source.close()
    assert len(reading.chips) == 4
    assert reading.histograms == Histograms((), ())


def test_distributions_that_do_not_come_cost_the_chips_nothing(tmp_path: Path) -> None:
    topology = parse_topology("v6e-4")
    sysfs = write_tree(tmp_path, topology)

    class Silent(FakeRuntime):
        """Answers whatever is no distribution."""

        def wait_until_answering(self, context: object) -> None:
            if self.requests[-1] == payload.HLO_TIMING:
                super().wait_until_answering(context)

    with Silent(topology) as runtime:
        runtime.hang()
        source = TpuSource(sysfs=sysfs, addresses=[runtime.address], timeout_seconds=0.3)
        reading = source.read()
        source.close()
    assert len(reading.chips) == 4
    assert reading.histograms == Histograms((), ())


def test_distributions_are_asked_for_again_once_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: Callable[[int], list[ChipFigures]] = lambda n: [ChipFigures(1, 2, 0.0, 0.0, 0.0, n)]  # noqa: E731
    topology = parse_topology("v6e-1")
    sysfs = write_tree(tmp_path, topology)
    with FakeRuntime(topology, figures=shown(2)) as runtime:
        source = TpuSource(sysfs=sysfs, addresses=[runtime.address])

        def counts() -> list[tuple[int, ...]]:
            known = source.read().histograms
            return [one.durations.counts for one in known.hlo_executions] if known else []

        assert counts() == [(0, 1, 1, 0)]
        runtime.figures = shown(4)
        assert counts() == [(0, 1, 1, 0)]
        source.close()
        monkeypatch.setattr(tpu_client, "DISTRIBUTIONS_SECONDS", 0.0)
        assert counts() == [(0, 2, 2, 0)]
        runtime.figures = shown(6)
        assert counts() == [(0, 3, 3, 0)]
        source.close()

"""The TPU runtime's metrics, read from a real gRPC server that speaks tpu-info's proto."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tpu_info.proto import tpu_metric_service_pb2 as proto

from crystools_tpu.simulation import payload
from crystools_tpu.simulation.figures import ChipFigures
from crystools_tpu.simulation.runtime import FakeRuntime
from crystools_tpu.simulation.sysfs import write_tree
from crystools_tpu.simulation.topology import TOPOLOGIES, parse_topology
from crystools_tpu.sources.base import ChipReading, Quiet, SourceError, SourceUnavailable
from crystools_tpu.sources.tpu import TpuSource, runtime_addresses
from crystools_tpu.sources.tpu_discovery import find_chips, kind_name
from crystools_tpu.sources.tpu_histograms import DISTRIBUTIONS
from crystools_tpu.sources.tpu_payload import Metric, PortMetrics, chip_readings, gauges
from tests.rigs.scenarios import Scenario, run_scenario

GIB = 2**30
ROOT = Path(__file__).parents[2]


def figures(count: int, hbm_gib: int = 32) -> list[ChipFigures]:
    return [ChipFigures(2 * n * GIB, hbm_gib * GIB, 25.0 * n, 10.0 * n, 0.0) for n in range(count)]


# Discovery


@pytest.mark.parametrize(
    ("topology", "count", "kind"),
    [
        ("v2-8", 4, "TPU v2"),
        ("v3-8", 4, "TPU v3"),
        ("v4-8", 4, "TPU v4"),
        ("v5e-8", 8, "TPU v5e"),
        ("v5p-8", 4, "TPU v5p"),
        ("v6e-8", 8, "TPU v6e"),
        ("7x-8", 4, "TPU7x"),
    ],
)
def test_chips_are_found_in_sysfs(tmp_path: Path, topology: str, count: int, kind: str) -> None:
    chips = find_chips(write_tree(tmp_path, parse_topology(topology)))
    assert [kind_name(chip.chip.value.name) for chip in chips] == [kind] * count


def test_a_machine_without_tpu_or_without_sysfs_has_no_chips(tmp_path: Path) -> None:
    assert find_chips(tmp_path) == ()
    function = tmp_path / "bus/pci/devices/0000:00:04.0"
    function.mkdir(parents=True)
    assert find_chips(tmp_path) == ()  # a device that is just vanishing has no attributes
    (function / "vendor").write_text("0x10de\n")
    assert find_chips(tmp_path) == ()


# Figures


def test_v6e_8_shows_eight_chips_with_the_runtimes_exact_figures(tmp_path: Path) -> None:
    topology = parse_topology("v6e-8")
    sysfs = write_tree(tmp_path, topology)
    shown = [ChipFigures(1024 + n, 31 * GIB, 12.5 * n, 2.0 * n, 0.0) for n in range(8)]
    with FakeRuntime(topology, figures=shown) as runtime:
        source = TpuSource(sysfs=sysfs, addresses=[runtime.address])
        reading = source.read()
        source.close()
    assert reading.host is None
    assert reading.chips == tuple(
        ChipReading(
            chip=f"tpu{n}",
            kind="TPU v6e",
            hbm_used_bytes=1024 + n,
            hbm_total_bytes=31 * GIB,
            duty_cycle_ratio=12.5 * n / 100,
            hbm_bandwidth_utilization_ratio=2.0 * n / 100,
        )
        for n in range(8)
    )


@pytest.mark.parametrize("topology", ["v2-8", "v3-8", "7x-8"])
def test_memory_by_core_adds_up_to_chips_and_duty_cycle_stays_with_its_chip(
    tmp_path: Path, topology: str
) -> None:
    parsed = parse_topology(topology)
    sysfs = write_tree(tmp_path, parsed)
    with FakeRuntime(parsed, figures=figures(4)) as runtime:
        source = TpuSource(sysfs=sysfs, addresses=[runtime.address])
        chips = source.read().chips
        source.close()
    assert [(c.chip, c.hbm_used_bytes, c.hbm_total_bytes, c.duty_cycle_ratio) for c in chips] == [
        (f"tpu{n}", 2 * n * GIB, 32 * GIB, 0.25 * n) for n in range(4)
    ]


def test_global_device_ids_give_the_chips_the_numbers_that_jax_gives_them(tmp_path: Path) -> None:
    topology = parse_topology("v6e-4")
    sysfs = write_tree(tmp_path, topology)
    with FakeRuntime(topology, figures=figures(4), device_ids=(8, 9, 12, 13)) as runtime:
        source = TpuSource(sysfs=sysfs, addresses=[runtime.address])
        chips = source.read().chips
        assert source.chip_ids == ("tpu8", "tpu9", "tpu12", "tpu13")
        source.close()
    assert [(c.chip, c.duty_cycle_ratio) for c in chips] == [
        ("tpu8", 0.0), ("tpu9", 0.25), ("tpu12", 0.5), ("tpu13", 0.75),
    ]  # fmt: skip


def test_global_device_ids_of_two_core_chips(tmp_path: Path) -> None:
    topology = parse_topology("v3-8")
    sysfs = write_tree(tmp_path, topology)
    with FakeRuntime(topology, figures=figures(4), device_ids=range(8, 16)) as runtime:
        source = TpuSource(sysfs=sysfs, addresses=[runtime.address])
        chips = source.read().chips
        source.close()
    assert [(c.chip, c.duty_cycle_ratio) for c in chips] == [
        ("tpu4", 0.0), ("tpu5", 0.25), ("tpu6", 0.5), ("tpu7", 0.75),
    ]  # fmt: skip


def test_without_sysfs_the_answers_tell_how_many_cores_a_chip_has(tmp_path: Path) -> None:
    with FakeRuntime(parse_topology("v3-8"), figures=figures(4)) as runtime:
        source = TpuSource(sysfs=tmp_path, addresses=[runtime.address])
        chips = source.read().chips
        source.close()
    assert [(c.chip, c.kind, c.hbm_used_bytes) for c in chips] == [
        (f"tpu{n}", None, 2 * n * GIB) for n in range(4)
    ]


# Faults


@pytest.mark.parametrize(
    ("metric", "field"),
    [
        (payload.HBM_USED, "hbm_used_bytes"),
        (payload.HBM_TOTAL, "hbm_total_bytes"),
        (payload.DUTY_CYCLE, "duty_cycle_ratio"),
        (payload.HBM_BANDWIDTH, "hbm_bandwidth_utilization_ratio"),
    ],
)
def test_a_metric_that_is_not_found_is_none_and_the_others_stay(
    tmp_path: Path, metric: str, field: str
) -> None:
    topology = parse_topology("v6e-4")
    sysfs = write_tree(tmp_path, topology)
    with FakeRuntime(topology, missing={metric}) as runtime:
        source = TpuSource(sysfs=sysfs, addresses=[runtime.address])
        chips = source.read().chips
        source.close()
    assert len(chips) == 4
    fields = ("hbm_used_bytes", "hbm_total_bytes", "duty_cycle_ratio", "hbm_bandwidth_utilization_ratio")
    for chip in chips:
        assert {name for name in fields if getattr(chip, name) is None} == {field}


def test_the_old_runtime_has_no_bandwidth(tmp_path: Path) -> None:
    with run_scenario(Scenario.OLD_RUNTIME, "v4-8", tmp_path) as rig:
        source = rig.tpu_source()
        chips = source.read().chips
        source.close()
    assert [chip.hbm_bandwidth_utilization_ratio for chip in chips] == [None] * 4
    assert [chip.duty_cycle_ratio for chip in chips] == pytest.approx([0.84, 0.8809, 0.9149, 0.9359])


def test_the_lost_chip_vanishes_and_the_seven_others_stay(tmp_path: Path) -> None:
    with run_scenario(Scenario.LOST_CHIP, "v6e-8", tmp_path) as rig:
        source = rig.tpu_source()
        assert [chip.chip for chip in source.read().chips] == [f"tpu{n}" for n in range(7)]
        source.close()


def test_a_hung_runtime_is_an_error_after_the_deadline(tmp_path: Path) -> None:
    with run_scenario(Scenario.HUNG_RUNTIME, "v6e-8", tmp_path) as rig:
        source = rig.tpu_source(timeout_seconds=0.2)
        with pytest.raises(SourceError, match=r"localhost:\d+ did not answer \(DEADLINE_EXCEEDED\)"):
            source.read()
        rig.runtimes[0].resume()
        patient = rig.tpu_source(timeout_seconds=30)
        assert len(patient.read().chips) == 8
        patient.close()
        source.close()


def test_two_processes_on_two_ports_are_one_machine(tmp_path: Path) -> None:
    with run_scenario(Scenario.TWO_PROCESSES, "v6e-8", tmp_path) as rig:
        source = rig.tpu_source()
        chips = source.read().chips
        assert [chip.chip for chip in chips] == [f"tpu{n}" for n in range(8)]
        assert chips[7].duty_cycle_ratio == 0.8509

        rig.runtimes[0].kill()
        assert [chip.chip for chip in source.read().chips] == [f"tpu{n}" for n in range(4, 8)]

        rig.runtimes[1].kill()
        assert source.read().quiet == Quiet("idle", "idle: no program uses the chips")
        source.close()


def test_two_processes_that_both_count_from_zero_are_numbered_on(tmp_path: Path) -> None:
    sysfs = write_tree(tmp_path, parse_topology("v6e-8"))
    half = parse_topology("v6e-4")
    low, high = figures(8)[:4], figures(8)[4:]
    with FakeRuntime(half, figures=low) as first, FakeRuntime(half, figures=high) as second:
        source = TpuSource(sysfs=sysfs, addresses=[first.address, second.address])
        shown = [(chip.chip, chip.duty_cycle_ratio) for chip in source.read().chips]
        assert shown == [(f"tpu{n}", 0.25 * n) for n in range(8)]
        first.kill()
        kept = [(chip.chip, chip.duty_cycle_ratio) for chip in source.read().chips]
        assert kept == shown[4:]
        source.close()


def test_no_runtime_where_no_chip_is_known_is_an_error_that_says_what_to_look_at(tmp_path: Path) -> None:
    with FakeRuntime(parse_topology("v6e-1")) as runtime:
        source = TpuSource(sysfs=tmp_path, addresses=[runtime.address])
        assert len(source.read().chips) == 1
    with pytest.raises(SourceError, match=r"\(nobody listens\); is a process using the TPU") as error:
        source.read()
    assert not isinstance(error.value, SourceUnavailable)
    source.close()


def test_no_chip_and_no_address_is_no_fault_and_loads_no_grpc() -> None:
    program = (
        "import sys, json\n"
        "from pathlib import Path\n"
        "from crystools_tpu.sources import default_sources\n"
        "from crystools_tpu.sources.tpu import TpuSource\n"
        "from crystools_tpu.sources.base import SourceUnavailable\n"
        "assert [s.name for s in default_sources()] == ['host', 'tpu', 'libtpu_sdk', 'jax_memory', 'nvml']\n"
        "try:\n"
        "    TpuSource(sysfs=Path('/nonexistent')).read()\n"
        "except SourceUnavailable as error:\n"
        "    print(json.dumps([str(error), 'grpc' in sys.modules, 'jax' in sys.modules]))\n"
    )
    answer = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT)
    assert json.loads(answer) == ["no TPU chip is attached to this machine", False, False]


def test_one_channel_is_kept_and_the_total_memory_and_the_distributions_are_asked_for_once(
    tmp_path: Path,
) -> None:
    with run_scenario(Scenario.HEALTHY, "v6e-8", tmp_path) as rig:
        source = rig.tpu_source()
        for _ in range(3):
            assert len(source.read().chips) == 8
        asked = [payload.HBM_USED, payload.DUTY_CYCLE, payload.HBM_BANDWIDTH]
        once = [payload.HBM_TOTAL, *DISTRIBUTIONS]
        assert rig.runtimes[0].requests == [*asked, *once, *asked, *asked]
        assert len(source._clients) == 1
        source.close()
        source.close()
        assert len(source.read().chips) == 8  # opened again
        source.close()


def test_the_total_memory_is_asked_for_again_when_the_devices_changed(tmp_path: Path) -> None:
    with run_scenario(Scenario.HEALTHY, "v6e-4", tmp_path) as rig:
        (runtime,) = rig.runtimes
        source = rig.tpu_source()
        assert source.read().chips[0].hbm_total_bytes == 32 * GIB
        runtime.device_ids, runtime.figures = (4, 5, 6, 7), figures(4, hbm_gib=16)
        assert [(c.chip, c.hbm_total_bytes) for c in source.read().chips] == [
            (f"tpu{n}", 16 * GIB) for n in (4, 5, 6, 7)
        ]
        source.close()


# Ports


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        (None, ("localhost:8431",)),
        ("", ("localhost:8431",)),
        ("8431,8432", ("localhost:8431", "localhost:8432")),
        (" 9000 , 9001,9000", ("localhost:9000", "localhost:9001")),
    ],
)
def test_the_environment_names_the_ports(value: str | None, addresses: tuple[str, ...]) -> None:
    environ = {} if value is None else {"TPU_RUNTIME_METRICS_PORTS": value}
    assert runtime_addresses(environ) == addresses


@pytest.mark.parametrize("value", ["x", "8431,,8432", "0", "65536", "-1", "8431;8432"])
def test_bad_ports_are_a_clear_error(tmp_path: Path, value: str) -> None:
    sysfs = write_tree(tmp_path, parse_topology("v6e-4"))
    source = TpuSource(sysfs=sysfs, environ={"TPU_RUNTIME_METRICS_PORTS": value})
    with pytest.raises(SourceError, match="PORTS must be port numbers separated by commas"):
        source.read()


def test_the_ports_of_the_environment_are_read(tmp_path: Path) -> None:
    with run_scenario(Scenario.TWO_PROCESSES, "v6e-8", tmp_path) as rig:
        ports = ",".join(str(runtime.port) for runtime in rig.runtimes)
        source = TpuSource(sysfs=rig.sysfs, environ={"TPU_RUNTIME_METRICS_PORTS": ports})
        assert len(source.read().chips) == 8
        source.close()


# Payloads


def of_one_port(port: PortMetrics, kind: str | None, devices_per_chip: int) -> tuple[ChipReading, ...]:
    return chip_readings({"localhost:8431": (port, None)}, kind, devices_per_chip, {})


def test_entries_without_an_id_or_a_proper_number_are_left_out() -> None:
    def entry(id_: proto.AttrValue, **value: float) -> proto.Metric:
        return proto.Metric(attribute=proto.Attribute(value=id_), gauge=proto.Gauge(**value))

    assert gauges(
        [
            entry(proto.AttrValue(int_attr=0), as_int=5),
            entry(proto.AttrValue(string_attr="1"), as_double=6.5),
            entry(proto.AttrValue(string_attr="x"), as_int=7),
            entry(proto.AttrValue(), as_int=8),
            entry(proto.AttrValue(int_attr=2), as_int=-1),
            entry(proto.AttrValue(int_attr=3), as_double=float("nan")),
            entry(proto.AttrValue(int_attr=4)),
        ]
    ) == {0: 5, 1: 6.5}


def test_half_a_chip_is_no_figure() -> None:
    port: PortMetrics = {Metric.HBM_USED_BYTES: {0: 10, 1: 20, 2: 30}}
    assert of_one_port(port, "TPU v3", 2) == (ChipReading("tpu0", kind="TPU v3", hbm_used_bytes=30),)


def test_duty_cycles_that_fit_no_chip_are_none() -> None:
    port: PortMetrics = {
        Metric.HBM_USED_BYTES: {0: 10, 1: 10, 2: 10, 3: 10},
        Metric.DUTY_CYCLE_PERCENT: {0: 50.0, 1: 50.0, 2: 50.0},
    }
    assert [chip.duty_cycle_ratio for chip in of_one_port(port, None, 2)] == [None, None]


def test_a_chip_whose_memory_is_unknown_still_shows_its_duty_cycle() -> None:
    port: PortMetrics = {
        Metric.HBM_USED_BYTES: {0: 10, 2: 30},
        Metric.DUTY_CYCLE_PERCENT: {0: 50.0, 1: 60.0, 2: 70.0},
    }
    assert [(c.chip, c.hbm_used_bytes, c.duty_cycle_ratio) for c in of_one_port(port, None, 1)] == [
        ("tpu0", 10, 0.5), ("tpu1", None, 0.6), ("tpu2", 30, 0.7),
    ]  # fmt: skip


def test_every_topology_is_covered_by_these_tests() -> None:
    assert {name.partition("-")[0] for name in TOPOLOGIES} == {"v2", "v3", "v4", "v5e", "v5p", "v6e", "7x"}

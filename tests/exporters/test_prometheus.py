"""What a scrape says of a fixed machine and a fixed run, to the byte."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from crystools_exporters.catalogue import CATALOGUE, SIMULATED_LABEL
from crystools_exporters.node_classes import COMFYUI, OTHER, OURS, known_class
from crystools_exporters.prometheus import CONTENT_TYPE, PrometheusExporter
from crystools_tpu import telemetry
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS
from crystools_tpu.monitor import Snapshot
from crystools_tpu.sources.base import ChipReading, Durations, Histograms, HloExecutions
from crystools_tpu.telemetry import (
    CompileCache,
    Ratio,
    RunChanged,
    RunFinished,
    RunStarted,
    StageFinished,
    StageName,
    StageStarted,
    Status,
    StepFinished,
)
from tests.rigs.workflow_run import STAGES, WORKFLOW, events_of_node

from .conftest import RUN, SNAPSHOT, FixedMonitor, compile_, stage_finished, step

GOLDEN = Path(__file__).parent / "golden"
PROMETHEUS_ACCEPTS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
DENOISE = {"pipeline": "wan2.1-t2v", "stage": "denoise"}
FULL_STEP = {**DENOISE, "kind": "full"}


def value(exporter: PrometheusExporter, name: str, labels: dict[str, str]) -> float | None:
    """One sample's value in the rendered text; None where there is no such sample."""
    for family in text_string_to_metric_families(exporter.render()[0].decode()):
        for sample in family.samples:
            if sample.name == f"crystools_tpu_{name}" and sample.labels == labels:
                return sample.value
    return None


def openmetrics(exporter: PrometheusExporter) -> list[Metric]:
    """What prometheus-client's own parser reads in the OpenMetrics text."""
    text = exporter.render(PROMETHEUS_ACCEPTS)[0].decode()
    return list(openmetrics_families(text))  # type: ignore[no-untyped-call]


def test_the_exposition_is_the_golden_one_to_the_byte(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    for event in RUN:
        bus.publish(event)

    body, content_type = exporter.render()

    assert body.decode() == (GOLDEN / "real.prom").read_text()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"


def test_a_simulated_machine_marks_every_sample(bus: telemetry.Bus) -> None:
    exporter = PrometheusExporter(FixedMonitor(), bus=bus, simulated="v6e-8", version="1.2.3")
    for event in RUN:
        bus.publish(event)

    body = exporter.render()[0].decode()

    assert body == (GOLDEN / "simulated.prom").read_text()
    samples = [sample for family in text_string_to_metric_families(body) for sample in family.samples]
    assert len(samples) == 180
    assert {sample.labels[SIMULATED_LABEL] for sample in samples} == {"v6e-8"}


def test_openmetrics_is_the_golden_one_to_the_byte_for_whoever_accepts_it(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    for event in RUN:
        bus.publish(event)

    body, content_type = exporter.render(PROMETHEUS_ACCEPTS)

    assert body.decode() == (GOLDEN / "real.openmetrics").read_text()
    assert body.endswith(b"\n# EOF\n")
    assert b"_created" not in body
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert exporter.render("text/html, */*")[1] == exporter.render()[1] == CONTENT_TYPE


@pytest.mark.parametrize("simulated", [None, 'a "name"\n\\'])
def test_both_formats_are_to_the_byte_what_prometheus_client_makes_of_the_same_families(
    bus: telemetry.Bus, simulated: str | None
) -> None:
    exporter = PrometheusExporter(FixedMonitor(), bus=bus, simulated=simulated)
    for event in (*RUN, dataclasses.replace(step(1, 1e-7), run_id='"\n\\')):
        bus.publish(event)
    for _ in range(2):  # the second time from what was kept
        assert exporter.render()[0] == prometheus_client.generate_latest(exporter.registry)
        theirs = openmetrics_text(exporter.registry)  # type: ignore[no-untyped-call]
        assert exporter.render(PROMETHEUS_ACCEPTS)[0] == theirs


def test_buckets_that_the_runtime_changes_are_the_new_ones(
    exporter: PrometheusExporter, monitor: FixedMonitor
) -> None:
    chip = {"chip": "tpu0", "core_type": "tensor_core"}
    assert value(exporter, "chip_hlo_execution_seconds_bucket", {**chip, "le": "0.0014"}) == 50
    changed = HloExecutions("tpu0", "tensor_core", Durations((0.002, 0.003, 0.004), (1, 2, 3, 4), 1.0))
    monitor.snapshot = dataclasses.replace(SNAPSHOT, histograms=Histograms((changed,), ()))
    assert value(exporter, "chip_hlo_execution_seconds_bucket", {**chip, "le": "0.0014"}) is None
    assert value(exporter, "chip_hlo_execution_seconds_bucket", {**chip, "le": "0.003"}) == 3


def test_both_formats_say_the_same(exporter: PrometheusExporter, bus: telemetry.Bus) -> None:
    for event in RUN:
        bus.publish(event)
    text = text_string_to_metric_families(exporter.render()[0].decode())
    assert [(s.name, s.labels, s.value) for family in openmetrics(exporter) for s in family.samples] == [
        (s.name, s.labels, s.value) for family in text for s in family.samples
    ]


def test_the_exemplar_of_a_bucket_is_the_run_of_its_latest_observation(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    for run_id, seconds in (("first", 4.0), ("second", 4.5), ("third", 0.75)):
        bus.publish(dataclasses.replace(step(1, seconds), run_id=run_id))
    exemplars = {
        sample.labels["le"]: (sample.exemplar.labels, sample.exemplar.value, str(sample.exemplar.timestamp))
        for family in openmetrics(exporter)
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert exemplars == {
        "1.0": ({"run_id": "third"}, 0.75, "1700000042.500000000"),
        "5.0": ({"run_id": "second"}, 4.5, "1700000042.500000000"),
    }


def test_runs_stages_nodes_steps_and_compiles_have_exemplars_and_nothing_else_has(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    for event in RUN:
        bus.publish(event)
    samples = [(family.name, sample) for family in openmetrics(exporter) for sample in family.samples]
    assert {name for name, sample in samples if sample.exemplar is not None} == {
        f"crystools_tpu_{what}_duration_seconds"
        for what in ("run", "stage", "step", "compile", "node", "node_step")
    }
    assert {s.exemplar.labels["run_id"] for _, s in samples if s.exemplar is not None} == {"5f3c0a"}
    assert not any("5f3c0a" in sample.labels.values() for _, sample in samples)


def test_without_a_monitor_there_are_the_runs_alone(bus: telemetry.Bus) -> None:
    exporter = PrometheusExporter(None, bus=bus, version="1.2.3")
    for event in RUN:
        bus.publish(event)
    names = {family.name for family in exporter.collect() if family.samples}
    assert "crystools_tpu_runs" in names
    assert not [name for name in names if name.startswith(("crystools_tpu_chip_", "crystools_tpu_host_"))]


def test_a_scrape_under_way_holds_no_event_up_and_the_next_one_counts_it(
    exporter: PrometheusExporter, monitor: FixedMonitor, bus: telemetry.Bus
) -> None:
    """The run's own thread publishes while the scrape is in the midst of its families."""

    class Publishing(tuple[ChipReading, ...]):
        def __iter__(self) -> Iterator[ChipReading]:
            publisher = threading.Thread(target=bus.publish, args=(step(1, 4.0),))
            publisher.start()
            publisher.join(20)
            assert not publisher.is_alive()
            return super().__iter__()

    monitor.snapshot = dataclasses.replace(SNAPSHOT, chips=Publishing(SNAPSHOT.chips))
    assert value(exporter, "step_duration_seconds_count", FULL_STEP) is None
    monitor.snapshot = SNAPSHOT
    assert value(exporter, "step_duration_seconds_count", FULL_STEP) == 7  # each of the chips' metrics


@pytest.mark.parametrize("name", ["real.prom", "simulated.prom"])
def test_promtool_finds_no_fault(name: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package `prometheus`): the metrics are NOT linted")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=(GOLDEN / name).read_bytes(), capture_output=True, timeout=30
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_catalogue_and_exposition_name_exactly_the_same_metrics(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    for event in RUN:
        bus.publish(event)
    families = {family.name: family for family in exporter.collect()}

    assert list(families) == [spec.name.removesuffix("_total") for spec in CATALOGUE]
    for spec in CATALOGUE:
        family = families[spec.name.removesuffix("_total")]
        assert family.type == spec.type
        assert family.samples, f"the fixed run has no sample of {spec.name}"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels), sample


def test_no_label_carries_prompt_seed_or_run_id(exporter: PrometheusExporter, bus: telemetry.Bus) -> None:
    for event in RUN:
        bus.publish(event)
    body = exporter.render()[0].decode()
    for secret in ("surfboard", "2025", "5f3c0a", "cat.mp4"):
        assert secret not in body


def test_an_unknown_value_has_no_sample(exporter: PrometheusExporter) -> None:
    assert value(exporter, "chip_duty_cycle_ratio", {"chip": "tpu1"}) == 0.0
    assert value(exporter, "chip_hbm_used_bytes", {"chip": "tpu1"}) is None
    assert value(exporter, "chip_temperature_celsius", {"chip": "tpu0"}) is None
    assert value(exporter, "source_up", {"source": "tpu"}) == 0.0
    assert value(exporter, "source_up", {"source": "nvml"}) is None
    assert value(exporter, "source_idle", {"source": "nvml"}) is None
    assert value(exporter, "stage_mfu_ratio", DENOISE) is None


def test_a_source_whose_chips_are_idle_is_up_and_says_so(exporter: PrometheusExporter) -> None:
    assert value(exporter, "source_up", {"source": "libtpu_sdk"}) == 1.0
    idle = {name: value(exporter, "source_idle", {"source": name}) for name in ("host", "tpu", "libtpu_sdk")}
    assert idle == {"host": 0.0, "tpu": 0.0, "libtpu_sdk": 1.0}
    assert value(exporter, "chips_attached", {"kind": "TPU v6e"}) == 2.0


def test_a_machine_without_a_host_reading_has_no_host_samples(
    exporter: PrometheusExporter, monitor: FixedMonitor
) -> None:
    monitor.snapshot = dataclasses.replace(SNAPSHOT, host=None)
    body = exporter.render()[0].decode()
    assert "\ncrystools_tpu_host_" not in body
    assert '\ncrystools_tpu_chip_hbm_total_bytes{chip="tpu1"} 3.4359738368e+10' in body


def test_a_snapshot_may_be_half_a_second_old(exporter: PrometheusExporter, monitor: FixedMonitor) -> None:
    exporter.render()
    assert monitor.asked == [0.5]


def test_a_step_in_which_a_compile_fell_is_no_step_time(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    bus.publish(step(0, 34.0, compiled=True))
    bus.publish(step(1, 4.5))
    assert value(exporter, "step_duration_seconds_count", FULL_STEP) == 1
    assert value(exporter, "step_duration_seconds_sum", FULL_STEP) == 4.5


def test_steps_are_counted_and_timed_by_kind_and_a_pipelines_own_words_are_other(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    bus.publish(step(0, 34.0, compiled=True))
    for number, (kind, seconds) in enumerate(
        (("full", 4.5), ("cached", 0.5), ("cached", 0.25), ("corrector", 2.0)), start=1
    ):
        event = step(number, seconds)
        bus.publish(dataclasses.replace(event, record=dataclasses.replace(event.record, kind=kind)))
    kinds = ("compiled", "full", "cached", "other", "corrector")
    counts = [value(exporter, "steps_total", {**DENOISE, "kind": kind}) for kind in kinds]
    assert counts == [1, 1, 2, 1, None]
    sums = [value(exporter, "step_duration_seconds_sum", {**DENOISE, "kind": kind}) for kind in kinds]
    assert sums == [None, 4.5, 0.75, 2.0, None]


def test_the_bound_of_a_bucket_belongs_to_it(exporter: PrometheusExporter, bus: telemetry.Bus) -> None:
    bus.publish(step(1, 2.5))
    assert value(exporter, "step_duration_seconds_bucket", {**FULL_STEP, "le": "1.0"}) == 0
    assert value(exporter, "step_duration_seconds_bucket", {**FULL_STEP, "le": "2.5"}) == 1
    assert value(exporter, "step_duration_seconds_bucket", {**FULL_STEP, "le": "+Inf"}) == 1


def test_a_first_compile_is_no_recompile(exporter: PrometheusExporter, bus: telemetry.Bus) -> None:
    bus.publish(compile_(30.0, CompileCache.MISS))
    assert value(exporter, "recompiles_total", DENOISE) == 0
    bus.publish(compile_(0.5, CompileCache.HIT, recompile=True))
    assert value(exporter, "recompiles_total", DENOISE) == 1
    assert value(exporter, "compiles_total", {**DENOISE, "cache": "miss"}) == 1
    assert value(exporter, "compiles_total", {**DENOISE, "cache": "hit"}) == 1
    assert value(exporter, "compile_duration_seconds_sum", {**DENOISE, "cache": "hit"}) == 0.5


def test_mfu_is_the_latest_steps_and_then_the_stages(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    bus.publish(step(1, 4.5, mfu=Ratio(0.25, 1.0, 4.0, "flop", "architecture")))
    assert value(exporter, "stage_mfu_ratio", DENOISE) == 0.25
    bus.publish(stage_finished())
    assert value(exporter, "stage_mfu_ratio", DENOISE) == 0.375


def test_what_the_latest_stage_does_not_know_disappears(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    peak = {**DENOISE, "device": "tpu:0"}
    bus.publish(stage_finished())
    assert value(exporter, "stage_hbm_peak_bytes", peak) == 20 * 1024**3

    bus.publish(stage_finished(mfu=None, mbu=None, flops=None, hbm=()))

    assert value(exporter, "stage_mfu_ratio", DENOISE) is None
    assert value(exporter, "stage_mbu_ratio", DENOISE) is None
    assert value(exporter, "stage_hbm_peak_bytes", peak) is None
    assert value(exporter, "model_flops_total", DENOISE) == 39e15


def test_a_run_is_in_progress_from_its_start_to_its_end(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    bus.publish(RUN[0])
    assert value(exporter, "runs_in_progress", {"pipeline": "wan2.1-t2v"}) == 1
    bus.publish(RUN[-1])
    assert value(exporter, "runs_in_progress", {"pipeline": "wan2.1-t2v"}) == 0


def test_the_end_of_a_run_that_began_before_anybody_counted_is_not_minus_one_in_progress(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    bus.publish(RUN[-1])
    assert value(exporter, "runs_in_progress", {"pipeline": "wan2.1-t2v"}) is None


def test_what_a_run_costs_is_its_seconds_times_its_chips(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    bus.publish(RUN[-1])
    labels = {"pipeline": "wan2.1-t2v", "status": "succeeded"}
    assert value(exporter, "run_chip_seconds_total", labels) == 42.5 * 8


def test_a_step_without_a_finite_output_is_counted(exporter: PrometheusExporter, bus: telemetry.Bus) -> None:
    finite = step(1, 4.5)
    bus.publish(finite)
    assert value(exporter, "nonfinite_steps_total", DENOISE) == 0
    bus.publish(dataclasses.replace(finite, record=dataclasses.replace(finite.record, finite=False)))
    assert value(exporter, "nonfinite_steps_total", DENOISE) == 1


def test_failed_runs_are_counted_apart(exporter: PrometheusExporter, bus: telemetry.Bus) -> None:
    finished = RUN[-1]
    assert isinstance(finished, RunFinished)
    bus.publish(stage_finished(status=Status.FAILED, seconds=1.5))
    bus.publish(RunFinished(dataclasses.replace(finished.report, status=Status.FAILED)))
    runs = {"pipeline": "wan2.1-t2v"}
    assert value(exporter, "runs_total", {**runs, "status": "failed"}) == 1
    assert value(exporter, "runs_total", {**runs, "status": "succeeded"}) is None
    assert value(exporter, "stage_duration_seconds_sum", {**DENOISE, "status": "failed"}) == 1.5


def test_a_workflow_counts_as_one_run_and_its_nodes_apart_from_the_stages_of_models(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    bus.publish(RunStarted(dataclasses.replace(WORKFLOW, status=Status.RUNNING, stages=())))
    for number, stage in enumerate(WORKFLOW.stages):
        pipeline = stage.pipeline or WORKFLOW.pipeline
        bus.publish(StageStarted(WORKFLOW.run_id, number, stage))
        for index, record in enumerate(stage.steps):
            said = (index, record, len(stage.steps), None, None, None, None)
            bus.publish(StepFinished(WORKFLOW.run_id, pipeline, number, stage.name, *said))
        bus.publish(StageFinished(WORKFLOW.run_id, pipeline, number, stage))
        bus.publish(RunChanged(WORKFLOW))
    bus.publish(RunFinished(WORKFLOW))

    assert value(exporter, "runs_total", {"pipeline": "comfyui", "status": "succeeded"}) == 1
    assert value(exporter, "runs_in_progress", {"pipeline": "comfyui"}) == 0
    assert value(exporter, "stage_duration_seconds_sum", {**DENOISE, "status": "succeeded"}) == 45
    assert value(exporter, "step_duration_seconds_count", FULL_STEP) == 20
    assert b'stage="node"' not in exporter.render()[0]
    sampler = {"node_class": "KSampler"}
    assert value(exporter, "node_duration_seconds_sum", {**sampler, "status": "succeeded"}) == 20
    assert value(exporter, "node_step_duration_seconds_count", sampler) == 20, "without the first"
    assert value(exporter, "node_step_duration_seconds_sum", sampler) == 15
    assert value(exporter, "node_hbm_peak_bytes", sampler) == 11 * 1024**3
    assert (
        value(exporter, "node_host_memory_peak_bytes", {"node_class": "CheckpointLoaderSimple"})
        == 9 * 1024**3
    )
    others = {"node_class": "other", "status": "succeeded"}
    assert value(exporter, "node_duration_seconds_count", others) == 3
    assert value(exporter, "node_duration_seconds_sum", others) == 25
    assert b"OfSomebody" not in exporter.render()[0]


def test_a_step_of_a_node_counts_as_it_is_taken_and_none_whose_node_nobody_knows(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    started, *steps, _ = events_of_node("a", 1, STAGES[1])
    for event in steps[:5]:
        bus.publish(event)
    assert value(exporter, "node_step_duration_seconds_count", {"node_class": "KSampler"}) is None
    bus.publish(started)
    for event in steps[:5]:
        bus.publish(event)
    assert value(exporter, "node_step_duration_seconds_count", {"node_class": "KSampler"}) == 4


def test_a_compile_in_a_node_counts_as_one_though_the_node_is_no_stage(
    exporter: PrometheusExporter, bus: telemetry.Bus
) -> None:
    bus.publish(
        dataclasses.replace(compile_(2.0, CompileCache.MISS), pipeline="comfyui", stage_name=StageName.NODE)
    )
    assert value(exporter, "compiles_total", {"pipeline": "comfyui", "stage": "node", "cache": "miss"}) == 1


def test_the_classes_of_nodes_that_are_told_apart_are_ours_and_comfyuis() -> None:
    """The exporters cannot import the nodes: their names are there twice."""
    assert set(NODE_CLASS_MAPPINGS) == OURS
    assert {"KSampler", "CheckpointLoaderSimple", "SaveImage", "SamplerCustomAdvanced"} <= COMFYUI
    assert not OURS & COMFYUI
    assert known_class("Wan21TPUSampler") == "Wan21TPUSampler"
    assert known_class("KSampler (Efficient)") == known_class(None) == OTHER


def test_a_metric_that_fails_does_not_take_the_others_along(
    exporter: PrometheusExporter, monitor: FixedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    monitor.snapshot = dataclasses.replace(SNAPSHOT, chips=None)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        body = exporter.render()[0].decode()
    assert "crystools_tpu_chip_hbm_" not in body
    assert "\ncrystools_tpu_chip_hlo_execution_seconds_bucket{" in body
    assert "\ncrystools_tpu_host_memory_used_bytes 3.221225472e+09" in body
    assert "crystools_tpu_chip_hbm_used_bytes could not be collected" in caplog.text


def test_a_monitor_that_fails_leaves_the_runs(bus: telemetry.Bus, caplog: pytest.LogCaptureFixture) -> None:
    class BrokenMonitor(FixedMonitor):
        def sample(self, max_age_seconds: float) -> Snapshot:
            raise OSError("no sources")

    exporter = PrometheusExporter(BrokenMonitor(), bus=bus, version="1.2.3")
    for event in RUN:
        bus.publish(event)
    with caplog.at_level(logging.WARNING):
        body = exporter.render()[0].decode()
    assert "\ncrystools_tpu_host_" not in body
    assert '\ncrystools_tpu_runs_total{pipeline="wan2.1-t2v",status="succeeded"} 1.0\n' in body
    assert "no sources" in caplog.text


def test_an_event_that_cannot_be_counted_takes_no_other_along(
    exporter: PrometheusExporter, bus: telemetry.Bus, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        bus.publish(stage_finished(seconds="soon"))
        bus.publish(step(1, 4.0))
    assert value(exporter, "step_duration_seconds_count", FULL_STEP) == 1
    assert "stage_finished could not be counted" in caplog.text


def test_no_event_is_lost_between_scrapes(exporter: PrometheusExporter, bus: telemetry.Bus) -> None:
    for _ in range(10_000):
        bus.publish(step(1, 1.0))
    assert value(exporter, "step_duration_seconds_count", FULL_STEP) == 10_000


def test_a_closed_exporter_counts_no_more(exporter: PrometheusExporter, bus: telemetry.Bus) -> None:
    exporter.close()
    bus.publish(step(1, 1.0))
    assert value(exporter, "step_duration_seconds_count", FULL_STEP) is None


def test_registering_elsewhere_takes_no_sample_and_changes_no_global(
    exporter: PrometheusExporter, monitor: FixedMonitor
) -> None:
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    registry.register(exporter)
    assert monitor.asked == []
    other = prometheus_client.Counter("other", "Somebody else's.", registry=registry)
    other.inc()
    text = prometheus_client.generate_latest(registry).decode()
    assert "crystools_tpu_source_up" in text
    assert "other_created" in text
    assert "crystools_tpu_runs_created" not in text


def test_one_metric_has_one_row_in_the_catalogue() -> None:
    names = [spec.name for spec in CATALOGUE]
    assert len(names) == len(set(names))
    assert all(name.startswith("crystools_tpu_") for name in names)
    assert all(spec.type == "histogram" for spec in CATALOGUE if spec.buckets)
    assert all(set(spec.help).isdisjoint('"\\\n') for spec in CATALOGUE)  # which the formats escape
    assert all(spec.name.endswith("_total") == (spec.type == "counter") for spec in CATALOGUE)

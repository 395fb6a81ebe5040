"""The wire: a committed JSON Schema that all events and reports obey."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jsonschema
import pytest

from crystools_tpu import telemetry
from crystools_tpu.telemetry.stage_tree import top_level, walk
from tests.rigs.workflow_run import STAGES, WORKFLOW
from tests.telemetry.conftest import Bench

COMMITTED = Path(telemetry.__file__).parent / "schema" / "wire.schema.json"


def test_every_event_and_the_report_of_a_real_run_are_valid(bench: Bench) -> None:
    with bench.real_time_run(devices=jax.devices()[:2], params={"seed": 1, "guidance": 5.0}) as run:
        with run.stage("denoise", steps=2, flops_per_step=1e9, flops_method="architecture") as stage:
            jax.clear_caches()
            stage.step(jax.jit(lambda: jax.numpy.isfinite(1.0).all())())
        run.warn("the prompt was cut")
    with pytest.raises(RuntimeError), bench.real_time_run() as failed:
        raise RuntimeError("no")
    bench.bus.publish(telemetry.ModelFreed(None, "model", "vae", 2**40, "freed"))
    capture = telemetry.ProfileCapture(telemetry.CaptureStatus.WAITING, 5, 0, None, None, None)
    bench.bus.publish(telemetry.ProfileChanged(capture))
    messages = [telemetry.to_wire(event) for event in bench.events.drain()]
    messages += [telemetry.to_wire(run.report), telemetry.to_wire(failed.report)]
    validator = jsonschema.Draft202012Validator(json.loads(COMMITTED.read_text()))
    for message in messages:
        validator.validate(json.loads(json.dumps(message, allow_nan=False)))
    assert {message.get("type", "report") for message in messages} == {
        "run_started",
        "stage_started",
        "compile_finished",
        "step_finished",
        "stage_finished",
        "run_finished",
        "run_warned",
        "model_freed",
        "profile_changed",
        "report",
    }


def test_a_report_is_read_back_from_its_wire_form(bench: Bench) -> None:
    with bench.real_time_run(devices=jax.devices()[:2], params={"seed": 1, "guidance": 5.0}) as run:
        with run.stage("denoise", steps=2, flops_per_step=1e9, flops_method="architecture") as stage:
            stage.step(jax.jit(lambda: jax.numpy.isfinite(1.0).all())())
        run.warn("the prompt was cut")
    wire = json.loads(json.dumps(telemetry.to_wire(run.report)))
    assert telemetry.report_from_wire(wire) == run.report


def test_a_report_of_before_there_were_warnings_has_none(bench: Bench) -> None:
    with bench.real_time_run() as run:
        pass
    older = telemetry.to_wire(run.report)
    del older["warnings"]
    assert telemetry.report_from_wire(older) == run.report
    assert run.report.warnings == ()


def test_a_run_says_which_of_its_parameters_are_content_and_one_of_before_does_not(bench: Bench) -> None:
    params = {"caption": "a boat", "steps": 50}
    with bench.real_time_run(params=params, content_params=["caption", "\x00"]) as run:
        pass
    wire = telemetry.to_wire(run.report)
    assert wire["content_params"] == ["caption", "\\x00"]
    assert telemetry.report_from_wire(wire) == run.report
    del wire["content_params"]
    assert telemetry.report_from_wire(wire).content_params is None


@pytest.mark.parametrize("seed", [42, 2**53 - 1, 2**53 + 1, 2**63 - 1, 2**64 - 1])
def test_a_whole_number_is_read_exactly_by_who_has_floats_alone(bench: Bench, seed: int) -> None:
    """As JavaScript has. A small one stays a number."""
    with bench.real_time_run(params={"seed": seed, "guided": True, "steps": -(2**60)}) as run:
        pass
    text = json.dumps(telemetry.to_wire(run.report))
    params = json.loads(text, parse_int=lambda digits: int(float(digits)))["params"]
    assert {name: str(value) for name, value in params.items()} == {
        "seed": str(seed),
        "guided": "True",
        "steps": "-1152921504606846976",
    }
    assert isinstance(params["seed"], int) == (seed < 2**53)
    assert telemetry.report_from_wire(json.loads(text)) == run.report


def test_a_report_of_before_has_the_digits_of_a_large_seed_too(bench: Bench) -> None:
    with bench.real_time_run(params={"seed": 2**62 + 1}) as run:
        pass
    wire = telemetry.to_wire(run.report)
    older = telemetry.report_from_wire({**wire, "params": {"seed": 2**62 + 1}})
    assert older == run.report
    assert older.params["seed"] == "4611686018427387905"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "this is no run report: a JSON object with schema 1 was expected"),
        ({"status": "asleep"}, "report.status is none of running, succeeded, failed, cancelled, interrupted"),
        ({"stages": "none"}, "report.stages is no list"),
        ({"stages": [1]}, r"report.stages\[0\] is no object"),
        ({"device": {"platform": "tpu"}}, "report.device lacks kind, count, chips"),
    ],
)
def test_what_is_no_report_is_refused_by_field(bench: Bench, change: dict[str, object], message: str) -> None:
    with bench.real_time_run() as run:
        pass
    with pytest.raises(ValueError, match=message):
        telemetry.report_from_wire({**telemetry.to_wire(run.report), **change})


def test_what_is_not_a_number_is_null() -> None:
    ratio = telemetry.Ratio(float("nan"), 1.0, float("inf"), "flop", "none")
    event = telemetry.StepFinished(
        run_id="r",
        pipeline="p",
        stage=0,
        stage_name=telemetry.StageName.DENOISE,
        step=0,
        record=telemetry.StepRecord(1.0, compiled=False, finite=None),
        steps_total=None,
        eta_seconds=None,
        mfu=ratio,
        mbu=None,
        bound=None,
    )
    wire = telemetry.to_wire(event)
    assert (wire["mfu"]["ratio"], wire["mfu"]["denominator"], wire["eta_seconds"]) == (None, None, None)


def test_a_field_the_schema_does_not_have_is_refused() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(COMMITTED.read_text()))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"schema": 1, "type": "run_finished", "report": {}, "extra": 1})


WIRE = json.loads(json.dumps(telemetry.to_wire(WORKFLOW), allow_nan=False))


def test_a_workflows_run_is_valid_and_read_back() -> None:
    jsonschema.Draft202012Validator(json.loads(COMMITTED.read_text())).validate(WIRE)
    assert telemetry.report_from_wire(WIRE) == WORKFLOW


def test_a_report_of_before_there_were_nodes_has_none() -> None:
    new = {"name", "process", "nodes_total", "cached_nodes"}
    of_stages = {"parent", "pipeline", "node", "host_memory"}
    older = {key: value for key, value in WIRE.items() if key not in new}
    older["stages"] = [
        {key: value for key, value in stage.items() if key not in of_stages}
        for stage in WIRE["stages"]
        if stage["name"] != "node"
    ]
    read = telemetry.report_from_wire(older)
    assert (read.name, read.process, read.nodes_total, read.cached_nodes) == (None, None, None, ())
    assert [(stage.parent, stage.pipeline, stage.node) for stage in read.stages] == [(None, None, None)] * 2
    assert set(telemetry.to_wire(read)).isdisjoint(new)


def test_a_stage_that_only_a_newer_version_knows_is_refused_and_a_field_of_it_is_passed_over() -> None:
    stage = {**WIRE["stages"][0], "watts": 12.0}
    assert (
        telemetry.report_from_wire({**WIRE, "stages": [stage], "mood": "good"}).stages == WORKFLOW.stages[:1]
    )
    with pytest.raises(ValueError, match=r"report.stages\[0\].name is none of download"):
        telemetry.report_from_wire({**WIRE, "stages": [{**stage, "name": "upscale"}]})


@pytest.mark.parametrize("parent", [-1, 0, 7, 2**40])
def test_a_stage_whose_parent_is_no_stage_before_it_is_at_the_top(parent: int) -> None:
    read = telemetry.report_from_wire({**WIRE, "stages": [{**WIRE["stages"][0], "parent": parent}]})
    assert [*walk(read.stages)] == [(0, 0)]


def test_parts_follow_what_they_are_parts_of() -> None:
    assert [*walk(WORKFLOW.stages)] == [
        (0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 0), (6, 1), (7, 1), (8, 0), (9, 0),
    ]  # fmt: skip
    shuffled = (STAGES[2], STAGES[5], dataclasses.replace(STAGES[3], parent=0))
    assert [*walk(shuffled)] == [(0, 0), (2, 1), (1, 0)]
    assert top_level(shuffled) == [STAGES[2], STAGES[5]]

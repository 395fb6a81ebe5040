"""What was expected of a run: told before it begins, followed by the ETA, kept beside what was measured."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest

from crystools_tpu import telemetry
from crystools_tpu.stage_table import stage_text
from crystools_tpu.telemetry import Forecast, StageForecast, StageName
from tests.telemetry.conftest import Bench

GIB = 2**30
DENOISE = StageForecast(StageName.DENOISE, "transformer", True, 4.5, 10 * GIB)
DECODE = StageForecast(StageName.VAE_DECODE, None, True, None, None)
FITS = Forecast("a slide rule, an estimate", 31 * GIB, (DENOISE, DECODE))
TOO_LARGE = replace(DENOISE, fits=False, hbm_peak_bytes_per_chip=40 * GIB, step_seconds=None)
DOES_NOT_FIT = replace(FITS, stages=(TOO_LARGE, DECODE), would_fit=("720 x 1280, 49 frames", "544 x 960"))


class HalfAChip:
    """A device of a 7x, of which two make a chip."""

    platform = "tpu"
    device_kind = "TPU7x"
    id = 0

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_in_use": 4 * GIB, "peak_bytes_in_use": 4 * GIB, "bytes_limit": 94 * GIB}


def test_a_stage_keeps_what_was_expected_of_it_beside_what_it_took(bench: Bench) -> None:
    with bench.run(forecast=FITS) as run:
        with run.stage("load", component="transformer"):
            pass
        with run.stage("denoise", component="transformer", steps=1) as stage:
            bench.clock.advance(5)
            stage.step(None)
        with run.stage("vae_decode"):
            pass
    load, denoise, decode = run.report.stages
    assert (load.predicted_step_seconds, load.predicted_hbm_peak_bytes) == (None, None)
    assert (denoise.predicted_step_seconds, denoise.predicted_hbm_peak_bytes) == (4.5, 10 * GIB)
    assert denoise.step_seconds is not None
    assert denoise.step_seconds.median == 5
    assert (decode.predicted_step_seconds, decode.predicted_hbm_peak_bytes) == (None, None)
    assert run.report.forecast == FITS
    wire = json.loads(json.dumps(telemetry.to_wire(run.report)))
    assert telemetry.report_from_wire(wire) == run.report


def test_memory_is_expected_of_a_device_as_it_is_measured(bench: Bench) -> None:
    with bench.run(forecast=FITS, devices=[HalfAChip()]) as run:
        with run.stage("denoise", component="transformer"):
            pass
    (denoise,) = run.report.stages
    assert (denoise.predicted_hbm_peak_bytes, denoise.hbm[0].peak_bytes) == (5 * GIB, 4 * GIB)


def test_each_forecast_is_of_one_stage_in_their_order(bench: Bench) -> None:
    again = replace(DENOISE, step_seconds=2.0)
    with bench.run(forecast=replace(FITS, stages=(DENOISE, again))) as run:
        for _ in range(3):
            with run.stage("denoise", component="transformer"):
                pass
    assert [stage.predicted_step_seconds for stage in run.report.stages] == [4.5, 2.0, None]


def test_the_eta_starts_from_the_forecast_and_follows_the_steps(bench: Bench) -> None:
    etas = []
    with bench.run(forecast=FITS) as run:
        with run.stage("denoise", component="transformer", steps=20) as stage:
            assert stage.report.predicted_step_seconds == 4.5
            stage.compile_log.duration("/jax/core/compile/backend_compile_duration", 30.0, "jit(step)")
            for seconds in (34.0, *[5.5] * 16):
                bench.clock.advance(seconds)
                stage.step(None)
                etas.append(bench.next("step_finished").eta_seconds)
    assert etas[0] == 19 * 4.5  # a compile fell in the first step: the forecast alone
    assert etas[1] == 18 * 5.0  # the median of the forecast and one step
    assert etas[2] == 17 * 5.5  # of the forecast and two steps
    assert etas[16] == 3 * 5.5


def test_an_eta_without_a_forecast_waits_for_a_step_without_compile(bench: Bench) -> None:
    with bench.run() as run, run.stage("denoise", steps=2) as stage:
        stage.compile_log.duration("/jax/core/compile/backend_compile_duration", 30.0, "jit(step)")
        stage.step(None)
        assert bench.next("step_finished").eta_seconds is None


def test_what_will_not_fit_is_said_before_anything_begins_and_the_run_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    warning = (
        "does not fit by a slide rule, an estimate: denoise transformer wants 40.00 GiB of a chip's 31.00 "
        "GiB; 720 x 1280, 49 frames or 544 x 960 would fit"
    )
    with caplog.at_level(logging.WARNING), bench.run("wan", forecast=DOES_NOT_FIT) as run:
        assert caplog.messages == [f"wan: {warning}"]
        assert bench.next("run_started").report.forecast == DOES_NOT_FIT
    assert telemetry.forecast_warning(DOES_NOT_FIT) == warning
    assert run.report.status == "succeeded"


@pytest.mark.parametrize(
    ("forecast", "warning"),
    [
        (FITS, None),
        (replace(FITS, stages=()), None),
        (replace(FITS, stages=(replace(DENOISE, fits=None),)), None),
        (
            Forecast("a guess", None, (replace(TOO_LARGE, component=None),)),
            "does not fit by a guess: denoise wants 40.00 GiB",
        ),
        (
            Forecast("a guess", 1, (replace(TOO_LARGE, hbm_peak_bytes_per_chip=None),)),
            "does not fit by a guess: denoise transformer",
        ),
    ],
)
def test_only_what_is_known_is_said(forecast: Forecast, warning: str | None) -> None:
    assert telemetry.forecast_warning(forecast) == warning


def test_a_report_of_before_there_were_forecasts_is_read(bench: Bench) -> None:
    with bench.run() as run, run.stage("denoise"):
        pass
    wire = telemetry.to_wire(run.report)
    del wire["forecast"]
    del wire["stages"][0]["predicted_step_seconds"], wire["stages"][0]["predicted_hbm_peak_bytes"]
    assert telemetry.report_from_wire(wire) == run.report


def test_the_table_has_the_forecast_below_the_measured_where_there_is_one(bench: Bench) -> None:
    with bench.run(forecast=FITS) as run:
        with run.stage("denoise", component="transformer", steps=1) as stage:
            bench.clock.advance(5)
            stage.step(None)
        with run.stage("vae_decode"):
            pass
    rows = [line.split() for line in stage_text(run.report).splitlines()]
    (denoise,) = (number for number, row in enumerate(rows) if row[:2] == ["denoise", "transformer"])
    assert rows[denoise] == ["denoise", "transformer", "5.000", "1", "5.000", "n/a"]
    assert rows[denoise + 1] == ["forecast", "4.500", "10.00", "GiB"]
    assert [row[0] for row in rows].count("forecast") == 1

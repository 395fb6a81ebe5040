"""Texts from outside are safe from the making of an event on: whoever gets one can write it."""

from __future__ import annotations

import dataclasses
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystools_tpu import telemetry
from crystools_tpu.telemetry import ModelFreed, RunReport, report_from_wire, to_wire
from crystools_tpu.telemetry.text import MOST_CHARACTERS, safe_text
from tests.telemetry.conftest import Bench


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("wan2.1-t2v", "wan2.1-t2v"),
        ("ein Kätzchen 猫 🐈", "ein Kätzchen 猫 🐈"),
        ("two\n\tlines\r\n", "two\n\tlines\r\n"),
        (os.fsdecode(b"caf\xe9.mp4"), "caf\\udce9.mp4"),
        ("\ud83d alone", "\\ud83d alone"),
        ("a\x00b", "a\\x00b"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x7f\x85\x9b", "\\x7f\\x85\\x9b"),
        ("", ""),
        (Path("a/b"), "a/b"),
        (None, "None"),
    ],
)
def test_what_cannot_be_written_is_there_as_its_escape(text: Any, safe: str) -> None:
    assert safe_text(text) == safe
    safe_text(text).encode()


def test_a_very_long_text_is_cut_and_says_so() -> None:
    assert safe_text("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS
    cut = safe_text("x" * 1_000_000)
    assert len(cut) == MOST_CHARACTERS
    assert cut.endswith("xxx… (of 1000000 characters)")
    assert len(safe_text("\x00" * MOST_CHARACTERS)) == MOST_CHARACTERS


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\x00" * 1_000_000, "\ud83d", "a\r\nb"])
def test_a_text_that_was_made_safe_stays_as_it_is(text: str) -> None:
    safe = safe_text(text)
    assert safe_text(safe) is safe


ODD = "odd \udcff \x00 \x1b"
SAFE = "odd \\udcff \\x00 \\x1b"


def texts_of(value: Any) -> list[str]:
    """All texts of a JSON value, names of fields included."""
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in texts_of(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    return [value] if isinstance(value, str) else []


def odd_run(bench: Bench) -> RunReport:
    with pytest.raises(OSError, match="odd"):
        with bench.run(ODD, model_id=ODD, params={ODD: ODD, "prompt": ODD}) as run:
            run.output = ODD
            with run.stage("load", component=ODD, flops_per_step=1, flops_method=ODD):
                raise OSError(ODD)
    return run.report


def test_every_text_of_a_run_and_its_events_is_safe(bench: Bench) -> None:
    report = odd_run(bench)
    for event in (*bench.events.drain(), report):
        for text in texts_of(to_wire(event)):
            assert text.isprintable(), text
    assert report.pipeline == report.model_id == report.output == SAFE
    assert report.params == {SAFE: SAFE, "prompt": SAFE}
    assert report.error == report.stages[0].error == f"OSError: {SAFE}"
    assert (report.stages[0].component, report.stages[0].flops_method) == (SAFE, SAFE)


def test_so_is_an_event_that_somebody_else_makes_or_has_kept(bench: Bench) -> None:
    assert ModelFreed(ODD, ODD, ODD, 1, "freed") == ModelFreed(SAFE, SAFE, SAFE, 1, "freed")
    wire = {**to_wire(odd_run(bench)), "pipeline": ODD, "params": {"seed": 1, ODD: ODD}}
    kept = report_from_wire(json.loads(json.dumps(wire)))  # JSON can hold half a surrogate pair
    assert (kept.pipeline, kept.params) == (SAFE, {"seed": 1, SAFE: SAFE})


def test_parameters_are_numbers_booleans_and_text() -> None:
    class Textless:
        def __repr__(self) -> str:
            raise ValueError("no text")

    circular: list[Any] = []
    circular.append(circular)
    given: dict[Any, Any] = {
        "steps": 50,
        "guided": True,
        "scale": 5.0,
        "none": None,
        "largest seed": 2**64 - 1,
        "huge": 16**5000,
        "numpy": np.float32(0.5),
        "count": np.int64(3),
        "decimal": Decimal("1.5"),
        "size": (720, 1280),
        "set": {1},
        "bytes": b"\xff",
        "circular": circular,
        "textless": Textless(),
        7: "a name that is no text",
    }
    with telemetry.run("test", params=given, bus=telemetry.Bus(), history=telemetry.History()) as run:
        pass
    assert run.report.params == {
        "steps": 50,
        "guided": True,
        "scale": 5.0,
        "none": None,
        "largest seed": "18446744073709551615",
        "huge": "0x1" + "0" * 5000,
        "numpy": 0.5,
        "count": 3,
        "decimal": "1.5",
        "size": "(720, 1280)",
        "set": "{1}",
        "bytes": "b'\\xff'",
        "circular": "[[...]]",
        "textless": "<Textless>",
        "7": "a name that is no text",
    }
    json.dumps(to_wire(run.report), allow_nan=False)


def test_a_text_that_is_safe_is_not_touched() -> None:
    report = RunReport(
        run_id="1",
        pipeline="wan",
        model_id=None,
        params={},
        status=telemetry.Status.RUNNING,
        error=None,
        started_at="",
        started_unix_seconds=0.0,
        total_seconds=None,
        output=None,
        device=None,
        stages=(),
    )
    assert dataclasses.replace(report, output="x").pipeline is report.pipeline

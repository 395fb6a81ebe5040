"""Every metric of the catalogue under a name that OpenTelemetry has, or that translates back."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import hw_attributes, system_attributes
from opentelemetry.semconv._incubating.metrics import hw_metrics, system_metrics

from crystools_exporters.catalogue import CATALOGUE
from crystools_exporters.otel_mapping import EXPORTED, INSTRUMENTS, Instrument, span_attributes
from tests.exporters.conftest import REPORT

CONVENTIONAL = [i for i in INSTRUMENTS.values() if not i.name.startswith("crystools_tpu.")]
OTHERS = [spec for spec in EXPORTED if INSTRUMENTS[spec.name].name.startswith("crystools_tpu.")]


class RecordingMeter:
    """Answers with what it was asked to create."""

    def __getattr__(self, name: str) -> Callable[..., tuple[str, str]]:
        kind = name.removeprefix("create_").removeprefix("observable_").replace("_", "")
        return lambda **fields: (kind, fields["unit"])


def test_each_metric_has_an_instrument_of_its_own() -> None:
    assert {spec.name for spec in CATALOGUE} - set(INSTRUMENTS) == {
        "crystools_tpu_chip_hlo_execution_seconds",
        "crystools_tpu_megascale_latency_seconds",
    }
    assert list(INSTRUMENTS) == [spec.name for spec in EXPORTED]
    assert len({instrument.name for instrument in INSTRUMENTS.values()}) == len(EXPORTED)


@pytest.mark.parametrize("instrument", CONVENTIONAL, ids=lambda instrument: instrument.name)
def test_a_conventional_name_has_the_conventions_kind_unit_and_attributes(instrument: Instrument) -> None:
    modules: tuple[Any, ...] = (hw_metrics, system_metrics)
    (module,) = (m for m in modules if instrument.name in vars(m).values())
    create = getattr(module, f"create_{instrument.name.replace('.', '_')}")
    arguments = [None] * (len(inspect.signature(create).parameters) - 1)
    assert create(RecordingMeter(), *arguments) == (instrument.kind, instrument.unit)
    known = [*vars(hw_attributes).values(), *vars(system_attributes).values()]
    assert all(attribute in known for attribute in (*instrument.attributes, *instrument.fixed))


def prometheus_name(instrument: Instrument) -> str:
    """As OpenTelemetry's specification translates names for Prometheus."""
    units = {"By": "_bytes", "Cel": "_celsius", "s": "_seconds"}
    unit = (
        "_ratio" if (instrument.unit, instrument.kind) == ("1", "gauge") else units.get(instrument.unit, "")
    )
    total = "_total" if instrument.kind == "counter" else ""
    return instrument.name.replace(".", "_") + unit + total


def test_the_other_names_translate_to_the_catalogues() -> None:
    for spec in OTHERS:
        instrument = INSTRUMENTS[spec.name]
        assert prometheus_name(instrument) == spec.name
        assert (instrument.kind, instrument.attributes) == (spec.type, spec.labels)


def test_every_name_is_documented_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs/otlp.md").read_text()
    rows = re.findall(r"^\| `(crystools_tpu_\w+)` \| `([\w.]+)` \| `([^`]+)` \|", text, re.MULTILINE)
    conventional = {n: (i.name, i.unit) for n, i in INSTRUMENTS.items() if i in CONVENTIONAL}
    assert {name: (theirs, unit) for name, theirs, unit in rows} == conventional


def test_a_seed_of_64_bits_is_kept_though_an_attributes_numbers_have_63() -> None:
    report = dataclasses.replace(REPORT, params={"seed": 2**64 - 1})
    attributes = span_attributes({"param": report.params})
    assert attributes == {"crystools_tpu.param.seed": "18446744073709551615"}


def test_plain_fields_become_attributes_and_what_is_unknown_becomes_none() -> None:
    values = {
        "mfu": {"ratio": 0.4, "unit": "flop"},
        "mbu": None,
        "reasons": ["a", "b"],
        "nothing": [],
        "image": Path("cat.png"),
        "hbm": [{"device": "tpu:0", "limit": None}, {"device": "tpu:1", "limit": 4}],
    }
    assert span_attributes(values) == {
        "crystools_tpu.mfu.ratio": 0.4,
        "crystools_tpu.mfu.unit": "flop",
        "crystools_tpu.reasons": ("a", "b"),
        "crystools_tpu.image": "cat.png",
        "crystools_tpu.hbm.device": ("tpu:0", "tpu:1"),
    }

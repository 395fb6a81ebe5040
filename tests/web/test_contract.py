"""What holds the page and the server together, read from their sources."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from crystools_tpu.monitor.snapshot import Snapshot, SourceHealth
from crystools_tpu.sources.base import ChipReading, DiskReading, HostReading
from crystools_tpu.telemetry import comparison, events

ROOT = Path(__file__).parents[2]
WEB = ROOT / "crystools_tpu" / "web"
DATACLASSES = [
    events.Ratio,
    events.HbmUsage,
    events.StepRecord,
    events.StepSeconds,
    events.StageForecast,
    events.Forecast,
    events.StageReport,
    events.StageProgress,
    events.Device,
    events.CompileRecord,
    events.RunReport,
    events.RunStarted,
    events.StageStarted,
    events.StepFinished,
    events.BytesTransferred,
    events.CompileFinished,
    events.StageFinished,
    events.RunFinished,
    events.RunWarned,
    events.ModelFreed,
    comparison.Change,
    comparison.Comparison,
    comparison.Difference,
    comparison.StageComparison,
    events.ProfileCapture,
    events.ProfileChanged,
    ChipReading,
    DiskReading,
    HostReading,
    SourceHealth,
    Snapshot,
]
ENUMS = [
    events.StageName,
    events.Status,
    events.CompileCache,
    events.CaptureStatus,
    events.Bound,
    comparison.Verdict,
]


@pytest.mark.parametrize("contract", DATACLASSES, ids=lambda contract: contract.__name__)
def test_the_pages_types_have_the_fields_of_the_dataclasses(contract: type) -> None:
    text = (WEB / "wire.d.ts").read_text()
    interface = re.search(rf"interface {contract.__name__} {{(.*?)\n}}", text, re.DOTALL)
    assert interface is not None
    written = set(re.findall(r"^  (\w+)\??:", interface[1], re.MULTILINE))
    fields = {field.name for field in dataclasses.fields(contract)}
    if contract is Snapshot:
        fields = fields - {"histograms"} | {"type"}
    assert written == fields


@pytest.mark.parametrize("enum", ENUMS)
def test_the_pages_types_have_the_values_of_the_enums(enum: type[events.StageName]) -> None:
    text = (WEB / "wire.d.ts").read_text()
    union = re.search(rf"type {enum.__name__} =(.*?);", text, re.DOTALL)
    assert union is not None
    assert re.findall(r'"(\w+)"', union[1]) == [member.value for member in enum]


def test_the_page_names_no_other_server() -> None:
    for path in WEB.rglob("*.*"):
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path


def test_every_colour_that_a_component_reads_is_in_the_theme() -> None:
    defined = set(re.findall(r"(--crystools-[\w-]+):", (WEB / "theme.css").read_text()))
    read = {
        name
        for path in [*WEB.rglob("*.js"), WEB / "style.css"]
        for name in re.findall(r"var\((--crystools-[\w-]+)", path.read_text())
    }
    assert read == defined


def test_the_page_imports_the_components_that_it_shows() -> None:
    shown = set(re.findall(r"<(crystools-\w+)", (WEB / "index.html").read_text()))
    imported = re.findall(r'^import "\./(components/.*)";$', (WEB / "page.js").read_text(), re.MULTILINE)
    texts = "".join((WEB / file).read_text() for file in imported)
    assert shown == set(re.findall(r'customElements\.define\("([\w-]+)"', texts))


def test_the_javascript_is_typed() -> None:
    compiler = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
    node = shutil.which("node")
    if node is None or not compiler.exists():
        pytest.skip("SKIPPED: node or node_modules is missing; the page's types are not checked (npm ci)")
    checked = subprocess.run(
        [node, compiler, "-p", ROOT / "tsconfig.json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout

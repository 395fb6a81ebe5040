"""Numbers as the page writes them."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
from playwright.sync_api import Browser, Page

from crystools_tpu.telemetry import StageName
from crystools_tpu.telemetry.applicable import StageFigure, applies
from crystools_tpu.telemetry.cost import amount
from crystools_tpu.telemetry.events import plain
from crystools_tpu.telemetry.suspicion import suspect_figures
from tests.rigs.suspects import POSSIBLE, SUSPECTS
from tests.rigs.workflow_run import WORKFLOW, stage
from tests.web.scenes import GIB, Scene


@pytest.fixture(scope="module")
def module_scene() -> Any:
    scene = Scene()
    scene.start()
    yield scene
    scene.stop()


@pytest.fixture(scope="module")
def page(browser: Browser, module_scene: Scene) -> Any:
    page = browser.new_page()
    page.goto(module_scene.url)
    yield page
    page.close()


RATIO = {
    "ratio": 0.39,
    "numerator": 13.05e15,
    "denominator": 33.34e15,
    "unit": "flop",
    "method": "architecture",
}


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        ("percent", [None], "n/a"),
        ("percent", [0], "0%"),
        ("percent", [0.0042], "0.4%"),
        ("percent", [0.0994], "9.9%"),
        ("percent", [0.0996], "10%"),
        ("percent", [0.987], "99%"),
        ("percent", [1], "100%"),
        ("gibibytes", [None], "n/a"),
        ("gibibytes", [0], "0 GiB"),
        ("gibibytes", [5 * 2**20], "5.00 MiB"),
        ("gibibytes", [0.25 * GIB], "0.250 GiB"),
        ("gibibytes", [31.24 * GIB], "31.2 GiB"),
        ("gibibytes", [1433 * GIB], "1,433 GiB"),
        ("usedOfTotal", [None, None], "n/a"),
        ("usedOfTotal", [23.1 * GIB, 31.25 * GIB], "23.1 / 31.3 GiB"),
        ("usedOfTotal", [23.1 * GIB, None], "23.1 GiB / n/a"),
        ("usedOfTotal", [5 * 2**20, 31.25 * GIB], "5.00 MiB / 31.3 GiB"),
        ("duration", [None], "n/a"),
        ("duration", [0.0521], "0.052 s"),
        ("duration", [4.54], "4.54 s"),
        ("duration", [42.12], "42.1 s"),
        ("duration", [59.96], "1 min 00 s"),
        ("duration", [227], "3 min 47 s"),
        ("duration", [3725], "1 h 02 min"),
        ("wholeDuration", [None], "n/a"),
        ("wholeDuration", [6.6], "7 s"),
        ("teraflop", [None], "n/a"),
        ("teraflop", [13.05e15], "13,050 TFLOP"),
        ("teraflop", [5e9], "5.00 GFLOP"),
        ("celsius", [None], "n/a"),
        ("celsius", [61.4], "61 °C"),
        ("ratioDetail", [None], "n/a"),
        ("ratioDetail", [RATIO], "39%: 13,050 TFLOP of 33,340 TFLOP possible. Method: architecture."),
        ("verdict", [None], "n/a"),
        ("verdict", ["bandwidth"], "bandwidth-bound"),
        ("stageTitle", [{"name": "vae_decode", "component": None}], "VAE decode"),
        ("stageTitle", [{"name": "load", "component": "transformer"}], "Load transformer"),
    ],
)
def test_a_value_reads(page: Page, function: str, arguments: list[Any], text: str) -> None:
    call = "async ([name, values]) => (await import('./format.js'))[name](...values)"
    assert page.evaluate(call, [function, arguments]) == text


def test_what_applies_and_what_cannot_be_is_the_same_on_the_page_as_in_the_terminal(page: Page) -> None:
    figures = get_args(StageFigure)
    stages = [*WORKFLOW.stages, *SUSPECTS.values(), *POSSIBLE.values()]
    told = page.evaluate(
        """async ([stages, figures]) => {
            const { applies } = await import("./applicable.js");
            const { suspectFigures } = await import("./suspicion.js");
            return stages.map((stage) => [
                figures.filter((figure) => applies(figure, stage)),
                Object.keys(suspectFigures(stage)).sort(),
            ]);
        }""",
        [plain(stages), figures],
    )
    assert told == [
        [[figure for figure in figures if applies(figure, stage)], sorted(suspect_figures(stage))]
        for stage in stages
    ]


STAGES_SHOWN = """async (run) => {
    await import("./components/stages.js");
    const table = document.createElement("crystools-stages");
    document.body.append(table);
    table.show(run, run.stages);
    const rows = [...table.shadowRoot.querySelectorAll("tr")];
    table.remove();
    return rows.map((row) => [...row.cells].filter((cell) => !cell.hidden).map((cell) => cell.textContent));
}"""


def test_the_pages_table_leaves_out_what_says_nothing_and_marks_what_cannot_be(page: Page) -> None:
    load, suspect = stage(StageName.LOAD, "vae", 0.0, 4.0), SUSPECTS["MFU of a CPU"]
    assert page.evaluate(STAGES_SHOWN, plain(dataclasses.replace(WORKFLOW, stages=(load,)))) == [
        ["Stage", "Time"],
        ["Load vae", "4.00 s"],
    ]
    assert page.evaluate(STAGES_SHOWN, plain(dataclasses.replace(WORKFLOW, stages=(load, suspect)))) == [
        ["Stage", "Time", "Steps", "MFU"],
        ["Load vae", "4.00 s", "-", "-"],
        ["Denoise transformer", "45.0 s", "0 of 1", "855%?"],
    ]


@pytest.mark.parametrize("value", [0, 1234.5, 1.2, 0.1, 0.094, 0.00312, 1e-12])
def test_money_reads_as_the_commands_write_it(page: Page, value: float) -> None:
    call = "async value => (await import('./cost.js')).amount(value)"
    assert page.evaluate(call, value) == amount(value)

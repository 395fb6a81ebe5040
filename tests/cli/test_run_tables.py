"""Runs of workflows, and runs that made NaN, in tables of any width."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.console import Console

from crystools_tpu.cli.console import print_table
from crystools_tpu.cli.run_tables import (
    differences_text,
    main_stage,
    print_stages,
    run_text,
    runs_table,
    suspect_text,
)
from crystools_tpu.stage_table import stage_text
from crystools_tpu.telemetry import Process, RunReport, Status, compare
from tests.exporters.conftest import REPORT
from tests.rigs.suspects import SUSPECTS
from tests.rigs.workflow_run import STAGES, WORKFLOW, node, with_nan

OF_ANOTHER = dataclasses.replace(REPORT, run_id="5f3c0a5f3c0a", process=Process(7, "bob", "generate"))


def shown(width: int, *reports: RunReport) -> list[str]:
    """The rows of the list, as words."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(runs_table(reports))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_table_has_what_ran_in_a_node_below_it_and_the_cached_nodes_in_one_line() -> None:
    lines = stage_text(with_nan(WORKFLOW)).splitlines()
    assert max(map(len, lines)) <= 96
    assert lines[0].strip() == "two passes (comfyui) succeeded, NaN from step 12 in 100.00 s"
    assert lines[2].split() == ["stage", "seconds", "steps", "s/step", "MFU", "memory", "peak", "RAM", "peak"]
    rows = [re.split(r"  +", line.rstrip()[1:], maxsplit=1)[0] for line in lines[4:14] if line[1] != " "]
    assert rows[:3] == ["CheckpointLoaderSimple", "Second pass", "Wan21TPUSampler"]
    assert next(line for line in lines if line.startswith("   ") and "transformer" in line).split() == [
        "load", "transformer", "10.000", "-", "-", "-", "n/a", "-",
    ]  # fmt: skip
    sampler = next(line for line in lines if "Second pass" in line)
    assert sampler.split() == [
        "Second",
        "pass",
        "20.000",
        "21",
        "0.750",
        "-",
        "11.00",
        "GiB",
        "3.00",
        "GiB",
    ]
    assert lines[-2:] == [
        "3 cached: VAELoader, CLIPTextEncode x2",
        "warning: NaN in denoise transformer from step 12 on: the output is not usable",
    ]


def test_of_a_long_workflow_there_are_the_slowest_nodes_and_what_failed_and_the_sum_of_the_others() -> None:
    stages = [node(str(n), f"Node{n}", float(n), 0.01 * n) for n in range(300)]
    stages[5] = dataclasses.replace(stages[5], status=Status.FAILED)
    stages[6] = dataclasses.replace(stages[6], parent=4)  # in the time of what is summed already
    lines = stage_text(dataclasses.replace(WORKFLOW, stages=tuple(stages))).splitlines()
    rows = [line.split()[0] for line in lines if line.startswith(" Node")]
    assert rows == ["Node5", *(f"Node{n}" for n in range(261, 300))]
    others = next(line for line in lines if "others" in line)
    assert others.split() == ["260", "others,", "each", "shorter", f"{0.01 * (sum(range(261)) - 5 - 6):.3f}"]


def test_a_title_gives_way_and_no_figure_does() -> None:
    titled = node("1", "KSampler", 0.0, 12.5, "[bold]a title that never ends " * 5)
    lines = stage_text(dataclasses.replace(WORKFLOW, stages=(titled, *STAGES[:1]))).splitlines()
    (row,) = (line for line in lines if "[bold]" in line)
    assert len(row) <= 96
    assert "…" in row
    assert "12.500" in row


@pytest.mark.parametrize("width", [30, 80])
def test_a_table_is_shown_whole_on_a_terminal_with_what_stands_under_it(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=True)
    with console.capture() as captured:
        print_stages(console, with_nan(WORKFLOW))
    out = captured.get()
    for figure in ("20.000", "0.750", "37.5%", "11.00 GiB"):
        assert figure in out
    assert out.endswith("the output is not usable\n")
    assert ("─" in out) == (width == 80)


def test_the_list_has_a_workflows_name_and_whose_a_run_is_where_they_differ() -> None:
    rows = shown(160, with_nan(WORKFLOW), OF_ANOTHER)
    assert re.search(r"succeeded, NaN from step 12 +100\.00 +2\.250 +37\.5%", rows[3])
    assert rows[3].endswith("two passes: comfyui of anna: a cat on a surfboard")
    assert rows[4].endswith("generate of bob: a cat on a surfboard")
    (row,) = (row for row in shown(160, WORKFLOW) if "comfyui" in row)
    assert row.endswith("37.5%  two passes: a cat on a surfboard")


def test_in_a_narrow_list_ids_and_figures_stay_whole() -> None:
    text = "\n".join(shown(80, with_nan(WORKFLOW), OF_ANOTHER))
    for figure in ("77aa88bb", "5f3c0a5f", "11-14", "wan2.1-t2v", "100.00", "42.50", "2.250", "37.5%"):
        assert figure in text


LONG = dataclasses.replace(
    REPORT,
    run_id="0123456789abcdef",
    pipeline="a-pipeline-of-somebody-with-a-name-that-has-no-end-at-all",
    params={"prompt": "a prompt that says all that there is to see and then says it again, " * 4},
)


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_texts_give_way_and_no_id_no_status_and_no_figure_ever_does(
    width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, force_terminal=width is not None)
    print_table(console, runs_table([LONG, with_nan(WORKFLOW), OF_ANOTHER]))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= (width or 250)
    text = " ".join(file.getvalue().split())
    for whole in ("01234567", "77aa88bb", "5f3c0a5f", "42.50", "100.00", "2.250", "37.5%", "11-14 22:13"):
        assert whole in text, whole
    figures = [line for line in lines if "01234567" in line]
    assert re.search(r"11-14 22:13.* 42\.50 ", figures[0]), "its figures are in one line with the id"
    if width in (60, None):
        assert "succeeded, NaN from step 12" in text
    if width is None:
        assert LONG.pipeline in text


def test_where_no_run_has_steps_there_is_no_column_of_them() -> None:
    loads = dataclasses.replace(WORKFLOW, stages=STAGES[:1])
    assert shown(160, loads)[1].split() == ["run", "began", "pipeline", "status", "seconds", "what"]


def test_below_the_list_stands_which_figure_cannot_be() -> None:
    stepping = dataclasses.replace(SUSPECTS["MFU of a CPU"], step_seconds=STAGES[4].step_seconds)
    suspect = dataclasses.replace(WORKFLOW, stages=(stepping,))
    assert suspect_text([WORKFLOW]) == ""
    assert suspect_text([WORKFLOW, suspect]).startswith("77aa88bb: denoise transformer: MFU 855.0% cannot be")
    assert suspect_text([suspect] * 9).splitlines()[3:] == ["6 more runs: `crystools-tpu runs show` says why"]
    assert "855.0%?" in "".join(shown(160, suspect))


def test_the_main_stage_of_a_workflow_is_the_denoising_in_its_nodes_or_else_its_longest_sampler() -> None:
    assert main_stage(WORKFLOW) == STAGES[4]
    assert main_stage(dataclasses.replace(WORKFLOW, stages=STAGES[:3])) == STAGES[1]


def test_a_comparison_says_that_one_of_them_made_nan() -> None:
    nan = dataclasses.replace(with_nan(WORKFLOW), run_id="b")
    assert differences_text(compare(WORKFLOW, nan)).splitlines()[1:] == ["B succeeded, NaN from step 12"]
    assert len(differences_text(compare(WORKFLOW, WORKFLOW)).splitlines()) == 1


def test_show_says_the_name_and_whose_it_is() -> None:
    lines = run_text(WORKFLOW).splitlines()
    assert "name    two passes" in lines
    assert "from    comfyui of anna, process 4242" in lines
    assert "name " not in run_text(REPORT)

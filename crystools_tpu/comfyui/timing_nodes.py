"""The nodes that show where the time went.

A `TPU_TIMING` socket carries a run's report as its JSON object, `telemetry.to_wire(report)`: every node of a
model has one as its last output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from crystools_tpu import telemetry
from crystools_tpu.comfyui.timing_table import Graph, Timing, sources_of, together
from crystools_tpu.telemetry import Node, RunReport

TIMING: Final = "TPU_TIMING"
MAX_TIMINGS: Final = 8

_CATEGORY: Final = "crystools-tpu/timing"


def _timing_inputs() -> dict[str, tuple[str, dict[str, str]]]:
    tooltip = {"tooltip": "the timing output of any TPU node"}
    return {f"timing_{number}": (TIMING, tooltip) for number in range(1, MAX_TIMINGS + 1)}


def reports_of(timings: Mapping[str, Any]) -> dict[str, RunReport]:
    """The reports of the connected inputs in order, each once. Raises ValueError that names the input.

    The nodes of one workflow report parts of the same run.
    """
    reports: dict[str, RunReport] = {}
    for name in _timing_inputs():
        if (timing := timings.get(name)) is None:
            continue
        try:
            report = telemetry.report_from_wire(timing)
        except ValueError as error:
            raise ValueError(f"{name}: {error}; connect the timing output of a TPU node") from None
        if report not in reports.values():
            reports[name] = report
    if not reports:
        raise ValueError("timing_1: nothing is connected; connect the timing output of a TPU node")
    return reports


def summary_of(reports: Mapping[str, RunReport], nodes: Mapping[str, Node]) -> str:
    """One table of all stages, those of each node together, in lines of 96 characters at most.

    `nodes` are the ones that the reports came from, by the same inputs, where they are known.
    """
    from crystools_tpu.stage_table import stage_text

    timings = [Timing(report, nodes.get(name)) for name, report in reports.items()]
    if len(timings) == 1 and timings[0].node is None:
        return stage_text(timings[0].report)
    return stage_text(together(timings))


class TPUTimingReport:
    """Where the time of up to eight runs went: as text, as JSON, and on the node itself."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "Where each second and each byte went, as a table and as JSON."
    FUNCTION = "report"
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("summary", "report_json")
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Eight sockets, of which any number is connected."""
        hidden = {"unique_id": "UNIQUE_ID", "graph": "DYNPROMPT"}
        return {"required": {}, "optional": _timing_inputs(), "hidden": hidden}

    def report(
        self, unique_id: str | None = None, graph: Graph | None = None, **timings: Any
    ) -> dict[str, Any]:
        """`report_json` is `{schema, runs}`, as the panel's API answers at `api/runs`."""
        reports = reports_of(timings)
        summary = summary_of(reports, sources_of(graph, unique_id))
        runs = [telemetry.to_wire(report) for report in reports.values()]
        body = {"schema": telemetry.WIRE_SCHEMA, "runs": runs}
        return {"ui": {"text": [summary]}, "result": (summary, json.dumps(body, indent=2))}


class TPUTimingPlot:
    """A picture of up to eight runs: stages on a time line, step times, and HBM of each chip."""

    CATEGORY = _CATEGORY
    DESCRIPTION = "The stages on a time line, the time of each step, and the HBM of each chip."
    FUNCTION = "plot"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("plot",)

    _SIDE: ClassVar = {"min": 320, "max": 4096, "step": 16}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The picture's size in pixels, and eight sockets, of which any number is connected."""
        return {
            "required": {
                "width": ("INT", {"default": 1280, **cls._SIDE}),
                "height": ("INT", {"default": 720, **cls._SIDE}),
            },
            "optional": _timing_inputs(),
        }

    def plot(self, width: int, height: int, **timings: Any) -> tuple[Any]:
        """One image, float32 `[1, height, width, 3]` in 0..1."""
        import torch

        from crystools_tpu.comfyui.timing_plot import draw

        pixels = draw([*reports_of(timings).values()], width, height)
        return (torch.from_numpy(pixels)[None],)

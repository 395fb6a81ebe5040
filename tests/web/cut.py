"""What is cut on a page, and the states in which one looks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import Page

from crystools_tpu.sources.base import Reading
from crystools_tpu.telemetry import Status
from tests.web.scenes import FORECAST, Scene, play_to_end, played_until, v6e_readings
from tests.web.workflows import (
    IN_PROGRESS,
    Workflow,
    begun_at,
    many_nodes,
    tell,
    text_to_image,
    text_to_video,
)

_WHAT_IS_CUT: Final = (
    f"mayBeCut => {{ {Path(__file__).with_suffix('.js').read_text()} return whatIsCut(mayBeCut); }}"
)

_GIVES_WAY: Final = ("#prompt", ".name", ".title", "#what", "#rest")
"""Prompts, and what somebody called a workflow or a node; all of it is in a tooltip or below."""


def what_is_cut(page: Page) -> list[str]:
    """A line for each text that is cut, lies on another or leaves its card, once the page is laid out."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found: list[str] = page.evaluate(_WHAT_IS_CUT, ", ".join(_GIVES_WAY))
    return found


def states(scene: Scene) -> Iterator[tuple[str, str]]:
    """Names the scene's states, one after the other, with what its first run then is called or says."""
    yield "nothing yet", ""
    scene.tpu.reading = Reading(chips=v6e_readings(8))
    play_to_end(scene, steps=6)
    play_to_end(scene, steps=6, nan_at=3, recompile_at=4, forecast=FORECAST)
    yield "finished", "Succeeded, NaN from step 3"
    play_to_end(scene, steps=6, fail_at=4)
    with played_until(scene, 8, recompile_at=5):
        yield "running", "Running"
    yield "cancelled, after one that failed", "Cancelled after 8 of 50 steps in Denoise"
    scene.tpu.reading = Reading(chips=v6e_readings(256))
    for flow in (many_nodes(300), text_to_video(nan_at=3)):
        flow.run_id = str(flow.name)
        told(
            scene, dataclasses.replace(flow, name=f"{flow.name}, as somebody called it who likes long names")
        )
        yield f"workflow {flow.name}", str(flow.name)
    told(scene, text_to_image(steps=7), running=True)
    yield "workflow running", "Running"


def told(scene: Scene, flow: Workflow, *, running: bool = False) -> None:
    report = flow.report(Status.RUNNING, total=8, progress=IN_PROGRESS) if running else flow.report()
    tell(scene, begun_at(scene.clock.wall(), report))

"""A run's trace file and a capture of the profiler, asked for on the page."""

from __future__ import annotations

import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace
from playwright.sync_api import Page, expect

from crystools_exporters.perfetto import perfetto_trace
from tests.web.conftest import OpenPage
from tests.web.scenes import Scene


@pytest.fixture
def page(scene: Scene, open_page: OpenPage, tmp_path: Path) -> Page:
    """The page of a server that makes traces and captures."""
    scene.trace, scene.profiles = perfetto_trace, tmp_path
    scene.start()
    return open_page(scene)


def test_a_run_is_downloaded_as_a_trace(page: Page, scene: Scene) -> None:
    with scene.run("my pipeline") as run, run.stage("save"):
        scene.clock.seconds += 2.0
    with page.expect_download() as download:
        page.locator("crystools-current").get_by_role("link", name="Trace").click()
    assert download.value.suggested_filename == f"my-pipeline-{run.run_id[:8]}.pftrace"
    trace = Trace.FromString(Path(download.value.path()).read_bytes())
    assert "save" in {packet.track_event.name for packet in trace.packet}


def test_the_next_steps_are_profiled_when_asked_for(page: Page, scene: Scene, tmp_path: Path) -> None:
    profile = page.locator("crystools-profile")
    profile.get_by_label("Profile the next").fill("2")
    profile.get_by_role("button", name="Start").click()
    state = profile.get_by_role("status")
    expect(state).to_have_text("Waiting: the next 2 steps of a run will be captured.")
    expect(profile.get_by_role("button")).to_be_disabled()
    with scene.run() as run, run.stage("denoise", steps=3) as stage:
        stage.step(jnp.ones(2))
        expect(state).to_have_text("Capturing: 0 of 2 steps.")
        for _ in range(2):
            stage.step(jnp.ones(2))
        expect(state).to_have_text(re.compile(rf"^2 steps: {re.escape(str(tmp_path))}/plugins/profile/"))
    expect(profile.get_by_role("button")).to_be_enabled()


def test_a_server_that_makes_neither_offers_neither(scene: Scene, open_page: OpenPage) -> None:
    scene.start()
    page = open_page(scene)
    with scene.run("mine"):
        pass
    expect(page.locator("crystools-current #pipeline")).to_have_text("mine")
    expect(page.locator("crystools-profile")).to_be_hidden()
    expect(page.get_by_role("link", name="Trace")).to_be_hidden()

"""Past runs on the page: what they made, how they are found, and word of their end."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from crystools_exporters.exporting import KeptRuns
from crystools_exporters.heartbeats import Observer
from crystools_exporters.processes import this_process
from crystools_exporters.run_log import Kept, RunLog
from crystools_tpu.telemetry import Process, RunReport, Status
from tests.web.conftest import OpenPage
from tests.web.scenes import PARAMS, Scene, play_to_end

FAKE_NOTIFICATIONS = """() => {
  window.told = [];
  window.Notification = class extends EventTarget {
    static permission = "default";
    static async requestPermission() { return (this.permission = "granted"); }
    constructor(title, { body, tag }) { super(); told.push([title, body, tag]); }
  };
  Object.defineProperty(document, "hidden", { configurable: true, get: () => window.away ?? false });
}"""


@pytest.fixture
def kept(scene: Scene, tmp_path: Path) -> Iterator[RunLog]:
    """A history that another process of this machine writes, and the scene's server reads."""
    scene.kept = KeptRuns(tmp_path / "history")
    another = Observer(dataclasses.replace(this_process(), namespace="another"))
    with RunLog(tmp_path / "history", observer=another) as log:
        yield log
    scene.kept.close()


@pytest.fixture(scope="module")
def made() -> RunReport:
    """A run that another process of this machine made."""
    quiet = Scene()
    play_to_end(quiet, steps=4)
    (report,) = quiet.history.reports()
    return dataclasses.replace(report, output=None, process=Process(os.getpid(), "ana", "generate"))


def run(made: RunReport, number: int, **changes: object) -> RunReport:
    """One of several, each older than the one before."""
    started = made.started_unix_seconds - 1000 * number
    return dataclasses.replace(made, run_id=f"run{number}", started_unix_seconds=started, **changes)  # type: ignore[arg-type]


def picture() -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (32, 18), (0, 128, 255)).save(body, "JPEG")
    return body.getvalue()


def rows(page: Page) -> Locator:
    return page.locator("crystools-runs li")


def test_past_runs_show_what_was_made_and_how_fast_and_are_found_in_all_that_are_kept(
    scene: Scene, kept: RunLog, made: RunReport, open_page: OpenPage
) -> None:
    boat = {**PARAMS, "prompt": "a paper boat"}
    kept.write([run(made, number) for number in range(30)])
    kept.write([run(made, 28, params=boat, status=Status.FAILED), run(made, 29, params=boat, name="Boats")])
    kept.attach("run1", "thumbnail", Kept("image/jpeg", picture()))
    scene.start()
    page = open_page(scene)
    first = rows(page).first
    expect(first.locator(".work")).to_have_text(
        "1280\u00d7720\u00d781 \u00b7 4 steps \u00b7 4.60 s a step \u00b7 MFU 39%".replace(
            " ", "\u00a0"
        ).replace("\u00a0\u00b7\u00a0", " \u00b7 ")
    )
    expect(first.locator("img")).to_have_js_property("naturalWidth", 32)
    expect(rows(page).nth(1).locator("img")).to_have_count(0)

    find = page.get_by_role("searchbox", name="Find runs by prompt, name, model or id")
    said = page.locator("crystools-runs #none")
    expect(rows(page)).to_have_count(19)
    find.fill("boat PAPER")
    expect(said).to_have_text("2 runs found.")
    expect(rows(page).locator(".name b")).to_have_text(["wan2.1-t2v", "Boats"])
    page.get_by_role("combobox", name="How it ended").select_option("failed")
    expect(said).to_have_text("1 run found.")
    find.fill("zeppelin")
    expect(said).to_have_text("No run is like that.")
    find.fill("")
    page.get_by_role("combobox", name="How it ended").select_option("")
    page.get_by_role("combobox", name="Model").select_option("wan2.1-t2v")
    expect(said).to_have_text("20 or more runs found.")
    page.get_by_role("button", name="Show older runs").click()
    expect(said).to_have_text("30 runs found.")
    kept.write([run(made, -1, name="the newest")])
    expect(said).to_have_text("31 runs found.")
    expect(rows(page).first.locator(".name b")).to_have_text("the newest")
    page.get_by_role("combobox", name="Model").select_option("")
    expect(said).to_be_hidden()
    expect(rows(page)).to_have_count(20)


def test_what_a_run_made_is_shown_and_a_link_where_the_server_gives_it_and_elsewhere_it_says_why(
    scene: Scene, kept: RunLog, made: RunReport, open_page: OpenPage, tmp_path: Path
) -> None:
    image, gone = tmp_path / "cat.jpg", tmp_path / "gone.mp4"
    image.write_bytes(picture())
    os.utime(image, (made.started_unix_seconds + 1, made.started_unix_seconds + 1))
    kept.write(
        [run(made, 0, output=str(image)), run(made, 1, output=str(gone)), run(made, 2, output="out/a.mp4")]
    )
    kept.attach("run0", "workflow", Kept("application/gzip", b""))
    scene.start()
    page = open_page(scene)
    result = page.locator("crystools-current crystools-result")
    output = f"{scene.url}api/runs/run0/output"
    expect(result.get_by_role("link", name=str(image))).to_have_attribute("href", output)
    expect(result.get_by_role("img", name="What the run has made")).to_have_js_property("naturalWidth", 32)
    workflow = result.get_by_role("link", name="Download this workflow")
    expect(workflow).to_have_attribute("href", f"{scene.url}api/runs/run0/workflow")
    expect(result.get_by_role("button", name="Load this workflow again")).to_be_hidden()

    for number, text in ((0, f"{gone} Not shown here. The file is no longer there."), (1, "out/a.mp4")):
        rows(page).nth(number).get_by_role("button").first.click()
        past = rows(page).nth(number).locator("crystools-result")
        expect(past.locator("#file")).to_have_text(text)
        expect(past.locator("#link")).to_be_hidden()
        expect(past.locator("#media > *")).to_have_count(0)


def test_the_browser_tells_of_a_runs_end_where_somebody_wants_that_and_looks_elsewhere(
    scene: Scene, kept: RunLog, made: RunReport, open_page: OpenPage
) -> None:
    scene.start()
    page = open_page(scene)
    page.evaluate(FAKE_NOTIFICATIONS)
    wanted = page.get_by_role("checkbox", name="Notify me when a run ends and I look elsewhere")

    def end(number: int, **changes: object) -> None:
        goes_on = run(made, -number, status=Status.RUNNING, total_seconds=None)
        kept.write([goes_on])
        expect(page.locator("crystools-current crystools-run")).to_have_attribute("data-run", goes_on.run_id)
        expect(page.locator("crystools-current #status")).to_have_text("Running")
        kept.write([run(made, -number, **changes)])
        expect(page.locator("crystools-current #status")).not_to_have_text("Running")

    kept.write([run(made, 1)])
    expect(page.locator("crystools-current crystools-run")).to_have_attribute("data-run", "run1")
    page.evaluate("() => { Notification.permission = 'denied'; }")
    wanted.click()
    expect(wanted).not_to_be_checked()
    expect(page.get_by_text("This browser lets the page show none")).to_be_visible()
    page.evaluate("() => { Notification.permission = 'default'; window.away = true; }")
    with scene.run("not wanted"):
        pass
    wanted.check()
    expect(page.get_by_text("This browser lets the page show none")).to_be_hidden()
    end(3, name="Cats")
    end(4, status=Status.FAILED, error="ValueError: no cat\nat all", total_seconds=4.5)
    page.evaluate("() => { window.away = false; }")
    with scene.run("looked at"):
        pass
    expect(rows(page).get_by_text("looked at")).to_be_visible()
    assert page.evaluate("told") == [
        ["Cats: Succeeded", "After 1 min 47 s", "run-3"],
        ["wan2.1-t2v: Failed in Save", "After 4.50 s: ValueError: no cat", "run-4"],
    ]
    page.reload()
    expect(wanted).to_be_checked()

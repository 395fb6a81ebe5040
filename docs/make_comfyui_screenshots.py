"""Makes the pictures of docs/comfyui.md in the real ComfyUI: real runs of a tiny model, a simulated v6e-8.

    COMFYUI_DIR=~/ComfyUI COMFYUI_PYTHON=~/ComfyUI/.venv/bin/python python docs/make_comfyui_screenshots.py

Needs Chromium, the extras `pipelines` and `dev`, and `make frontends`; takes about two minutes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from make_screenshots import CHROMIUM, TOPOLOGY, save
from make_workflows import SMALL_VIDEO, Node, wan_t2v, workflow
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect, sync_playwright

from crystools_pipelines.tiny.on_demand import tiny_name
from tests.rigs.comfyui import running_comfyui

ROOT: Final = Path(__file__).parent.parent
MODEL: Final = "wan2.1-t2v"
WINDOW: Final = (1440, 820)
SETTLE_MILLISECONDS: Final = 1200
MIDDLE: Final = re.compile(r"Denoise transformer (8|9|10|11)/20")

VERSION: Final = (ROOT / "tests" / "web" / "comfyui_frontends.txt").read_text().split()[-1]
FRONTEND: Final = Path(sys.prefix) / "frontends" / VERSION / "comfyui_frontend_package" / "static"
SETTINGS: Final = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": VERSION,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}

MANAGER: Final = "comfyAPI.app.app.extensionManager"
LOOK_AT: Final = """([left, top, scale]) => {
  const { canvas } = comfyAPI.app.app;
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = -left;
  canvas.ds.offset[1] = -top;
  canvas.setDirty(true, true);
}"""


def main() -> None:
    """Takes the pictures while a run runs, and when it is done."""
    expect.set_options(timeout=240_000)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        base = Path(folder)
        settings = base / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(SETTINGS))
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environ |= {
            "JAX_PLATFORMS": "cpu",
            "CRYSTOOLS_TPU_DATA_DIR": str(base / "data"),
            "CRYSTOOLS_TPU_SIMULATE": TOPOLOGY,
            "CRYSTOOLS_TPU_HISTORY": "off",
        }
        with running_comfyui(
            base,
            {"crystools-tpu": ROOT},
            checkout=Path(os.environ["COMFYUI_DIR"]).expanduser(),
            python=os.environ["COMFYUI_PYTHON"],
            arguments=["--front-end-root", str(FRONTEND)],
            environ=environ,
        ) as comfyui:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
            )
            take_pictures(open_page(browser, comfyui.url))
            browser.close()


def take_pictures(page: Page) -> None:
    """All of them, in one tab."""
    bar = page.locator("crystools-bar")
    page.evaluate(
        "saved => comfyAPI.app.app.loadGraphData(saved, true, true, 'wan2.1-t2v')", shown_workflow()
    )
    run(page, steps=4)
    wait_until_done(page)

    page.evaluate(LOOK_AT, [-261, -215, 0.6])
    run(page, steps=20)
    expect(bar.locator("#doing")).to_have_text(MIDDLE)
    picture(page, "comfyui-bar", around(bar, 10))
    page.set_viewport_size({"width": WINDOW[0], "height": 1200})
    bar.locator(".tag").click()
    picture(page, "comfyui-chips", around(bar.get_by_role("dialog"), 0))
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": WINDOW[0], "height": WINDOW[1]})
    page.evaluate("() => document.activeElement.blur()")
    page.mouse.move(700, 750)
    page.evaluate(f"() => {MANAGER}.sidebarTab.toggleSidebarTab('crystools-tpu')")
    picture(page, "comfyui-running")
    wait_until_done(page)

    page.evaluate(f"() => {MANAGER}.sidebarTab.toggleSidebarTab('crystools-tpu')")
    page.evaluate(LOOK_AT, [260, 850, 0.9])
    picture(page, "comfyui-timing", {"x": 70, "y": 100, "width": 1250, "height": 590})
    page.evaluate(f"() => {MANAGER}.command.execute('Comfy.ShowSettingsDialog')")
    page.get_by_text("Crystools TPU", exact=True).first.click()
    picture(page, "comfyui-settings", around(page.get_by_role("dialog").filter(has_text="Refresh rate"), 0))


def open_page(browser: Browser, url: str) -> Page:
    """ComfyUI's page with the bar in it."""
    width, height = WINDOW
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark")
    page.goto(url)
    expect(page.locator("crystools-bar .tag")).to_contain_text("8 chips")
    return page


def shown_workflow() -> dict[str, Any]:
    """That of the template with a larger report, and the plot of its timings."""
    nodes = wan_t2v("Wan21", {"model_id": tiny_name(MODEL)}, SMALL_VIDEO, "video")
    timings = {name: link for name, link in nodes["report"].inputs.items() if name.startswith("timing_")}
    size = {"width": 1280, "height": 720}
    saved = {"images": ("plot", 0), "filename_prefix": "plot"}
    return workflow(
        {
            **nodes,
            "report": dataclasses.replace(nodes["report"], place=(360, 1000), size=(780, 580)),
            "plot": Node("TPUTimingPlot", (720, 560), (320, 230), {**size, **timings}),
            "show": Node("SaveImage", (1180, 1210), (500, 370), saved),
        }
    )


def run(page: Page, *, steps: int) -> None:
    """Runs the workflow; each number of steps must be another, or ComfyUI has the answer already."""
    page.evaluate(
        "async steps => { const { app } = comfyAPI.app;"
        " const sampler = app.graph.nodes.find(node => node.type === 'Wan21TPUSampler');"
        " sampler.widgets.find(widget => widget.name === 'num_inference_steps').value = steps;"
        " await app.queuePrompt(0); }",
        steps,
    )


def wait_until_done(page: Page) -> None:
    """Until nothing runs and nothing waits."""
    while page.evaluate(
        "async () => { const queue = await (await comfyAPI.api.api.fetchApi('/queue')).json();"
        " return queue.queue_running.length + queue.queue_pending.length; }"
    ):
        page.wait_for_timeout(500)


def around(part: Locator, margin: int) -> FloatRect:
    """Its box on the page, and so many pixels more on each side."""
    box = part.bounding_box()
    assert box is not None
    return {
        "x": box["x"] - margin,
        "y": box["y"] - margin,
        "width": box["width"] + 2 * margin,
        "height": box["height"] + 2 * margin,
    }


def picture(page: Page, name: str, clip: FloatRect | None = None) -> None:
    """What the window shows, or a part of it, under `name`."""
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    save(page.screenshot(clip=clip), name)


if __name__ == "__main__":
    main()

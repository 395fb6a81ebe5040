"""Makes the README's pictures: the page with a real run of the demo's tiny model and a simulated v6e-8.

    python docs/make_screenshots.py

Needs Chromium and the extras `pipelines` and `dev`; takes about two minutes.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from crystools_pipelines import run
from crystools_pipelines.tiny import write_tiny_checkpoint
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_tpu.cli.demo import demo_request
from crystools_tpu.cli.serve import panel

IMAGES: Final = Path(__file__).parent / "images"
CHROMIUM: Final = "/usr/bin/chromium"
TOPOLOGY: Final = "v6e-8"
COLOURS: Final = 256
DESKTOP: Final = (1280, 900)
PHONE: Final = (360, 780)
MIDDLE: Final = re.compile("step 1[1-7] of 20")


def main() -> None:
    """Takes the pictures while a run runs, and one when it is done."""
    IMAGES.mkdir(exist_ok=True)
    os.environ["CRYSTOOLS_TPU_HISTORY"] = (
        "off"  # whoever makes the pictures keeps their own runs to themselves
    )
    expect.set_options(timeout=180_000)
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        panel(simulate=TOPOLOGY) as shown,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        pages = {
            f"{size}-{scheme}": open_page(browser, shown.url, DESKTOP if size == "page" else PHONE, scheme)
            for size in ("page", "phone")
            for scheme in ("light", "dark")
        }
        checkpoint = write_tiny_checkpoint("wan2.1-t2v", Path(folder) / "checkpoint")
        request = demo_request()
        generate(dataclasses.replace(request, num_inference_steps=4), checkpoint)
        generation = threading.Thread(target=generate, args=(request, checkpoint))
        generation.start()
        for name, page in pages.items():
            expect(page.locator("crystools-current #steps")).to_have_text(MIDDLE)
            picture(page, name.replace("-", "-running-"))
        generation.join()
        for name in ("page-light", "page-dark"):
            expect(pages[name].locator("crystools-current #status")).to_have_text("Succeeded")
            picture(pages[name], name.replace("-", "-finished-"))
        browser.close()


def open_page(browser: Browser, url: str, size: tuple[int, int], scheme: str) -> Page:
    """The page in a window of its own."""
    width, height = size
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page.goto(url)
    return page


def generate(request: Wan21Request, checkpoint: Path) -> None:
    """One run of the pipeline, which reports to this process's telemetry."""
    out = checkpoint.with_name("video.mp4")  # a path that is nobody's: it is in the pictures
    run.generate(request, checkpoint=checkpoint, devices=0, fps=16, out=out)


def picture(page: Page, name: str) -> None:
    """What the window shows, under `name`."""
    save(page.screenshot(), name)


def save(png: bytes, name: str) -> None:
    """In few colours, for the files travel with every clone."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    few = image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    few.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()

"""What the browser spends on 256 chips at ten readings a second: `python -m benchmarks.page [--json FILE]`.

The real server, a machine whose every figure changes with every reading, and a run on all of its chips, in
Chromium. Counted is the time of the page's main thread alone, by the thread's own clock, against the seconds that
went by: 1 is a page that answers nothing any more. ComfyUI's own page is measured without readings too, for it has
a canvas of its own to draw.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, expect, sync_playwright

from benchmarks.telemetry import Figure, machine
from crystools_tpu.sources.base import ChipReading, Reading
from tests.web.comfyui_host import VERSIONS, ComfyScene
from tests.web.conftest import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.web.scenes import GIB, HOST, Machine, Scene, played_until
from tests.web.test_comfyui import STORAGE_KEY

CHIPS = 256
INTERVAL_SECONDS = 0.1
SETTLE_SECONDS = 4.0
MACHINE = f"{CHIPS} chips"

FASTER = f"""{{
  const {{ send }} = WebSocket.prototype;
  WebSocket.prototype.send = function (text) {{
    const message = JSON.parse(text);
    if (message.interval_seconds > 0) message.interval_seconds = {INTERVAL_SECONDS};
    send.call(this, JSON.stringify(message));
  }};
}}"""
"""ComfyUI's settings offer no more than four readings a second: the page asks for ten all the same."""


class Fleet:
    """A source of which every figure of every chip is another with every reading."""

    name = "tpu"

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> Reading:
        """One row a chip."""
        self.reads += 1
        shares = [(number + self.reads) % 97 / 97 for number in range(CHIPS)]
        return Reading(
            chips=tuple(
                ChipReading(
                    chip=f"tpu{number}",
                    kind="v6e",
                    hbm_used_bytes=int(31 * GIB * share),
                    hbm_total_bytes=32 * GIB,
                    duty_cycle_ratio=share,
                    tensorcore_utilization_ratio=share / 2,
                    hbm_bandwidth_utilization_ratio=share / 3,
                )
                for number, share in enumerate(shares)
            )
        )

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True)
class Work:
    """What a page did in some seconds, and what it held after them."""

    name: str
    seconds: float
    readings: int
    busy_seconds: float
    script_seconds: float
    layout_and_style_seconds: float
    heap_growth_bytes: int
    nodes_growth: int

    def figure(self, target: float | None) -> Figure:
        """The share of the main thread that is busy."""
        return Figure(self.name, self.busy_seconds, self.seconds, "s", target)


def measured(page: Page, fleet: Fleet, name: str, seconds: float) -> Work:
    """What the page does from now on."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    time.sleep(SETTLE_SECONDS)
    began, reads, before = time.monotonic(), fleet.reads, metrics(session)
    page.wait_for_timeout(seconds * 1000)
    took, readings, after = time.monotonic() - began, fleet.reads - reads, metrics(session)
    session.detach()
    grew = {key: after[key] - before[key] for key in after}
    return Work(
        name,
        took,
        readings,
        grew["TaskDuration"],
        grew["ScriptDuration"],
        grew["LayoutDuration"] + grew["RecalcStyleDuration"],
        int(grew["JSHeapUsedSize"]),
        int(grew["Nodes"]),
    )


def metrics(session: CDPSession) -> dict[str, float]:
    """The browser's own counters, after what is garbage has gone."""
    session.send("HeapProfiler.collectGarbage")
    return {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}


@contextmanager
def shown(browser: Browser, scene: Scene, storage: dict[str, Any] | None = None) -> Iterator[Page]:
    """The scene's page, while a run is in the middle of its steps on all chips."""
    scene.start()
    with played_until(scene, 23, chips=CHIPS):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_init_script(FASTER)
        for key, value in (storage or {}).items():
            context.add_init_script(f"localStorage[{json.dumps(key)}] = {json.dumps(json.dumps(value))}")
        page = context.new_page()
        page.goto(scene.url)
        yield page
        context.close()
    scene.stop()


def page_of_its_own(browser: Browser, seconds: float) -> list[tuple[Work, float | None]]:
    """The page as it opens, and with all chips opened."""
    fleet = Fleet()
    with shown(browser, Scene([fleet, Machine("host", Reading(host=HOST))])) as page:
        expect(page.locator("crystools-chips").get_by_role("option")).to_have_count(CHIPS)
        works: list[tuple[Work, float | None]] = [(measured(page, fleet, f"page, {MACHINE}", seconds), 0.15)]
        page.get_by_role("button", name=f"Show all {CHIPS}").click()
        expect(page.locator("crystools-chip")).to_have_count(CHIPS)
        works.append((measured(page, fleet, f"page, {MACHINE} opened", seconds), 0.25))
        return works


def comfyuis(browser: Browser, version: str, seconds: float) -> list[tuple[Work, float | None]]:
    """ComfyUI's page without readings, and with the bar, the sidebar and the popover."""
    works: list[tuple[Work, float | None]] = []
    fleet = Fleet()

    def add(page: Page, name: str, target: float | None) -> None:
        works.append((measured(page, fleet, f"ComfyUI's {version}, {name}", seconds), target))

    with shown(browser, ComfyScene(version, sources=[fleet, Machine("host", Reading(host=HOST))]), {STORAGE_KEY: {"interval_seconds": 0}}) as page:
        expect(page.locator("crystools-bar")).to_be_visible()
        add(page, "readings off", None)
    with shown(browser, ComfyScene(version, sources=[fleet, Machine("host", Reading(host=HOST))])) as page:
        tag = page.locator("crystools-bar .tag")
        expect(tag).to_contain_text(MACHINE)
        add(page, "bar", 0.15)
        tag.click()
        popover = page.locator("crystools-bar").get_by_role("dialog", name="All chips")
        expect(popover.get_by_role("option")).to_have_count(CHIPS)
        add(page, "bar and all chips", 0.15)
        popover.get_by_role("button", name=f"Show all {CHIPS}").click()
        add(page, "bar and all chips opened", 0.25)
        page.keyboard.press("Escape")
        page.locator("crystools-bar").get_by_role("button", name="Show the run in the sidebar").click()
        expect(page.locator("crystools-sidebar")).to_be_visible()
        add(page, "bar and sidebar", 0.15)
    return works


def main() -> None:
    """Measures all, prints it, and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, metavar="N", help="for each (default: 10)")
    parser.add_argument("--only", choices=("page", "comfyui"), help="one of the two hosts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--before", type=Path, metavar="FILE", help="an earlier result, kept beside this one")
    arguments = parser.parse_args()
    hosts: dict[str, list[Callable[[Browser], list[tuple[Work, float | None]]]]] = {
        "page": [lambda browser: page_of_its_own(browser, arguments.seconds)],
        "comfyui": [
            lambda browser, version=version: comfyuis(browser, version, arguments.seconds)  # type: ignore[misc]
            for version in VERSIONS
        ],
    }
    measurements = []
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        for host in [arguments.only] if arguments.only else hosts:
            for measure in hosts[host]:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
                for work, target in measure(browser):
                    figure = work.figure(target)
                    measurements.append({**asdict(work), "share": figure.ratio, "target": target})
                    print(
                        f"{work.name:<48} {work.readings / work.seconds:4.1f}/s {figure.ratio:6.1%} busy, {work.script_seconds / work.seconds:6.1%} script,"
                        f" {work.layout_and_style_seconds / work.seconds:6.1%} layout, heap"
                        f" {work.heap_growth_bytes / 2**20:+.1f} MiB, nodes {work.nodes_growth:+d} ({figure.verdict})",
                        flush=True,
                    )
                browser.close()
    if arguments.json is not None:
        before = json.loads(arguments.before.read_text())["figures"] if arguments.before else []
        result = {"machine": machine(), "figures": measurements, "before": before}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

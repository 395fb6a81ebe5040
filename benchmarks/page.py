"""What the browser spends on 256 chips at ten readings a second: `python -m benchmarks.page [--json FILE]`.

The real server, a machine whose every figure changes with every reading, and a run on all of its chips, in
Chromium. Counted is the time of the page's main thread alone, by the thread's own clock, against the seconds
that went by: at 1 a page answers nothing any more. ComfyUI's own page is measured without readings too: what
it needs for itself, to draw its canvas, is taken off.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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

CLOSED, OPENED = 0.15, 0.25
"""What may be busy of the main thread, with the grid of chips alone and with all their cards."""

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
    target: float | None
    hosts_share: float = 0.0

    @property
    def figure(self) -> Figure:
        """The share of the main thread that is busy with what is ours."""
        ours = self.busy_seconds - self.hosts_share * self.seconds
        return Figure(self.name, ours, self.seconds, "s", self.target)


def measured(page: Page, fleet: Fleet, name: str, seconds: float, target: float | None) -> Work:
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
        target,
    )


def metrics(session: CDPSession) -> dict[str, float]:
    """The browser's own counters, after what is garbage has gone."""
    session.send("HeapProfiler.collectGarbage")
    return {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}


def host() -> Machine:
    """The machine around the chips."""
    return Machine("host", Reading(host=HOST))


@contextmanager
def shown(browser: Browser, scene: Scene, stored: dict[str, Any] | None = None) -> Iterator[Page]:
    """The scene's page, while a run is in the middle of its steps; `stored` are its preferences."""
    scene.start()
    with played_until(scene, 23, chips=CHIPS):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_init_script(FASTER)
        kept = json.dumps(json.dumps(stored or {}))
        context.add_init_script(f"localStorage['{STORAGE_KEY}'] = {kept}")
        page = context.new_page()
        page.goto(scene.url)
        yield page
        context.close()
    scene.stop()


def page_of_its_own(browser: Browser, seconds: float) -> Iterator[Work]:
    """The page as it opens, and with all chips opened."""
    fleet = Fleet()
    with shown(browser, Scene([fleet, host()])) as page:
        expect(page.locator("crystools-chips").get_by_role("option")).to_have_count(CHIPS)
        yield measured(page, fleet, f"page, {MACHINE}", seconds, CLOSED)
        page.get_by_role("button", name=f"Show all {CHIPS}").click()
        expect(page.locator("crystools-chip")).to_have_count(CHIPS)
        yield measured(page, fleet, f"page, {MACHINE} opened", seconds, OPENED)


def comfyuis(browser: Browser, version: str, seconds: float) -> Iterator[Work]:
    """ComfyUI's page without readings, and with the bar, the chips that it opens, and the sidebar."""
    fleet, name = Fleet(), f"ComfyUI's {version}"
    with shown(browser, ComfyScene(version, sources=[fleet, host()]), {"interval_seconds": 0}) as page:
        expect(page.locator("crystools-bar")).to_be_visible()
        alone = measured(page, fleet, f"{name}, readings off", seconds, None)
        yield alone
    share = alone.figure.ratio

    def beside(name: str, target: float) -> Work:
        return replace(measured(page, fleet, name, seconds, target), hosts_share=share)

    with shown(browser, ComfyScene(version, sources=[fleet, host()])) as page:
        bar = page.locator("crystools-bar")
        expect(bar.locator(".tag")).to_contain_text(MACHINE)
        yield beside(f"{name}, bar", CLOSED)
        bar.locator(".tag").click()
        popover = bar.get_by_role("dialog", name="All chips")
        expect(popover.get_by_role("option")).to_have_count(CHIPS)
        yield beside(f"{name}, bar and all chips", CLOSED)
        popover.get_by_role("button", name=f"Show all {CHIPS}").click()
        yield beside(f"{name}, bar and all chips opened", OPENED)
        page.keyboard.press("Escape")
        bar.get_by_role("button", name="Show the run in the sidebar").click()
        expect(page.locator("crystools-sidebar")).to_be_visible()
        yield beside(f"{name}, bar and sidebar", CLOSED)


def all_works(browser: Browser, seconds: float) -> Iterator[Work]:
    """Both hosts' pages."""
    yield from page_of_its_own(browser, seconds)
    for version in VERSIONS:
        yield from comfyuis(browser, version, seconds)


def line(work: Work) -> str:
    """A row of the table that is printed."""
    figure = work.figure
    script, layout = (part / work.seconds for part in (work.script_seconds, work.layout_and_style_seconds))
    heap = f"heap {work.heap_growth_bytes / 2**20:+.1f} MiB, nodes {work.nodes_growth:+d}"
    rate, share = work.readings / work.seconds, figure.ratio
    return (
        f"{work.name:<42} {rate:4.1f}/s {share:6.1%} busy, {script:5.1%} script, {layout:5.1%} layout, "
        f"{heap} ({figure.verdict})"
    )


def main() -> None:
    """Measures all, prints it, and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, metavar="N", help="for each (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--before", type=Path, metavar="FILE", help="an earlier result, to be kept in it")
    arguments = parser.parse_args()
    figures = []
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        for work in all_works(browser, arguments.seconds):
            print(line(work), flush=True)
            figures.append({**asdict(work), "share": work.figure.ratio})
        browser.close()
    if arguments.json is not None:
        before = json.loads(arguments.before.read_text())["figures"] if arguments.before else []
        result = {"machine": machine(), "figures": figures, "before": before}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

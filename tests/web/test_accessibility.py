"""The page for who cannot see it or hold a pointer: axe finds nothing, faults are said, tips open."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from crystools_tpu.sources.base import Reading
from tests.web.axe import violations
from tests.web.conftest import OpenPage
from tests.web.scenes import Scene, play_to_end, played_until, v6e_readings


def in_dark(page: Page) -> list[str]:
    """What is wrong with the dark colours; all else is the same in both."""
    page.emulate_media(color_scheme="dark")
    found = violations(page, rules=["color-contrast"])
    page.emulate_media(color_scheme="light")
    return found


def test_axe_finds_nothing_while_nothing_runs(scene: Scene, open_page: OpenPage) -> None:
    scene.start()
    page = open_page(scene, viewport={"width": 375, "height": 700})
    expect(page.get_by_text("No run yet")).to_be_visible()
    assert violations(page) == []
    assert in_dark(page) == []


def test_axe_finds_nothing_while_a_run_runs_when_it_has_ended_and_without_a_server(
    scene: Scene, open_page: OpenPage
) -> None:
    bandwidth = (dataclasses.replace(chip, hbm_bandwidth_utilization_ratio=0.4) for chip in v6e_readings(17))
    scene.tpu.reading = Reading(chips=tuple(bandwidth))
    scene.start()
    play_to_end(scene, steps=3)
    play_to_end(scene, steps=4, nan_at=1, fail_at=3)
    page = open_page(scene)
    with played_until(scene, 8, chips=2, recompile_at=5, nan_at=7):
        expect(page.locator("crystools-current #steps")).to_have_text("step 8 of 50")
        page.locator("crystools-runs").get_by_role("button").first.click()
        for summary in page.get_by_text("HBM per chip", exact=True).all():
            summary.click()
        page.get_by_role("option", name="tpu3:").click()
        expect(page.locator("crystools-chip")).to_be_visible()
        expect(page.locator("crystools-compare td").first).to_be_attached()
        assert violations(page) == []
        assert in_dark(page) == []
    expect(page.locator("crystools-current #status")).to_have_text(re.compile("^Cancelled after"))
    scene.stop()
    expect(page.locator("crystools-header #state")).to_have_text("Reconnecting…")
    expect(page.locator("crystools-current #runs")).to_have_attribute("data-stale", "")
    assert violations(page) == []
    assert in_dark(page) == []


def test_faults_are_said_once_and_those_of_old_runs_never(scene: Scene, open_page: OpenPage) -> None:
    scene.start()
    play_to_end(scene, steps=4, nan_at=1, fail_at=3)
    page = open_page(scene)
    alert = page.locator("crystools-announcer").get_by_role("alert")
    status = page.locator("crystools-announcer").get_by_role("status")
    expect(page.locator("crystools-current #status")).to_have_text("Failed")
    expect(alert).to_have_text("")
    expect(status).to_have_text("")
    page.evaluate(
        """() => {
            window.said = [];
            const alert = document.querySelector("crystools-announcer").shadowRoot.getElementById("alert");
            const note = () => window.said.push(alert.textContent);
            const all = { childList: true, characterData: true, subtree: true };
            new MutationObserver(note).observe(alert, all);
        }"""
    )
    play_to_end(scene, steps=6, recompile_at=2, nan_at=3, fail_at=5)
    expect(alert).to_have_text(
        "wan2.1-t2v Failed in Denoise: RuntimeError: RESOURCE_EXHAUSTED: attempting to allocate 9.42G, "
        "7.10G available (tpu3)"
    )
    expect(status).to_contain_text("wan2.1-t2v: Denoise was compiled again")
    nan, failed = page.evaluate("window.said")
    assert nan == "wan2.1-t2v: NaN in Denoise from step 3 on"
    assert failed.startswith("wan2.1-t2v Failed in Denoise")


@pytest.fixture
def machine_page(scene: Scene, open_page: OpenPage) -> Any:
    scene.tpu.reading = Reading(chips=v6e_readings(2))
    scene.start()
    play_to_end(scene, steps=3)

    def opened(**options: Any) -> Page:
        page = open_page(scene, **options)
        expect(page.locator("crystools-chip")).to_have_count(2)
        expect(page.locator("crystools-current #status")).to_have_text("Succeeded")
        return page

    return opened


def test_the_arrow_keys_go_through_what_is_explained_and_escape_closes_it(machine_page: Any) -> None:
    page = machine_page()
    tip = page.get_by_role("tooltip")
    page.locator("crystools-stages table").focus()
    page.keyboard.press("ArrowRight")
    expect(tip).to_have_text("no compile; 0 recompiles after the first step")
    focused = page.locator("crystools-stages td[tabindex]")
    assert focused.get_attribute("aria-describedby") == tip.get_attribute("id")
    page.keyboard.press("Escape")
    expect(tip).to_have_count(0)
    expect(focused).not_to_have_attribute("aria-describedby", re.compile(""))
    page.keyboard.press("Shift+Tab")
    expect(tip).to_have_text("The arrow keys go through what is in it.")
    # Beyond the shadow roots of the chips too.
    page.get_by_role("group", name="Meters of the chips").focus()
    for name in ("HBM of tpu0", "Duty cycle of tpu0", "TensorCore utilisation of tpu0", "HBM of tpu1"):
        page.keyboard.press("ArrowDown")
        expect(tip).to_have_text(re.compile(f"^{name}: "))


def test_a_pointer_opens_what_it_rests_on_and_a_finger_what_it_touches(machine_page: Any) -> None:
    page = machine_page(has_touch=True)
    tip = page.get_by_role("tooltip")
    page.get_by_role("meter", name="CPU").hover()
    expect(tip).to_have_text("CPU, all cores: 37%\nPeak seen 37%", use_inner_text=True)
    page.mouse.move(1, 1)
    expect(tip).to_have_count(0)
    page.get_by_role("meter", name="RAM").tap()
    expect(tip).to_have_text(re.compile("^RAM: 29%"))
    page.locator("body").tap(position={"x": 4, "y": 4})
    expect(tip).to_have_count(0)

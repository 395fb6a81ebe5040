"""How the page looks and is used: light and dark, the keyboard."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from crystools_tpu.sources.base import Reading
from tests.web.conftest import OpenPage
from tests.web.scenes import Scene, play_to_end, v6e_readings


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_and_can_be_read(
    scene: Scene, open_page: OpenPage, scheme: str
) -> None:
    scene.start()
    play_to_end(scene, steps=4, fail_at=2, nan_at=1)
    page = open_page(scene, color_scheme=scheme)
    expect(page.locator("crystools-current #error")).to_be_visible()
    assert (luminance(page, "body", "backgroundColor") > 0.5) is (scheme == "light")
    panel = luminance(page, "crystools-current .panel", "backgroundColor")
    for text in ("#doing", "#elapsed", "#params dt", "crystools-stages thead th"):
        assert contrast(luminance(page, f"crystools-current {text}", "color"), panel) >= 4.5, text
    for box in ("#error", "#warnings li"):
        ink, ground = (
            luminance(page, f"crystools-current {box}", which) for which in ("color", "backgroundColor")
        )
        assert contrast(ink, ground) >= 4.5, box


def luminance(page: Page, selector: str, style: str) -> float:
    """Relative luminance (WCAG 2) of a computed colour."""
    channels = page.locator(selector).first.evaluate(
        """(element, style) => {
            const canvas = new OffscreenCanvas(1, 1).getContext("2d");
            canvas.fillStyle = getComputedStyle(element)[style];
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        }""",
        style,
    )
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in channels)
    )
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_everything_is_reached_by_the_keyboard_and_the_focus_is_seen(
    scene: Scene, open_page: OpenPage
) -> None:
    scene.tpu.reading = Reading(chips=v6e_readings(2))
    scene.start()
    play_to_end(scene, steps=3)
    play_to_end(scene, steps=3)
    page = open_page(scene)
    expect(page.locator("crystools-runs").get_by_role("button")).to_be_visible()
    walked = []
    for _ in range(13):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
                let element = document.activeElement;
                while (element.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
                const name = element.getAttribute("aria-label") ?? element.innerText ?? "";
                return [element.id + ":" + name.slice(0, 12), getComputedStyle(element).outlineStyle];
            }"""
        )
        walked.append(name)
        assert outline != "none", name
    reached = " ".join(walked)
    for name in (
        "interval",
        "Step time",
        "MFU",
        "Verdict",
        "HBM peak",
        "HBM per chip",
        "wan2.1",
    ):
        assert name in reached


def test_a_figure_explains_itself_on_focus(scene: Scene, open_page: OpenPage) -> None:
    scene.start()
    play_to_end(scene, steps=3)
    page = open_page(scene)
    tip = page.get_by_role("tooltip").filter(has_text="Model FLOPs over the chips' peak")
    expect(tip).to_have_count(0)
    page.locator("crystools-current #interval, crystools-header #interval").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("Method: architecture")


def test_nothing_moves_where_motion_is_reduced(scene: Scene, open_page: OpenPage) -> None:
    scene.start()
    page = open_page(scene, reduced_motion="reduce")
    fill = page.locator("crystools-host crystools-meter #fill").first
    expect(fill).to_be_attached()
    assert fill.evaluate("element => getComputedStyle(element).transitionProperty") == "none"

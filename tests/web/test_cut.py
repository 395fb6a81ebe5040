"""Nothing of the page is cut, in any state and at any width."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.web.conftest import OpenPage
from tests.web.cut import states, what_is_cut
from tests.web.scenes import Scene

WIDTHS = (375, 768, 1280, 1440, 1920)


def test_no_text_of_the_page_is_cut_or_leaves_its_card_and_it_never_scrolls_sideways(
    scene: Scene, open_page: OpenPage
) -> None:
    scene.start()
    page = open_page(scene)
    for name, told in states(scene):
        expect(page.locator("crystools-current")).to_contain_text(told)
        if name.startswith("cancelled"):
            page.locator("crystools-runs").get_by_role("button").first.click()
            for summary in page.get_by_text("HBM per chip", exact=True).all():
                summary.click()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 4000})  # what is out of sight is not laid out
            assert what_is_cut(page) == [], f"{name} at {width} px"
    page.set_viewport_size({"width": 360, "height": 900})
    page.get_by_role("button", name="Show all 256").click()
    expect(page.locator("crystools-chip")).to_have_count(256)
    assert what_is_cut(page) == []

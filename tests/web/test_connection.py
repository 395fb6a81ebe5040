"""The page's connection: lost and found again, and asked for as much as this browser wants."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from crystools_tpu.sources.base import Reading
from tests.web.conftest import OpenPage
from tests.web.scenes import Scene, play_to_end, v6e_readings


def test_the_page_survives_a_restart_of_the_server(scene: Scene, open_page: OpenPage) -> None:
    scene.tpu.reading = Reading(chips=v6e_readings(2))
    scene.start()
    page = open_page(scene)
    expect(page.locator("crystools-chip")).to_have_count(2)
    scene.stop()
    expect(page.locator("crystools-header #state")).to_have_text("Reconnecting…")
    expect(page.locator("crystools-chips #cards")).to_have_attribute("data-stale", "")
    expect(page.locator("crystools-host #meters")).to_have_attribute("data-stale", "")
    expect(page.locator("crystools-current #runs")).to_have_attribute("data-stale", "")
    expect(page.locator("crystools-chip")).to_have_count(2)

    play_to_end(scene, steps=3)  # nobody is told; the hello after the restart is enough
    scene.tpu.reading = Reading(chips=v6e_readings(3))
    scene.start()
    expect(page.locator("crystools-header #state")).to_have_text("Live")
    expect(page.locator("crystools-chip")).to_have_count(3)
    expect(page.locator("crystools-chips #cards")).not_to_have_attribute("data-stale", "")
    expect(page.locator("crystools-current #status")).to_have_text("Succeeded")


def test_readings_can_be_switched_off_and_the_browser_remembers(scene: Scene, open_page: OpenPage) -> None:
    scene.start()
    page = open_page(scene)
    expect(page.locator("crystools-header #state")).to_have_text("Live")
    page.get_by_label("Refresh").select_option(label="Off")
    expect(page.locator("crystools-header #state")).to_have_text("Readings off")
    expect(page.locator("crystools-host #meters")).to_have_attribute("data-stale", "")
    page.reload()
    expect(page.locator("crystools-header #state")).to_have_text("Readings off")
    expect(page.get_by_label("Refresh")).to_have_value("0")
    page.get_by_label("Refresh").select_option(label="0.5 s")
    expect(page.locator("crystools-header #state")).to_have_text("Live")
    page.get_by_label("Refresh").select_option(index=0)
    expect(page.get_by_label("Refresh")).to_have_value("")
    expect(page.get_by_label("Refresh")).to_contain_text("Server's (0.1 s)")


def test_runs_are_shown_with_readings_off(scene: Scene, open_page: OpenPage) -> None:
    scene.start()
    page = open_page(scene)
    page.get_by_label("Refresh").select_option(label="Off")
    expect(page.locator("crystools-header #state")).to_have_text("Readings off")
    play_to_end(scene, steps=3)
    expect(page.locator("crystools-current #status")).to_have_text("Succeeded")


def test_overdue_readings_are_greyed_and_a_silent_connection_is_replaced(
    scene: Scene, open_page: OpenPage
) -> None:
    scene.tpu.reading = Reading(chips=v6e_readings(2))
    scene.start()
    page = open_page(scene)
    page.clock.install()
    page.reload()
    page.clock.run_for(1_000)
    expect(page.locator("crystools-chip")).to_have_count(2)
    scene.stop_sampling()
    page.clock.run_for(5_000)
    expect(page.locator("crystools-header #state")).to_have_text("Readings late")
    expect(page.locator("crystools-chips #cards")).to_have_attribute("data-stale", "")
    with page.expect_websocket():
        page.clock.run_for(20_000)


@pytest.mark.parametrize(
    "options", [{"prefix": "/behind/a/proxy"}, {"token": "s3cret"}], ids=["prefix", "token"]
)
def test_the_page_finds_its_server_under_any_path_and_carries_its_token(
    open_page: OpenPage, options: dict[str, str]
) -> None:
    scene = Scene(**options)  # type: ignore[arg-type]
    scene.start()
    try:
        page = open_page(scene)
        expect(page.locator("crystools-header #state")).to_have_text("Live")
        play_to_end(scene, steps=2)
        expect(page.locator("crystools-current #status")).to_have_text("Succeeded")
    finally:
        scene.stop()


def test_one_browsers_rate_is_not_anothers(scene: Scene, open_page: OpenPage) -> None:
    scene.start()
    quiet, other = open_page(scene), open_page(scene)
    quiet.get_by_label("Refresh").select_option(label="Off")
    expect(quiet.locator("crystools-header #state")).to_have_text("Readings off")
    expect(other.locator("crystools-header #state")).to_have_text("Live")
    expect(other.get_by_label("Refresh")).to_have_value("")

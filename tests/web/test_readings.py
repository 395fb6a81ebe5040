"""The machine on the page: chips, host, sources."""

from __future__ import annotations

import dataclasses
import re

import pytest
from playwright.sync_api import Locator, Page, expect

from crystools_tpu.simulation.machine import Simulation
from crystools_tpu.sources.base import ChipReading, HostReading, Reading
from tests.web.conftest import OpenPage
from tests.web.scenes import GIB, HOST, Scene, played_until, v6e_readings


def figure(page: Page, chip: str, meter: str) -> Locator:
    return page.locator(f"crystools-chip[data-chip={chip}] #{meter} #figure")


def test_eight_simulated_chips_show_the_rigs_exact_figures(open_page: OpenPage) -> None:
    with Simulation("v6e-8") as simulation:
        scene = Scene(simulation.sources(disks=["/"]), simulated="v6e-8")
        scene.start()
        try:
            page = open_page(scene)
            expect(page.locator("crystools-chip")).to_have_count(8)
            for number, chip in enumerate(simulation.figures()):
                used, total = chip.hbm_used_bytes / GIB, chip.hbm_total_bytes / GIB
                expect(figure(page, f"tpu{number}", "hbm")).to_have_text(f"{used:.1f} / {total:.1f} GiB")
                expect(figure(page, f"tpu{number}", "duty")).to_have_text(f"{chip.duty_cycle_percent:.0f}%")
                expect(figure(page, f"tpu{number}", "tensorcore")).to_have_text(
                    f"{chip.tensorcore_percent:.0f}%"
                )
            expect(page.get_by_text("SIMULATED v6e-8")).to_be_visible()
        finally:
            scene.stop()


def test_a_real_machine_bears_no_simulated_badge(scene: Scene, open_page: OpenPage) -> None:
    scene.start()
    page = open_page(scene)
    expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    expect(page.locator("crystools-header #simulated")).to_be_hidden()


def test_host_meters_show_used_and_total_and_in_the_tooltip_the_peak(
    scene: Scene, open_page: OpenPage
) -> None:
    scene.start()
    page = open_page(scene)
    host = page.locator("crystools-host")
    expect(host.get_by_role("meter", name="CPU")).to_have_attribute("aria-valuetext", "37%")
    ram = host.get_by_role("meter", name="RAM")
    expect(ram).to_have_attribute("aria-valuetext", "412 / 1,433 GiB")
    expect(host.get_by_role("meter", name="Disk /", exact=True)).to_have_attribute(
        "aria-valuetext", "71.0 / 97.0 GiB"
    )
    expect(host.get_by_role("meter", name="Disk /dev/shm")).to_have_attribute(
        "aria-valuetext", "133 / 708 GiB"
    )
    scene.host.reading = Reading(host=dataclasses.replace(HOST, memory_used_bytes=400 * GIB))
    expect(ram).to_have_attribute("data-tip", "RAM: 28%\nUsed 400 GiB\nTotal 1,433 GiB\nPeak seen 412 GiB")
    expect(ram.locator("#line")).to_have_attribute("d", re.compile(r"^M.*L"))


def test_the_limits_of_a_container_are_told_beside_the_machine(scene: Scene, open_page: OpenPage) -> None:
    host = HostReading(0.5, 12 * GIB, 16 * GIB, (), 2.5, 64, 64 * GIB)
    scene.host.reading = Reading(host=host)
    scene.start()
    meters = open_page(scene).locator("crystools-host")
    expect(meters.get_by_role("meter", name="CPU")).to_have_attribute(
        "data-tip", "CPU, of 2.5 (limit of the container; host 64): 50%\nPeak seen 50%"
    )
    ram = (
        "RAM: 75%\nUsed 12.0 GiB\nTotal 16.0 GiB (limit of the container; host 64.0 GiB)\nPeak seen 12.0 GiB"
    )
    expect(meters.get_by_role("meter", name="RAM")).to_have_attribute("data-tip", ram)
    scene.host.reading = Reading(host=dataclasses.replace(host, cpu_count=64.0, memory_total_bytes=64 * GIB))
    expect(meters.get_by_role("meter", name="CPU")).to_have_attribute(
        "data-tip", "CPU, all cores: 50%\nPeak seen 50%"
    )
    expect(meters.get_by_role("meter", name="RAM")).to_have_attribute(
        "data-tip", "RAM: 19%\nUsed 12.0 GiB\nTotal 64.0 GiB\nPeak seen 12.0 GiB"
    )


def test_what_a_chip_does_not_say_reads_not_available_and_never_zero(
    scene: Scene, open_page: OpenPage
) -> None:
    scene.tpu.reading = Reading(chips=(ChipReading(chip="tpu0"), ChipReading("tpu1", duty_cycle_ratio=0.0)))
    scene.host.reading = Reading(host=HostReading(None, 1 * GIB, 2 * GIB, ()))
    scene.start()
    page = open_page(scene)
    for meter in ("hbm", "duty", "tensorcore"):
        expect(figure(page, "tpu0", meter)).to_have_text("n/a")
    expect(page.get_by_role("img", name="CPU n/a")).to_be_visible()
    expect(figure(page, "tpu1", "duty")).to_have_text("0%")


def test_temperature_is_shown_where_there_is_one(scene: Scene, open_page: OpenPage) -> None:
    scene.tpu.reading = Reading(
        chips=(ChipReading(chip="gpu0", temperature_celsius=61.4), ChipReading(chip="gpu1"))
    )
    scene.start()
    page = open_page(scene)
    expect(page.locator("crystools-chip[data-chip=gpu0] #temperature")).to_have_text("61 °C")
    expect(page.locator("crystools-chip[data-chip=gpu1] #temperature")).to_be_hidden()


def test_a_lost_chip_goes_says_why_and_comes_back(scene: Scene, open_page: OpenPage) -> None:
    scene.tpu.reading = Reading(chips=v6e_readings(4))
    scene.start()
    page = open_page(scene)
    expect(page.locator("crystools-chip")).to_have_count(4)
    scene.tpu.down = "no runtime answers on localhost:8431"
    expect(page.locator("crystools-sources li[data-state=down]")).to_contain_text(
        "down: no runtime answers on localhost:8431"
    )
    expect(page.locator("crystools-chip")).to_have_count(0)
    expect(page.get_by_role("meter", name="CPU")).to_be_visible()
    scene.tpu.down = None
    expect(page.locator("crystools-chip")).to_have_count(4)


def test_a_card_shows_what_its_chip_says_and_not_what_the_run_says_for_all(
    scene: Scene, open_page: OpenPage
) -> None:
    telling, silent = v6e_readings(2)
    gpu = ChipReading("gpu0", "NVIDIA H100", 60 * GIB, 80 * GIB, 0.93)
    scene.tpu.reading = Reading(
        chips=(dataclasses.replace(telling, hbm_bandwidth_utilization_ratio=0.57), silent, gpu)
    )
    scene.start()
    with played_until(scene, 3, chips=2):
        page = open_page(scene)
        expect(page.locator("crystools-chip")).to_have_count(3)

        def meters(chip: str) -> Locator:
            labels = page.locator(f"crystools-chip[data-chip={chip}] crystools-meter #label")
            return labels.filter(visible=True)

        expect(meters("tpu0")).to_have_text(["HBM", "Duty cycle", "TensorCore", "Bandwidth"])
        expect(figure(page, "tpu0", "bandwidth")).to_have_text("57%")
        expect(meters("tpu1")).to_have_text(["HBM", "Duty cycle", "TensorCore"])
        expect(meters("gpu0")).to_have_text(["VRAM", "GPU util."])


@pytest.fixture
def pod(scene: Scene, open_page: OpenPage) -> Page:
    """The page of 256 chips, of which tpu77 is nearly full and tpu200 says nothing."""
    chips = [dataclasses.replace(chip, hbm_used_bytes=10 * GIB) for chip in v6e_readings(256)]
    chips[77] = dataclasses.replace(chips[77], hbm_used_bytes=int(30.9 * GIB))
    chips[200] = ChipReading(chip="tpu200")
    scene.tpu.reading = Reading(chips=tuple(chips))
    scene.start()
    return open_page(scene)


def cells(pod: Page) -> Locator:
    return pod.get_by_role("listbox", name="Chips by share of memory used").get_by_role("option")


def test_256_chips_are_a_heat_grid_that_points_at_the_worst(pod: Page) -> None:
    expect(cells(pod)).to_have_count(256)
    expect(pod.locator("crystools-chip")).to_have_count(0)
    expect(pod.get_by_text("99% · tpu77")).to_be_visible()
    expect(pod.locator("#grid [data-level=critical]")).to_have_attribute("data-chip", "tpu77")
    expect(pod.locator("#grid [data-absent]")).to_have_attribute("data-chip", "tpu200")
    box = pod.locator("crystools-chips").bounding_box()
    assert box is not None
    assert box["height"] < 600


def test_a_chip_of_the_grid_opens_by_keyboard(pod: Page) -> None:
    expect(cells(pod)).to_have_count(256)
    cells(pod).and_(pod.get_by_label("tpu77:")).focus()
    pod.keyboard.press("ArrowDown")
    pod.keyboard.press("ArrowLeft")
    pod.keyboard.press("Enter")
    expect(pod.locator("crystools-chip")).to_have_attribute("data-chip", "tpu92")
    expect(cells(pod).and_(pod.get_by_label("tpu92:"))).to_have_attribute("aria-selected", "true")


def test_all_chips_of_the_grid_can_be_shown(pod: Page) -> None:
    button = pod.get_by_role("button", name="Show all 256")
    button.click()
    expect(pod.locator("crystools-chip")).to_have_count(256)
    pod.get_by_role("button", name="Show the grid only").click()
    expect(pod.locator("crystools-chip")).to_have_count(0)

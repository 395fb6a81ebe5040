"""Runs of workflows on the page: a row for each node, what it cost, and how such a run goes and ends."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from crystools_tpu.telemetry import RunReport, StageName, Status
from crystools_tpu.telemetry.events import Process
from tests.web.scenes import Scene
from tests.web.workflows import (
    IN_PROGRESS,
    Workflow,
    begun_at,
    many_nodes,
    tell,
    text_to_image,
    text_to_video,
)

WITHIN = "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
TIMES = "\N{MULTIPLICATION SIGN}"
ELEMENTS = """view => {
  const count = root => [...root.querySelectorAll("*")]
    .reduce((total, element) => total + 1 + (element.shadowRoot ? count(element.shadowRoot) : 0), 0);
  return count(view.shadowRoot);
}"""


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    made = Scene()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def page(browser: Browser, scene: Scene) -> Iterator[Page]:
    """One page for all: each test shows a run of its own there."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(scene.url)
    expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
    yield page
    page.close()
    assert complaints == []


def shown(page: Page, scene: Scene, report: RunReport) -> Locator:
    """The run on the page, as the newest of all."""
    scene.clock.seconds += 1.0
    report = begun_at(scene.clock.wall(), report)
    tell(scene, report)
    run = page.locator(f"crystools-current crystools-run[data-run='{report.run_id}']")
    expect(run).to_have_count(1)
    return run


def titles(run: Locator) -> Locator:
    return run.locator("crystools-nodes li .title")


def test_a_workflow_is_one_timeline_with_a_row_for_each_node(page: Page, scene: Scene) -> None:
    run = shown(page, scene, text_to_image().report())
    expect(run.locator("#pipeline")).to_have_text("Cat in the rain")
    expect(run.locator("#prompt")).to_contain_text("A cat in a space suit")
    expect(run.locator("#params")).to_have_text(re.compile(r"^size\s*1280 . 720$"))
    # What took less than 0.5% of the 23.8 s is one row.
    names = ["CheckpointLoaderSimple", "What is to be seen", "KSampler", "VAEDecode", "SaveImage", "3 others"]
    expect(titles(run)).to_have_text(names)
    expect(run.locator("crystools-nodes li .time")).to_have_text(
        ["3.20 s", "0.410 s", "18.0 s", "1.70 s", "0.350 s", "0.134 s"]
    )
    expect(run.locator("crystools-nodes li path.step")).to_have_count(1)
    run.get_by_role("button", name="3 others").click()
    expect(titles(run)).to_have_text([*names, "What is not", "EmptyLatentImage", "ImageScale"])
    expect(run.locator("crystools-timeline")).to_be_hidden()
    expect(run.locator("crystools-stages")).to_be_hidden()


def test_the_slowest_nodes_come_first_with_what_they_cost(page: Page, scene: Scene) -> None:
    run = shown(page, scene, dataclasses.replace(text_to_image().report(), run_id="costs"))
    table = run.get_by_role("table", name="The slowest nodes")
    expect(table.locator("thead th")).to_have_text(
        ["Slowest nodes", "Time", "Share", "Steps", "s/step", "VRAM peak", "RAM"]
    )
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(6)
    expect(rows.nth(0).locator("th, td")).to_have_text(
        ["KSampler#5", "18.0 s", "76%", "20", "0.900 s", "5.60 GiB", "8.10 → 12.3 GiB"]
    )
    expect(rows.nth(0).locator("td").nth(4)).to_have_attribute(
        "data-tip",
        "cuda:0: before 2.00 GiB, peak 5.60 GiB, after 3.00 GiB, limit 24.0 GiB. Method: torch_memory_stats.",
    )
    expect(rows.nth(3).locator("th")).to_have_text("What is to be seenCLIPTextEncode #2")
    run.get_by_role("button", name="Show all 8 nodes").click()
    expect(rows).to_have_count(8)


def test_stages_of_our_models_are_drawn_within_their_node_and_have_their_table(
    page: Page, scene: Scene
) -> None:
    run = shown(page, scene, dataclasses.replace(text_to_video().report(), run_id="video"))
    sampler = run.locator("crystools-nodes li").filter(has_text="The sampler")
    expect(sampler.locator("path[data-kind=load], path[data-kind=denoise]")).to_have_count(2)
    expect(run.locator("crystools-stages tbody th")).to_have_text(
        [
            f"Wan21TPUTextEncoder {WITHIN} Load text_encoder",
            f"Wan21TPUTextEncoder {WITHIN} Text encode",
            f"The sampler {WITHIN} Load transformer",
            f"The sampler {WITHIN} Denoise",
            f"Wan21TPUVAEDecoder {WITHIN} VAE decode",
        ]
    )
    expect(run.locator("#cached")).to_have_text(
        f"4 of 9 nodes were cached: CLIPTextEncode {TIMES} 2, LoadImage, VAELoader."
    )
    expect(run.locator("#device")).to_have_text("wan2.1-t2v")


def test_a_running_workflow_says_how_far_it_is_and_of_what_the_time_to_go_is(
    page: Page, scene: Scene
) -> None:
    flow = text_to_image(steps=7)
    flow.run_id = "running"
    process = Process(1234, "ana", "ComfyUI")
    report = flow.report(Status.RUNNING, total=8, progress=IN_PROGRESS, process=process)
    run = shown(page, scene, report)
    expect(run.locator("#doing")).to_have_text("KSampler")
    expect(run.locator("#steps")).to_have_text("step 7 of 20 · 4 of 8 nodes")
    expect(run.locator("#left")).to_have_text(re.compile(r"^3 min (20|1\d) s left of the run$"))
    expect(run.locator("#left")).to_have_attribute(
        "data-tip", "Until the run ends, by runs alike in the history"
    )
    expect(run.locator("#elapsed")).to_have_text(re.compile(r"^1 min (10|0\d) s of KSampler · .* elapsed$"))
    expect(run.locator("#process")).to_have_text("ComfyUI · pid 1234 · ana")
    progress = run.get_by_role("progressbar", name="Nodes of Cat in the rain")
    expect(progress).to_have_attribute("aria-valuenow", "4")
    expect(progress).to_have_attribute("aria-valuemax", "8")
    expect(run.locator("crystools-nodes li[data-status=running] path.expected")).to_have_count(1)

    only_the_stage = dataclasses.replace(IN_PROGRESS, run_eta_seconds=None, run_eta_by=None)
    shown(page, scene, dataclasses.replace(report, progress=only_the_stage))
    expect(run.locator("#left")).to_have_text(re.compile(r"^1 min (10|0\d) s left of KSampler$"))
    shown(page, scene, dataclasses.replace(report, status=Status.CANCELLED))
    expect(run.locator("#doing")).to_have_text("Cancelled in KSampler")


@pytest.mark.parametrize("count", [300, 1000])
def test_many_nodes_are_folded_by_class_and_drawn_with_few_elements(
    page: Page, scene: Scene, count: int
) -> None:
    run = shown(page, scene, many_nodes(count, run_id=f"many{count}").report())
    expect(titles(run).filter(has_text=re.compile(rf" {TIMES} \d+$"))).to_have_count(7)
    assert run.evaluate(ELEMENTS) < 400
    samplers = run.get_by_role("button", name=re.compile(f"^▸?KSampler {TIMES} "))
    samplers.click()
    # The longest fifty, in their order, and one row for the others, where there are any.
    expect(titles(run).filter(has_text=re.compile("^KSampler$"))).to_have_count(min(50, (count + 5) // 7))
    expect(titles(run).filter(has_text="others")).to_have_count(1 if count == 1000 else 0)
    run.get_by_role("button", name=f"Show {'the slowest 100 of' if count > 100 else 'all'} {count}").click()
    assert run.evaluate(ELEMENTS) < 2000
    samplers.click()
    expect(titles(run)).to_have_count(7)


def test_nodes_that_another_expanded_into_are_a_part_of_its_row(page: Page, scene: Scene) -> None:
    flow = Workflow("A loop", "loop")
    flow.node("ImpactLoop", 30.0)
    for turn in range(3):
        flow.node("KSampler", 9.0, node_id=f"1.0.{turn}", parent=0, at=10.0 * turn, steps=4)
    run = shown(page, scene, flow.report())
    expect(titles(run)).to_have_text(["ImpactLoop"])
    run.get_by_role("button", name="ImpactLoop").click()
    expect(titles(run)).to_have_text(["ImpactLoop", "KSampler", "KSampler", "KSampler"])
    # The time of the loop alone is 30 s without 27 s.
    times = run.locator("crystools-slowest tbody tr td:nth-child(2)")
    expect(times).to_have_text(["9.00 s", "9.00 s", "9.00 s", "3.00 s"])


def test_a_run_with_nan_is_nowhere_a_plain_success(page: Page, scene: Scene) -> None:
    words = "Succeeded, NaN from step 12"
    report = dataclasses.replace(
        text_to_video(nan_at=12).report(process=Process(77, "ana", "generate")),
        run_id="nan",
        warnings=("flux.2 was evicted",),
    )
    run = shown(page, scene, report)
    for place in ("#status", "#doing"):
        expect(run.locator(place)).to_have_text(words)
        expect(run.locator(place)).to_have_attribute("data-level", "warning")
    expect(page.get_by_role("status").filter(has_text="Wan 2.1")).to_have_text(f"Wan 2.1 by night {words}")
    expect(run.locator("#warnings li")).to_have_text(
        ["flux.2 was evicted", "NaN in Denoise from step 12 on: the output is not usable."]
    )
    assert run.evaluate(
        "view => { const top = id => view.shadowRoot.getElementById(id).getBoundingClientRect().top;"
        " return top('warnings') > top('stages') && top('stages') > top('nodes'); }"
    )
    shown(page, scene, dataclasses.replace(text_to_image().report(), run_id="after"))
    past = page.locator("crystools-runs li").first
    expect(past.locator(".status")).to_have_text(words)
    expect(past.locator(".status")).to_have_attribute("data-level", "warning")
    expect(past.locator(".process")).to_have_text("generate · pid 77 · ana")
    options = (
        page.locator("crystools-compare").get_by_role("combobox", name="B", exact=True).locator("option")
    )
    expect(options.nth(1)).to_have_text(re.compile(f"Wan 2.1 by night, .*, {words}$"))


def test_an_error_is_at_its_node(page: Page, scene: Scene) -> None:
    flow = Workflow("It fails", "failed")
    flow.node("VAELoader", 2.0)
    sampler = flow.node("Wan21TPUSampler", 4.0, status=Status.FAILED, error="RuntimeError: no room")
    flow.within(sampler, StageName.DENOISE, 1.0, 3.0, status=Status.FAILED)
    run = shown(page, scene, flow.report(Status.FAILED, total=4, error="RuntimeError: no room"))
    expect(run.locator("#doing")).to_have_text(f"Failed in Wan21TPUSampler {WITHIN} Denoise")
    failed = run.locator("crystools-nodes li[data-status=failed]")
    expect(failed).to_have_text(re.compile("Wan21TPUSampler"))
    expect(failed).to_have_attribute("data-tip", re.compile("failed\nRuntimeError: no room"))


def test_an_interrupted_run_ends_where_it_was_last_seen(page: Page, scene: Scene) -> None:
    flow = text_to_image(steps=7)
    flow.run_id = "killed"
    running = flow.report(Status.RUNNING, total=8)
    run = shown(page, scene, running)
    began = scene.clock.wall()
    scene.clock.seconds += 3600.0
    expect(run.locator("#elapsed")).to_have_text(re.compile(r"^1 h 0\d min elapsed$"))
    killed = dataclasses.replace(running, status=Status.INTERRUPTED)
    tell(scene, begun_at(began, killed))
    expect(run.locator("#status")).to_have_text("Interrupted")
    expect(run.locator("#left")).to_have_text("9.93 s")  # 3.634 s and 7 steps of 0.9 s
    expect(run.locator("#elapsed")).to_have_text("until it was last seen")
    sampler = run.locator("crystools-nodes li").filter(has_text="KSampler")
    expect(sampler.locator(".time")).to_have_text("6.30 s")

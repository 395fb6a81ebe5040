"""Runs on the page, reported by the real recorder while the page watches."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from crystools_exporters.exporting import KeptRuns
from crystools_exporters.heartbeats import Observer
from crystools_exporters.processes import Process
from crystools_exporters.run_log import RunLog
from crystools_tpu.telemetry import RunReport, StageName, Status, StepFinished, StepRecord
from tests.web.conftest import OpenPage
from tests.web.scenes import FORECAST, PARAMS, Scene, play_to_end, played_until


@pytest.fixture
def page(scene: Scene, open_page: OpenPage) -> Page:
    """The page of a server on which nothing has run."""
    scene.start()
    opened = open_page(scene)
    expect(opened.get_by_role("heading", name="No run yet")).to_be_visible()
    return opened


def current(page: Page) -> Locator:
    return page.locator("crystools-current crystools-run")


def test_the_empty_page_tells_how_to_start_a_run(page: Page) -> None:
    expect(page.get_by_text("crystools-tpu demo")).to_be_visible()
    expect(page.get_by_text("telemetry.run(")).to_be_visible()


def test_a_run_is_followed_from_step_to_step(page: Page, scene: Scene) -> None:
    with played_until(scene, 23) as playing:
        run = current(page)
        expect(run.locator("#status")).to_have_text("Running")
        expect(run.locator("#pipeline")).to_have_text("wan2.1-t2v")
        expect(run.locator("#device")).to_have_text("8 x v6e")
        expect(run.get_by_text("A cat in a space suit")).to_be_visible()
        expect(run.locator("#params")).to_contain_text(re.compile(r"size\s*1280 . 720"))
        expect(run.locator("#doing")).to_have_text("Denoise")
        expect(run.locator("#steps")).to_have_text("step 23 of 50")
        progress = run.get_by_role("progressbar", name="Steps of Denoise")
        expect(progress).to_have_attribute("aria-valuenow", "23")
        expect(progress).to_have_attribute("aria-valuemax", "50")
        # 27 steps of 4.60 s are 2 min 04 s.
        expect(run.locator("#left")).to_have_text(
            re.compile(r"^(2 min 0\d|1 min [345]\d) s left of Denoise$")
        )
        expect(run.locator("#elapsed")).to_have_text(re.compile(r"min \d\d s elapsed$"))
        expect(run.get_by_role("group", name="Step time: 4.60 s")).to_be_visible()
        expect(
            run.get_by_role("group", name=re.compile(r"^MFU: 39%.*TFLOP of .* TFLOP possible"))
        ).to_be_visible()
        expect(page).to_have_title("Denoise 23/50 · Crystools TPU")

        for _ in playing:
            pass
        expect(run.locator("#status")).to_have_text("Succeeded")
        expect(run.locator("#doing")).to_have_text("Succeeded")
        expect(run.locator("#left")).to_have_text("5 min 19 s")
        expect(run.get_by_text("out/cat.mp4")).to_be_visible()
        expect(page).to_have_title("Crystools TPU")


def test_elapsed_time_counts_while_the_run_runs(page: Page, scene: Scene) -> None:
    with played_until(scene, 2):
        elapsed = current(page).locator("#elapsed")
        expect(elapsed).to_have_text(re.compile("elapsed"))
        expect(elapsed).not_to_have_text(elapsed.inner_text())


def test_the_timeline_is_to_scale_with_the_compile_hatched(page: Page, scene: Scene) -> None:
    play_to_end(scene, steps=20)
    timeline = current(page).locator("crystools-timeline")
    denoise = timeline.locator("g[data-kind=denoise]")
    steps = denoise.locator("rect.step")
    expect(steps).to_have_count(20)
    expect(
        timeline.get_by_role("img", name=re.compile(r"Denoise: 2 min 10 s, of it compile 38.0 s"))
    ).to_be_visible()
    expect(steps.first).to_have_attribute("data-compiled", "")
    compiled = denoise.locator("rect.compile")
    expect(compiled).to_have_count(1)
    # A step of 4.6 s and a compile of 38 s.
    assert width(compiled) / width(steps.nth(1)) == pytest.approx(38.0 / 4.6, rel=0.01)
    hatch = compiled.evaluate("rect => getComputedStyle(rect).fill")
    assert "#hatch" in hatch
    expect(timeline.locator("g[data-kind=load]")).to_have_count(2)


def width(rect: Locator) -> float:
    return float((rect.get_attribute("width") or "").removesuffix("%"))


def test_a_nan_is_marked_at_its_step(page: Page, scene: Scene) -> None:
    play_to_end(scene, steps=8, nan_at=3)
    run = current(page)
    expect(run.locator("rect.step.nan").first).to_have_attribute("data-step", "3")
    expect(run.locator("#marks")).to_contain_text("NaN at step 3")
    expect(run.get_by_text("NaN in Denoise from step 3 on")).to_be_visible()


def test_a_recompile_is_reported_with_its_reason(page: Page, scene: Scene) -> None:
    with played_until(scene, 7, recompile_at=5):
        warning = current(page).locator("#warnings li")
        expect(warning).to_contain_text("Denoise recompiled once after its first step: at latents, now f32[")
        expect(current(page).locator("g[data-kind=denoise] rect.compile")).to_have_count(2)


def test_a_failed_run_shows_where_and_why(page: Page, scene: Scene) -> None:
    play_to_end(scene, fail_at=9)
    run = current(page)
    expect(run.locator("#doing")).to_have_text("Failed in Denoise")
    expect(run.locator("#error")).to_contain_text("RuntimeError: RESOURCE_EXHAUSTED")
    expect(run.get_by_role("row", name=re.compile("^Denoise.*9 of 50"))).to_be_visible()


def test_the_table_has_each_stage_with_what_is_known(page: Page, scene: Scene) -> None:
    play_to_end(scene)
    rows = current(page).locator("crystools-stages tbody tr")
    expect(rows).to_have_count(6)
    expect(rows.nth(0).locator("th, td")).to_have_text(
        ["Load text_encoder", "9.40 s", "-", "-", "-", "-", "-", "-", "12.2 GiB"]
    )
    expect(rows.nth(3).locator("th, td")).to_have_text(
        ["Denoise", "4 min 28 s", "38.0 s", "50", "4.60 s", "39%", "7.4%", "compute", "24.1 GiB"]
    )
    expect(rows.nth(3).locator("td").nth(4)).to_have_attribute(
        "data-tip", re.compile(r"TFLOP of .* TFLOP possible\. Method: architecture")
    )


def test_memory_of_each_chip_before_at_the_peak_and_after(page: Page, scene: Scene) -> None:
    play_to_end(scene, chips=4)
    run = current(page)
    run.get_by_text("HBM per chip").click()
    rows = run.locator("#memory tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.nth(0).locator("th, td")).to_have_text(
        ["tpu0", "1.50 GiB", "27.3 GiB", "27.3 GiB", "31.2 GiB", "VAE decode"]
    )


def test_without_flops_and_devices_the_figures_read_not_available(page: Page, scene: Scene) -> None:
    with scene.run("my-pipeline") as run, run.stage("denoise", steps=2) as stage:
        scene.step(stage, 1.5)
    for name in ("MFU: n/a", "MBU: n/a", "Verdict: n/a", "Memory peak: n/a"):
        expect(current(page).get_by_role("group", name=name)).to_be_visible()


def test_past_runs_open_by_keyboard_newest_first(page: Page, scene: Scene) -> None:
    play_to_end(scene, steps=4)
    play_to_end(scene, steps=6, fail_at=2)
    play_to_end(scene, steps=8)
    runs = page.locator("crystools-runs")
    buttons = runs.get_by_role("button")
    expect(buttons).to_have_count(2)
    expect(buttons.nth(0)).to_contain_text("Failed")
    expect(buttons.nth(1)).to_contain_text("Succeeded")
    buttons.nth(0).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(buttons.nth(1)).to_have_attribute("aria-expanded", "true")
    expect(runs.locator("crystools-stages tbody tr")).to_have_count(6)
    expect(runs.locator("rect.step")).to_have_count(4)
    page.keyboard.press("Enter")
    expect(runs.locator("crystools-run")).to_have_count(0)


def test_the_newest_run_is_compared_with_the_one_before_it_of_the_same_node(page: Page, scene: Scene) -> None:
    def execute(node: str, seconds: float) -> None:
        with scene.run(params={"node": node}) as run, run.stage("denoise"):
            scene.clock.seconds += seconds

    compare = page.locator("crystools-compare")
    whole = compare.locator("tr").filter(has_text="Whole run").locator("td")
    execute("Sampler", 40.0)
    execute("Decoder", 8.0)
    expect(whole).to_have_text(
        ["40.0 s", "8.00 s", "\N{MINUS SIGN}80%unproven"]
    )  # there is no other of its node
    execute("Sampler", 30.0)
    expect(whole).to_have_text(["40.0 s", "30.0 s", "\N{MINUS SIGN}25%unproven"])
    for name in "AB":
        chosen = compare.get_by_role("combobox", name=name, exact=True).locator("option:checked")
        expect(chosen).to_contain_text("wan2.1-t2v · Sampler, ")
    expect(page.locator("crystools-runs .name b")).to_have_text(
        ["wan2.1-t2v · Decoder", "wan2.1-t2v · Sampler"]
    )


def test_what_somebody_chose_to_compare_stays(page: Page, scene: Scene) -> None:
    compare = page.locator("crystools-compare")
    whole = compare.locator("tr").filter(has_text="Whole run").locator("td")
    for seconds in (40.0, 20.0, 30.0):
        with scene.run() as run, run.stage("denoise"):
            scene.clock.seconds += seconds
    expect(whole).to_have_text(["20.0 s", "30.0 s", "+50%unproven"])
    compare.get_by_role("combobox", name="A", exact=True).select_option(index=2)
    expect(whole).to_have_text(["40.0 s", "30.0 s", "\N{MINUS SIGN}25%unproven"])
    with scene.run() as run, run.stage("denoise"):
        scene.clock.seconds += 10.0
    expect(whole).to_have_text(["40.0 s", "10.0 s", "\N{MINUS SIGN}75%better"])


def test_what_cannot_be_compared_is_said_and_a_run_that_failed_is_no_baseline(
    page: Page, scene: Scene
) -> None:
    compare = page.locator("crystools-compare")
    play_to_end(scene, steps=4)
    play_to_end(scene, steps=6)
    play_to_end(scene, steps=4, fail_at=2)
    expect(compare.locator("#statuses")).to_have_text("A: Succeeded. B: Succeeded.")
    compare.get_by_role("combobox", name="B", exact=True).select_option(index=0)
    expect(compare.locator("#statuses")).to_have_text("A: Succeeded. B: Failed.")
    expect(compare.get_by_role("status")).to_have_text(re.compile(r"^Not comparable: B failed \("))
    expect(compare.get_by_role("combobox", name="B", exact=True).locator("option:checked")).to_contain_text(
        ", Failed"
    )
    compare.get_by_role("combobox", name="B", exact=True).select_option(index=1)
    expect(compare.locator("#statuses")).to_have_text("A: Succeeded. B: Succeeded.")
    expect(compare.get_by_role("status")).to_have_text(
        re.compile(r"^B is [\d.]+% slower: \+9\.2 s steps of Denoise; measured too few times")
    )


def test_what_did_not_change_is_folded_below_what_did(page: Page, scene: Scene) -> None:
    compare = page.locator("crystools-compare")
    play_to_end(scene, steps=4)
    play_to_end(scene, steps=4, recompile_at=2)
    expect(compare.get_by_role("status")).to_have_text(
        re.compile(r"^B is [\d.]+% slower: \+12 s recompile in Denoise")
    )
    expect(compare.locator("#rows th")).to_have_text(["Whole run", "Denoise", "time", "compile"])
    expect(compare.locator("#unchanged-rows tr").first).to_be_hidden()
    compare.get_by_text("16 unchanged rows").click()
    expect(compare.locator("#unchanged-rows tr").first).to_be_visible()


def test_a_run_that_is_like_no_other_is_not_compared_unless_somebody_chooses(
    page: Page, scene: Scene
) -> None:
    compare = page.locator("crystools-compare")
    play_to_end(scene, steps=4)
    with scene.run("flux.2") as run, run.stage("denoise"):
        scene.clock.seconds += 10.0
    expect(compare.get_by_role("status")).to_have_text(re.compile(r"^No other run that succeeded is of the"))
    expect(compare.locator("#rows")).to_be_hidden()
    a = compare.get_by_role("combobox", name="A", exact=True)
    expect(a.locator("option:checked")).to_have_text("Choose a run")
    a.select_option(index=2)
    expect(compare.get_by_role("status")).to_have_text(re.compile("^Not comparable: different pipelines"))


def test_under_a_finished_run_stands_how_it_compares_and_it_is_asked_for_once(
    page: Page, scene: Scene
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "explanation" in request.url else None)
    for _ in range(3):
        play_to_end(scene, steps=4)
    play_to_end(scene, steps=4, recompile_at=2)
    sentence = current(page).locator("crystools-explanation").get_by_role("status")
    expect(sentence).to_have_text(
        re.compile(
            r"^[\d.]+% slower than its last three \(.+\): recompiled at step 2 of Denoise \(12 s\), type "
            r"f32\[.+\] instead of bf16\[.+\]\. To do: give every step the same type\.$"
        )
    )
    past = page.locator("crystools-runs li").first
    for _ in range(2):
        past.locator("button").first.click()
        expect(past.locator("crystools-explanation").get_by_role("status")).to_have_text(
            re.compile("^As fast as its last two: ")
        )
        past.locator("button").first.click()
        expect(past.locator("crystools-explanation")).to_have_count(0)
    newest = scene.history.reports()
    assert sum(newest[0].run_id in url for url in asked) == sum(newest[1].run_id in url for url in asked) == 1


def test_kept_runs_that_cannot_be_read_are_counted(scene: Scene, kept: RunLog, open_page: OpenPage) -> None:
    run = yesterday(scene)
    kept.write([dataclasses.replace(run, run_id=name) for name in ("good", "bad", "worse")])
    with contextlib.closing(sqlite3.connect(kept.path, isolation_level=None)) as database:
        database.execute("UPDATE run SET report = 'x' WHERE run_id != 'good'")
    scene.start()
    page = open_page(scene)
    expect(page.locator("crystools-runs #unreadable")).to_have_text(
        "2 runs could not be read. “crystools-tpu runs show worse” says why."
    )


@pytest.fixture
def kept(scene: Scene, tmp_path: Path) -> Iterator[RunLog]:
    """A history that another process writes, and the scene's server reads."""
    scene.kept = KeptRuns(tmp_path)
    another = Observer(Process("another-host", "another boot", "", "", 1, 0.0))
    with RunLog(tmp_path, observer=another) as log:
        yield log
    scene.kept.close()


def yesterday(scene: Scene) -> RunReport:
    """A run of the day before."""
    quiet = Scene()
    play_to_end(quiet, steps=4)
    (report,) = quiet.history.reports()
    return dataclasses.replace(report, started_unix_seconds=scene.clock.wall() - 86400)


def test_older_runs_are_shown_page_by_page_and_compared(
    scene: Scene, kept: RunLog, open_page: OpenPage
) -> None:
    run = yesterday(scene)
    kept.write(
        [
            dataclasses.replace(
                run,
                run_id=f"run{number}",
                pipeline=f"run {number}",
                started_unix_seconds=run.started_unix_seconds - 60 * number,
            )
            for number in range(45)
        ]
    )
    scene.start()
    page = open_page(scene)
    expect(current(page).locator("#pipeline")).to_have_text("run 0")
    names = page.locator("crystools-runs .name b")
    more = page.get_by_role("button", name="Show older runs")
    expect(names).to_have_count(19)  # the newest is the one above
    more.click()
    expect(names).to_have_count(39)
    play_to_end(scene, steps=4)
    expect(names).to_have_count(40)
    more.click()
    expect(names).to_have_text([f"run {n}" for n in range(45)])
    expect(more).to_be_hidden()

    page.locator("crystools-runs").get_by_role("button", name="run 44").click()
    expect(page.locator("crystools-runs rect.step")).to_have_count(4)
    page.get_by_role("combobox", name="A", exact=True).select_option("run44")
    page.get_by_role("combobox", name="B", exact=True).select_option("run43")
    step = page.locator("crystools-compare tr:has(th:text-is('step'))").first
    expect(step.locator("td").last).to_have_text("0%")


def test_a_run_of_another_process_comes_runs_and_ends_on_a_page_that_was_there_before(
    scene: Scene, kept: RunLog, page: Page
) -> None:
    ended = yesterday(scene)
    *before, decode, _ = ended.stages
    denoise = before[-1]
    begun = dataclasses.replace(denoise, status=Status.RUNNING, seconds=None, steps=denoise.steps[:3])
    running = dataclasses.replace(
        ended, status=Status.RUNNING, total_seconds=None, stages=(*before[:-1], begun)
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    kept.write([running])
    expect(current(page).locator("#steps")).to_have_text("step 3 of 4")
    expect(page).to_have_title(re.compile("^Denoise 3/4"))
    kept.write([dataclasses.replace(running, stages=(*before[:-1], dataclasses.replace(denoise), decode))])
    expect(current(page).locator("#doing")).to_have_text(re.compile("VAE|Decode", re.IGNORECASE))
    kept.write([dataclasses.replace(ended, status=Status.INTERRUPTED, error="its process ended")])
    expect(current(page).locator("#status")).to_have_text("Interrupted")
    kept.write([ended])
    expect(current(page).locator("#status")).to_have_text("Succeeded")
    of_the_browser = ("/icon.svg",)  # for the tab, whenever it comes to that
    others = [url for url in asked if not url.endswith(("/explanation", *of_the_browser))]
    assert others == [], "the server tells it"


def test_a_run_that_goes_on_stays_however_many_come_after_it(scene: Scene, kept: RunLog, page: Page) -> None:
    ended = yesterday(scene)
    long = dataclasses.replace(ended, status=Status.RUNNING, total_seconds=None, pipeline="long")
    kept.write([long])
    expect(current(page).locator("#pipeline")).to_have_text("long")
    names = page.locator("crystools-runs .name b")
    for count in range(3):
        kept.write(
            [
                dataclasses.replace(
                    ended,
                    run_id=f"run{number}",
                    pipeline=f"run {number}",
                    started_unix_seconds=ended.started_unix_seconds + number,
                )
                for number in range(20 * count + 1, 20 * count + 21)
            ]
        )
        expect(names.first).to_have_text(f"run {20 * count + 20}")
    expect(names).to_have_count(49)
    expect(current(page).locator("#pipeline")).to_have_text("long")
    page.get_by_role("button", name="Show older runs").click()
    expect(names).to_have_text([f"run {number}" for number in range(60, 0, -1)])


def test_two_runs_at_once_are_both_shown(page: Page, scene: Scene) -> None:
    with scene.run("first") as first:
        scene.clock.seconds += 1.0
        with scene.run("second") as second, first.stage("load"), second.stage("save"):
            expect(current(page)).to_have_count(2)
            expect(current(page).nth(0).locator("#doing")).to_have_text("Save")
            expect(current(page).nth(1).locator("#doing")).to_have_text("Load")


def test_a_download_is_followed_by_bytes_rate_and_time_left(page: Page, scene: Scene) -> None:
    gib = 2**30
    with scene.run("wan2.1-t2v") as run:
        with run.stage("download", bytes_total=28 * gib) as stage:
            stage.transferred(0)
            scene.clock.seconds += 4
            stage.transferred(7 * gib)
            shown = current(page)
            expect(shown.locator("#doing")).to_have_text("Download")
            expect(shown.locator("#steps")).to_have_text("7.00 / 28.0 GiB, 1.75 GiB/s")
            expect(shown.locator("#left")).to_have_text(re.compile(r"^1?\d s left of Download$"))
            progress = shown.get_by_role("progressbar", name="Bytes of Download")
            expect(progress).to_have_attribute("aria-valuenow", str(7 * gib))
        row = current(page).locator("crystools-stages tbody tr").first
        expect(row.locator("td").nth(2)).to_contain_text("7.00 GiB")


def test_events_that_were_lost_are_made_good_from_the_server(page: Page, scene: Scene) -> None:
    quiet = Scene()
    quiet.history, quiet.clock = scene.history, scene.clock
    with played_until(quiet, 9):
        report = scene.history.reports()[0]
        scene.bus.publish(
            StepFinished(
                run_id=report.run_id,
                pipeline=report.pipeline,
                stage=3,
                stage_name=StageName.DENOISE,
                step=9,
                record=StepRecord(4.6, compiled=False, finite=True),
                steps_total=50,
                eta_seconds=184.0,
                mfu=None,
                mbu=None,
                bound=None,
            )
        )
        expect(current(page).locator("#steps")).to_have_text("step 9 of 50")


def test_a_page_that_comes_late_knows_how_long_the_run_still_takes(scene: Scene, open_page: OpenPage) -> None:
    with played_until(scene, 23):
        scene.start()
        page = open_page(scene)
        left = re.compile(r"^(2 min 0\d|1 min [345]\d) s left of Denoise$")
        expect(current(page).locator("#left")).to_have_text(left)


def test_a_page_that_comes_late_follows_the_steps_of_each_kind(scene: Scene, open_page: OpenPage) -> None:
    with scene.run() as run, run.stage("denoise", steps={"full": 10, "cached": 90}) as stage:
        scene.step(stage, 60.0)
        scene.step(stage, 2.0, kind="cached")
        scene.start()
        shown = current(open_page(scene))
        # 9 steps of 60 s and 89 of 2 s are 11 min 58 s.
        expect(shown.locator("#left")).to_have_text(re.compile(r"^11 min [45]\d s left of Denoise$"))
        expect(shown.get_by_role("group", name="Step time: 1 min 00 s")).to_be_visible()
        scene.step(stage, 2.0, kind="cached")
        expect(shown.locator("#steps")).to_have_text("step 3 of 100")
        expect(shown.get_by_role("group", name="Step time: 1 min 00 s")).to_be_visible()
        expect(shown.get_by_role("group", name="Steps: 1 full, 2 cached")).to_be_visible()
        cached = shown.locator("crystools-timeline rect.cached")
        expect(cached).to_have_count(2)
        expect(cached.last).to_have_attribute("data-tip", "Step 2 (cached): 2.00 s")
        full = shown.locator("crystools-timeline rect.step:not(.cached)")
        expect(full).to_have_attribute("data-tip", "Step 0 (full): 1 min 00 s")
        # Not by its colour alone: a cached step is half as high.
        assert [float(rect.get_attribute("height") or 0) for rect in (full, cached.last)] == [28, 14]
        expect(shown.get_by_text("cached step", exact=True)).to_be_visible()
        cells = shown.get_by_role("table").locator("tbody tr").first.locator("td")
        expect(cells.nth(2)).to_have_text("3 of 1001 full, 2 cached")
        expect(cells.nth(3)).to_have_text("1 min 00 scached 2.00 s")


def test_a_past_run_names_its_step_cache_and_loras(page: Page, scene: Scene) -> None:
    for _ in range(2):
        params = {**PARAMS, "step_cache": "mag:0.12,0.2,3", "loras": "/loras/style.safetensors=0.8"}
        with scene.run(params=params) as run, run.stage("denoise", steps={"full": 1, "cached": 1}) as stage:
            scene.step(stage, 6.0)
            scene.step(stage, 2.0, kind="cached")
    facts = page.locator("crystools-runs .work").first
    expect(facts).to_have_text(
        "1280\u00d7720\u00d781 · 2 steps, 1 cached · 6.00 s a full step · step cache mag:0.12,0.2,3 · LoRA "
        "style.safetensors=0.8"
    )
    detail = current(page).get_by_role("group", name="Steps: 1 full, 1 cached")
    said = "1 of 2 steps (50%) was skipped by the step cache (mag:0.12,0.2,3)."
    expect(detail).to_have_attribute("data-tip", said)


def test_the_time_left_starts_from_the_forecast(page: Page, scene: Scene) -> None:
    with scene.run(forecast=FORECAST) as run, run.stage("denoise", steps=50) as stage:
        left = current(page).locator("#left")
        expect(left).to_have_text("3 min 45 s left of Denoise")  # 50 steps of 4.5 s
        expect(left).to_have_attribute("data-tip", "Until this stage ends, by the forecast alone")
        scene.compile(stage, 38.0)
        scene.step(stage, 4.6)
        scene.step(stage, 10.5)
        # 48 steps of 7.5 s, the median of the forecast and the step without a compile, are 6 min 00 s.
        expect(left).to_have_text(re.compile(r"^(6 min 00|5 min [345]\d) s left of Denoise$"))
        expect(left).to_have_attribute("data-tip", "Until this stage ends")


def test_what_a_run_warns_of_is_there_at_once_and_stays(page: Page, scene: Scene) -> None:
    warnings = current(page).locator("#warnings li")
    with scene.run() as run:
        run.warn("prompt: it comes to 801 tokens, of which the text encoder takes 512")
        expect(warnings).to_have_text(["prompt: it comes to 801 tokens, of which the text encoder takes 512"])
    expect(current(page).locator("#status")).to_have_text("Succeeded")
    expect(warnings).to_have_count(1)


def test_the_forecast_stands_beside_what_was_measured(page: Page, scene: Scene) -> None:
    play_to_end(scene, steps=4, forecast=FORECAST)
    run = current(page)
    rows = run.locator("crystools-stages tbody tr")
    expect(rows.nth(3).locator("small").filter(has_text=re.compile("."))).to_have_text(
        ["forecast 4.50 s", "forecast 22.0 GiB"]
    )
    expect(rows.nth(3).locator("td").nth(3)).to_contain_text("4.60 s")
    expect(rows.nth(4).locator("small").filter(has_text=re.compile("."))).to_have_text(["forecast 40.0 GiB"])
    step_time = re.compile(r"^Step time: 4.60 s\..* Forecast: 4.50 s, by a played estimate\.$")
    expect(run.get_by_role("group", name=step_time)).to_be_visible()
    expect(run.locator("#warnings li")).to_have_text(
        "Does not fit by a played estimate: VAE decode wants 40.0 GiB of a chip's 31.2 GiB; "
        "720 x 1280, 49 frames or 544 x 960, 81 frames would fit"
    )


def test_text_from_a_run_is_never_markup(page: Page, scene: Scene) -> None:
    with scene.run("<b>bold</b>", params={"prompt": "<img src=x onerror=alert(1)>"}):
        pass
    expect(current(page).locator("#pipeline")).to_have_text("<b>bold</b>")
    expect(current(page).locator("#prompt")).to_have_text("<img src=x onerror=alert(1)>")

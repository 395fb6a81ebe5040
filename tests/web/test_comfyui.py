"""The monitor in ComfyUI's real frontend, an old and a new version, in a real browser.

One page a version is loaded once and used by all tests; they leave it as they found it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, WebSocket, expect

from crystools_exporters.perfetto import perfetto_trace
from crystools_tpu.server.wire import Expected, ExpectedNode
from crystools_tpu.sources.base import ChipReading, HostReading, Reading
from crystools_tpu.telemetry import Device, Node, RunReport, Shape, Status
from crystools_tpu.telemetry.events import ModelFreed
from tests.web.axe import violations
from tests.web.comfyui_host import EXTENSION, VERSIONS, ComfyScene, frontend
from tests.web.conftest import HARMLESS
from tests.web.cut import states, what_is_cut
from tests.web.scenes import FORECAST, GIB, HOST, play_to_end, played_until, v6e_readings
from tests.web.test_look import contrast, luminance
from tests.web.workflows import IN_PROGRESS, Workflow, begun_at, tell, text_to_image

OURS = re.compile("crystools", re.IGNORECASE)
MANAGER = "comfyAPI.app.app.extensionManager"
STORAGE_KEY = "crystools-tpu.comfyui"
TEST_INTERVAL_SECONDS = 0.25
EXAMPLES = Path(__file__).parents[2] / "example_workflows"
WIRE_FPS = """(type) => {
  const { LiteGraph } = window, { graph } = comfyAPI.app.app;
  const [decoder, video] = [type, "CreateVideo"].map(name => LiteGraph.createNode(name));
  for (const node of [decoder, video]) graph.add(node);
  const link = decoder.connect(1, video, video.inputs.findIndex(input => input.name === "fps"));
  for (const node of [decoder, video]) graph.remove(node);
  return Boolean(link);
}"""

ADD_NODES_AND_A_SUBGRAPH = """() => {
  const { LiteGraph } = window, { app } = comfyAPI.app;
  const types = ["AnotherPacksDecoder", "CreateVideo", "CreateVideo"];
  const nodes = types.map((type, at) => {
    const node = LiteGraph.createNode(type);
    node.id = 71 + at;
    node.pos = [400 * at, 900];
    app.graph.add(node);
    return node;
  });
  const { subgraph, node } = app.graph.convertToSubgraph(new Set([nodes[2]]));
  return [String(node.id), String(subgraph.nodes[0].id)];
}"""
CLEAR = """() => {
  const { app } = comfyAPI.app, { ds } = app.canvas;
  app.graph.clear();
  ds.scale = 1;
  ds.offset[0] = ds.offset[1] = 0;
}"""
IS_CENTRED = """id => {
  const { canvas } = comfyAPI.app.app, { ds } = canvas;
  const node = canvas.graph.getNodeById(id);
  return node && [0, 1].every((axis) => {
    const middle = (node.pos[axis] + node.size[axis] / 2 + ds.offset[axis]) * ds.scale;
    return Math.abs(middle - [canvas.canvas.width, canvas.canvas.height][axis] / 2) < 2;
  });
}"""
DRAWN_BADGES = """() => {
  const drawn = [];
  for (const node of comfyAPI.app.app.graph.nodes) {
    for (const badge of node.badges.map(badge => typeof badge === "function" ? badge() : badge)) {
      if (badge.constructor.name !== "TimeBadge") continue;
      const nothing = { beginPath() {}, roundRect() {}, fill() {}, measureText: () => ({ width: 9 }) };
      badge.draw({ ...nothing, fillText: text => drawn.push(`${node.id} ${text}`) }, 0, 0);
    }
  }
  return drawn;
}"""

ADD_NODE = """type => {
  const { app } = comfyAPI.app, node = window.LiteGraph.createNode(type);
  app.graph.clear();
  node.pos = [500, 90];
  app.graph.add(node);
  return String(node.id);
}"""
SAVED = "() => JSON.stringify(comfyAPI.app.app.graph.serialize())"
WIDGETS = """id => comfyAPI.app.app.graph.getNodeById(id).widgets.map(widget => widget.value)"""
SET_STEPS = """([id, steps]) => {
  const { widgets } = comfyAPI.app.app.graph.getNodeById(id);
  widgets.find(widget => widget.name === "num_inference_steps").value = steps;
}"""
CHECKED = """() => {
  const { changeTracker } = comfyAPI.app.app.extensionManager.workflow.activeWorkflow;
  (changeTracker.captureCanvasState ?? changeTracker.checkState).call(changeTracker);
}"""


@dataclass
class Tab:
    """A tab with ComfyUI in it, and what our part of it asked for, sent and complained of."""

    scene: ComfyScene
    page: Page
    requests: list[str] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def bar(self) -> Locator:
        return self.page.locator("crystools-bar")

    @property
    def meters(self) -> Locator:
        return self.bar.locator("crystools-bar-meter")

    def meter(self, kind: str, label: str) -> Locator:
        return (
            self.bar.locator(f"crystools-bar-meter[data-kind={kind}]")
            .filter(has_text=label)
            .locator("#meter")
        )

    def manager(self, call: str) -> Any:
        return self.page.evaluate(f"() => {MANAGER}.{call}")

    def serialized(self) -> Any:
        """The workflow as the page sends it with a prompt."""
        return self.page.evaluate("async () => (await comfyAPI.app.app.graphToPrompt()).workflow")

    def show(self, *chips: ChipReading, host: HostReading = HOST) -> None:
        self.scene.tpu.reading = Reading(chips=chips)
        self.scene.host.reading = Reading(host=host)

    def prefer(self, **values: Any) -> None:
        """Moves a slider of the settings dialog, which must be open."""
        for name, value in values.items():
            self.page.locator(f"[data-preference={name}]").fill(str(value))

    def checkbox(self, name: str) -> Locator:
        """A box of the settings dialog, which must be open."""
        return self.page.get_by_role("checkbox", name=name, exact=True)

    def open_settings(self) -> None:
        self.manager("command.execute('Comfy.ShowSettingsDialog')")
        self.page.get_by_text("Crystools TPU", exact=True).first.click()
        expect(self.page.locator("[data-preference=interval_seconds]")).to_be_visible()

    def close_settings(self) -> None:
        self.page.keyboard.press("Escape")
        expect(self.page.locator("[data-preference=interval_seconds]")).to_have_count(0)

    def ask(self, path: str) -> Any:
        """What our server answers."""
        with urllib.request.urlopen(f"{self.scene.url}api/crystools-tpu/{path}", timeout=20) as answer:
            return json.load(answer)


def open_tab(context: BrowserContext, scene: ComfyScene) -> Tab:
    page = context.new_page()
    tab = Tab(scene, page)

    def note_request(url: str) -> None:
        if OURS.search(url):
            tab.requests.append(url)

    def note_console(message: ConsoleMessage) -> None:
        if not HARMLESS.search(message.text) and OURS.search(f"{message.text} {message.location}"):
            tab.complaints.append(f"{message.text} {message.location}")

    def note_error(error: Any) -> None:
        if OURS.search(f"{error} {error.stack}"):
            tab.complaints.append(str(error))

    def note_socket(socket: WebSocket) -> None:
        note_request(socket.url)
        if OURS.search(socket.url):
            socket.on("framesent", lambda frame: tab.sent.append(json.loads(frame)))

    page.on("request", lambda request: note_request(request.url))
    page.on("websocket", note_socket)
    page.on("console", note_console)
    page.on("pageerror", note_error)
    page.goto(scene.url)
    expect(tab.bar).to_be_visible()
    page.evaluate("comfyAPI.app.app.graph?.clear()")  # to draw nothing costs less
    return tab


@pytest.fixture(scope="module", params=VERSIONS)
def shared(
    request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tab]:
    version = str(request.param)
    if not frontend(version).exists():
        pytest.skip(
            f"SKIPPED: comfyui-frontend-package {version} is not at {frontend(version)} (make frontends)"
        )
    scene = ComfyScene(version)
    scene.trace, scene.profiles = perfetto_trace, tmp_path_factory.mktemp("profiles")
    scene.start()
    context = browser.new_context(viewport={"width": 1440, "height": 600})
    kept = json.dumps({"interval_seconds": TEST_INTERVAL_SECONDS, "price_per_chip_hour": 1.2})
    context.add_init_script(f"localStorage['{STORAGE_KEY}'] ??= '{kept}'")
    yield open_tab(context, scene)
    context.close()
    scene.stop()


# What is the server's and our own, whichever frontend it is.
in_one_frontend = pytest.mark.parametrize("shared", VERSIONS[-1:], indirect=True)


@pytest.fixture
def tab(shared: Tab) -> Iterator[Tab]:
    shared.show(*v6e_readings(1))
    expect(shared.bar.locator(".tag")).to_have_text(["tpu0v6e"])
    yield shared
    assert shared.complaints == []


def test_at_most_three_requests_until_the_bar_is_there(tab: Tab) -> None:
    root = tab.scene.url
    assert tab.requests[:3] == [
        f"{root}extensions/crystools-tpu/crystools-tpu.js",
        f"{root}api/crystools-tpu/comfyui.js",
        f"{root}api/crystools-tpu/ws".replace("http", "ws"),
    ]


def test_comfyui_finds_one_file_to_import() -> None:
    assert [path.name for path in EXTENSION.rglob("*")] == ["crystools-tpu.js"]


def test_the_bar_has_what_the_monitor_before_it_had_with_used_total_share_and_peak(tab: Tab) -> None:
    chip = dataclasses.replace(v6e_readings(1)[0], hbm_used_bytes=20 * GIB, hbm_total_bytes=32 * GIB)
    tab.show(dataclasses.replace(chip, hbm_used_bytes=24 * GIB))
    expect(tab.meter("hbm", "HBM")).to_have_attribute("aria-valuenow", "75")
    tab.show(chip)
    expect(tab.meters).to_contain_text(["HBM", "Duty cycle", "TensorCore", "CPU", "RAM", "Disk"])
    expect(tab.meter("hbm", "HBM")).to_have_text(re.compile(r"HBM\s*62%|HBM\s*63%"))
    expect(tab.meter("hbm", "HBM")).to_have_attribute(
        "data-tip", "HBM of tpu0: 63%\nUsed 20.0 GiB\nTotal 32.0 GiB\nPeak seen 24.0 GiB"
    )
    expect(tab.meter("duty", "Duty cycle")).to_have_attribute(
        "data-tip", "Duty cycle of tpu0: 98%\nPeak seen 98%"
    )
    expect(tab.meter("tensorcore", "TensorCore")).to_have_attribute(
        "data-tip", "TensorCore utilisation of tpu0: 61%\nPeak seen 61%"
    )
    expect(tab.meter("host", "CPU")).to_have_attribute("data-tip", "CPU, all cores: 37%\nPeak seen 37%")
    expect(tab.meter("host", "RAM")).to_have_attribute(
        "data-tip", "RAM: 29%\nUsed 412 GiB\nTotal 1,433 GiB\nPeak seen 412 GiB"
    )
    expect(tab.meter("host", "Disk")).to_have_attribute(
        "data-tip", "Disk /: 73%\nUsed 71.0 GiB\nTotal 97.0 GiB\nPeak seen 71.0 GiB"
    )


def test_a_gpu_has_utilisation_vram_and_temperature(tab: Tab) -> None:
    tab.show(ChipReading("gpu0", "NVIDIA H100", 60 * GIB, 80 * GIB, 0.93, temperature_celsius=71.0))
    expect(tab.meters).to_contain_text(["VRAM", "GPU util.", "Temperature", "CPU", "RAM", "Disk"])
    expect(tab.meter("temperature", "71 °C")).to_have_attribute(
        "data-tip", "Temperature of gpu0: 71 °C\nPeak seen 71 °C"
    )


def test_a_gpu_has_the_same_names_among_all_chips_as_in_the_bar(tab: Tab) -> None:
    tab.show(ChipReading("gpu0", "NVIDIA H100", 60 * GIB, 80 * GIB, 0.93, temperature_celsius=71.0))
    tab.bar.locator(".tag").filter(has_text="gpu0").click()
    chip = tab.bar.get_by_role("dialog", name="All chips").locator("crystools-chip")
    expect(chip.get_by_role("meter", name="VRAM")).to_have_attribute("aria-valuetext", "60.0 / 80.0 GiB")
    expect(chip.get_by_role("meter", name="GPU util.")).to_have_attribute("aria-valuetext", "93%")
    expect(chip.get_by_role("meter", name="GPU util.")).to_have_attribute(
        "data-tip", re.compile("^GPU utilisation of gpu0: 93%\n")
    )
    tab.page.keyboard.press("Escape")


def test_fault_a_metric_that_was_never_available_read_zero_per_cent(tab: Tab) -> None:
    tab.show(ChipReading("tpu9"), host=HostReading(None, 1 * GIB, 2 * GIB, ()))
    expect(tab.meters).to_contain_text(["HBM", "Duty cycle", "CPU", "RAM"])
    expect(tab.meters).to_have_count(4)
    for kind, label in (("hbm", "HBM"), ("duty", "Duty cycle"), ("host", "CPU")):
        expect(tab.meter(kind, label)).to_contain_text("n/a")
        expect(tab.meter(kind, label)).to_have_attribute("role", "img")


def test_fault_one_devices_error_switched_the_metric_off_for_all(tab: Tab) -> None:
    working, _ = v6e_readings(2)
    tab.show(working, ChipReading("tpu1", "v6e"))
    expect(tab.bar.locator(".tag")).to_have_count(2)
    hbm = tab.bar.locator("crystools-bar-meter[data-kind=hbm]")
    expect(hbm.nth(0)).to_contain_text("70%")
    expect(hbm.nth(1)).to_contain_text("n/a")


def test_fault_the_maximum_was_shared_between_devices(tab: Tab) -> None:
    one, two = (
        ChipReading(f"tpu{number}", "v6e", used * GIB, 32 * GIB) for number, used in ((20, 4), (21, 28))
    )
    tab.show(one, two)
    hbm = tab.bar.locator("crystools-bar-meter[data-kind=hbm] #meter")
    expect(hbm.nth(0)).to_have_attribute("data-tip", re.compile("Peak seen 4.00 GiB$"))
    expect(hbm.nth(1)).to_have_attribute("data-tip", re.compile("Peak seen 28.0 GiB$"))
    expect(tab.meter("host", "RAM")).to_have_attribute("data-tip", re.compile("Peak seen 412 GiB$"))


@in_one_frontend
@pytest.mark.parametrize("count", [8, 256])
def test_fault_only_the_first_two_chips_were_shown(tab: Tab, count: int) -> None:
    """Many chips fold into one element, coloured by the worst of them; a click opens all."""
    chips = list(v6e_readings(count))
    chips[5] = dataclasses.replace(chips[5], hbm_used_bytes=31 * GIB, duty_cycle_ratio=0.02)
    tab.show(*chips)
    tag = tab.bar.locator(".tag")
    expect(tag).to_have_text([f"{count} chipsv6e"])
    expect(tag).to_have_attribute("data-level", "critical")
    expect(tag.locator(".cell")).to_have_count(count)
    expect(tag.locator(".cell[data-level=critical]")).to_have_count(1)
    expect(tab.meters).to_have_count(6)
    expect(tab.meter("hbm", "99%")).to_have_attribute(
        "data-tip", re.compile(f"^HBM of tpu5: 99%\n.*\nThe fullest of {count} chips$", re.DOTALL)
    )
    expect(tab.meter("duty", "2.0%")).to_have_attribute("data-tip", re.compile(r"^Duty cycle of tpu5: 2\.0%"))
    tag.click()
    popover = tab.bar.get_by_role("dialog", name="All chips")
    expect(popover).to_be_visible()
    if count == 8:
        expect(popover.locator("crystools-chip")).to_have_count(8)
    else:
        expect(popover.get_by_role("option")).to_have_count(256)
    tab.page.keyboard.press("Escape")
    expect(popover).to_be_hidden()
    tag.click()
    expect(popover).to_be_visible()
    tag.click()
    expect(popover).to_be_hidden()


def test_the_bar_follows_the_running_stage(tab: Tab) -> None:
    run = tab.bar.locator("#run")
    expect(run).to_be_hidden()
    with played_until(tab.scene, 23, chips=1):
        expect(run.locator("#doing")).to_have_text("Denoise 23/50")
        expect(run.locator("#rest")).to_have_text(re.compile(r"^[12]:\d\d left of Denoise · MFU 39%$"))
        expect(run).to_have_attribute(
            "data-tip", re.compile("^wan2.1-t2v: Denoise\nMFU of the latest step 39%\n")
        )
    expect(run).to_be_hidden()


def begin(tab: Tab, flow: Workflow, run_id: str) -> RunReport:
    """The workflow runs from now on."""
    flow.run_id = run_id
    report = flow.report(Status.RUNNING, total=8, progress=IN_PROGRESS)
    report = begun_at(tab.scene.clock.wall(), report)
    tell(tab.scene, report)
    expect(tab.bar.locator("#run")).to_be_visible()
    return report


def end(tab: Tab, report: RunReport) -> None:
    tell(tab.scene, dataclasses.replace(report, status=Status.CANCELLED, total_seconds=9.0))
    expect(tab.bar.locator("#run")).to_be_hidden()


def test_the_bar_follows_a_workflow_with_its_queue_and_what_is_to_go(tab: Tab) -> None:
    tab.scene.tell("status", {"status": {"exec_info": {"queue_remaining": 3}}})
    report = begin(tab, text_to_image(steps=7), "followed")
    expect(tab.bar.locator("#doing")).to_have_text("KSampler 7/20")
    expect(tab.bar.locator("#rest")).to_have_text(
        re.compile(r"^4/8 nodes · \d+:\d\d · 2 queued · 3:(20|1\d) left of the run$")
    )
    expect(tab.bar.locator("#run")).to_have_attribute(
        "data-tip", re.compile("^Cat in the rain: KSampler\n4 of 8 nodes\n.*Click to go to", re.DOTALL)
    )
    # Four of eight nodes, and 7 of 20 steps of the fifth.
    expect(tab.bar.locator("#done")).to_have_attribute("style", "--ratio: 0.54375;")
    tab.scene.tell("status", {"status": {"exec_info": {"queue_remaining": 0}}})
    expect(tab.bar.locator("#rest")).to_have_text(re.compile("left of the run$"))
    end(tab, report)


def test_a_click_goes_to_the_running_node_in_its_subgraph_or_what_expanded_into_it(tab: Tab) -> None:
    subgraph, inner = tab.page.evaluate(ADD_NODES_AND_A_SUBGRAPH)
    sidebar = tab.page.locator("crystools-sidebar")

    def click(flow: Workflow, run_id: str) -> None:
        report = begin(tab, flow, run_id)
        tab.bar.locator("#run").click()
        end(tab, report)

    flow = Workflow(None)
    flow.node("CreateVideo", 1.0, node_id=f"{subgraph}:{inner}", status=Status.RUNNING)
    click(flow, "in a subgraph")
    tab.page.wait_for_function(IS_CENTRED, arg=inner)
    assert tab.page.evaluate("() => comfyAPI.app.app.canvas.graph !== comfyAPI.app.app.graph")

    flow = Workflow(None)
    loop = flow.node("AnotherPacksDecoder", 1.0, node_id="71", status=Status.RUNNING)
    flow.node("CreateVideo", 1.0, node_id="71.0.0.4", parent=loop, status=Status.RUNNING)
    click(flow, "expanded")
    tab.page.wait_for_function(IS_CENTRED, arg="71")
    assert tab.page.evaluate("() => comfyAPI.app.app.canvas.graph === comfyAPI.app.app.graph")
    expect(sidebar).to_have_count(0)

    flow = Workflow("a workflow that is not open")
    flow.node("AnotherPacksDecoder", 1.0, node_id="71", status=Status.RUNNING)
    click(flow, "elsewhere")
    expect(sidebar).to_be_visible()
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")
    tab.page.evaluate(CLEAR)


def test_each_node_has_the_time_that_it_took_last_where_somebody_wants_that(tab: Tab) -> None:
    tab.page.evaluate(ADD_NODES_AND_A_SUBGRAPH)

    def run_it(seconds: float, run_id: str) -> None:
        flow = Workflow(None, run_id)
        flow.node("AnotherPacksDecoder", seconds, node_id="71")
        flow.node("AnotherPacksDecoder", seconds, node_id="72")  # which is a CreateVideo here
        tell(tab.scene, begun_at(tab.scene.clock.wall(), flow.report()))

    run_it(1.0, "unseen")
    assert tab.page.evaluate(DRAWN_BADGES) == []
    tab.open_settings()
    tab.checkbox("Show").check()
    tab.close_settings()
    run_it(3.2, "seen")
    tab.page.wait_for_function(f"() => JSON.stringify(({DRAWN_BADGES})()) === '[\"71 3.20 s\"]'")
    run_it(0.41, "seen again")
    tab.page.wait_for_function(f"() => JSON.stringify(({DRAWN_BADGES})()) === '[\"71 0.410 s\"]'")
    tab.open_settings()
    tab.checkbox("Show").uncheck()
    tab.close_settings()
    assert tab.page.evaluate(DRAWN_BADGES) == []
    tab.page.evaluate(CLEAR)


@pytest.mark.parametrize(
    "decoder",
    ["CogVideoXTPUVAEDecoder", "Wan21TPUVAEDecoder", "Wan22T2VTPUVAEDecoder", "Wan22I2VTPUVAEDecoder"],
)
def test_a_decoders_fps_can_be_wired_into_comfyuis_create_video(tab: Tab, decoder: str) -> None:
    """An INT into a FLOAT, which the frontend forbids."""
    assert tab.page.evaluate(WIRE_FPS, decoder) is True
    assert tab.page.evaluate(WIRE_FPS, "AnotherPacksDecoder") is False


def test_it_survives_changes_of_the_menus_mode(tab: Tab) -> None:
    for mode, place in (("Disabled", "list"), ("Top", "menu"), ("Disabled", "list"), ("Top", "menu")):
        tab.manager(f"setting.set('Comfy.UseNewMenu', '{mode}')")
        expect(tab.bar).to_have_attribute("data-place", place)
        expect(tab.bar).to_have_count(1)
        expect(tab.bar).to_be_visible()
        expect(tab.meters.first).to_be_visible()


def test_it_survives_focus_mode(tab: Tab) -> None:
    tab.manager("toggleFocusMode()")
    expect(tab.bar.filter(visible=True)).to_have_count(0)
    tab.manager("toggleFocusMode()")
    expect(tab.bar).to_be_visible()
    expect(tab.bar).to_have_attribute("data-place", "menu")
    tab.show(*v6e_readings(2))
    expect(tab.bar.locator(".tag")).to_have_count(2)


def test_a_frontend_that_has_no_menu_for_it_gets_an_overlay(tab: Tab) -> None:
    tab.page.evaluate(
        "() => { const { menu } = comfyAPI.app.app;"
        " window.kept = menu.settingsGroup; menu.settingsGroup = null; }"
    )
    expect(tab.bar).to_have_attribute("data-place", "menu")
    tab.page.evaluate("() => document.querySelector('crystools-bar').remove()")
    expect(tab.bar).to_have_attribute("data-place", "overlay")
    expect(tab.meters.first).to_be_visible()
    tab.page.evaluate("() => { comfyAPI.app.app.menu.settingsGroup = window.kept; }")
    expect(tab.bar).to_have_attribute("data-place", "menu")


@pytest.mark.parametrize("width", [800, 1024, 1920])
def test_it_leaves_the_menus_own_buttons_in_the_window(tab: Tab, width: int) -> None:
    tab.show(*v6e_readings(8))
    expect(tab.bar.locator(".tag")).to_have_text(["8 chipsv6e"])
    with played_until(tab.scene, 3):
        tab.page.set_viewport_size({"width": width, "height": 600})
        expect(tab.bar.locator("#run")).to_be_in_viewport(ratio=1)
        expect(tab.bar.locator(".tag")).to_be_in_viewport(ratio=1)
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
        run = tab.page.get_by_test_id("queue-button")
        expect(run).to_be_in_viewport(ratio=1)
    tab.page.set_viewport_size({"width": 1440, "height": 600})


COVERED_BUTTONS = """async () => {
  await new Promise(requestAnimationFrame); // after the bar has heard of the new size
  const bar = document.querySelector("crystools-bar");
  return [...document.querySelectorAll("button")].filter((button) => {
    const { right, top, bottom } = button.getBoundingClientRect();
    const seen = document.elementFromPoint(right - 4, (top + bottom) / 2);
    return seen?.contains(bar) && !button.contains(seen) && !seen.contains(button);
  }).map((button) => button.outerHTML);
}"""


@pytest.mark.parametrize("width", [600, 680, 760])
def test_it_covers_none_of_the_menus_own_buttons_in_a_narrow_window(tab: Tab, width: int) -> None:
    tab.show(*v6e_readings(8))
    with played_until(tab.scene, 3):
        tab.page.set_viewport_size({"width": width, "height": 600})
        assert tab.page.evaluate(COVERED_BUTTONS) == []
        expect(tab.bar).to_have_attribute("data-place", "menu")
    tab.page.set_viewport_size({"width": 1440, "height": 600})


METERS_PIXELS = ((60, 16), (66, 30), (100, 50))


@pytest.mark.parametrize("chips", [0, 256])
def test_nothing_of_the_bar_is_cut(tab: Tab, chips: int) -> None:
    """What has no room is left out, and is in what a click on the chips opens."""
    tab.show(*v6e_readings(chips))
    tag = tab.bar.locator(".tag")
    expect(tag.locator("b")).to_have_text(f"{chips or 'No'} chips")
    with played_until(tab.scene, 23, chips=1):
        for width in (375, 600, 768, 1920, 1440):
            tab.page.set_viewport_size({"width": width, "height": 600})
            for size in METERS_PIXELS:
                tab.bar.evaluate("(bar, [width, height]) => bar.resize(width, height)", size)
                assert what_is_cut(tab.page) == [], f"meters of {size} px, in a window of {width} px"
        tag.click()
        popover = tab.bar.get_by_role("dialog", name="All chips")
        expect(popover.get_by_role("meter", name="RAM")).to_be_visible()
        assert what_is_cut(tab.page) == []
        tab.page.keyboard.press("Escape")
    tab.bar.evaluate("bar => bar.resize(66, 30)")


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(tab: Tab, palette: str) -> None:
    tab.manager(f"setting.set('Comfy.ColorPalette', '{palette}')")
    meter = "crystools-bar crystools-bar-meter #meter"
    expect(tab.page.locator("body")).to_have_css("color-scheme", palette)
    ground = luminance(tab.page, meter, "backgroundColor")
    assert (ground > 0.5) is (palette == "light")
    for text in ("#label", "#figure"):
        assert contrast(luminance(tab.page, f"{meter} {text}", "color"), ground) >= 4.5, text
    tab.manager("setting.set('Comfy.ColorPalette', 'dark')")


@in_one_frontend
def test_axe_finds_nothing_in_the_bar_the_chips_the_sidebar_and_the_settings(tab: Tab) -> None:
    """ComfyUI's own page is not ours to judge."""
    ours = ["crystools-bar", "crystools-sidebar"]
    play_to_end(tab.scene, steps=4)
    play_to_end(tab.scene, steps=4)
    tab.show(*v6e_readings(17))
    with played_until(tab.scene, 7):
        tab.bar.get_by_role("button", name="Show the run in the sidebar").click()
        expect(tab.page.locator("crystools-sidebar crystools-current #steps")).to_have_text("step 7 of 50")
        tab.bar.locator(".tag").click()
        expect(tab.bar.get_by_role("option")).to_have_count(17)
        assert violations(tab.page, ours) == []
        tab.manager("setting.set('Comfy.ColorPalette', 'light')")
        expect(tab.page.locator("body")).to_have_css("color-scheme", "light")
        assert violations(tab.page, ours, rules=["color-contrast"]) == []
        tab.manager("setting.set('Comfy.ColorPalette', 'dark')")
        tab.page.keyboard.press("Escape")
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")
    tab.open_settings()
    assert violations(tab.page, ["[data-preference]"]) == []
    tab.close_settings()


def test_the_settings_take_effect_at_once_and_stay_in_their_range(tab: Tab) -> None:
    tab.open_settings()
    tab.prefer(meter_width_pixels=100, meter_height_pixels=50, interval_seconds=2)
    meter = tab.meters.first
    expect(meter).to_have_css("width", "100px")
    expect(meter).to_have_css("height", "50px")
    assert tab.sent[-1]["interval_seconds"] == 2
    for name, low, high, step in (
        ("interval_seconds", "0", "2", "0.25"),
        ("meter_width_pixels", "60", "100", "1"),
        ("meter_height_pixels", "16", "50", "1"),
    ):
        slider = tab.page.locator(f"[data-preference={name}]")
        assert [slider.get_attribute(bound) for bound in ("min", "max", "step")] == [low, high, step]
    tab.prefer(meter_width_pixels=66, meter_height_pixels=30, interval_seconds=TEST_INTERVAL_SECONDS)
    price = tab.page.locator("[data-preference=price_per_chip_hour]")
    for given, taken in (("", ""), ("-1", ""), ("1.2", "1.2")):
        price.fill(given)
        price.blur()
        expect(price).to_have_value(taken)
    tab.page.evaluate(
        "() => Object.defineProperty(Notification, 'permission', { value: 'denied', writable: true })"
    )
    tab.checkbox("Notify").click()
    expect(tab.page.get_by_text("This browser lets the page show none")).to_be_visible()
    expect(tab.checkbox("Notify")).not_to_be_checked()
    tab.page.evaluate("() => { Notification.permission = 'granted'; }")
    tab.checkbox("Notify").check()
    expect(tab.page.get_by_text("This browser lets the page show none")).to_be_hidden()
    tab.checkbox("Notify").uncheck()
    tab.close_settings()


@in_one_frontend
def test_fault_toggles_for_tpu_metrics_were_ignored(tab: Tab) -> None:
    """What is not shown is not even sent."""
    tab.open_settings()
    tab.checkbox("TensorCore utilisation").uncheck()
    expect(tab.meters).to_contain_text(["HBM", "Duty cycle", "CPU", "RAM", "Disk"])
    expect(tab.meters).to_have_count(5)
    assert "tensorcore_utilization_ratio" not in tab.sent[-1]["metrics"]
    assert "hbm_used_bytes" in tab.sent[-1]["metrics"]
    tab.checkbox("TensorCore utilisation").check()
    expect(tab.meters).to_have_count(6)
    tab.close_settings()


@in_one_frontend
def test_each_device_can_be_hidden(tab: Tab) -> None:
    tab.show(*v6e_readings(3))
    expect(tab.bar.locator(".tag")).to_have_text(["3 chipsv6e"])
    tab.open_settings()
    tab.checkbox("tpu1 (v6e)").uncheck()
    expect(tab.bar.locator(".tag b")).to_have_text(["tpu0", "tpu2"])
    tab.checkbox("tpu1 (v6e)").check()
    expect(tab.bar.locator(".tag")).to_have_text(["3 chipsv6e"])
    tab.close_settings()


@in_one_frontend
def test_fault_which_disk_took_any_path(tab: Tab) -> None:
    tab.open_settings()
    choice = tab.page.locator("[data-preference=disk]")
    expect(choice.locator("option")).to_have_text(["Automatic", "/", "/dev/shm"])
    choice.select_option("/dev/shm")
    expect(tab.meter("host", "Disk")).to_have_attribute("data-tip", re.compile("^Disk /dev/shm: 19%"))
    choice.select_option("")
    expect(tab.meter("host", "Disk")).to_have_attribute("data-tip", re.compile("^Disk /: 73%"))
    tab.close_settings()


@in_one_frontend
def test_fault_it_sampled_with_nobody_listening(tab: Tab) -> None:
    assert tab.ask("api/health")["subscribers"] == 1
    tab.open_settings()
    tab.prefer(interval_seconds=0)
    expect(tab.bar.locator("#state")).to_have_text("Readings off")
    expect(tab.bar.locator("#bar")).to_have_attribute("data-stale", "")
    health = f"{tab.scene.url}api/crystools-tpu/api/health"  # the server hears of it a moment later
    tab.page.wait_for_function("async url => (await (await fetch(url)).json()).subscribers === 0", arg=health)
    tab.prefer(interval_seconds=TEST_INTERVAL_SECONDS)
    expect(tab.bar.locator("#bar")).not_to_have_attribute("data-stale", "")
    expect(tab.bar.locator("#state")).to_be_hidden()
    tab.close_settings()


def test_the_sidebar_has_the_live_run_those_before_it_and_two_side_by_side(tab: Tab) -> None:
    play_to_end(tab.scene, steps=4)
    play_to_end(tab.scene, steps=4)
    with played_until(tab.scene, 7):
        tab.bar.get_by_role("button", name="Show the run in the sidebar").click()
        sidebar = tab.page.locator("crystools-sidebar")
        expect(sidebar.locator("crystools-current #steps")).to_have_text("step 7 of 50")
        expect(sidebar.locator("crystools-current rect.step")).to_have_count(7)
        expect(sidebar.locator("crystools-runs button").first).to_contain_text("wan2.1-t2v")
        expect(sidebar.locator("crystools-profile").get_by_role("button", name="Start")).to_be_enabled()
        trace = sidebar.locator("crystools-current").get_by_role("link", name="Trace")
        run_id = tab.scene.history.reports()[0].run_id
        expect(trace).to_have_attribute("href", f"{tab.scene.url}api/crystools-tpu/api/runs/{run_id}/trace")
        denoise = sidebar.locator("crystools-compare tr:has(th:text-is('step'))")
        expect(denoise.locator("td")).to_have_text(["4.60 s", "4.60 s", "0%"])
        past = sidebar.locator("crystools-runs li").first
        past.locator("button").first.click()
        expect(past.locator("crystools-explanation").get_by_role("status")).to_have_text(
            re.compile("^As fast as .+: 1 min 47 s, before 1 min 47 s[.]$")
        )
        past.locator("button").first.click()
        sidebar.locator("crystools-compare summary").click()
        sidebar.evaluate("sidebar => { sidebar.style.width = '225px'; }")
        table = sidebar.locator("crystools-compare #unchanged .scroll")
        assert table.evaluate("table => table.scrollWidth - table.clientWidth") == 0
        sidebar.evaluate("sidebar => { sidebar.style.width = ''; }")
    expect(sidebar.locator("crystools-current #status")).to_have_text("Cancelled after 7 of 50 steps")
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")
    expect(sidebar).to_have_count(0)
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")
    expect(sidebar.locator("crystools-current #status")).to_have_text("Cancelled after 7 of 50 steps")
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")


def expected_of(node_id: str, **facts: Any) -> Expected:
    """What is expected of a workflow with one sampler."""
    sampler = ExpectedNode(Node(node_id, "Wan21TPUSampler", None), 190.0, None, None, (), (node_id,), ())
    known = {name: facts.pop(name) for name in ("fits", "reason", "would_fit", "loras") if name in facts}
    nodes = (dataclasses.replace(sampler, **known),)
    runs = (215.0, 222.0, 225.0, 218.0, 232.0)
    history = Expected("4f1c", 220.0, "history", 0, runs, 8.0, nodes)
    return dataclasses.replace(history, **facts)


def test_before_a_run_its_time_and_its_cost_are_on_the_sampler_and_in_the_sidebar(tab: Tab) -> None:
    note = tab.page.locator(".crystools-notes > div")
    expect(note).to_have_count(0)
    tab.scene.asked.clear()
    node_id = tab.page.evaluate(ADD_NODE, "Wan21TPUSampler")
    saved = tab.page.evaluate(SAVED)
    tab.scene.expected = expected_of(node_id)
    expect(note).to_have_text("About 3 min 40 s · costs 0.59")
    assert [prompt[node_id]["inputs"]["num_frames"] for prompt in tab.scene.asked] == [81]
    assert tab.page.evaluate(SAVED) == saved

    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")
    panel = tab.page.locator("crystools-expected")
    expect(panel.locator("#about")).to_have_text("About 3 min 40 s · costs 0.59")
    expect(panel.locator("#detail")).to_have_text(
        "The last five runs took 3 min 35 s to 3 min 52 s. If nothing is cached. 8 chips at 1.20 a chip-hour."
    )

    asked = len(tab.scene.asked)
    loras = ("style/detail.safetensors=0.8", "4step.safetensors=1")
    tab.scene.expected = expected_of(node_id, seconds=90.0, by="scaled", alike_seconds=(), loras=loras)
    tab.page.evaluate(SET_STEPS, [node_id, 20])
    expect(note).to_have_text("About 1 min 30 s · costs 0.24")
    expect(panel.locator("#detail")).to_contain_text("By the speed of this model's last run, without loading")
    expect(panel.locator("#loras")).to_have_text("With the LoRAs detail at 0.8 and 4step at 1.")
    assert len(tab.scene.asked) == asked + 1
    assert tab.scene.asked[-1][node_id]["inputs"]["num_inference_steps"] == 20

    flow = Workflow(None, "of this workflow")
    flow.node("Wan21TPUSampler", 94.0, node_id=node_id)
    report = flow.report(Status.RUNNING, total=1, progress=IN_PROGRESS)
    device = Device("tpu", "TPU v6 lite", 8, 8.0, (), None, None, None, None)
    report = dataclasses.replace(report, params={"workflow": "4f1c"}, device=device)
    report = begun_at(tab.scene.clock.wall(), report)
    tell(tab.scene, report)
    expect(tab.bar.locator("#run")).to_be_visible()
    tell(tab.scene, dataclasses.replace(report, status=Status.SUCCEEDED, total_seconds=94.0))
    took = "Took 1 min 34 s · cost 0.25 · expected about 1 min 30 s"
    expect(panel.locator("#took")).to_have_text(took)
    expect(note).to_have_text(took)
    of_run = tab.page.locator("crystools-sidebar crystools-current #elapsed")
    expect(of_run).to_have_text("in all · cost 0.25")

    tab.scene.expected = expected_of(node_id, workflow="other", seconds=None, by=None, alike_seconds=())
    tab.page.evaluate(SET_STEPS, [node_id, 30])
    expect(panel.locator("#detail")).to_have_text("Not known yet: the first run will tell.")
    expect(note).to_have_count(0)
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")
    tab.scene.expected = None
    tab.page.evaluate(CLEAR)


def test_what_does_not_fit_offers_what_does_and_one_click_sets_the_widgets(tab: Tab) -> None:
    node_id = tab.page.evaluate(ADD_NODE, "Wan21TPUPipeline")
    tab.scene.expected = expected_of(
        node_id,
        fits=False,
        reason="the plan: denoise wants 40.00 GiB of a chip's 31.24 GiB",
        would_fit=(Shape(720, 1280, 49), Shape(544, 960, 81)),
        seconds=None,
        by=None,
    )
    note = tab.page.locator(".crystools-notes > div")
    expect(note).to_contain_text("Does not fit")
    tab.page.evaluate(CHECKED)
    note.get_by_role("button", name=re.compile("^960 . 544 . 81 fits: use it$")).click()
    assert tab.page.evaluate(WIDGETS, node_id)[2:5] == [544, 960, 81]
    tab.page.evaluate("comfyAPI.app.app.canvas.canvas.focus()")
    tab.page.keyboard.press("Control+z")
    tab.page.wait_for_function(f"id => ({WIDGETS})(id)[3] === 1280", arg=node_id)
    assert tab.page.evaluate(WIDGETS, node_id)[2:5] == [720, 1280, 81]
    tab.scene.expected = None
    tab.page.evaluate(CLEAR)
    expect(note).to_have_count(0)


def test_the_workflow_of_a_past_run_is_loaded_again_beside_what_is_open(tab: Tab) -> None:
    def draw(type_: str) -> None:
        tab.page.evaluate("() => comfyAPI.app.app.graph.clear()")
        tab.page.evaluate("type => { comfyAPI.app.app.graph.add(LiteGraph.createNode(type)); }", type_)

    draw("CreateVideo")
    graph = tab.serialized()
    draw("TPUTimingReport")
    unsaved = tab.manager("workflow.activeWorkflow.path")
    tab.scene.clock.seconds += 1  # the newest of all
    with tab.scene.run("comfyui") as run:
        pass
    run.is_kept_with("workflow")
    tab.page.route("**/api/runs/*/workflow", lambda route: route.fulfill(json=graph))
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")
    result = tab.page.locator("crystools-current crystools-result")
    expect(result.get_by_role("link", name="Download this workflow")).to_be_hidden()
    loaded = f"""name => {MANAGER}.workflow.activeWorkflow?.filename === name &&
        comfyAPI.app.app.graph.nodes.map(node => node.comfyClass).join() === "CreateVideo" """
    for name in (f"Workflow {run.run_id[:8]}", "Unsaved Workflow (2)"):  # the first is taken then
        result.get_by_role("button", name="Load this workflow again").click()
        tab.page.wait_for_function(loaded, arg=name)
    expect(result.locator("#problem")).to_be_hidden()
    tab.page.unroute("**/api/runs/*/workflow")
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")
    left = f"""path => {MANAGER}.workflow.getWorkflowByPath(path)
        .changeTracker.activeState.nodes.map(node => node.type)"""
    assert tab.page.evaluate(left, unsaved) == ["TPUTimingReport"], "what is not saved is not lost"
    tab.page.evaluate("() => comfyAPI.app.app.graph.clear()")


def test_the_timing_report_shows_its_table_on_the_node(tab: Tab) -> None:
    """ComfyUI would leave the text that a node answers with unseen."""
    tab.page.evaluate(
        "() => { const node = LiteGraph.createNode('TPUTimingReport');"
        " node.pos = [100, 150]; comfyAPI.app.app.graph.add(node); }"
    )
    table = tab.page.get_by_role("textbox", name="Where the time went")
    expect(table).to_have_value("")
    node_id = str(tab.page.evaluate("comfyAPI.app.app.graph.nodes[0].id"))
    output = {"text": [" stage   seconds  MFU\n denoise 230.1    39%"]}
    tab.scene.tell("executed", {"node": node_id, "display_node": node_id, "prompt_id": "1", "output": output})
    expect(table).to_have_value(output["text"][0])
    expect(table).not_to_be_editable()
    expect(table).to_have_css("white-space", "pre")

    workflow, prompt = tab.page.evaluate(
        "async () => { const { workflow, output } = await comfyAPI.app.app.graphToPrompt();"
        " return [workflow, output]; }"
    )
    assert "denoise" not in json.dumps(workflow)
    assert prompt[node_id]["inputs"] == {}
    tab.page.evaluate("workflow => comfyAPI.app.app.loadGraphData(workflow)", workflow)
    expect(table).to_have_value("")
    tab.page.evaluate("outputs => { comfyAPI.app.app.nodeOutputs = outputs; }", {node_id: output})
    expect(table).to_have_value(output["text"][0])
    tab.page.evaluate("comfyAPI.app.app.graph.clear()")
    expect(table).to_have_count(0)


ADD_TIMING_NODE = """type => {
  const { app } = comfyAPI.app;
  const [timing, ...others] = [type, ...Array(9).fill("Wan21TPUVAEDecoder")].map((name) => {
    const node = LiteGraph.createNode(name);
    app.graph.add(node);
    return node;
  });
  Object.assign(window, { timing, others });
}"""
CONNECT = "at => others[at].connect(2, timing, timing.inputs.findLastIndex(input => input.link == null))"
SOCKETS = """() => new Promise(told => setTimeout(() => told(
  timing.inputs.filter(({ name }) => name.startsWith("timing_")).map(({ name, link }) => [name, link != null])
), 20))"""


@pytest.mark.parametrize("type_", ["TPUTimingReport", "TPUTimingPlot"])
def test_the_sockets_of_a_timing_node_grow_as_they_are_used(tab: Tab, type_: str) -> None:
    def sockets(used: int, free: int = 1) -> list[list[Any]]:
        return [[f"timing_{number}", number <= used] for number in range(1, used + free + 1)]

    tab.page.evaluate(ADD_TIMING_NODE, type_)
    assert tab.page.evaluate(SOCKETS) == sockets(0)
    for at in range(3):
        tab.page.evaluate(CONNECT, at)
        assert tab.page.evaluate(SOCKETS) == sockets(at + 1)
    tab.page.evaluate("timing.disconnectInput(timing.inputs.findIndex(input => input.name === 'timing_1'))")
    assert tab.page.evaluate(SOCKETS) == sockets(2)
    for at in range(3, 9):
        tab.page.evaluate(CONNECT, at)
        tab.page.evaluate(SOCKETS)
    assert tab.page.evaluate(SOCKETS) == sockets(8, free=0)
    prompt = "async () => (await comfyAPI.app.app.graphToPrompt()).output[timing.id].inputs"
    links = tab.page.evaluate(prompt)
    sources = tab.page.evaluate("others.slice(1).map(node => [String(node.id), 2])")
    assert [links[f"timing_{number}"] for number in range(1, 9)] == sources
    tab.page.evaluate("workflow => comfyAPI.app.app.loadGraphData(workflow)", tab.serialized())
    tab.page.evaluate(
        "type => { timing = comfyAPI.app.app.graph.nodes.find(node => node.type === type); }", type_
    )
    assert tab.page.evaluate(prompt) == links
    tab.page.evaluate(CLEAR)


def test_a_workflow_of_before_the_sockets_grew_keeps_its_links(tab: Tab) -> None:
    saved = json.loads((EXAMPLES / "Wan2.1 text to video, TPU tiny.json").read_text())
    (node,) = (node for node in saved["nodes"] if node["type"] == "TPUTimingReport")
    linked = [socket for socket in node["inputs"] if socket["link"] is not None]
    free = [f"timing_{number}" for number in range(len(linked) + 1, 9)]
    node["inputs"] = [*linked, *({"name": name, "type": "TPU_TIMING", "link": None} for name in free)]
    tab.page.evaluate("workflow => comfyAPI.app.app.loadGraphData(workflow)", saved)
    loaded = tab.page.evaluate(
        "() => comfyAPI.app.app.graph.nodes.find(node => node.type === 'TPUTimingReport')"
        ".inputs.map(({ name, link }) => [name, link])"
    )
    assert loaded == [*([socket["name"], socket["link"]] for socket in linked), ["timing_4", None]]
    tab.page.evaluate(CLEAR)


@in_one_frontend
def test_fault_settings_of_one_tab_changed_the_server_for_all(tab: Tab) -> None:
    other = open_tab(tab.page.context, tab.scene)
    before = len(tab.sent)
    other.open_settings()
    other.prefer(interval_seconds=2)
    other.checkbox("CPU").uncheck()
    expect(other.meters).to_contain_text(["HBM", "Duty cycle", "TensorCore", "RAM", "Disk"])
    expect(other.meters).to_have_count(5)
    assert other.sent[-1]["interval_seconds"] == 2
    expect(tab.meters).to_have_count(6)
    assert len(tab.sent) == before
    assert tab.ask("api/settings")["interval_seconds"] == 0.1
    assert not any("Crystools" in name for name in tab.scene.settings)
    other.checkbox("CPU").check()
    other.prefer(interval_seconds=TEST_INTERVAL_SECONDS)
    assert other.complaints == []
    other.page.close()


@in_one_frontend
def test_it_survives_a_restart_of_the_server(tab: Tab) -> None:
    tab.scene.stop()
    expect(tab.bar.locator("#state")).to_have_text("Reconnecting…")
    expect(tab.bar.locator("#bar")).to_have_attribute("data-stale", "")
    expect(tab.meter("host", "CPU")).to_contain_text("37%")
    tab.scene.start()
    tab.show(*v6e_readings(2))
    expect(tab.bar.locator(".tag")).to_have_count(2)
    expect(tab.bar.locator("#state")).to_be_hidden()
    expect(tab.bar.locator("#bar")).not_to_have_attribute("data-stale", "")


def test_the_server_is_told_what_the_page_calls_the_workflow_that_it_queues(tab: Tab) -> None:
    load = "name => comfyAPI.app.app.loadGraphData({nodes: [], links: [], version: 0.4}, true, true, name)"
    for name in ("cats", "dogs"):
        tab.page.evaluate(load, name)
        tab.page.wait_for_function(f"name => {MANAGER}.workflow.activeWorkflow.filename === name", arg=name)
        queued = {"client_id": "a", "extra_data": {"extra_pnginfo": {"workflow": tab.serialized()}}}
        deadline = time.monotonic() + 20
        while tab.scene.on_prompt[-1](copy.deepcopy(queued))["extra_data"].get("crystools_tpu") != {
            "name": name
        }:
            assert time.monotonic() < deadline, name
            tab.page.wait_for_timeout(50)


def test_toasts_for_what_will_not_fit_a_recompile_a_nan_a_warning_an_eviction_and_memory_that_ran_out(
    tab: Tab,
) -> None:
    toasts = tab.page.get_by_role("alert").filter(has=tab.page.get_by_role("button"))
    play_to_end(tab.scene, steps=6, recompile_at=3, nan_at=4, forecast=FORECAST)
    expect(toasts.filter(has_text="Does not fit")).to_contain_text(
        "wan2.1-t2v: Does not fit by a played estimate: VAE decode wants 40.0 GiB of a chip's 31.2 GiB"
    )
    expect(toasts.filter(has_text="Recompiled in the middle of a run")).to_contain_text(
        "now f32[1,16,21,90,160]"
    )
    expect(toasts.filter(has_text="NaN")).to_contain_text("wan2.1-t2v, Denoise, from step 4 on")
    play_to_end(tab.scene, steps=6, fail_at=3)
    expect(toasts.filter(has_text="Out of memory")).to_contain_text("attempting to allocate 9.42G")
    for component in ("transformer", "vae"):
        tab.scene.bus.publish(ModelFreed(None, "flux.2", component, 3 * GIB, "evicted"))
    tab.scene.bus.publish(ModelFreed(None, "flux.2", "text_encoder", 3 * GIB, "freed"))
    with tab.scene.run() as run:
        run.warn("prompt: it is cut")
    expect(toasts.filter(has_text="Warning")).to_contain_text("wan2.1-t2v: prompt: it is cut")
    evicted = toasts.filter(has_text="Model evicted")
    expect(evicted).to_contain_text("flux.2 transformer: 3.00 GiB")
    expect(evicted).to_contain_text("flux.2 vae: 3.00 GiB")
    # What somebody asked to be freed is no news. ComfyUI may have toasts of its own beside these.
    ours = re.compile("Does not fit|Recompiled|NaN|Out of memory|Warning|Model evicted|text_encoder")
    expect(toasts.filter(has_text=ours)).to_have_count(6)
    expect(evicted).not_to_contain_text("text_encoder")


@in_one_frontend
def test_fault_a_negative_rate_killed_it_for_good(tab: Tab) -> None:
    """It survives a reload, and values in the browser's storage that nobody could have set."""
    spoilt = {"interval_seconds": -1, "meter_width_pixels": 9e9, "meter_height_pixels": "x", "disk": 7}
    tab.page.evaluate(f"text => localStorage.setItem('{STORAGE_KEY}', text)", json.dumps(spoilt))
    tab.requests.clear()
    tab.page.reload()
    expect(tab.bar.locator("#state")).to_have_text("Readings off")
    assert any(request.endswith("/ws") for request in tab.requests)
    tab.open_settings()
    expect(tab.page.locator("[data-preference=meter_width_pixels]")).to_have_value("100")
    expect(tab.page.locator("[data-preference=meter_height_pixels]")).to_have_value("30")
    tab.prefer(interval_seconds=TEST_INTERVAL_SECONDS, meter_width_pixels=66)
    expect(tab.meters).to_have_count(6)
    tab.close_settings()


@in_one_frontend
def test_nothing_of_the_sidebar_is_cut_or_leaves_its_card(tab: Tab) -> None:
    """In a narrower one that ComfyUI allows it is scrolled to."""
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")
    sidebar = tab.page.locator("crystools-sidebar")
    for name, told in states(tab.scene):
        expect(sidebar.locator("crystools-current")).to_contain_text(told)
        for width in (225, 300, 400, 560):
            sidebar.evaluate("(sidebar, width) => { sidebar.style.width = `${width}px`; }", width)
            assert what_is_cut(tab.page) == [], f"{name} at {width} px"
    sidebar.evaluate("sidebar => { sidebar.style.width = ''; }")
    end(tab, text_to_image(steps=7).report(Status.RUNNING))
    tab.manager("sidebarTab.toggleSidebarTab('crystools-tpu')")


@in_one_frontend
def test_fault_a_renamed_clone_had_no_styles(shared: Tab, browser: Browser) -> None:
    """Nor does a proxy's sub-path matter."""
    version = str(shared.scene.settings["Comfy.InstalledVersion"])
    scene = ComfyScene(version, folder="My Renamed Clone", path="/some/proxy", simulated="v6e-8")
    scene.tpu.reading = Reading(chips=v6e_readings(8))
    scene.start()
    context = browser.new_context(viewport={"width": 1440, "height": 600})
    try:
        tab = open_tab(context, scene)
        expect(tab.bar.locator(".tag")).to_have_text(["8 chipsv6e"])
        expect(tab.meters.first).to_have_css("width", "66px")
        assert tab.sent[0]["interval_seconds"] == 0.5
        root = scene.url
        assert tab.requests[:3] == [
            f"{root}extensions/My%20Renamed%20Clone/crystools-tpu.js",
            f"{root}api/crystools-tpu/comfyui.js",
            f"{root}api/crystools-tpu/ws".replace("http", "ws"),
        ]
        tab.page.set_viewport_size(
            {"width": 600, "height": 600}
        )  # where "SIM" lay on the picture of the chips
        assert what_is_cut(tab.page) == []
        assert tab.complaints == []
    finally:
        context.close()
        scene.stop()

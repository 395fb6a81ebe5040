"""A machine whose chips no program uses: it is idle, not broken, and it comes to life by itself."""

from __future__ import annotations

import dataclasses
import re

from playwright.sync_api import Page, expect

from crystools_tpu.sources.base import AttachedChips, Quiet, Reading
from crystools_tpu.telemetry.chips import CHIPS
from crystools_tpu.telemetry.device_names import device_label, devices_label, kind_label, memory_label
from crystools_tpu.telemetry.events import Device
from tests.web.conftest import OpenPage
from tests.web.scenes import Scene, v6e_readings

SENTENCE = "8 x v6e, idle: no program uses them"
CHIPS_FOUND = AttachedChips(
    "TPU v6e", 8, tuple(f"0000:{number:02x}:05.0" for number in range(8)), SENTENCE, "idle"
)
IDLE = Reading(attached=CHIPS_FOUND, quiet=Quiet("idle", "idle: no program uses the chips"))
USED = Reading(chips=v6e_readings(8), attached=dataclasses.replace(CHIPS_FOUND, sentence=None, word=None))

BAR = """async ([metrics]) => {
  const { Bar } = await import("./components/bar.js");
  const { Store } = await import("./store.js");
  const { Connection, ServerApi } = await import("./client.js");
  const store = new Store(new ServerApi(location.href));
  const connection = new Connection(location.href);
  connection.addEventListener("message", (event) => store.receive(event.detail));
  connection.addEventListener("state", (event) => store.setConnection(event.detail));
  connection.open();
  customElements.get("crystools-bar") ?? customElements.define("crystools-bar", Bar);
  const bar = new Bar();
  bar.resize(66, 30);
  bar.choice = { metrics, hiddenDevices: [], disk: null };
  bar.store = store;
  document.body.prepend(bar);
}"""

HISTORY = "meter => meter.shadowRoot.getElementById('line').getAttribute('d').split('M').length - 1"


def row(page: Page, source: str) -> str:
    return page.locator("crystools-sources li").filter(has_text=source).inner_text().replace("\n", " ")


def test_chips_are_grey_while_idle_come_to_life_with_a_program_and_rest_after_it(
    scene: Scene, open_page: OpenPage
) -> None:
    scene.tpu.reading = IDLE
    scene.start()
    page = open_page(scene)
    page.evaluate(BAR, [["memory", "duty", "cpu"]])

    chips, bar = page.locator("crystools-chips").first, page.locator("crystools-bar")
    attached, tag = chips.locator("crystools-attached"), bar.locator(".tag")
    expect(attached.locator("#sentence")).to_have_text(SENTENCE)
    expect(attached.locator("li")).to_have_count(8)
    expect(attached.locator("li").last).to_have_text("0000:07:05.0")
    expect(chips.locator("#none")).to_be_hidden()
    assert row(page, "tpu") == "tpu idle: no program uses the chips"
    expect(page.locator("crystools-sources li[data-state=down]")).to_have_count(0)
    expect(tag).to_have_text("8 x v6eidle")
    expect(tag).to_have_attribute("data-tip", f"{SENTENCE}. Click for what was found.")
    meters = bar.locator("[data-kind=quiet]")
    expect(meters).to_have_text([re.compile(r"HBM\s*idle"), re.compile(r"Duty cycle\s*idle")])
    expect(meters.first.locator("#meter")).to_have_attribute("data-tip", f"HBM: {SENTENCE}")

    scene.tpu.reading = USED
    expect(chips.locator("crystools-chip")).to_have_count(8)
    expect(attached).to_be_hidden()
    assert row(page, "tpu") == "tpu up"
    expect(tag).to_contain_text("8 chips")
    expect(meters).to_have_count(0)

    scene.tpu.reading = IDLE
    expect(attached).to_be_visible()
    scene.tpu.reading = USED
    line = chips.locator("crystools-chip").first.locator("#hbm")
    expect(line).to_be_visible()
    assert line.evaluate(HISTORY) == 2  # what it was before, and what it is after the gap

    scene.tpu.down = "8 x v6e, held by pid 123 (python), which serves no metrics"
    expect(page.locator("crystools-sources li[data-state=down]")).to_contain_text("held by pid 123 (python)")
    expect(chips.locator("#none")).to_be_visible()


def test_page_and_terminal_call_chips_devices_and_memory_by_the_same_names(
    scene: Scene, open_page: OpenPage
) -> None:
    scene.start()
    page = open_page(scene)
    kinds = [*(kind for spec in CHIPS for kind in spec.device_kinds), "TPU v9", "cpu", "NVIDIA A100"]
    names = ["tpu:7", "tpu:15", "cpu:0", "cuda:0", "gpu:1", "TFRT_CPU_0"]
    memories = [["tpu0", "tpu:1"], ["cuda:0", "gpu0"], ["cpu:0"], ["tpu:0", "cuda:0"], []]
    pairs = Device("tpu", "TPU7x", 8, 4.0, (), None, None, None, None)
    cpus = Device("cpu", "cpu", 2, 2.0, (), None, None, None, None)
    half = dataclasses.replace(pairs, count=1, chips=0.5)
    devices = [pairs, cpus, half]
    said = page.evaluate(
        """async ([kinds, names, memories, devices]) => {
          const n = await import("./device-names.js");
          return [
            kinds.map(n.kindLabel), names.map((name) => n.deviceLabel(name)),
            names.map((name) => n.deviceLabel(name, devices[0])), memories.map(n.memoryLabel),
            devices.map(n.devicesLabel),
          ];
        }""",
        [kinds, names, memories, [dataclasses.asdict(device) for device in devices]],
    )
    assert said[0] == [kind_label(kind) for kind in kinds]
    assert said[1] == ["tpu7", "tpu15", "cpu0", "cuda:0", "gpu1", "TFRT_CPU_0"]
    assert said[1] == [device_label(name) for name in names]
    assert said[2] == ["tpu3 core 1", "tpu7 core 1", "cpu0", "cuda:0", "gpu1", "TFRT_CPU_0"]
    assert said[2][:2] == [device_label(name, 2.0) for name in names[:2]]
    assert [name.lower() for name in said[3]] == [memory_label(names).lower() for names in memories]
    assert said[4] == ["4 x TPU7x", "2 x cpu", "0.5 x TPU7x"] == [devices_label(each) for each in devices]

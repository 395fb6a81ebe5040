"""What a reading costs the page: nothing for what is hidden or has not changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from crystools_tpu.sources.base import Reading
from tests.web.scenes import Scene, played_until, v6e_readings

CHIPS = 256

SET_UP = """async () => {
  const { Store } = await import("./store.js");
  await Promise.all(["chips", "current"].map(name => import(`./components/${name}.js`)));
  const messages = await new Promise(resolve => {
    const heard = {}, socket = new WebSocket(new URL("ws", location).href.replace("http", "ws"));
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.chips?.length !== 0) heard[message.type] ??= data; // not of a source that was late
      if (!heard.hello || !heard.snapshot) return;
      socket.close();
      resolve(heard);
    };
  });
  const store = new Store({ traceUrl: () => "" });
  const frame = () => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  const snapshot = at => {
    const made = JSON.parse(messages.snapshot);
    made.chips.forEach((chip, number) => {
      chip.hbm_used_bytes = chip.hbm_total_bytes * ((number * 3 + at * 7) % 50) / 100;
      chip.duty_cycle_ratio = ((number + at) % 90) / 100;
    });
    return made;
  };
  document.body.replaceChildren(...["crystools-chips", "crystools-current"].map(name => {
    const view = document.createElement(name);
    view.store = store;
    return view;
  }));
  store.receive(JSON.parse(messages.hello));
  store.receive(snapshot(0));
  await frame();

  const counts = { formatted: 0, mutated: {} };
  const { get } = Object.getOwnPropertyDescriptor(Intl.NumberFormat.prototype, "format");
  Object.defineProperty(Intl.NumberFormat.prototype, "format", {
    get() { counts.formatted += 1; return get.call(this); },
  });
  const observer = new MutationObserver(records => {
    for (const { target } of records) {
      const name = target.getRootNode().host?.localName ?? "none";
      counts.mutated[name] = (counts.mutated[name] ?? 0) + 1;
    }
  });
  const watch = root => {
    observer.observe(root, { subtree: true, childList: true, attributes: true, characterData: true });
    for (const element of root.querySelectorAll("*")) if (element.shadowRoot) watch(element.shadowRoot);
  };
  window.after = async moments => {
    for (const element of document.body.children) watch(element.shadowRoot);
    await frame();
    Object.assign(counts, { formatted: 0, mutated: {} });
    for (const at of moments) store.receive(snapshot(at));
    await frame();
    observer.disconnect();
    return counts;
  };
}"""


@pytest.fixture(scope="module")
def pod(browser: Browser) -> Iterator[Page]:
    """All chips and a run on them, under a store that hears of nothing but what the test tells it."""
    scene = Scene()
    scene.tpu.reading = Reading(chips=v6e_readings(CHIPS))
    scene.start()
    page = browser.new_page(viewport={"width": 460, "height": 900})
    with played_until(scene, 8, chips=CHIPS):
        page.goto(f"{scene.url}dom.js")  # of the server, and nothing else in it
        page.clock.install()
        page.evaluate(SET_UP)
        yield page
    page.close()
    scene.stop()


def after(page: Page, *moments: int) -> tuple[int, dict[str, int]]:
    """The numbers that were written and the changes in the document, by component, after these readings."""
    counts = page.evaluate("moments => window.after(moments)", list(moments))
    return counts["formatted"], counts["mutated"]


def test_a_reading_changes_the_shade_and_the_words_of_a_chips_square_and_nothing_else(pod: Page) -> None:
    formatted, mutated = after(pod, 1)
    assert formatted == 0
    assert set(mutated) == {"crystools-chips"}
    assert CHIPS <= mutated["crystools-chips"] <= 2 * CHIPS + 8


def test_a_reading_that_is_as_the_last_one_changes_nothing(pod: Page) -> None:
    after(pod, 2)
    assert after(pod, 2) == (0, {})


def test_readings_that_come_within_a_frame_are_shown_once(pod: Page) -> None:
    _, mutated = after(pod, *range(3, 13))
    assert mutated["crystools-chips"] <= 2 * CHIPS + 8


def test_of_hundreds_of_opened_cards_those_in_sight_alone_are_kept_up_to_date(pod: Page) -> None:
    pod.get_by_role("button", name=f"Show all {CHIPS}").click()
    pod.locator("crystools-chip").nth(CHIPS - 1).wait_for(state="attached")
    readings = []
    for moment in range(20, 100):  # until the browser has said which are in sight, and one is due
        pod.clock.run_for(100)
        readings.append(after(pod, moment))
        if readings[-1][1].get("crystools-meter"):
            break
    assert 0 < max(formatted for formatted, _ in readings) < 40 * 5
    assert 0 < max(mutated.get("crystools-meter", 0) for _, mutated in readings) < 40 * 12
    last = pod.locator("crystools-chip").last
    before = last.locator("#hbm #figure").inner_text()
    last.scroll_into_view_if_needed()
    pod.wait_for_function(
        "([last, before]) => last.shadowRoot.getElementById('hbm').shadowRoot.getElementById('figure')"
        ".textContent !== before",
        arg=[last.element_handle(), before],
    )

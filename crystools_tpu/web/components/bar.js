/**
 * The bar for another program's menu: the running workflow or stage, the chips and the host, small. Many chips fold
 * into one element, coloured by the worst of them; a click opens all of them.
 *
 * @import { BarChoice, BarReading } from "../bar-readings.js"
 * @import { Store } from "../store.js"
 * @import { AttachedChips, ChipReading, RunReport } from "../wire.js"
 */

import { chipReadings, hostReadings, quietReadings, shownChips } from "../bar-readings.js";
import { StoreView, blueprint } from "../component.js";
import { connectionText } from "../connection-text.js";
import { kindLabel } from "../device-names.js";
import { h, setAttribute, setStyle, setText, svg, syncChildren } from "../dom.js";
import { clock, percent, stageTitle, wholeDuration } from "../format.js";
import { extreme, hbmRatio, namesFor } from "../readings.js";
import { elapsedSeconds, pathTo, progressOf, runningStage } from "../run-figures.js";
import { nodesText, runTitle } from "../run-text.js";
import { ratioText } from "../suspicion.js";
import { isWorkflow, nodesDone } from "../workflow-figures.js";
import { CHIPS_PICTURE, drawChips } from "../chips-picture.js";
import { attachedLabel, quietChips } from "./attached.js";
import { BarMeter } from "./bar-meter.js";
import { Chips } from "./chips.js";
import { Host } from "./host.js";
import { level } from "./meter.js";
import { Sources } from "./sources.js";

/** More chips than this fold into one element, and two where there is less room than this. */
const CHIPS_APART = 2;
const ROOM_FOR_TWO_PIXELS = 800;

/** In less room the bar keeps figures and pictures, and leaves out words. */
const ROOM_FOR_WORDS_PIXELS = 280;

/** In less room than this the chips are more telling than the running stage. */
const ROOM_FOR_RUN_PIXELS = 140;

/** Meters lower than this have one line, and those at least this high larger letters. */
const LOW_PIXELS = 26;
const HIGH_PIXELS = 40;

/** How far the opened chips stay from the bar and from the window's edge. */
const GAP_PIXELS = 8;
const POPOVER_PIXELS = 440;

/**
 * Emits `opened` when the popover of all chips opens or closes (detail: boolean), `locate` when somebody wants to
 * see where the running run is (detail: RunReport), and `details` when somebody wants to see all of it.
 */
export class Bar extends StoreView {
  static tickSeconds = 1;
  static blueprint = blueprint(
    `<div id="bar" role="group" aria-label="Crystools TPU" tabindex="0" data-tips>
      <span id="state" role="status" hidden></span>
      <span id="simulated" hidden data-tip="These readings are of a simulated machine, not of hardware.">SIM</span>
      <button id="run" type="button" hidden>
        <span id="doing"><span id="what"></span> <span id="count"></span></span>
        <span id="rest" class="number"></span>
        <span id="track"><span id="done"></span></span>
      </button>
      <button id="details" type="button" hidden aria-label="Show the run in the sidebar"
        data-tip="Show the run in the sidebar"><span aria-hidden="true">☰</span></button>
      <div id="chips" class="apart"></div>
      <div id="host" class="apart"></div>
    </div>
    <div id="popover" popover role="dialog" aria-label="All chips"></div>`,
    `
    :host {
      display: block; min-width: 0; max-width: var(--room, 100%); flex: 0 1 auto;
      pointer-events: auto; line-height: 1.2; text-align: start; user-select: none;
    }
    #bar {
      display: flex; flex-wrap: wrap; justify-content: flex-end; gap: 4px; overflow: hidden;
      align-content: flex-start; height: var(--meter-height);
    }
    /* The first line is as high as all there is to see: what comes into a second one is left out, whole. */
    #bar::before { content: ""; height: var(--meter-height); margin-right: -4px; }
    #bar[data-lines] { height: auto; justify-content: center; padding-block: 4px; }
    #bar[data-lines]::before { display: none; }
    .apart, .device { display: contents; }
    #bar[data-stale] :is(crystools-bar-meter, button) { filter: grayscale(1); }
    #bar[data-stale] :is(crystools-bar-meter, button):not(:focus-visible) {
      outline: 1px dashed var(--crystools-muted); outline-offset: -1px; border-radius: 6px;
    }
    button {
      border: 1px solid transparent; padding: 0; color: inherit; text-align: left; border-radius: 6px;
      background: var(--crystools-sunken); height: var(--meter-height); flex: none;
    }
    button:hover { border-color: var(--crystools-muted); }
    :focus-visible { outline-offset: -2px; }
    #state, #simulated {
      align-self: center; padding: 1px 6px; border-radius: 5px; font-size: 10px; font-weight: 600;
    }
    #state { color: var(--crystools-muted); background: var(--crystools-sunken); }
    #simulated { color: var(--crystools-warning); background: var(--crystools-warning-panel); }
    #run {
      position: relative; overflow: hidden; padding: 0 8px 3px; display: grid; align-content: center;
      max-width: 290px; font-variant-numeric: tabular-nums; white-space: nowrap;
    }
    #doing { display: flex; gap: .3em; min-width: 0; font-size: 11px; font-weight: 600; }
    #what, #rest { overflow: hidden; text-overflow: ellipsis; }
    #count { flex: none; }
    #rest { font-size: 10px; color: var(--crystools-muted); }
    #details { width: 20px; text-align: center; font-size: 11px; color: var(--crystools-muted); }
    #track { position: absolute; inset: auto 0 0; height: 3px; background: var(--crystools-line); }
    #done {
      display: block; height: 100%; background: var(--crystools-hbm); transform-origin: left;
      transform: scaleX(var(--ratio, 0)); transition: transform .3s linear;
    }
    .tag {
      display: flex; align-items: center; gap: 7px; max-width: 100%; padding: 0 7px; white-space: nowrap;
    }
    .tag > span { display: grid; font-size: 9px; color: var(--crystools-muted); line-height: 1.15; }
    .tag > span > span { max-width: 90px; overflow: hidden; text-overflow: ellipsis; }
    .tag b { font: 600 11px/1.15 var(--crystools-mono); color: var(--crystools-ink); }
    .tag[data-level="warning"] { border-color: var(--crystools-warning-fill); }
    .tag[data-level="critical"] {
      border-color: var(--crystools-critical-fill); background: var(--crystools-critical-panel);
    }
    .tag[data-quiet] b { color: var(--crystools-muted); }
    [data-kind="quiet"] { --crystools-ink: var(--crystools-muted); }
    .tag svg { height: calc(var(--meter-height) - 8px); width: auto; min-width: 0; display: block; }
    .tag svg:empty { display: none; }
    ${CHIPS_PICTURE}
    [data-kind="hbm"] { --color: var(--crystools-hbm); }
    [data-kind="duty"] { --color: var(--crystools-duty); }
    [data-kind="tensorcore"] { --color: var(--crystools-tensorcore); }
    [data-kind="temperature"] { --color: var(--crystools-mfu); }
    #bar[data-narrow] :is(#rest, .tag > span:not(:has(+ svg:empty))) {
      display: none;
    }
    #bar[data-narrow] #details, #bar[data-tiny]:has(.tag) #run { display: none; }
    #bar[data-narrow]:has(#run:not([hidden])) {
      flex-wrap: nowrap;
      crystools-bar-meter { display: none; }
      #simulated { flex: none; }
      #run { flex: 0 100 auto; min-width: 64px; }
      .tag { flex: 0 1 auto; min-width: 40px; }
      .tag > span > span { display: none; }
    }
    #bar[data-tiny] {
      #state { position: absolute; clip-path: inset(50%); }
      .tag { padding: 0 4px; }
      .tag b { font-size: 9px; }
      .tag > span > span { display: none; }
      &:has(.tag) #simulated, &:has(#simulated:not([hidden])) .tag > * { display: none; }
      &:has(#simulated:not([hidden])) .tag::after {
        content: "SIM"; font-size: 10px; font-weight: 600; color: var(--crystools-warning);
      }
    }
    #bar[data-size="low"] :is(#run, .tag > span) { grid-auto-flow: column; gap: 5px; align-items: baseline; }
    #popover {
      position: fixed; inset: auto; margin: 0; overflow: auto;
      width: min(${POPOVER_PIXELS}px, calc(100vw - ${2 * GAP_PIXELS}px));
      padding: 8px; border: 1px solid var(--crystools-line); border-radius: 12px; color: var(--crystools-ink);
      background: var(--crystools-page); box-shadow: 0 8px 30px rgb(0 0 0 / .35); user-select: text;
    }
    #popover:popover-open { display: grid; gap: 8px; }
    `,
  );

  /** @type {BarChoice} */
  #choice = { metrics: [], hiddenDevices: [], disk: null };
  /** @type {RunReport | null} */
  #run = null;
  /** How many prompts wait, where the host tells. */
  #queued = 0;
  /** @type {number | null} */
  #room = null;
  /** @type {"low" | "high" | null} */
  #size = null;
  #bar = this.byId("bar");
  #popover = this.byId("popover");
  /** In the popover while it is open: 256 chips that nobody sees are not to be drawn. */
  #views = [new Chips(), new Host(), new Sources()];

  constructor() {
    super();
    this.byId("chips").addEventListener("click", this.#placePopover);
    this.byId("run").addEventListener("click", () => {
      if (this.#run) this.dispatchEvent(new CustomEvent("locate", { detail: this.#run }));
    });
    this.byId("details").addEventListener("click", () => this.dispatchEvent(new Event("details")));
    this.#popover.addEventListener("beforetoggle", (event) => {
      this.#opened(/** @type {ToggleEvent} */ (event).newState === "open");
    });
  }

  /** @param {Store} store */
  set store(store) {
    super.store = store;
    for (const view of this.#views) view.store = store;
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    if (this.#popover.hasChildNodes()) this.#opened(false); // the browser closes it without a word
  }

  /** @param {BarChoice} choice */
  set choice(choice) {
    this.#choice = choice;
    this.refresh();
  }

  /** How many prompts wait behind the one that runs. @param {number} count */
  set queued(count) {
    this.#queued = count;
    this.refresh();
  }

  /**
   * How wide the bar may become, in pixels; what has no place is left out from the end. Null for a bar that
   * may have as many lines as it needs.
   * @param {number | null} pixels
   */
  set room(pixels) {
    if (pixels === this.#room) return;
    this.#room = pixels;
    this.style.setProperty("--room", pixels == null ? "100%" : `${pixels}px`);
    setAttribute(this.#bar, "data-lines", pixels == null ? "" : null);
    setAttribute(this.#bar, "data-narrow", (pixels ?? Infinity) < ROOM_FOR_WORDS_PIXELS ? "" : null);
    setAttribute(this.#bar, "data-tiny", (pixels ?? Infinity) < ROOM_FOR_RUN_PIXELS ? "" : null);
    this.refresh();
  }

  /**
   * The size of a meter, in pixels.
   * @param {number} width
   * @param {number} height
   */
  resize(width, height) {
    this.style.setProperty("--meter-width", `${width}px`);
    this.style.setProperty("--meter-height", `${height}px`);
    this.#size = height < LOW_PIXELS ? "low" : height < HIGH_PIXELS ? null : "high";
    setAttribute(this.#bar, "data-size", this.#size);
    this.refresh();
  }

  /** @param {Store} store */
  render(store) {
    const [state, words] = connectionText(store);
    setAttribute(this, "data-state", state);
    setAttribute(this.#bar, "data-stale", store.stale ? "" : null);
    this.byId("state").toggleAttribute("hidden", state === "live");
    setText(this.byId("state"), words);
    this.byId("simulated").toggleAttribute("hidden", !store.simulated);
    this.#renderRun(store);
    this.#renderChips(store);
    this.#showMeters(this.byId("host"), hostReadings(store, this.#choice));
  }

  /** @param {Element} parent @param {readonly BarReading[]} readings */
  #showMeters(parent, readings) {
    const create = () => new BarMeter();
    syncChildren(parent, readings, create, (meter, reading) => {
      setAttribute(meter, "data-kind", reading.kind);
      setAttribute(meter, "data-size", this.#size);
      meter.reading = reading;
    });
  }

  /** @param {Store} store */
  #renderRun(store) {
    const runs = store.runningRuns;
    const run = runs.find(isWorkflow) ?? runs[0] ?? null;
    const button = this.byId("run");
    this.#run = run;
    const shown = Boolean(run) && this.#choice.metrics.includes("run");
    for (const part of [button, this.byId("details")]) part.toggleAttribute("hidden", !shown);
    if (!run) return;
    const ahead = progressOf(runningStage(run));
    const done = nodesDone(run).ratio ?? (ahead ? ahead.done / ahead.total : 0);
    const others = runs.length > 1 ? `, +${runs.length - 1}` : "";
    const { what, count } = doingText(run);
    setText(this.byId("what"), what);
    setText(this.byId("count"), `${count}${others}`);
    setText(
      this.byId("rest"),
      isWorkflow(run) ? workflowText(run, store, this.#queued) : restText(run, store),
    );
    setAttribute(button, "data-tip", runDetail(run, store, this.#queued));
    setStyle(this.byId("done"), "--ratio", String(done));
  }

  /** @param {Store} store */
  #renderChips(store) {
    const chips = shownChips(store, this.#choice);
    const apart = (this.#room ?? Infinity) < ROOM_FOR_TWO_PIXELS ? 1 : CHIPS_APART;
    const quiet = quietChips(store.snapshot);
    const together = chips.length > apart || (chips.length === 0 && !quiet && store.snapshot);
    const groups = together ? [chips] : chips.map((chip) => [chip]);
    const create = () => createDevice(this.#popover);
    syncChildren(this.byId("chips"), quiet ? [...groups, quiet] : groups, create, (device, shown) => {
      const [tag, meters] = device.children;
      if (!tag || !meters) return;
      if (Array.isArray(shown)) {
        showTag(tag, shown);
        this.#showMeters(meters, shown.length ? chipReadings(store, this.#choice, shown) : []);
      } else {
        showQuietTag(tag, shown);
        this.#showMeters(meters, quietReadings(shown, this.#choice));
      }
    });
  }

  /** The browser would do so, but for hosts that keep the key to themselves. @param {KeyboardEvent} event */
  #closeOnEscape = (event) => {
    if (event.key === "Escape") this.#popover.hidePopover();
  };

  /** @param {boolean} open */
  #opened(open) {
    if (open) {
      this.#popover.append(...this.#views);
      addEventListener("keydown", this.#closeOnEscape, { capture: true });
    } else {
      this.#popover.replaceChildren();
      removeEventListener("keydown", this.#closeOnEscape, { capture: true });
    }
    this.dispatchEvent(new CustomEvent("opened", { detail: open }));
  }

  /** Before the browser opens it. @param {Event} event */
  #placePopover = (event) => {
    const tag = /** @type {HTMLElement} */ (event.target).closest(".tag");
    if (!tag) return;
    const { bottom, top, left } = tag.getBoundingClientRect();
    const below = innerHeight - bottom > top;
    const { style } = this.#popover;
    style.left = `${Math.max(GAP_PIXELS, Math.min(left, innerWidth - POPOVER_PIXELS - GAP_PIXELS))}px`;
    style.top = below ? `${bottom + GAP_PIXELS}px` : "";
    style.bottom = below ? "" : `${innerHeight - top + GAP_PIXELS}px`;
    style.maxHeight = `${(below ? innerHeight - bottom : top) - 2 * GAP_PIXELS}px`;
  };
}

/** @param {HTMLElement} popover What a click on the tag opens. */
function createDevice(popover) {
  const words = h("span", {}, h("b"), h("span"));
  const tag = h("button", { type: "button", class: "tag" }, words, svg("svg", { "aria-hidden": "true" }));
  tag.popoverTargetElement = popover;
  return h("div", { class: "device" }, tag, h("div", { class: "apart" }));
}

/** @param {Element} tag @param {readonly ChipReading[]} chips */
function showTag(tag, chips) {
  const [words, picture] = tag.children;
  const [name, kind] = words?.children ?? [];
  const worst = extreme(chips, hbmRatio, Math.max);
  const { devices } = namesFor(chips);
  const [only] = chips;
  const title = only && chips.length === 1 ? only.chip : `${chips.length || "No"} ${devices}`;
  if (name) setText(name, title);
  if (kind) setText(kind, kindsOf(chips));
  const fullest = worst ? `, fullest memory ${percent(worst.value)} on ${worst.chip.chip}` : "";
  const what = [title, kindsOf(chips)].filter(Boolean).join(", ");
  setAttribute(tag, "data-tip", `${what}${fullest}. Click for all chips and the host.`);
  setAttribute(tag, "data-level", worst ? level(worst.value) : null);
  setAttribute(tag, "data-quiet", null);
  if (picture) drawChips(picture, chips.length > 1 ? chips : []);
}

/** @param {Element} tag @param {AttachedChips} attached */
function showQuietTag(tag, attached) {
  const [words, picture] = tag.children;
  const [name, word] = words?.children ?? [];
  if (name) setText(name, attachedLabel(attached));
  if (word) setText(word, attached.word ?? "");
  setAttribute(tag, "data-tip", `${attached.sentence}. Click for what was found.`);
  setAttribute(tag, "data-level", null);
  setAttribute(tag, "data-quiet", "");
  if (picture) drawChips(picture, []);
}

/** @param {readonly ChipReading[]} chips */
function kindsOf(chips) {
  const kinds = chips.map(({ kind }) => (kind == null ? "unknown kind" : kindLabel(kind)));
  return [...new Set(kinds)].join(", ");
}

/** The running stage and how far it is: "Denoise" and "23/50". @param {RunReport} run */
function doingText(run) {
  const stage = runningStage(run);
  if (!stage) return { what: "Starting", count: "" };
  const ahead = progressOf(stage);
  const what = stageTitle(stage);
  if (!ahead) return { what, count: "" };
  if (ahead.unit === "Bytes") return { what, count: percent(ahead.done / ahead.total) };
  const compiling = ahead.done === 0 && stage.compile_seconds > 0 ? ", compiling" : "";
  return { what: `${what}${compiling}`, count: `${ahead.done}/${ahead.total}` };
}

/** What has still to go, and of what: "3:20 left of the run". @param {RunReport} run @param {Store} store */
function leftText(run, store) {
  const whole = store.runEtaSeconds(run);
  if (whole != null) return `${clock(whole)} left of the run`;
  const eta = store.etaSeconds(run);
  const stage = runningStage(run);
  return eta == null || !stage ? "" : `${clock(eta)} left of ${stageTitle(stage)}`;
}

/**
 * "5/8 nodes · 1:23 · 2 queued · 3:20 left of the run": last what may be as long as a node's title.
 *
 * @param {RunReport} run
 * @param {Store} store
 * @param {number} queued
 */
function workflowText(run, store, queued) {
  const { done, total } = nodesDone(run);
  return [
    total == null ? `${done} nodes` : `${done}/${total} nodes`,
    clock(elapsedSeconds(run, store.nowUnixSeconds)),
    queued ? `${queued} queued` : "",
    leftText(run, store),
  ]
    .filter(Boolean)
    .join(" · ");
}

/** After the stage and its steps: "2:04 left of Denoise · MFU 39%". @param {RunReport} run @param {Store} store */
function restText(run, store) {
  const mfu = store.latestMfu(run);
  return (
    [leftText(run, store), mfu ? `MFU ${ratioText(mfu)}` : ""].filter(Boolean).join(" · ") ||
    runTitle(run)
  );
}

/** @param {RunReport} run @param {Store} store @param {number} queued */
function runDetail(run, store, queued) {
  const path = pathTo(run, runningStage(run)).map(stageTitle).join(" › ");
  const left = leftText(run, store);
  const workflow = isWorkflow(run);
  return [
    `${runTitle(run)}: ${path || "starting"}`,
    ...(workflow ? [nodesText(run)] : []),
    `MFU of the latest step ${ratioText(store.latestMfu(run))}`,
    `${wholeDuration(elapsedSeconds(run, store.nowUnixSeconds))} since the run began`,
    ...(left ? [left] : []),
    ...(queued ? [`${queued} more in the queue`] : []),
    workflow ? "Click to go to the running node." : "Click for the run.",
  ].join("\n");
}

customElements.define("crystools-bar", Bar);

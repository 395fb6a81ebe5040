/**
 * The runs before the one on the stage, newest first; each opens its timeline and stages.
 *
 * @import { RunReport } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { StoreView, blueprint } from "../component.js";
import { h, setAttribute, setText, syncChildren } from "../dom.js";
import { duration, moment, percent } from "../format.js";
import { mainStage } from "../run-figures.js";
import { outcome, processText, runTitle } from "../run-text.js";
import { OUTCOME_COLOURS } from "../stage-colours.js";
import { shownRuns } from "./current.js";
import { RunView } from "./run.js";

export class Runs extends StoreView {
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <h2 id="title">Past runs</h2>
      <p id="none" class="muted">None yet.</p>
      <ol id="list"></ol>
      <button id="more" type="button" hidden>Show older runs</button>
      <p id="unreadable" class="muted"></p>
    </section>`,
    `
    :host { container-type: inline-size; }
    #none { font-size: 13px; margin-top: 6px; }
    #unreadable { font-size: 12px; margin-top: 6px; overflow-wrap: anywhere; }
    #unreadable:empty { display: none; }
    ol { margin-top: 6px; }
    #more {
      margin-top: 8px; padding: 4px 12px; font-size: 12px; border-radius: 6px;
      border: 1px solid var(--crystools-line); background: none; color: var(--crystools-muted);
    }
    #more:hover { background: var(--crystools-sunken); }
    li { border-top: 1px solid var(--crystools-line); }
    li:first-child { border-top: 0; }
    li button {
      display: grid; grid-template-columns: 14px minmax(0, 1fr) 122px 92px 76px 132px; gap: 10px;
      align-items: baseline;
      width: 100%; padding: 7px 4px; border: 0; background: none; text-align: left; font-size: 13px;
    }
    li button:hover { background: color-mix(in oklab, var(--crystools-sunken) 50%, transparent); }
    li button > * { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
    .arrow { color: var(--crystools-muted); transition: transform .12s; }
    [aria-expanded="true"] .arrow { transform: rotate(90deg); }
    .name b { font-weight: 600; margin-right: 8px; }
    .prompt:not(:empty) { margin-right: 8px; }
    ${OUTCOME_COLOURS}
    li button > .status { white-space: normal; }
    .duration, .mfu, .time { text-align: right; }
    .detail { padding: 6px 4px 16px; }
    @container (max-width: 620px) {
      li button {
        grid-template-columns: 14px minmax(0, 1fr) auto auto; grid-template-areas: "a n s s" ". t d m";
        gap: 0 10px;
      }
      .arrow { grid-area: a; } .name { grid-area: n; } .status { grid-area: s; text-align: right; }
      .time { grid-area: t; text-align: left; } .duration { grid-area: d; } .mfu { grid-area: m; }
    }
    @container (max-width: 400px) {
      li button { grid-template: "a n n" ". t t" ". s s" ". d m" / 14px max-content minmax(0, 1fr); }
      .status, .duration { text-align: left; }
    }
    @container (max-width: 240px) {
      li button { grid-template: "a n" ". t" ". s" ". d" ". m" / 14px minmax(0, 1fr); }
      .mfu { text-align: left; }
    }
    `,
  );

  /** @type {string | null} */
  #selected = null;
  /** @type {Store | null} */
  #store = null;
  /** Of the runs that are shown: nothing is done again with each snapshot. @type {number | null} */
  #revision = null;

  constructor() {
    super();
    this.byId("list").addEventListener("click", this.#select);
    this.byId("list").addEventListener("keydown", this.#move);
    this.byId("more").addEventListener("click", () => this.#store?.loadRuns());
  }

  /** @param {Store} store */
  render(store) {
    if (store === this.#store && store.runsRevision === this.#revision) return;
    this.#store = store;
    this.#revision = store.runsRevision;
    if (store.hello && store.moreRuns == null) store.loadRuns();
    this.byId("more").hidden = !store.moreRuns;
    const shown = new Set(shownRuns(store));
    const past = store.runs.filter((run) => !shown.has(run));
    this.byId("none").hidden = past.length > 0;
    setText(this.byId("unreadable"), unreadableText([...store.unreadableRuns]));
    syncChildren(this.byId("list"), past, createItem, (item, run) => {
      const open = run.run_id === this.#selected;
      showSummary(item, run, open);
      const detail = /** @type {HTMLElement} */ (item.lastElementChild);
      detail.hidden = !open;
      syncChildren(
        detail,
        open ? [run] : [],
        () => new RunView(),
        (view) => view.show(run, store),
      );
    });
  }

  /** @param {Event} event */
  #select = (event) => {
    const button = /** @type {HTMLElement} */ (event.target).closest("button");
    if (!button) return;
    const runId = button.dataset.run ?? null;
    this.#selected = this.#selected === runId ? null : runId;
    this.#revision = null;
    this.refresh();
  };

  /** @param {KeyboardEvent} event */
  #move = (event) => {
    const buttons = [...this.byId("list").querySelectorAll("button")];
    const at = buttons.indexOf(/** @type {HTMLButtonElement} */ (event.target));
    const next =
      at < 0
        ? null
        : event.key === "ArrowDown"
          ? buttons[at + 1]
          : event.key === "ArrowUp"
            ? buttons[at - 1]
            : null;
    if (!next) return;
    event.preventDefault();
    next.focus();
  };
}

/** @param {string[]} runIds */
function unreadableText(runIds) {
  if (!runIds.length) return "";
  const runs = runIds.length === 1 ? "1 run" : `${runIds.length} runs`;
  const [first] = runIds;
  return `${runs} could not be read. “crystools-tpu runs show ${first}” says why.`;
}

function createItem() {
  const cell = (/** @type {string} */ name, /** @type {Node[]} */ ...children) =>
    h("span", { class: name }, ...children);
  const arrow = h("span", { class: "arrow", "aria-hidden": "true" }, "▸");
  const name = cell("name", h("b"), cell("prompt muted"), cell("process muted"));
  const rest = ["status outcome", "number duration", "number mfu", "number muted time"].map((part) =>
    cell(part),
  );
  return h("li", {}, h("button", { type: "button" }, arrow, name, ...rest), h("div", { class: "detail" }));
}

/** @param {Element} item @param {RunReport} run @param {boolean} open */
function showSummary(item, run, open) {
  const button = /** @type {HTMLButtonElement} */ (item.firstElementChild);
  button.dataset.run = run.run_id;
  setAttribute(button, "aria-expanded", String(open));
  const { text, level } = outcome(run);
  /** @type {Record<string, string>} */
  const texts = {
    ".name b": runTitle(run),
    ".process": processText(run),
    ".prompt": String(run.params.prompt ?? ""),
    ".status": text,
    ".duration": duration(run.total_seconds),
    ".mfu": `MFU ${percent(mainStage(run)?.mfu?.ratio)}`,
    ".time": moment(run.started_unix_seconds),
  };
  for (const [selector, value] of Object.entries(texts)) {
    const cell = button.querySelector(selector);
    if (cell) setText(cell, value);
  }
  const name = /** @type {Element} */ (button.querySelector(".name"));
  setAttribute(
    name,
    "title",
    [runTitle(run), processText(run), run.params.prompt].filter(Boolean).join("\n"),
  );
  setAttribute(/** @type {Element} */ (button.querySelector(".status")), "data-level", level);
}

customElements.define("crystools-runs", Runs);

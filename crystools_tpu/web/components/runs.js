/**
 * The runs before the one on the stage, newest first, or those that somebody looks for in all that are kept; each
 * opens what it made, its timeline and stages.
 *
 * @import { Filter } from "../run-search.js"
 * @import { RunReport } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { applies } from "../applicable.js";
import { StoreView, blueprint } from "../component.js";
import { h, setAttribute, setText, syncChildren } from "../dom.js";
import { duration, moment } from "../format.js";
import { RunSearch, isEmpty } from "../run-search.js";
import { factsText, outcome, processText, runTitle } from "../run-text.js";
import { OUTCOME_COLOURS } from "../stage-colours.js";
import { ratioText } from "../suspicion.js";
import { shownRuns } from "./current.js";
import { RunView } from "./run.js";
import { RunFilter } from "./run-filter.js";

export class Runs extends StoreView {
  static showsReadings = false;
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <h2 id="title">Past runs</h2>
      <crystools-run-filter id="filter" hidden></crystools-run-filter>
      <p id="none" class="muted" role="status"></p>
      <ol id="list"></ol>
      <button id="more" type="button" hidden>Show older runs</button>
      <p id="unreadable" class="muted"></p>
      <slot></slot>
    </section>`,
    `
    :host { container-type: inline-size; }
    #none { font-size: 13px; margin-top: 6px; }
    #none:empty, #unreadable:empty { display: none; }
    #unreadable { font-size: 12px; margin-top: 6px; overflow-wrap: anywhere; }
    ol { margin-top: 6px; }
    #more {
      margin-top: 8px; padding: 4px 12px; font-size: 12px; border-radius: 6px;
      border: 1px solid var(--crystools-line); background: none; color: var(--crystools-muted);
    }
    #more:hover { background: var(--crystools-sunken); }
    ::slotted(*) { margin-top: 8px; }
    li { border-top: 1px solid var(--crystools-line); content-visibility: auto; contain-intrinsic-size: auto 56px; }
    li:first-child { border-top: 0; }
    li button {
      display: grid; grid-template: "a p n e" auto "a p f t" auto / 14px auto minmax(0, 1fr) auto; gap: 1px 10px;
      align-items: baseline;
      width: 100%; padding: 7px 4px; border: 0; background: none; text-align: left; font-size: 13px;
    }
    li button:hover { background: color-mix(in oklab, var(--crystools-sunken) 50%, transparent); }
    .arrow { grid-area: a; align-self: center; color: var(--crystools-muted); transition: transform .12s; }
    [aria-expanded="true"] .arrow { transform: rotate(90deg); }
    .picture {
      grid-area: p; align-self: center; width: 64px; height: 40px; border-radius: 4px; overflow: hidden;
      background: var(--crystools-sunken);
    }
    ol:not([data-pictures]) .picture { display: none; }
    .picture img { display: block; width: 100%; height: 100%; object-fit: cover; }
    .name { grid-area: n; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
    .name b { font-weight: 600; margin-right: 8px; }
    .facts { grid-area: f; font-size: 12px; overflow-wrap: anywhere; }
    .facts > :not(:empty, .process) { margin-right: 10px; }
    ${OUTCOME_COLOURS}
    .status { grid-area: e; text-align: right; }
    .ended { grid-area: t; display: flex; flex-wrap: wrap; justify-content: end; gap: 0 10px; font-size: 12px; }
    .detail { padding: 6px 4px 16px; }
    @container (max-width: 860px) { .process { display: none; } }
    @container (max-width: 620px) {
      li button { grid-template: "a p n" auto "a p s" auto "a p f" auto "a p t" auto / 14px auto minmax(0, 1fr); }
      .status { grid-area: s; text-align: left; }
      .ended { justify-content: start; }
    }
    @container (max-width: 340px) {
      li button { grid-template: "p n" auto "p s" auto "p f" auto "p t" auto / auto minmax(0, 1fr); }
      .arrow { display: none; }
      .picture { width: 44px; height: 44px; }
      .name { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; white-space: normal; }
    }
    `,
  );

  /** @type {string | null} */
  #selected = null;
  /** @type {Store | null} */
  #store = null;
  /** Of the runs that are shown: nothing is done again with each snapshot. @type {number | null} */
  #revision = null;
  /** By the run's id. @type {Map<string, HTMLLIElement>} */
  #items = new Map();
  /** What somebody looks for. @type {RunSearch | null} */
  #search = null;

  constructor() {
    super();
    this.byId("list").addEventListener("click", this.#select);
    this.byId("list").addEventListener("keydown", this.#move);
    this.byId("filter").addEventListener("filter", this.#find);
    this.byId("more").addEventListener("click", this.#more);
  }

  /** @param {Store} store */
  render(store) {
    if (store === this.#store && store.runsRevision === this.#revision) return;
    if (this.#revision != null && store.runsRevision !== this.#revision) this.#search?.refresh();
    this.#store = store;
    this.#revision = store.runsRevision;
    if (store.hello && store.moreRuns == null) store.loadRuns();
    this.#show(store);
  }

  /** @param {Store} store */
  #show(store) {
    const search = this.#search;
    const shown = new Set(shownRuns(store));
    const runs = search ? search.runs : store.runs.filter((run) => !shown.has(run));
    this.byId("more").hidden = search ? search.searching || !search.more : !store.moreRuns;
    this.byId("filter").hidden = !search && runs.length < 2;
    /** @type {RunFilter} */ (this.byId("filter")).offer([...store.runs, ...(search?.runs ?? [])]);
    setText(this.byId("none"), search ? searchText(search) : runs.length ? "" : "None yet.");
    setText(this.byId("unreadable"), unreadableText([...store.unreadableRuns]));
    setAttribute(this.byId("list"), "data-pictures", runs.some(hasPicture) ? "" : null);
    this.#items = syncRuns(this.byId("list"), runs, this.#items);
    for (const run of runs) this.#showItem(run, store);
  }

  /** With each new run there are thousands that are as they were. @param {RunReport} run @param {Store} store */
  #showItem(run, store) {
    const item = this.#items.get(run.run_id);
    const open = run.run_id === this.#selected;
    const shown = item && shownIn.get(item);
    if (!item || (shown?.run === run && shown.open === open && !open && run.status !== "running")) return;
    shownIn.set(item, { run, open });
    showSummary(item, run, open, hasPicture(run) ? store.urlOf(run, "thumbnail") : null);
    const detail = /** @type {HTMLElement} */ (item.lastElementChild);
    detail.hidden = !open;
    syncChildren(
      detail,
      open ? [run] : [],
      () => new RunView(),
      (view) => view.show(run, store),
    );
  }

  /** @param {Event} event */
  #find = (event) => {
    const filter = /** @type {CustomEvent<Filter>} */ (event).detail;
    const store = this.#store;
    if (!store) return;
    this.#search?.end();
    this.#search = isEmpty(filter)
      ? null
      : new RunSearch(
          (before) => store.find(filter, before),
          () => this.#show(store),
        );
    this.#show(store);
  };

  #more = () => {
    if (!this.#store) return;
    if (!this.#search) {
      this.#store.loadRuns();
      return;
    }
    this.#search.older();
    this.#show(this.#store);
  };

  /** @param {Event} event */
  #select = (event) => {
    const button = /** @type {HTMLElement} */ (event.target).closest("button");
    if (!button?.dataset.run) return;
    const runId = button.dataset.run;
    this.#selected = this.#selected === runId ? null : runId;
    if (this.#store) this.#show(this.#store);
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

/** What an item shows. @type {WeakMap<Element, { run: RunReport, open: boolean }>} */
const shownIn = new WeakMap();

/**
 * Gives the list an item for each run, each run its own: one that comes moves no other.
 *
 * @param {HTMLElement} list
 * @param {readonly RunReport[]} runs
 * @param {ReadonlyMap<string, HTMLLIElement>} known
 */
function syncRuns(list, runs, known) {
  const items = new Map(runs.map(({ run_id: id }) => [id, known.get(id) ?? createItem()]));
  for (const [id, item] of known) if (!items.has(id)) item.remove();
  let at = list.firstElementChild;
  for (const item of items.values()) {
    if (item === at) at = at.nextElementSibling;
    else list.insertBefore(item, at);
  }
  return items;
}

/** @param {RunReport} run */
function hasPicture(run) {
  return run.attachments?.includes("thumbnail") ?? false;
}

/** @param {RunSearch} search */
function searchText({ runs, more, searching, searchedTo, problem }) {
  if (problem) return problem;
  const found = runs.length === 1 ? "1 run" : `${runs.length}${more ? " or more" : ""} runs`;
  if (searching) return searchedTo ? `Looking, back to ${moment(searchedTo)} so far …` : "Looking …";
  return runs.length ? `${found} found.` : "No run is like that.";
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
  return h(
    "li",
    {},
    h(
      "button",
      { type: "button" },
      h("span", { class: "arrow", "aria-hidden": "true" }, "▸"),
      cell("picture"),
      cell("name", h("b"), cell("prompt muted")),
      cell("status outcome"),
      cell("facts muted", cell("work"), cell("process")),
      cell("ended muted", cell("number duration"), cell("number time")),
    ),
    h("div", { class: "detail" }),
  );
}

/** @param {Element} item @param {RunReport} run @param {boolean} open @param {string | null} picture */
function showSummary(item, run, open, picture) {
  const button = /** @type {HTMLButtonElement} */ (item.firstElementChild);
  button.dataset.run = run.run_id;
  setAttribute(button, "aria-expanded", String(open));
  const { text, level } = outcome(run);
  /** @type {Record<string, string>} */
  const texts = {
    ".name b": runTitle(run),
    ".prompt": String(run.params.prompt ?? ""),
    ".status": text,
    ".work": factsText(run),
    ".process": processText(run),
    ".duration": run.total_seconds == null ? "" : duration(run.total_seconds),
    ".time": moment(run.started_unix_seconds),
  };
  for (const [selector, value] of Object.entries(texts)) {
    const cell = button.querySelector(selector);
    if (cell) setText(cell, value);
  }
  showPicture(/** @type {Element} */ (button.querySelector(".picture")), picture);
  const name = /** @type {Element} */ (button.querySelector(".name"));
  setAttribute(name, "data-tip", [runTitle(run), run.params.prompt].filter(Boolean).join("\n"));
  setAttribute(/** @type {Element} */ (button.querySelector(".status")), "data-level", level);
}

/** It is fetched when it comes into sight. @param {Element} cell @param {string | null} url */
function showPicture(cell, url) {
  if (!url) {
    cell.replaceChildren();
    return;
  }
  const image = cell.querySelector("img") ?? h("img", { alt: "", loading: "lazy", decoding: "async" });
  setAttribute(image, "src", url);
  image.onerror = () => image.remove();
  if (!image.isConnected) cell.replaceChildren(image);
}

customElements.define("crystools-runs", Runs);

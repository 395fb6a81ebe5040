/**
 * All chips: a card each, or beyond a screenful a heat grid that opens one card, or all.
 *
 * @import { Attached } from "./attached.js"
 * @import { Store } from "../store.js"
 * @import { ChipReading } from "../wire.js"
 */

import { StoreView, blueprint } from "../component.js";
import { h, setAttribute, setStyle, setText, syncChildren } from "../dom.js";
import { NOT_AVAILABLE, percent } from "../format.js";
import { extreme, hbmRatio, namesFor, shade } from "../readings.js";
import { Sight } from "../sight.js";
import { quietChips } from "./attached.js";
import { Chip } from "./chip.js";
import { level } from "./meter.js";

/** More chips than this are shown as a heat grid. */
const CARDS_AT_MOST = 16;

/** Hundreds of opened cards follow no faster than figures can be read. */
const OPENED_EVERY_MILLISECONDS = 240;

export class Chips extends StoreView {
  static tickSeconds = 1;
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <div class="head">
        <h2 id="title">Chips</h2>
        <button id="expand" type="button" aria-expanded="false" aria-controls="cards" hidden></button>
      </div>
      <p id="none" class="muted">No chip is reported; Sources says why.</p>
      <crystools-attached id="attached" hidden></crystools-attached>
      <div id="overview" class="live" hidden>
        <dl id="worst"></dl>
        <div id="grid" role="listbox" aria-label="Chips by share of memory used"></div>
        <p class="legend muted">
          Colour: share of memory used <span class="scale" aria-hidden="true"></span> 0 to 100%
        </p>
      </div>
      <div id="cards" class="live" role="group" aria-label="Meters of the chips" tabindex="0" data-tips></div>
    </section>`,
    `
    .head { display: flex; justify-content: space-between; align-items: center; min-height: 24px; }
    #none { font-size: 13px; margin-top: 6px; }
    #expand {
      border: 1px solid var(--crystools-line); background: none; border-radius: 6px; padding: 2px 8px;
      font-size: 12px;
    }
    #expand:hover { background: var(--crystools-sunken); }
    #worst {
      display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 2px 16px;
      font-size: 12px; margin: 8px 0;
    }
    #worst > div { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 8px; }
    dt { color: var(--crystools-muted); white-space: nowrap; }
    dd { font-weight: 600; }
    #grid { display: grid; grid-template-columns: repeat(16, minmax(0, 1fr)); gap: 2px; }
    #grid button {
      aspect-ratio: 1; border: 0; padding: 0; border-radius: 3px;
      background: color-mix(in oklab, var(--crystools-hbm) calc(10% + var(--ratio) * 90%), var(--crystools-sunken));
    }
    #grid button[data-level="warning"] { background: var(--crystools-warning-fill); }
    #grid button[data-level="critical"] { background: var(--crystools-critical-fill); }
    #grid button[data-absent] {
      background: repeating-linear-gradient(135deg, var(--crystools-line) 0 2px, transparent 2px 5px);
    }
    #grid button[aria-selected="true"] { outline: 2px solid var(--crystools-ink); outline-offset: 1px; }
    #grid button:focus-visible { outline: 2px solid var(--crystools-focus); outline-offset: 1px; }
    .legend { font-size: 11px; margin: 6px 0 4px; display: flex; align-items: center; gap: 6px; }
    .scale {
      width: 72px; height: 8px; border-radius: 2px;
      background: linear-gradient(to right,
        color-mix(in oklab, var(--crystools-hbm) 10%, var(--crystools-sunken)), var(--crystools-hbm) 90%,
        var(--crystools-warning-fill) 90% 97%, var(--crystools-critical-fill) 97%);
    }
    #overview:not([hidden]) + #cards > :not([data-free]) {
      contain: strict; height: var(--card-height, 90px); content-visibility: auto;
    }
    #cards:empty { display: none; }
    #overview[hidden] + #cards > :first-child { border-top: 0; }
    `,
  );

  /** @type {string | null} */
  #selected = null;
  #expanded = false;
  /** When the opened cards were shown last. */
  #openedAt = -Infinity;
  #grid = this.byId("grid");
  /** Of hundreds of cards those that are seen are kept up to date. */
  #sight = new Sight(() => {
    this.#openedAt = -Infinity;
    this.refresh();
  });

  /**
   * Hundreds of cards are each as high as the first would be by itself: so a figure that changes in one cannot move
   * the others, and the browser looks at no other.
   */
  #cardSize = new ResizeObserver(([cards]) => {
    const first = /** @type {HTMLElement | null} */ (cards?.target.firstElementChild ?? null);
    first?.setAttribute("data-free", "");
    if (first?.offsetHeight) setStyle(this.byId("cards"), "--card-height", `${first.offsetHeight}px`);
    first?.removeAttribute("data-free");
  });

  constructor() {
    super();
    this.#cardSize.observe(this.byId("cards"));
    this.byId("expand").addEventListener("click", this.#toggle);
    this.byId("grid").addEventListener("click", this.#select);
    this.byId("grid").addEventListener("keydown", this.#move);
  }

  /** @param {Store} store */
  render(store) {
    const chips = store.snapshot?.chips ?? [];
    const many = chips.length > CARDS_AT_MOST;
    const { devices } = namesFor(chips);
    setText(this.byId("title"), chips.length > 1 ? `${chips.length} ${devices}` : "Chips");
    const quiet = quietChips(store.snapshot);
    /** @type {Attached} */ (this.byId("attached")).show(quiet);
    this.byId("none").toggleAttribute("hidden", chips.length > 0 || quiet != null);
    for (const part of ["overview", "expand"]) this.byId(part).toggleAttribute("hidden", !many);
    for (const part of ["overview", "cards"]) {
      setAttribute(this.byId(part), "data-stale", store.stale ? "" : null);
    }
    if (many) this.#renderOverview(chips);
    if (many && this.#expanded) this.#renderOpened(chips, store);
    else this.#renderCards(many ? chips.filter((chip) => chip.chip === this.#selected) : chips, store);
  }

  /** @param {readonly ChipReading[]} chips @param {Store} store */
  #renderCards(chips, store) {
    syncChildren(this.byId("cards"), chips, this.#createCard, (card, chip) => card.show(chip, store));
  }

  /** Those of hundreds that are in sight, and each once. @param {readonly ChipReading[]} chips @param {Store} store */
  #renderOpened(chips, store) {
    const now = performance.now();
    const cards = this.byId("cards");
    const isDue = now - this.#openedAt >= OPENED_EVERY_MILLISECONDS;
    if (!isDue && cards.children.length === chips.length) return;
    this.#openedAt = now;
    syncChildren(cards, chips, this.#createCard, (card, chip) => {
      if (card.dataset.chip !== chip.chip || this.#sight.has(card)) card.show(chip, store);
    });
  }

  /** @param {readonly ChipReading[]} chips */
  #renderOverview(chips) {
    const expand = this.byId("expand");
    setText(expand, this.#expanded ? "Show the grid only" : `Show all ${chips.length}`);
    setAttribute(expand, "aria-expanded", String(this.#expanded));
    this.#selected = chips.some((chip) => chip.chip === this.#selected) ? this.#selected : null;
    const focused = this.#grid.contains(this.shadowRoot?.activeElement ?? null);
    const current = focused ? null : (this.#selected ?? fullest(chips)?.chip ?? chips[0]?.chip);
    const names = namesFor(chips);
    syncChildren(this.#grid, chips, createCell, (cell, chip) => {
      showCell(cell, chip, names, chip.chip === this.#selected);
      if (!focused) setAttribute(cell, "tabindex", chip.chip === current ? "0" : "-1");
    });
    syncChildren(this.byId("worst"), extremes(chips), createExtreme, (row, [name, value]) => {
      const [term, description] = row.children;
      if (term) setText(term, name);
      if (description) setText(description, value);
    });
  }

  #createCard = () => this.#sight.watched(new Chip());

  #toggle = () => {
    this.#expanded = !this.#expanded;
    this.refresh();
  };

  /** @param {Event} event */
  #select = (event) => {
    const cell = /** @type {HTMLElement} */ (event.target).closest("button");
    if (!cell) return;
    const chip = cell.dataset.chip ?? null;
    this.#selected = this.#selected === chip ? null : chip;
    this.refresh();
  };

  /** @param {KeyboardEvent} event */
  #move = (event) => {
    const cells = /** @type {HTMLElement[]} */ ([...this.byId("grid").children]);
    const columns = cells.filter((cell) => cell.offsetTop === cells[0]?.offsetTop).length;
    /** @type {Record<string, number>} */
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const at = cells.indexOf(/** @type {HTMLElement} */ (event.target));
    const step = steps[event.key];
    const next =
      event.key === "Home" ? cells[0] : event.key === "End" ? cells.at(-1) : step && cells[at + step];
    if (!next) return;
    event.preventDefault();
    for (const cell of cells) cell.tabIndex = cell === next ? 0 : -1;
    next.focus();
  };
}

function createCell() {
  return h("button", { type: "button", role: "option", tabindex: "-1", "data-tip": "" });
}

/**
 * @param {HTMLButtonElement} cell
 * @param {ChipReading} chip
 * @param {ReturnType<typeof namesFor>} names
 * @param {boolean} selected
 */
function showCell(cell, chip, { memory, dutyInText }, selected) {
  const ratio = hbmRatio(chip);
  const duty = percent(chip.duty_cycle_ratio);
  const text = `${chip.chip}: ${memory} ${percent(ratio)}, ${dutyInText} ${duty}`;
  setAttribute(cell, "data-chip", chip.chip);
  setAttribute(cell, "aria-label", text);
  setAttribute(cell, "aria-selected", String(selected));
  setAttribute(cell, "data-level", ratio == null ? null : level(ratio));
  setAttribute(cell, "data-absent", ratio == null ? "" : null);
  setStyle(cell, "--ratio", shade(ratio ?? 0));
}

function createExtreme() {
  return h("div", {}, h("dt"), h("dd", { class: "number" }));
}

/** @param {readonly ChipReading[]} chips */
function fullest(chips) {
  return extreme(chips, hbmRatio, Math.max)?.chip ?? null;
}

/**
 * The worst chip by each quantity: a name and a value to show. What no chip of these need tell is left out then.
 * @param {readonly ChipReading[]} chips
 * @returns {[string, string][]}
 */
function extremes(chips) {
  const { memory, dutyInText } = namesFor(chips);
  const lowest = (/** @type {(chip: ChipReading) => number | null} */ quantity) =>
    extreme(chips, quantity, Math.min);
  const tensorcore = lowest((chip) => chip.tensorcore_utilization_ratio);
  const bandwidth = lowest((chip) => chip.hbm_bandwidth_utilization_ratio);
  return [
    [`Fullest ${memory}`, say(extreme(chips, hbmRatio, Math.max))],
    [`Lowest ${dutyInText}`, say(lowest((chip) => chip.duty_cycle_ratio))],
    ...(tensorcore ? [/** @type {[string, string]} */ (["Lowest TensorCore", say(tensorcore)])] : []),
    ...(bandwidth ? [/** @type {[string, string]} */ (["Lowest bandwidth", say(bandwidth)])] : []),
  ];
}

/** @param {ReturnType<typeof extreme>} found */
function say(found) {
  return found ? `${percent(found.value)} · ${found.chip.chip}` : NOT_AVAILABLE;
}

customElements.define("crystools-chips", Chips);

/**
 * Two runs side by side: the whole, and of each stage its time, the median of its steps, MFU and HBM peak.
 *
 * @import { RunReport, StageReport } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { StoreView, blueprint } from "../component.js";
import { h, setAttribute, setText, syncChildren } from "../dom.js";
import { NOT_AVAILABLE, duration, gibibytes, moment, percent, stageTitle } from "../format.js";
import { fullestChip, medianStepSeconds } from "../run-figures.js";
import { runTitle } from "../run-text.js";

/** A row that has a name alone is the title of a stage. @typedef {{ name: string, texts: string[] }} Row */

export class Compare extends StoreView {
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <h2 id="title">Compare</h2>
      <label>A <select id="a"></select></label>
      <label>B <select id="b"></select></label>
      <p id="differs" class="muted"></p>
      <div class="scroll" tabindex="0" role="region" aria-label="Run A beside run B"><table>
        <thead><tr><th></th><th scope="col">A</th><th scope="col">B</th><th scope="col">B to A</th></tr></thead>
        <tbody id="rows"></tbody>
      </table></div>
      <p class="muted note">One run each: a small difference may be chance. Steps: median without compiles.</p>
    </section>`,
    `
    section { display: grid; grid-template-columns: minmax(0, 1fr); gap: 6px; container-type: inline-size; }
    .scroll { overflow-x: auto; }
    label { display: flex; gap: 8px; align-items: baseline; font-size: 12px; font-weight: 600; }
    select {
      flex: 1; min-width: 0; padding: 3px 6px; font-size: 12px; font-weight: 400; border-radius: 6px;
      background: var(--crystools-sunken); border: 1px solid var(--crystools-line); color: var(--crystools-ink);
    }
    #differs { font-size: 12px; overflow-wrap: anywhere; }
    #differs:empty { display: none; }
    .note { font-size: 11px; }
    table { width: 100%; border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
    th, td { text-align: right; padding: 2px 0 2px 8px; font-weight: 400; white-space: nowrap; }
    th:first-child { text-align: left; padding-left: 0; }
    th { color: var(--crystools-muted); }
    thead th { font-size: 11px; }
    tr[data-title] > * { border-top: 1px solid var(--crystools-line); padding-top: 5px; }
    tr[data-title] td { display: none; }
    tr[data-title] th { color: var(--crystools-ink); font-weight: 600; }
    @container (max-width: 230px) {
      table, thead, tbody, tr { display: grid; }
      tr { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) 44px; }
      th:first-child { grid-column: 1 / -1; padding-bottom: 0; }
      th:empty { display: none; }
      td, thead th + th { padding: 0; }
      tbody tr { padding-block: 2px; }
    }
    `,
  );

  #a = /** @type {HTMLSelectElement} */ (this.byId("a"));
  #b = /** @type {HTMLSelectElement} */ (this.byId("b"));

  /** The selects in which somebody chose a run; the others follow the newest. */
  #held = /** @type {Set<HTMLSelectElement>} */ (new Set());

  constructor() {
    super();
    for (const select of [this.#a, this.#b]) {
      select.addEventListener("change", () => {
        this.#held.add(select);
        this.refresh();
      });
    }
  }

  /** @param {Store} store */
  render(store) {
    const runs = store.runs.filter((run) => run.status !== "running" && run.stages.length > 0);
    const [newest, other] = runs;
    this.hidden = !newest || !other;
    if (!newest || !other) return;
    const b = this.#chosen(this.#b, runs, newest);
    const alike = runs.find((run) => run !== b && runTitle(run) === runTitle(b));
    const a = this.#chosen(this.#a, runs, alike ?? other);
    setText(this.byId("differs"), differences(a, b));
    syncChildren(this.byId("rows"), rowsOf(a, b), createRow, (row, { name, texts }) => {
      setAttribute(row, "data-title", texts.length ? null : "");
      [...row.cells].forEach((cell, index) => setText(cell, [name, ...texts][index] ?? ""));
      const [title] = row.cells;
      if (title) title.colSpan = texts.length ? 1 : 4;
    });
  }

  /**
   * Offers the runs, and gives the chosen one; `initial` until somebody chooses.
   *
   * @param {HTMLSelectElement} select
   * @param {readonly RunReport[]} runs
   * @param {RunReport} initial
   */
  #chosen(select, runs, initial) {
    const value = this.#held.has(select) ? select.value : initial.run_id;
    syncChildren(
      select,
      runs,
      () => h("option"),
      (option, run) => {
        option.value = run.run_id;
        setText(option, `${runTitle(run)}, ${moment(run.started_unix_seconds)}, ${duration(run.total_seconds)}`);
      },
    );
    const run = runs.find((candidate) => candidate.run_id === value) ?? initial;
    if (select.value !== run.run_id) select.value = run.run_id;
    return run;
  }
}

function createRow() {
  return h("tr", {}, h("th", { scope: "row" }), h("td"), h("td"), h("td"));
}

/** @param {RunReport} a @param {RunReport} b */
function differences(a, b) {
  const all = { ...a.params, ...b.params };
  const differing = Object.keys(all).filter((name) => a.params[name] !== b.params[name]);
  const said = differing.map((name) => {
    const title = name.replaceAll("_", " ");
    return name === "prompt"
      ? title
      : `${title} ${a.params[name] ?? NOT_AVAILABLE} → ${b.params[name] ?? NOT_AVAILABLE}`;
  });
  if (a.pipeline !== b.pipeline) said.unshift("pipeline");
  return said.length ? `Differs: ${said.join(", ")}.` : "";
}

/** @param {RunReport} a @param {RunReport} b @returns {Row[]} */
function rowsOf(a, b) {
  const titles = [...new Set([...a.stages, ...b.stages].map(stageTitle))];
  const find = (/** @type {RunReport} */ run, /** @type {string} */ title) =>
    run.stages.find((stage) => stageTitle(stage) === title);
  return [
    row("Whole run", duration, a.total_seconds, b.total_seconds),
    ...titles.flatMap((title) => stageRows(title, find(a, title), find(b, title))),
  ];
}

/** @param {string} title @param {StageReport | undefined} a @param {StageReport | undefined} b @returns {Row[]} */
function stageRows(title, a, b) {
  const both = (/** @type {(stage: StageReport) => number | null | undefined} */ value) =>
    /** @type {const} */ ([a && value(a), b && value(b)]);
  const rows = [
    row("time", duration, ...both((stage) => stage.seconds)),
    row("step", duration, ...both(medianStepSeconds)),
    row("compile", duration, ...both((stage) => stage.compile_seconds || null)),
    row("MFU", percent, ...both((stage) => stage.mfu?.ratio)),
    row("HBM peak", gibibytes, ...both((stage) => fullestChip(stage.hbm)?.peak_bytes)),
  ];
  const told = rows.filter(({ texts }) => texts.some((text) => text !== NOT_AVAILABLE));
  return [{ name: title, texts: [] }, ...told];
}

/**
 * @param {string} name
 * @param {(value: number | null | undefined) => string} format
 * @param {number | null | undefined} a
 * @param {number | null | undefined} b
 * @returns {Row}
 */
function row(name, format, a, b) {
  return { name, texts: [format(a), format(b), a && b != null ? signed(b / a - 1) : NOT_AVAILABLE] };
}

/** A change in per cent with its sign: +12%, −3.4%, 0%. @param {number} ratio */
function signed(ratio) {
  if (Math.abs(ratio) < 0.0005) return percent(0);
  return `${ratio < 0 ? "−" : "+"}${percent(Math.abs(ratio))}`;
}

customElements.define("crystools-compare", Compare);

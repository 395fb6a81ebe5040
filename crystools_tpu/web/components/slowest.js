/**
 * What the nodes of a workflow cost: the slowest first, with their steps and the memory of devices and host.
 *
 * @import { Layout, NodeSpan } from "../workflow-figures.js"
 * @import { HbmUsage, RunReport } from "../wire.js"
 */

import { NOT_APPLICABLE, applies, isAbsent, says } from "../applicable.js";
import { Component, blueprint } from "../component.js";
import { deviceLabel } from "../device-names.js";
import { h, setAttribute, setText, syncChildren } from "../dom.js";
import { NOT_AVAILABLE, beforeAfter, duration, gibibytes, percent, stageTitle } from "../format.js";
import { fullestChip } from "../run-figures.js";
import { peakName } from "../run-text.js";
import { withExpanded } from "../workflow-figures.js";

const FEW = 6;
const MANY = 100;

/** So many devices are named in a tooltip. */
const DEVICES_NAMED = 16;

/** @typedef {{ text: string, detail?: string }} Cell */

/** Of a column that is called after its devices. */
const PEAK = "HBM peak";
const TITLES = ["Time", "Share", "Steps", "s/step", PEAK, "RAM"];

const HEADS = TITLES.map((title) => `<th scope="col"${title === PEAK ? ` id="peak"` : ""}>${title}</th>`);

export class Slowest extends Component {
  static blueprint = blueprint(
    `<table tabindex="0" data-tips>
      <caption class="sr-only">The slowest nodes</caption>
      <thead><tr id="heads">
        <th scope="col">Slowest nodes</th>${HEADS.join("")}
      </tr></thead>
      <tbody id="rows"></tbody>
    </table>
    <button id="more" type="button"></button>`,
    `
    :host { container-type: inline-size; }
    table { width: 100%; border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; }
    th, td {
      text-align: right; padding: 4px 0 4px 12px; white-space: nowrap;
      border-top: 1px solid var(--crystools-line);
    }
    thead th { font-weight: 500; font-size: 11px; color: var(--crystools-muted); border: 0; }
    thead th:first-child { text-align: left; padding-left: 0; }
    tbody th { text-align: left; padding-left: 0; font-weight: 500; white-space: normal; overflow-wrap: anywhere; }
    td[data-absent], small { color: var(--crystools-muted); }
    small { font-size: 11px; font-weight: 400; margin-left: 7px; }
    tr[data-status="failed"] th { color: var(--crystools-critical); }
    #more {
      margin-top: 4px; padding: 2px 0; border: 0; background: none; font-size: 12px; color: var(--crystools-hbm);
    }
    @container (max-width: 560px) {
      thead { display: none; }
      table, tbody { display: block; }
      tr { display: flex; flex-wrap: wrap; gap: 0 12px; padding: 6px 0; border-top: 1px solid var(--crystools-line); }
      th, td { border: 0; padding: 0; }
      tbody th { flex: 1 0 100%; }
      td[data-absent] { display: none; }
      td::before {
        content: attr(data-title); margin-right: 5px; font-size: 11px; color: var(--crystools-muted);
      }
    }
    `,
  );

  #all = false;
  /** @type {[RunReport, Layout] | null} */
  #shown = null;

  constructor() {
    super();
    this.byId("more").addEventListener("click", () => {
      this.#all = !this.#all;
      if (this.#shown) this.show(...this.#shown);
    });
  }

  /** @param {RunReport} run @param {Layout} layout */
  show(run, layout) {
    if (this.#shown?.[0].run_id !== run.run_id) this.#all = false;
    this.#shown = [run, layout];
    const nodes = withExpanded(layout.nodes).sort((a, b) => b.ownSeconds - a.ownSeconds);
    const usages = nodes.flatMap((node) => node.stage.report.hbm);
    this.hidden = nodes.length === 0;
    const peak = peakName(usages, run);
    setText(this.byId("peak"), peak);
    const shown = nodes.slice(0, this.#all ? MANY : FEW);
    const cells = shown.map((node) => cellsOf(node, layout.elapsed, run));
    const told = TITLES.map((_, index) => cells.some((row) => says(row[index]?.text ?? "")));
    showColumns(/** @type {HTMLTableRowElement} */ (this.byId("heads")), told);
    syncChildren(this.byId("rows"), shown, createRow, (row, node, index) => {
      showNode(row, node, cells[index] ?? [], peak);
      showColumns(row, told);
    });
    this.byId("more").hidden = nodes.length <= FEW;
    const all =
      nodes.length > MANY ? `the slowest ${MANY} of ${nodes.length} nodes` : `all ${nodes.length} nodes`;
    setText(this.byId("more"), this.#all ? `Show the slowest ${FEW}` : `Show ${all}`);
  }
}

function createRow() {
  const cells = TITLES.map((title) => h("td", { "data-title": title }));
  return h("tr", {}, h("th", { scope: "row" }, h("span"), h("small")), ...cells);
}

/** Hides the columns of which nothing is known. @param {HTMLTableRowElement} row @param {boolean[]} told */
function showColumns(row, told) {
  told.forEach((shown, index) => {
    setAttribute(/** @type {Element} */ (row.cells[index + 1]), "hidden", shown ? null : "");
  });
}

/** @param {HTMLTableRowElement} row @param {NodeSpan} node @param {Cell[]} cells @param {string} peak */
function showNode(row, node, cells, peak) {
  const { report } = node.stage;
  const [title, kind] = row.cells[0]?.children ?? [];
  if (!title || !kind) return;
  setAttribute(row, "data-status", report.status);
  setText(title, stageTitle(report));
  const named = report.node?.title && report.node.title !== report.component;
  setText(kind, `${named ? report.component : ""} #${report.node?.id ?? ""}`.trim());
  cells.forEach(({ text, detail }, index) => {
    const cell = /** @type {HTMLTableCellElement} */ (row.cells[index + 1]);
    setText(cell, text);
    setAttribute(cell, "data-absent", isAbsent(text) ? "" : null);
    setAttribute(cell, "data-tip", detail ?? null);
    if (TITLES[index] === PEAK) setAttribute(cell, "data-title", peak);
  });
}

/** @param {NodeSpan} node @param {number} whole @param {RunReport} run @returns {Cell[]} In the order of the titles. */
function cellsOf({ stage: { report }, ownSeconds, seconds, nodes }, whole, run) {
  const { steps, steps_total: total, step_seconds: step, hbm, host_memory: host } = report;
  const of = total == null || steps.length === total ? String(steps.length) : `${steps.length} of ${total}`;
  const peak = fullestChip(hbm);
  const expanded = nodes.length
    ? `${duration(seconds)} with the ${nodes.length} nodes that it expanded into`
    : undefined;
  return [
    { text: duration(ownSeconds), detail: expanded },
    { text: percent(whole ? Math.min(1, ownSeconds / whole) : null), detail: `Of ${duration(whole)}` },
    { text: steps.length || total ? of : NOT_APPLICABLE },
    { text: applies("steps", report) ? duration(step?.median) : NOT_APPLICABLE, detail: step ? `p95 ${duration(step.p95)}` : undefined },
    { text: gibibytes(peak?.peak_bytes), detail: devicesText(hbm, run) },
    {
      text: host ? beforeAfter(host.before_bytes, host.after_bytes) : NOT_AVAILABLE,
      detail: host ? `This process's memory: peak ${gibibytes(host.peak_bytes)}` : undefined,
    },
  ];
}

/** Each device before, at its peak and after. @param {readonly HbmUsage[]} usages @param {RunReport} run */
function devicesText(usages, run) {
  const lines = usages
    .slice(0, DEVICES_NAMED)
    .map(
      ({ device, before_bytes: before, peak_bytes: peak, after_bytes: after, limit_bytes: limit, method }) =>
        `${deviceLabel(device, run.device)}: before ${gibibytes(before)}, peak ${gibibytes(peak)}, after ${gibibytes(after)}, ` +
        `limit ${gibibytes(limit)}. Method: ${method}.`,
    );
  const more = usages.length - lines.length;
  return lines.length ? [...lines, ...(more > 0 ? [`${more} more`] : [])].join("\n") : undefined;
}

customElements.define("crystools-slowest", Slowest);

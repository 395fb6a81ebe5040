/**
 * The table of a run's stages; on a narrow screen each stage becomes a card.
 *
 * @import { RunReport, StageReport } from "../wire.js"
 */

import { Component, blueprint } from "../component.js";
import { h, setAttribute, setText, syncChildren } from "../dom.js";
import {
  NOT_AVAILABLE,
  duration,
  gibibytes,
  percent,
  ratioDetail,
  stageTitle,
  statusTitle,
  teraflop,
  verdict,
} from "../format.js";
import { fullestChip, pathTo } from "../run-figures.js";
import { STAGE_COLOURS } from "../stage-colours.js";

/** A workflow may have any number of stages within its nodes. */
const ROWS_AT_MOST = 100;

/** @typedef {(stage: StageReport) => string} Telling */
/** @typedef {{ title: string, text: Telling, detail?: Telling, forecast?: Telling }} Column */

/** @type {Column[]} */
const COLUMNS = [
  {
    title: "Time",
    text: (stage) => (stage.seconds == null ? statusTitle(stage.status) : duration(stage.seconds)),
  },
  { title: "Compile", text: compileText, detail: compileDetail },
  { title: "Steps", text: stepsText, detail: stepsDetail },
  {
    title: "s/step",
    text: (stage) => duration(stage.step_seconds?.median),
    detail: stepSecondsDetail,
    forecast: (stage) => duration(stage.predicted_step_seconds),
  },
  { title: "MFU", text: (stage) => percent(stage.mfu?.ratio), detail: mfuDetail },
  { title: "MBU", text: (stage) => percent(stage.mbu?.ratio), detail: (stage) => ratioDetail(stage.mbu) },
  {
    title: "Bound by",
    text: (stage) => stage.bound ?? NOT_AVAILABLE,
    detail: (stage) => verdict(stage.bound),
  },
  {
    title: "HBM peak",
    text: hbmText,
    detail: hbmDetail,
    forecast: (stage) => gibibytes(stage.predicted_hbm_peak_bytes),
  },
];

export class Stages extends Component {
  static blueprint = blueprint(
    `<table tabindex="0" data-tips>
      <caption class="sr-only">Stages of the run</caption>
      <thead><tr>
        <th scope="col">Stage</th>${COLUMNS.map(({ title }) => `<th scope="col">${title}</th>`).join("")}
      </tr></thead>
      <tbody id="rows"></tbody>
    </table>
    <p id="more" class="muted"></p>`,
    `${STAGE_COLOURS}
    :host { container-type: inline-size; }
    table { width: 100%; border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; }
    th, td {
      text-align: right; padding: 4px 0 4px 12px; white-space: nowrap;
      border-top: 1px solid var(--crystools-line);
    }
    thead th { font-weight: 500; font-size: 11px; color: var(--crystools-muted); border: 0; }
    tbody th, thead th:first-child { text-align: left; padding-left: 0; font-weight: 500; }
    tbody th::before {
      content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 2px; margin-right: 7px;
      background: var(--color);
    }
    td[data-absent], small { color: var(--crystools-muted); }
    small { display: block; font-size: 11px; }
    tr[data-status="failed"] th { color: var(--crystools-critical); }
    #more { font-size: 12px; }
    @container (max-width: 620px) {
      thead { display: none; }
      table, tbody { display: block; }
      tr {
        display: grid; grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); gap: 4px 10px;
        padding: 8px 0;
        border-top: 1px solid var(--crystools-line);
      }
      th, td { border: 0; padding: 0; text-align: left; white-space: normal; }
      tbody th { grid-column: 1 / -1; }
      tr[data-stepless] td[data-absent] { display: none; }
      td::before {
        content: attr(data-title); display: block; font-size: 11px; color: var(--crystools-muted);
      }
    }
    `,
  );

  /** @param {RunReport} run @param {readonly StageReport[]} stages Those of the run that have a row. */
  show(run, stages) {
    const shown = stages.slice(0, ROWS_AT_MOST);
    const more = stages.length - shown.length;
    setText(this.byId("more"), more > 0 ? `and ${more} more stages` : "");
    syncChildren(this.byId("rows"), shown, createRow, (row, stage) => {
      setAttribute(row, "data-kind", stage.name);
      setAttribute(row, "data-status", stage.status);
      setAttribute(row, "data-stepless", stage.steps_total == null && stage.steps.length === 0 ? "" : null);
      setText(/** @type {Element} */ (row.cells[0]), pathTo(run, stage).map(stageTitle).join(" › "));
      COLUMNS.forEach((column, index) => {
        const cell = /** @type {HTMLTableCellElement} */ (row.cells[index + 1]);
        const text = column.text(stage);
        setText(/** @type {Element} */ (cell.firstElementChild), text);
        setText(/** @type {Element} */ (cell.lastElementChild), forecastText(column, stage));
        setAttribute(cell, "data-absent", text === NOT_AVAILABLE ? "" : null);
        setAttribute(cell, "data-tip", column.detail?.(stage) ?? null);
      });
    });
  }
}

function createRow() {
  const cells = COLUMNS.map(({ title }) => h("td", { "data-title": title }, h("span"), h("small")));
  return h("tr", {}, h("th", { scope: "row" }), ...cells);
}

/** @param {Column} column @param {StageReport} stage */
function forecastText({ forecast }, stage) {
  const text = forecast?.(stage) ?? NOT_AVAILABLE;
  return text === NOT_AVAILABLE ? "" : `forecast ${text}`;
}

/** @param {StageReport} stage */
function compileText(stage) {
  return stage.compile_seconds > 0 ? duration(stage.compile_seconds) : "none";
}

/** @param {StageReport} stage */
function compileDetail({ compile_cache: cache, recompiles }) {
  const caches = {
    hit: "from the compilation cache",
    miss: "not in the compilation cache",
    off: "compilation cache off",
  };
  return `${cache ? caches[cache] : "no compile"}; ${recompiles} recompiles after the first step`;
}

/** @param {StageReport} stage */
function stepsText({ steps, steps_total: total, bytes_done: bytes }) {
  if (bytes != null) return gibibytes(bytes);
  if (total == null) return steps.length ? String(steps.length) : NOT_AVAILABLE;
  return steps.length === total ? String(total) : `${steps.length} of ${total}`;
}

/** @param {StageReport} stage */
function stepsDetail({ steps, first_nonfinite_step: nan, bytes_total: bytes }) {
  if (bytes != null) return `${gibibytes(bytes)} were to be downloaded`;
  const compiled = steps.filter((step) => step.compiled).length;
  return `${compiled} with a compile in them${nan == null ? "" : `; NaN from step ${nan} on`}`;
}

/** @param {StageReport} stage */
function stepSecondsDetail({ step_seconds: seconds }) {
  if (!seconds) return "Median of the steps in which no compile fell.";
  const { median, p95, min, max } = seconds;
  const spread = `p95 ${duration(p95)}, min ${duration(min)}, max ${duration(max)}`;
  return `Median ${duration(median)}, ${spread}; compiled steps left out.`;
}

/** @param {StageReport} stage */
function mfuDetail(stage) {
  if (stage.mfu) return ratioDetail(stage.mfu);
  return stage.flops == null
    ? "The model FLOPs are not known."
    : `${teraflop(stage.flops)} (${stage.flops_method}); the peak is not known.`;
}

/** @param {StageReport} stage */
function hbmText(stage) {
  return gibibytes(fullestChip(stage.hbm)?.peak_bytes);
}

/** @param {StageReport} stage */
function hbmDetail(stage) {
  const usage = fullestChip(stage.hbm);
  if (!usage) return NOT_AVAILABLE;
  const { device, before_bytes, after_bytes, limit_bytes, method } = usage;
  const around = `before ${gibibytes(before_bytes)}, after ${gibibytes(after_bytes)}`;
  return `${device}: ${around}, limit ${gibibytes(limit_bytes)}. Method: ${method}.`;
}

customElements.define("crystools-stages", Stages);

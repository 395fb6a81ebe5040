/**
 * The table of a run's stages; on a narrow screen each stage becomes a card.
 *
 * @import { StageFigure } from "../applicable.js"
 * @import { RunReport, StageReport } from "../wire.js"
 */

import { NOT_APPLICABLE, applies, isAbsent, says } from "../applicable.js";
import { Component, blueprint } from "../component.js";
import { deviceLabel } from "../device-names.js";
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
import { fullestChip, hbmOverRun, pathTo } from "../run-figures.js";
import { peakName } from "../run-text.js";
import { STAGE_COLOURS } from "../stage-colours.js";
import { cachedSeconds, countCached, kindsText } from "../step-kinds.js";
import { MARK, suspectFigures } from "../suspicion.js";

/** A workflow may have any number of stages within its nodes. */
const ROWS_AT_MOST = 100;

/** @typedef {(stage: StageReport) => string} Telling */
/** @typedef {(stage: StageReport, run: RunReport) => string} TellingOfRun */
/**
 * `figure` is what a comparison calls it, `applicable` by which it is known whether a stage can have one.
 *
 * @typedef {{
 *   title: string, text: Telling, detail?: TellingOfRun, beside?: Telling, forecast?: Telling,
 *   figure?: keyof ReturnType<typeof suspectFigures>, applicable?: StageFigure
 * }} Column
 */

/** Of a column that is called after the run's devices. */
const PEAK = "HBM peak";

/** @type {Column[]} */
const COLUMNS = [
  {
    title: "Time",
    figure: "seconds",
    text: (stage) => (stage.seconds == null ? statusTitle(stage.status) : duration(stage.seconds)),
  },
  {
    title: "Compile",
    figure: "compile_seconds",
    applicable: "compile",
    text: compileText,
    detail: compileDetail,
  },
  { title: "Steps", applicable: "steps", text: stepsText, detail: stepsDetail, beside: kindsText },
  {
    title: "s/step",
    figure: "step_seconds_median",
    applicable: "steps",
    text: (stage) => duration(stage.step_seconds?.median),
    detail: stepSecondsDetail,
    beside: cachedSecondsText,
    forecast: stepForecast,
  },
  {
    title: "MFU",
    figure: "mfu_ratio",
    applicable: "utilisation",
    text: (stage) => percent(stage.mfu?.ratio),
    detail: mfuDetail,
  },
  {
    title: "MBU",
    figure: "mbu_ratio",
    applicable: "utilisation",
    text: (stage) => percent(stage.mbu?.ratio),
    detail: (stage) => ratioDetail(stage.mbu),
  },
  {
    title: "Bound by",
    applicable: "utilisation",
    text: (stage) => stage.bound ?? NOT_AVAILABLE,
    detail: (stage) => verdict(stage.bound),
  },
  {
    title: PEAK,
    figure: "hbm_peak_bytes",
    applicable: "memory",
    text: hbmText,
    detail: hbmDetail,
    forecast: (stage) => gibibytes(stage.predicted_hbm_peak_bytes),
  },
];

export class Stages extends Component {
  static blueprint = blueprint(
    `<table tabindex="0" data-tips>
      <caption class="sr-only">Stages of the run</caption>
      <thead><tr id="heads">
        <th scope="col">Stage</th>${COLUMNS.map(({ title }) => `<th scope="col"${title === PEAK ? ' id="peak"' : ""}>${title}</th>`).join("")}
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
    td[data-suspect] { color: var(--crystools-warning); }
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
    const peak = peakName(hbmOverRun(run), run);
    setText(this.byId("peak"), peak);
    const shown = stages.slice(0, ROWS_AT_MOST);
    const more = stages.length - shown.length;
    const columns = COLUMNS.map((column) => shown.some((stage) => isTold(column, stage)));
    const heads = /** @type {HTMLTableRowElement} */ (this.byId("heads")).cells;
    columns.forEach((told, index) => setAttribute(/** @type {Element} */ (heads[index + 1]), "hidden", told ? null : ""));
    setText(this.byId("more"), more > 0 ? `and ${more} more stages` : "");
    syncChildren(this.byId("rows"), shown, createRow, (row, stage) => {
      setAttribute(row, "data-kind", stage.name);
      setAttribute(row, "data-status", stage.status);
      setAttribute(row, "data-stepless", stage.steps_total == null && stage.steps.length === 0 ? "" : null);
      setText(/** @type {Element} */ (row.cells[0]), pathTo(run, stage).map(stageTitle).join(" › "));
      const suspects = suspectFigures(stage);
      COLUMNS.forEach((column, index) => {
        const cell = /** @type {HTMLTableCellElement} */ (row.cells[index + 1]);
        const suspect = column.figure && suspects[column.figure];
        const text = textOf(column, stage) + (suspect ? MARK : "");
        setAttribute(cell, "hidden", columns[index] ? null : "");
        setText(/** @type {Element} */ (cell.firstElementChild), text);
        setText(/** @type {Element} */ (cell.lastElementChild), besideText(column, stage));
        setAttribute(cell, "data-absent", isAbsent(text) ? "" : null);
        setAttribute(cell, "data-suspect", suspect ? "" : null);
        setAttribute(cell, "data-tip", suspect || (column.detail?.(stage, run) ?? null));
        if (column.title === PEAK) setAttribute(cell, "data-title", peak);
      });
    });
  }
}

function createRow() {
  const cells = COLUMNS.map(({ title }) => h("td", { "data-title": title }, h("span"), h("small")));
  return h("tr", {}, h("th", { scope: "row" }), ...cells);
}

/** @param {Column} column @param {StageReport} stage */
function textOf(column, stage) {
  const text = column.text(stage);
  const { applicable } = column;
  return says(text) || !applicable || applies(applicable, stage) ? text : NOT_APPLICABLE;
}

/** Whether the column says something of the stage. @param {Column} column @param {StageReport} stage */
function isTold(column, stage) {
  return says(column.text(stage)) || besideText(column, stage) !== "";
}

/** @param {Column} column @param {StageReport} stage */
function besideText(column, stage) {
  return [column.beside?.(stage) ?? "", forecastText(column, stage)].filter(Boolean).join(", ");
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
function cachedSecondsText(stage) {
  const seconds = cachedSeconds(stage);
  return seconds == null ? "" : `cached ${duration(seconds)}`;
}

/** The forecast is of the mean step, which is none of a mixture's. @param {StageReport} stage */
function stepForecast(stage) {
  const { predicted_step_seconds: seconds } = stage;
  if (seconds == null) return NOT_AVAILABLE;
  return countCached(stage) ? `${duration(seconds)} on average` : duration(seconds);
}

/** @param {StageReport} stage */
function stepSecondsDetail({ step_seconds: seconds, step_seconds_by_kind: kinds }) {
  const leftOut = kinds ? "compiled and cached steps" : "compiled steps";
  if (!seconds) return "Median of the steps in which no compile fell.";
  const { median, p95, min, max } = seconds;
  const spread = `p95 ${duration(p95)}, min ${duration(min)}, max ${duration(max)}`;
  return `Median ${duration(median)}, ${spread}; ${leftOut} left out.`;
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

/** @param {StageReport} stage @param {RunReport} run */
function hbmDetail(stage, run) {
  const usage = fullestChip(stage.hbm);
  if (!usage) return NOT_AVAILABLE;
  const { device, before_bytes, after_bytes, limit_bytes, method } = usage;
  const around = `before ${gibibytes(before_bytes)}, after ${gibibytes(after_bytes)}`;
  return `${deviceLabel(device, run.device)}: ${around}, limit ${gibibytes(limit_bytes)}. Method: ${method}.`;
}

customElements.define("crystools-stages", Stages);

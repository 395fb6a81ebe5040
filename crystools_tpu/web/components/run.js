/**
 * One run, whole: what it is doing and until when, its figures, timeline, warnings and stages.
 *
 * @import { RunReport, StageReport } from "../wire.js"
 * @import { Store } from "../store.js"
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
  usedOfTotal,
  verdict,
  wholeDuration,
} from "../format.js";
import { elapsedSeconds, fullestChip, hbmOverRun, mainStage, medianStepSeconds } from "../run-figures.js";
import { Figure } from "./figure.js";
import { Stages } from "./stages.js";
import { Timeline } from "./timeline.js";

/** @type {Record<string, string>} */
const VERDICTS = {
  compute: "The matrix units set the pace: fewer FLOPs or better use of the peak would help.",
  bandwidth: "HBM bandwidth sets the pace: moving fewer bytes would help.",
  host: "The chips waited for the host.",
};

/** Parameters with a place of their own. */
const PLACED_PARAMS = new Set(["prompt", "width", "height"]);

export class RunView extends Component {
  static blueprint = blueprint(
    `<div class="title">
      <span id="status"></span><h3 id="pipeline"></h3><span id="device" class="muted"></span>
    </div>
    <p id="prompt"></p>
    <dl id="params"></dl>
    <div id="now">
      <div><p id="doing" class="big"></p><p id="steps" class="muted number"></p></div>
      <div class="right"><p id="left" class="big number"></p><p id="elapsed" class="muted number"></p></div>
    </div>
    <div id="progress" role="progressbar" aria-valuemin="0"><div id="bar"></div></div>
    <p id="error"></p>
    <ul id="warnings"></ul>
    <div id="figures"></div>
    <crystools-timeline id="timeline"></crystools-timeline>
    <crystools-stages id="stages"></crystools-stages>
    <details id="memory">
      <summary>HBM per chip</summary>
      <div class="scroll" tabindex="0" role="region" aria-label="HBM per chip"><table>
        <thead><tr><th scope="col">Chip</th><th scope="col">Before</th><th scope="col">Peak</th><th scope="col">After</th><th scope="col">Limit</th><th scope="col">Peak in</th></tr></thead>
        <tbody id="chips"></tbody>
      </table></div>
      <p id="method" class="muted"></p>
    </details>`,
    `
    :host { display: grid; grid-template-columns: minmax(0, 1fr); gap: 10px; }
    .title { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 10px; }
    h3 { font-size: 15px; font-weight: 600; flex: 1; overflow-wrap: anywhere; }
    #status { font-size: 11px; font-weight: 600; padding: 1px 8px; border-radius: 99px; border: 1px solid currentColor; color: var(--crystools-muted); }
    #status[data-status="running"] { color: var(--crystools-hbm); }
    #status[data-status="succeeded"] { color: var(--crystools-good); }
    #status[data-status="failed"] { color: var(--crystools-critical); }
    #device { font-size: 12px; }
    #prompt {
      display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden;
      overflow-wrap: anywhere; font-style: italic;
    }
    #prompt:empty, #params:empty, #warnings:empty, #error:empty { display: none; }
    #params { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; }
    #params > div { display: flex; gap: 5px; min-width: 0; }
    #params dt { color: var(--crystools-muted); white-space: nowrap; }
    #params dd { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
    #now { display: flex; justify-content: space-between; gap: 12px; margin-top: 4px; }
    .big { font-size: 24px; font-weight: 650; letter-spacing: -.02em; line-height: 1.2; }
    .right { text-align: right; }
    #progress { height: 8px; border-radius: 4px; background: var(--crystools-sunken); overflow: hidden; }
    #bar {
      height: 100%; background: var(--crystools-hbm); transform-origin: left; transform: scaleX(var(--ratio, 0));
      transition: transform .3s linear;
    }
    #error, #warnings li { font-size: 13px; padding: 7px 10px; border-radius: 6px; overflow-wrap: anywhere; white-space: pre-wrap; }
    #error { color: var(--crystools-critical); background: var(--crystools-critical-panel); max-height: 12em; overflow: auto; }
    #warnings { display: grid; gap: 6px; }
    #warnings li { color: var(--crystools-warning); background: var(--crystools-warning-panel); }
    #warnings li[data-level="critical"] { color: var(--crystools-critical); background: var(--crystools-critical-panel); }
    #figures {
      display: flex; flex-wrap: wrap; gap: 8px 20px; padding: 8px 0;
      border-block: 1px solid var(--crystools-line);
    }
    #figures > * { flex: 1 1 88px; min-width: max-content; }
    details { font-size: 12.5px; }
    summary { cursor: pointer; color: var(--crystools-muted); }
    .scroll { max-height: 260px; overflow: auto; }
    table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
    th, td { text-align: right; padding: 3px 0 3px 12px; white-space: nowrap; }
    th:first-child { text-align: left; padding-left: 0; font-weight: 500; }
    thead th { font-weight: 500; font-size: 11px; color: var(--crystools-muted); }
    tbody th { font-family: var(--crystools-mono); }
    #method { font-size: 11px; margin-top: 4px; }
    @media (max-width: 480px) { .big { font-size: 19px; } }
    `,
  );

  /** @param {RunReport} run @param {Store} store */
  show(run, store) {
    const stage = mainStage(run);
    const now = store.nowUnixSeconds;
    const eta = store.etaSeconds(run);
    this.dataset.run = run.run_id;
    this.#showTitle(run);
    this.#showNow(run, stage, now, eta);
    this.#showProblems(run);
    this.#showFigures(run, stage, store);
    /** @type {Timeline} */ (this.byId("timeline")).show(run, now, eta);
    /** @type {Stages} */ (this.byId("stages")).show(run, store.latestMfu(run));
    this.byId("timeline").hidden = this.byId("stages").hidden = run.stages.length === 0;
    this.#showMemory(run);
  }

  /** @param {RunReport} run */
  #showTitle(run) {
    setText(this.byId("status"), statusTitle(run.status));
    setAttribute(this.byId("status"), "data-status", run.status);
    setText(this.byId("pipeline"), run.pipeline);
    setAttribute(this.byId("pipeline"), "title", run.model_id);
    setText(this.byId("device"), deviceText(run));
    setText(this.byId("prompt"), String(run.params.prompt ?? ""));
    setAttribute(this.byId("prompt"), "title", String(run.params.prompt ?? ""));
    syncChildren(this.byId("params"), paramsOf(run), createPair, (pair, [name, value]) => {
      setText(/** @type {Element} */ (pair.firstElementChild), name);
      setText(/** @type {Element} */ (pair.lastElementChild), value);
    });
  }

  /** @param {RunReport} run @param {StageReport | null} stage @param {number} now @param {number | null} eta */
  #showNow(run, stage, now, eta) {
    const running = run.status === "running";
    const total = running ? (stage?.steps_total ?? null) : null;
    const done = stage?.steps.length ?? 0;
    setText(this.byId("doing"), running ? doing(stage) : outcome(run));
    setText(this.byId("steps"), running ? stepsText(stage) : (run.output ?? ""));
    setText(this.byId("left"), running ? leftText(eta) : duration(run.total_seconds));
    setText(this.byId("elapsed"), running ? `${wholeDuration(elapsedSeconds(run, now))} elapsed` : "in all");
    const progress = this.byId("progress");
    progress.hidden = total == null;
    setAttribute(progress, "aria-label", stage ? `Steps of ${stageTitle(stage)}` : null);
    setAttribute(progress, "aria-valuemax", String(total ?? 0));
    setAttribute(progress, "aria-valuenow", String(done));
    this.byId("bar").style.setProperty("--ratio", String(total ? done / total : 0));
  }

  /** @param {RunReport} run */
  #showProblems(run) {
    setText(this.byId("error"), run.error ?? "");
    syncChildren(this.byId("warnings"), warningsOf(run), () => h("li"), (item, [level, text]) => {
      setText(item, text);
      item.dataset.level = level;
    });
  }

  /** @param {RunReport} run @param {StageReport | null} stage @param {Store} store */
  #showFigures(run, stage, store) {
    this.byId("figures").hidden = !stage;
    if (!stage) return;
    const mfu = run.status === "running" ? store.latestMfu(run) : stage.mfu;
    const compile = run.stages.reduce((total, each) => total + each.compile_seconds, 0);
    const peak = fullestChip(hbmOverRun(run));
    const later = run.status === "running" ? "Known when the stage ends." : "Not reported.";
    /** @type {[string, string, string][]} */
    const figures = [
      ["Step time", duration(medianStepSeconds(stage)), `Median of the steps of ${stageTitle(stage)} without a compile.`],
      ["MFU", percent(mfu?.ratio), mfu ? `Model FLOPs over the chips' peak. ${ratioDetail(mfu)}` : "No FLOPs or no peak known for this stage."],
      ["MBU", percent(stage.mbu?.ratio), stage.mbu ? `Model bytes over HBM bandwidth. ${ratioDetail(stage.mbu)}` : later],
      ["Verdict", verdict(stage.bound), stage.bound ? (VERDICTS[stage.bound] ?? "") : later],
      ["HBM peak", usedOfTotal(peak?.peak_bytes, peak?.limit_bytes), peak ? peakText(run, peak) : later],
      ["Compile", compile > 0 ? duration(compile) : "none so far", "All stages together; not part of the step time."],
    ];
    syncChildren(this.byId("figures"), figures, () => new Figure(), (element, [label, value, detail], index) => {
      element.show(label, value, detail);
      element.dataset.edge = index % 2 ? "end" : "";
    });
  }

  /** @param {RunReport} run */
  #showMemory(run) {
    const usages = hbmOverRun(run);
    this.byId("memory").hidden = usages.length === 0;
    syncChildren(this.byId("chips"), usages, createMemoryRow, (row, usage) => {
      const { device, before_bytes, peak_bytes, after_bytes, limit_bytes, peakStage } = usage;
      const bytes = [before_bytes, peak_bytes, after_bytes, limit_bytes].map((value) => gibibytes(value));
      [device, ...bytes, stageTitle(peakStage)].forEach((text, index) => {
        setText(/** @type {Element} */ (row.cells[index]), text);
      });
    });
    const methods = [...new Set(usages.map((usage) => usage.method))].join(", ");
    setText(this.byId("method"), `Method: ${methods}.`);
  }
}

function createPair() {
  return h("div", {}, h("dt"), h("dd"));
}

function createMemoryRow() {
  return h("tr", {}, h("th", { scope: "row" }), h("td"), h("td"), h("td"), h("td"), h("td"));
}

/** @param {RunReport} run */
function deviceText({ device }) {
  if (!device) return "";
  const chips = Number.isInteger(device.chips) ? device.chips : device.chips.toFixed(1);
  return device.platform === "cpu" ? `${device.count} × ${device.kind}` : `${device.kind}, ${chips} chip${device.chips === 1 ? "" : "s"}`;
}

/** @param {RunReport} run @returns {[string, string][]} */
function paramsOf({ params }) {
  const { width, height } = params;
  /** @type {[string, string][]} */
  const size = width != null && height != null ? [["size", `${width} × ${height}`]] : [];
  const rest = Object.entries(params).filter(([name, value]) => !PLACED_PARAMS.has(name) && value != null && value !== "");
  return [...size, ...rest.map(([name, value]) => /** @type {[string, string]} */ ([name.replaceAll("_", " "), String(value)]))];
}

/** @param {RunReport} run */
function outcome(run) {
  const last = run.status === "succeeded" ? null : run.stages.at(-1);
  return last ? `${statusTitle(run.status)} in ${stageTitle(last)}` : statusTitle(run.status);
}

/** @param {StageReport | null} stage */
function doing(stage) {
  if (!stage) return "Starting";
  const compiling = stage.steps_total != null && stage.steps.length === 0 && stage.compile_seconds > 0;
  return compiling ? `${stageTitle(stage)}, compiling` : stageTitle(stage);
}

/** @param {StageReport | null} stage */
function stepsText(stage) {
  if (stage?.steps_total == null) return "";
  return `step ${stage.steps.length} of ${stage.steps_total}`;
}

/** @param {number | null} eta */
function leftText(eta) {
  return eta == null ? "" : `${wholeDuration(eta)} left`;
}

/** @param {RunReport} run @param {ReturnType<typeof hbmOverRun>[number]} peak */
function peakText(run, { device, peakStage, method, peak_bytes, limit_bytes }) {
  const soFar = run.status === "running" ? "Of the stages that have ended: " : "";
  const share = limit_bytes ? `${percent(peak_bytes / limit_bytes)} of its limit` : "limit n/a";
  return `${soFar}${device} in ${stageTitle(peakStage)}, ${share}. Method: ${method}.`;
}

/** @param {RunReport} run @returns {["warning" | "critical", string][]} */
function warningsOf(run) {
  return run.stages.flatMap((stage) => {
    /** @type {["warning" | "critical", string][]} */
    const warnings = [];
    const { first_nonfinite_step: nan, recompiles, recompile_reasons: reasons } = stage;
    if (nan != null) warnings.push(["critical", `NaN in ${stageTitle(stage)} from step ${nan} on: the output is not usable.`]);
    if (recompiles > 0) {
      const times = recompiles === 1 ? "once" : `${recompiles} times`;
      warnings.push(["warning", `${stageTitle(stage)} recompiled ${times} after its first step: ${reasons.join("; ") || NOT_AVAILABLE}`]);
    }
    return warnings;
  });
}

customElements.define("crystools-run", RunView);

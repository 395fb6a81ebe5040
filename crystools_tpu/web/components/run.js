/**
 * One run, whole: what it is doing and until when, its figures, timeline, warnings and stages.
 *
 * @import { RunReport, StageReport } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { Component, blueprint } from "../component.js";
import { h, setAttribute, setText, syncChildren } from "../dom.js";
import { duration, stageTitle, statusTitle, wholeDuration } from "../format.js";
import { elapsedSeconds, mainStage, progressOf } from "../run-figures.js";
import {
  deviceText,
  doing,
  figuresOf,
  leftDetail,
  leftText,
  outcome,
  paramsOf,
  stepsText,
  warningsOf,
} from "../run-text.js";
import { Figure } from "./figure.js";
import { Memory } from "./memory.js";
import { Stages } from "./stages.js";
import { Timeline } from "./timeline.js";

export class RunView extends Component {
  static blueprint = blueprint(
    `<div class="title">
      <span id="status"></span><h3 id="pipeline"></h3><span id="device" class="muted"></span>
      <a id="trace" download title="Download this run as a file for ui.perfetto.dev">Trace</a>
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
    <crystools-memory id="memory"></crystools-memory>`,
    `
    :host { display: grid; grid-template-columns: minmax(0, 1fr); gap: 10px; container-type: inline-size; }
    .title { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 10px; }
    h3 { font-size: 15px; font-weight: 600; flex: 1 1 auto; overflow-wrap: anywhere; }
    #status {
      font-size: 11px; font-weight: 600; padding: 1px 8px; border-radius: 99px;
      border: 1px solid currentColor; color: var(--crystools-muted);
    }
    #status[data-status="running"] { color: var(--crystools-hbm); }
    #status[data-status="succeeded"] { color: var(--crystools-good); }
    #status[data-status="failed"] { color: var(--crystools-critical); }
    #device, #trace { font-size: 12px; }
    #trace { color: var(--crystools-hbm); text-decoration: none; }
    #trace:hover { text-decoration: underline; }
    #prompt {
      display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden;
      overflow-wrap: anywhere; font-style: italic;
    }
    #prompt:empty, #params:empty, #warnings:empty, #error:empty { display: none; }
    #params { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; }
    #params > div { display: flex; gap: 5px; min-width: 0; }
    #params dt { color: var(--crystools-muted); white-space: nowrap; }
    #params dd { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
    #now { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 2px 12px; margin-top: 4px; }
    .big { font-size: 24px; font-weight: 650; letter-spacing: -.02em; line-height: 1.2; }
    .right { text-align: right; }
    #progress { height: 8px; border-radius: 4px; background: var(--crystools-sunken); overflow: hidden; }
    #bar {
      height: 100%; background: var(--crystools-hbm); transform-origin: left;
      transform: scaleX(var(--ratio, 0));
      transition: transform .3s linear;
    }
    #error, #warnings li {
      font-size: 13px; padding: 7px 10px; border-radius: 6px; overflow-wrap: anywhere;
      white-space: pre-wrap;
    }
    #error {
      color: var(--crystools-critical); background: var(--crystools-critical-panel); max-height: 12em;
      overflow: auto;
    }
    #warnings { display: grid; gap: 6px; }
    #warnings li { color: var(--crystools-warning); background: var(--crystools-warning-panel); }
    #warnings li[data-level="critical"] {
      color: var(--crystools-critical); background: var(--crystools-critical-panel);
    }
    #figures {
      position: relative; display: flex; flex-wrap: wrap; gap: 8px 20px; padding: 8px 0;
      border-block: 1px solid var(--crystools-line);
    }
    #figures > * { flex: 1 1 88px; min-width: max-content; }
    @container (max-width: 400px) { .big { font-size: 19px; } .right { flex: 1; white-space: nowrap; } }
    `,
  );

  /** @param {RunReport} run @param {Store} store */
  show(run, store) {
    const stage = mainStage(run);
    const now = store.nowUnixSeconds;
    const eta = store.etaSeconds(run);
    this.dataset.run = run.run_id;
    this.#showTitle(run);
    this.byId("trace").hidden = store.traceUrl(run) == null;
    setAttribute(this.byId("trace"), "href", store.traceUrl(run));
    this.#showNow(run, stage, now, store);
    this.#showProblems(run);
    this.#showFigures(run, stage);
    /** @type {Timeline} */ (this.byId("timeline")).show(run, now, eta);
    /** @type {Stages} */ (this.byId("stages")).show(run);
    this.byId("timeline").hidden = this.byId("stages").hidden = run.stages.length === 0;
    /** @type {Memory} */ (this.byId("memory")).show(run);
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

  /** @param {RunReport} run @param {StageReport | null} stage @param {number} now @param {Store} store */
  #showNow(run, stage, now, store) {
    const running = run.status === "running";
    const eta = store.etaSeconds(run);
    const ahead = running ? progressOf(stage) : null;
    const { done, total, unit } = ahead ?? { done: 0, total: 0, unit: "Steps" };
    setText(this.byId("doing"), running ? doing(stage) : outcome(run));
    setText(this.byId("steps"), running ? stepsText(stage, store.bytesPerSecond(run)) : (run.output ?? ""));
    setText(this.byId("left"), running ? leftText(eta) : duration(run.total_seconds));
    setAttribute(this.byId("left"), "title", running ? leftDetail(stage) : null);
    setText(this.byId("elapsed"), running ? `${wholeDuration(elapsedSeconds(run, now))} elapsed` : "in all");
    const progress = this.byId("progress");
    progress.hidden = ahead == null;
    setAttribute(progress, "aria-label", stage ? `${unit} of ${stageTitle(stage)}` : null);
    setAttribute(progress, "aria-valuemax", String(total));
    setAttribute(progress, "aria-valuenow", String(done));
    this.byId("bar").style.setProperty("--ratio", String(total ? done / total : 0));
  }

  /** @param {RunReport} run */
  #showProblems(run) {
    setText(this.byId("error"), run.error ?? "");
    syncChildren(
      this.byId("warnings"),
      warningsOf(run),
      () => h("li"),
      (item, [level, text]) => {
        setText(item, text);
        item.dataset.level = level;
      },
    );
  }

  /** @param {RunReport} run @param {StageReport | null} stage */
  #showFigures(run, stage) {
    this.byId("figures").hidden = !stage;
    if (!stage) return;
    const create = () => new Figure();
    syncChildren(
      this.byId("figures"),
      figuresOf(run, stage),
      create,
      (element, [label, value, detail]) => {
        element.show(label, value, detail);
      },
    );
  }
}

function createPair() {
  return h("div", {}, h("dt"), h("dd"));
}

customElements.define("crystools-run", RunView);

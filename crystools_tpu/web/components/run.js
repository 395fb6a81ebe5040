/**
 * One run, whole: what it is doing and until when, its figures, timeline, warnings and stages.
 *
 * @import { RunReport, StageReport } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { Component, blueprint } from "../component.js";
import { costText } from "../cost.js";
import { h, setAttribute, setStyle, setText, syncChildren } from "../dom.js";
import { duration, stageTitle, wholeDuration } from "../format.js";
import { elapsedSeconds, mainStage, progressOf } from "../run-figures.js";
import {
  doing,
  figuresOf,
  leftDetail,
  leftText,
  nodesText,
  outcome,
  paramsOf,
  processText,
  reasonText,
  runTitle,
  stepsText,
  warningsOf,
  whereText,
} from "../run-text.js";
import { OUTCOME_COLOURS } from "../stage-colours.js";
import { isWorkflow, layOutWorkflow, nodesDone } from "../workflow-figures.js";
import { ExplanationView } from "./explanation.js";
import { Figure } from "./figure.js";
import { Memory } from "./memory.js";
import { Nodes } from "./nodes.js";
import { Result } from "./result.js";
import { Slowest } from "./slowest.js";
import { Stages } from "./stages.js";
import { Timeline } from "./timeline.js";

export class RunView extends Component {
  static blueprint = blueprint(
    `<div class="title">
      <span id="status" class="outcome"></span><h3 id="pipeline"></h3><span id="model" class="muted"></span>
      <span id="process" class="muted"></span><span id="device" class="muted"></span>
      <a id="trace" download data-tip="Download this run as a file for ui.perfetto.dev">Trace</a>
    </div>
    <p id="prompt"></p>
    <dl id="params"></dl>
    <div id="now">
      <div><p id="doing" class="big"></p><p id="steps" class="muted number"></p></div>
      <div class="right">
        <p id="left" class="number" tabindex="0"><span id="time" class="big"></span> <span id="of"></span></p>
        <p id="elapsed" class="muted number"></p>
      </div>
    </div>
    <div id="progress" role="progressbar" aria-valuemin="0"><div id="bar"></div></div>
    <crystools-explanation id="explanation"></crystools-explanation>
    <p id="error" tabindex="0" role="group" aria-label="Error"></p>
    <crystools-result id="result"></crystools-result>
    <div id="figures"></div>
    <crystools-timeline id="timeline"></crystools-timeline>
    <crystools-nodes id="nodes"></crystools-nodes>
    <crystools-slowest id="slowest"></crystools-slowest>
    <crystools-stages id="stages"></crystools-stages>
    <ul id="warnings"></ul>
    <crystools-memory id="memory"></crystools-memory>`,
    `
    :host { display: grid; grid-template-columns: minmax(0, 1fr); gap: 10px; container-type: inline-size; }
    .title { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 10px; }
    h3 { font-size: 15px; font-weight: 600; flex: 1 1 auto; overflow-wrap: anywhere; }
    #status {
      font-size: 11px; font-weight: 600; padding: 1px 8px; border-radius: 99px;
      border: 1px solid currentColor;
    }
    ${OUTCOME_COLOURS}
    #model, #device, #process, #trace { font-size: 12px; }
    #model { overflow-wrap: anywhere; }
    #model:empty, #device:empty, #process:empty { display: none; }
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
    #of { font-weight: 600; }
    #doing[data-level="warning"] { color: var(--crystools-warning); }
    .big { font-size: 24px; font-weight: 650; letter-spacing: -.02em; line-height: 1.2; }
    #now > div { min-width: 0; }
    #steps, #left, #elapsed { white-space: normal; overflow-wrap: anywhere; }
    #time { white-space: nowrap; }
    #doing { overflow-wrap: anywhere; }
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
    #error { max-height: 12em; overflow: auto; background: var(--crystools-sunken); }
    #error[data-level="critical"] { color: var(--crystools-critical); background: var(--crystools-critical-panel); }
    #warnings { display: grid; gap: 6px; }
    #warnings li { color: var(--crystools-warning); background: var(--crystools-warning-panel); }
    #warnings li[data-level="critical"] {
      color: var(--crystools-critical); background: var(--crystools-critical-panel);
    }
    #figures {
      display: flex; flex-wrap: wrap; gap: 8px 20px; padding: 8px 0;
      border-block: 1px solid var(--crystools-line);
    }
    #figures > * { flex: 1 1 88px; min-width: max-content; }
    @container (max-width: 400px) { .big { font-size: 19px; } }
    @container (max-width: 340px) { .right { flex-basis: 100%; text-align: left; } }
    `,
  );

  /** What is shown, once it has ended: nothing of it changes any more. @type {RunReport | null} */
  #ended = null;
  /** @type {number | null} */
  #price = null;

  /** @param {RunReport} run @param {Store} store */
  show(run, store) {
    this.byId("trace").hidden = store.traceUrl(run) == null;
    setAttribute(this.byId("trace"), "href", store.traceUrl(run));
    /** @type {ExplanationView} */ (this.byId("explanation")).show(run, store);
    const price = store.pricePerChipHour;
    if (run === this.#ended && price === this.#price) return;
    this.#ended = run.status === "running" ? null : run;
    this.#price = price;
    const stage = mainStage(run);
    this.dataset.run = run.run_id;
    this.#showTitle(run);
    this.#showNow(run, stage, store);
    this.#showProblems(run);
    this.#showFigures(run, stage);
    this.#showStages(run, store);
    /** @type {Memory} */ (this.byId("memory")).show(run);
    /** @type {Result} */ (this.byId("result")).show(run, store);
  }

  /** A workflow's nodes, and the stages in them; or else the stages alone. @param {RunReport} run @param {Store} store */
  #showStages(run, store) {
    const now = store.nowUnixSeconds;
    const eta = store.etaSeconds(run);
    const workflow = isWorkflow(run);
    const stages = workflow ? run.stages.filter((stage) => !stage.node) : run.stages;
    this.byId("nodes").hidden = !workflow;
    this.byId("slowest").hidden = !workflow || run.stages.length === 0;
    this.byId("timeline").hidden = workflow || stages.length === 0;
    this.byId("stages").hidden = stages.length === 0;
    /** @type {Stages} */ (this.byId("stages")).show(run, stages);
    if (workflow) {
      const layout = layOutWorkflow(run, now, eta, store.runEtaSeconds(run));
      /** @type {Nodes} */ (this.byId("nodes")).show(run, layout);
      /** @type {Slowest} */ (this.byId("slowest")).show(run, layout);
    } else {
      /** @type {Timeline} */ (this.byId("timeline")).show(run, now, eta);
    }
  }

  /** @param {RunReport} run */
  #showTitle(run) {
    const { text, level } = outcome(run);
    setText(this.byId("status"), text);
    setAttribute(this.byId("status"), "data-level", level);
    setText(this.byId("pipeline"), runTitle(run));
    setText(this.byId("model"), run.model_id ?? "");
    setText(this.byId("process"), processText(run));
    setText(this.byId("device"), whereText(run));
    this.#showPrompt(String(run.params.prompt ?? ""));
    syncChildren(this.byId("params"), paramsOf(run), createPair, (pair, [name, value]) => {
      setText(/** @type {Element} */ (pair.firstElementChild), name);
      setText(/** @type {Element} */ (pair.lastElementChild), value);
    });
  }

  /** @param {string} text */
  #showPrompt(text) {
    const prompt = this.byId("prompt");
    if (prompt.textContent === text) return;
    prompt.textContent = text;
    this.#promptSize.unobserve(prompt);
    this.#promptSize.observe(prompt);
  }

  /** The whole of a prompt that has no room. */
  #promptSize = new ResizeObserver(() => {
    const prompt = this.byId("prompt");
    const cut = prompt.scrollHeight > prompt.clientHeight;
    setAttribute(prompt, "data-tip", cut ? prompt.textContent : null);
    setAttribute(prompt, "tabindex", cut ? "0" : null);
  });

  /** @param {RunReport} run @param {StageReport | null} stage @param {Store} store */
  #showNow(run, stage, store) {
    if (run.status === "running") {
      const runEta = store.runEtaSeconds(run);
      const { time, of, beside } = leftText(stage, store.etaSeconds(run), runEta);
      const elapsed = `${wholeDuration(elapsedSeconds(run, store.nowUnixSeconds))} elapsed`;
      const nodes = isWorkflow(run) ? nodesText(run) : "";
      this.#showDoing(doing(run, stage), null);
      setText(this.byId("steps"), together(stepsText(stage, store.bytesPerSecond(run)), nodes));
      this.#showTime(time, of, together(beside, elapsed), leftDetail(stage, runEta));
    } else {
      const { text, where, level } = outcome(run);
      this.#showDoing(where ? `${text} in ${where}` : text, level);
      setText(this.byId("steps"), "");
      const seconds = elapsedSeconds(run, store.nowUnixSeconds);
      const how = run.status === "interrupted" ? "until it was last seen" : "in all";
      const cost = costText(run, this.#price);
      this.#showTime(duration(seconds), "", together(how, cost.text), cost.detail || null);
    }
    this.#showProgress(run, stage);
  }

  /** @param {string} text @param {string | null} level */
  #showDoing(text, level) {
    setText(this.byId("doing"), text);
    setAttribute(this.byId("doing"), "data-level", level);
  }

  /** @param {string} time @param {string} of @param {string} elapsed @param {string | null} detail */
  #showTime(time, of, elapsed, detail) {
    setText(this.byId("time"), time);
    setText(this.byId("of"), of);
    setText(this.byId("elapsed"), elapsed);
    setAttribute(this.byId("left"), "data-tip", detail);
    setAttribute(this.byId("left"), "tabindex", detail ? "0" : null);
  }

  /** How much of the workflow is done, or of the running stage. @param {RunReport} run @param {StageReport | null} stage */
  #showProgress(run, stage) {
    const progress = this.byId("progress");
    const { done, total, ratio } = nodesDone(run);
    const ahead = total ? { done, total, unit: "Nodes" } : progressOf(stage);
    progress.hidden = ahead == null || run.status !== "running";
    if (progress.hidden || !ahead) return;
    const of = total ? runTitle(run) : stage ? stageTitle(stage) : "";
    setAttribute(progress, "aria-label", `${ahead.unit} of ${of}`);
    setAttribute(progress, "aria-valuemax", String(ahead.total));
    setAttribute(progress, "aria-valuenow", String(ahead.done));
    setStyle(this.byId("bar"), "--ratio", String(ratio ?? ahead.done / ahead.total));
  }

  /** @param {RunReport} run */
  #showProblems(run) {
    setText(this.byId("error"), reasonText(run));
    setAttribute(this.byId("error"), "data-level", outcome(run).level);
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
    syncChildren(this.byId("figures"), figuresOf(run, stage), create, (element, [label, value, detail]) => {
      element.show(label, value, detail);
    });
  }
}

/** @param {...string} texts */
function together(...texts) {
  return texts.filter(Boolean).join(" · ");
}

function createPair() {
  return h("div", {}, h("dt"), h("dd"));
}

customElements.define("crystools-run", RunView);

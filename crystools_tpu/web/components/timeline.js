/**
 * A run drawn to scale: its stages, the compile in them hatched, each step a bar.
 *
 * @import { RunReport } from "../wire.js"
 * @import { StageSpan, StepSpan } from "../run-figures.js"
 */

import { Component, blueprint } from "../component.js";
import { h, setAttribute, setText, svg, syncChildren } from "../dom.js";
import { duration, stageTitle, wholeDuration } from "../format.js";
import { layOut } from "../run-figures.js";
import { STAGE_COLOURS } from "../stage-colours.js";
import { CACHED, countCached, kindsText } from "../step-kinds.js";
import { AXIS_STYLE, HATCH, LEGEND_STYLE, WHOLE_OR_NOT, drawAxis } from "../time-axis.js";

const HEIGHT = 34;
const STEP_HEIGHT = HEIGHT - 6;

/** Of a step that a step cache has skipped: not by its colour alone is it told from a full one. */
const CACHED_HEIGHT = STEP_HEIGHT / 2;

/** Beyond so many steps the gaps between them would hide the steps. */
const STEPS_WITH_GAPS = 120;

export class Timeline extends Component {
  static blueprint = blueprint(
    `<figure>
      <div id="names" aria-hidden="true"></div>
      <svg id="plot" width="100%" height="${HEIGHT}" role="img" tabindex="0" data-tips>
        ${HATCH}
        <g id="stages"></g>
      </svg>
      <div id="marks" aria-hidden="true"></div>
      <div id="axis" class="number" aria-hidden="true"></div>
      <figcaption>
        <span class="key step" id="step-key">step</span>
        <span class="key cached" id="cached-key">cached step</span><span class="key compile">compile</span>
        <span class="key expected" id="expected-key">expected</span>
        <span class="key nan" id="nan-key">NaN</span>
      </figcaption>
    </figure>`,
    `${STAGE_COLOURS}
    :host { container-type: inline-size; }
    figure { margin: 0; }
    ${AXIS_STYLE}
    #names, #marks { position: relative; height: 17px; font-size: 11px; }
    #names > div, #marks > div { position: absolute; white-space: nowrap; }
    #names > div { height: 17px; overflow: hidden; }
    ${WHOLE_OR_NOT("#names > div")}
    #marks { height: 14px; }
    #marks > div { color: var(--crystools-critical); font-weight: 600; transform: translateX(-50%); }
    #marks > div[data-edge="right"] { transform: translateX(-100%); }
    #marks > div[data-edge="left"] { transform: none; }
    #marks:empty { display: none; }
    svg { display: block; }
    .stage { fill: var(--color); opacity: .3; }
    .step { fill: var(--color); stroke: var(--crystools-panel); stroke-width: 1; }
    .step.dense { stroke: none; }
    .step.cached { fill: var(--crystools-cached); }
    .step.nan { fill: var(--crystools-critical); }
    .compile { fill: url(#hatch); stroke: var(--crystools-muted); stroke-width: 1; }
    .expected { fill: none; stroke: var(--color); stroke-dasharray: 3 3; }
    .failed { fill: var(--crystools-critical); opacity: .35; }
    ${LEGEND_STYLE}
    `,
  );

  /**
   * @param {RunReport} run
   * @param {number} nowUnixSeconds
   * @param {number | null} etaSeconds
   */
  show(run, nowUnixSeconds, etaSeconds) {
    const { seconds, stages } = layOut(run, nowUnixSeconds, etaSeconds);
    const at = (/** @type {number} */ time) => `${((time / (seconds || 1)) * 100).toFixed(3)}%`;
    setAttribute(this.byId("plot"), "aria-label", summary(stages, seconds));
    this.byId("expected-key").hidden = !stages.some((stage) => stage.expectedEnd > stage.end);
    const cached = stages.some((stage) => countCached(stage.report) > 0);
    this.byId("cached-key").hidden = !cached;
    setText(this.byId("step-key"), cached ? "full step" : "step");
    this.byId("nan-key").hidden = !stages.some((stage) => stage.report.first_nonfinite_step != null);
    syncChildren(this.byId("names"), stages, createName, (name, stage) => {
      setText(/** @type {Element} */ (name.firstElementChild), stageTitle(stage.report));
      name.style.left = at(stage.start);
      name.style.width = at(stage.expectedEnd - stage.start);
    });
    syncChildren(this.byId("stages"), stages, createStage, (group, stage) => drawStage(group, stage, at));
    syncChildren(this.byId("marks"), stages.flatMap(nanMarks), createMark, (mark, step) => {
      const middle = (step.start + step.end) / 2;
      setText(mark, `▲ NaN at step ${step.index}`);
      mark.style.left = at(middle);
      mark.dataset.edge = middle > seconds * 0.85 ? "right" : middle < seconds * 0.15 ? "left" : "";
    });
    drawAxis(this.byId("axis"), seconds);
  }
}

/** @typedef {(seconds: number) => string} Scale */

function createName() {
  return h("div", {}, h("span"));
}

function createMark() {
  return h("div");
}

function createStage() {
  const ground = svg("rect", { class: "stage", y: "0", height: String(HEIGHT) });
  const expected = svg("rect", { class: "expected", y: "0.5", height: String(HEIGHT - 1) });
  return svg("g", {}, ground, expected, svg("g"), svg("g"));
}

/** @param {SVGGElement} group @param {StageSpan} stage @param {Scale} at */
function drawStage(group, stage, at) {
  const [ground, expected, steps, compiles] = /** @type {SVGElement[]} */ ([...group.children]);
  if (!ground || !expected || !steps || !compiles) return;
  setAttribute(group, "data-kind", stage.report.name);
  setAttribute(ground, "class", stage.report.status === "failed" ? "stage failed" : "stage");
  place(ground, stage.start, stage.end, at);
  setAttribute(ground, "data-tip", describeStage(stage));
  place(expected, stage.end, stage.expectedEnd, at);
  const mixed = countCached(stage.report) > 0;
  syncChildren(steps, stage.steps, createBar, (bar, step) => {
    const cached = step.kind === CACHED;
    const height = cached ? CACHED_HEIGHT : STEP_HEIGHT;
    const classes = [
      "step",
      cached ? "cached" : "",
      stage.steps.length > STEPS_WITH_GAPS ? "dense" : "",
      step.finite === false ? "nan" : "",
    ];
    setAttribute(bar, "class", classes.filter(Boolean).join(" "));
    setAttribute(bar, "data-step", String(step.index));
    setAttribute(bar, "data-compiled", step.compiled ? "" : null);
    setAttribute(bar, "y", String(HEIGHT - 3 - height));
    setAttribute(bar, "height", String(height));
    place(bar, step.start, step.end, at);
    setAttribute(bar, "data-tip", describeStep(step, mixed));
  });
  syncChildren(compiles, stage.compile, createBar, (bar, span) => {
    setAttribute(bar, "class", "compile");
    place(bar, span.start, span.end, at);
    setAttribute(bar, "data-tip", `Compile: ${duration(span.end - span.start)}`);
  });
}

function createBar() {
  return svg("rect", { y: "3", height: String(STEP_HEIGHT) });
}

/** @param {Element} rect @param {number} start @param {number} end @param {Scale} at */
function place(rect, start, end, at) {
  setAttribute(rect, "x", at(start));
  setAttribute(rect, "width", at(Math.max(0, end - start)));
}

/** @param {StageSpan} stage */
function nanMarks(stage) {
  const first = stage.report.first_nonfinite_step;
  return stage.steps.filter((step) => step.index === first);
}

/** @param {StepSpan} step @param {boolean} mixed Whether the stage has steps of several kinds. */
function describeStep(step, mixed) {
  const compiled = step.compiled ? ", a compile fell in it" : "";
  const kind = mixed ? ` (${step.kind ?? "full"})` : "";
  return `Step ${step.index}${kind}: ${duration(step.seconds)}${compiled}${step.finite === false ? ", NaN" : ""}`;
}

/** @param {StageSpan} stage */
function describeStage({ report, start, end }) {
  const compile = report.compile_seconds > 0 ? `, of it compile ${duration(report.compile_seconds)}` : "";
  const kinds = kindsText(report);
  return `${stageTitle(report)}: ${duration(report.seconds ?? end - start)}${compile}${kinds && `, ${kinds}`}`;
}

/** @param {readonly StageSpan[]} stages @param {number} seconds */
function summary(stages, seconds) {
  return `Timeline over ${wholeDuration(seconds)}. ${stages.map(describeStage).join("; ")}`;
}

customElements.define("crystools-timeline", Timeline);

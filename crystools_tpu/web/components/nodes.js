/**
 * A workflow's run drawn to scale: a row for each node, or for each class where there are many, with the steps
 * and stages that are in it. However many nodes there are, the rows are few and each has a handful of paths.
 *
 * @import { Layout, Row } from "../workflow-figures.js"
 * @import { Span, StageSpan } from "../run-figures.js"
 * @import { RunReport, StageName, Status } from "../wire.js"
 */

import { Component, blueprint } from "../component.js";
import { h, setAttribute, setText, svg, syncChildren } from "../dom.js";
import { duration, stageTitle, statusTitle, wholeDuration } from "../format.js";
import { reasonText } from "../run-text.js";
import { STAGE_COLOURS } from "../stage-colours.js";
import { CACHED, kindsText } from "../step-kinds.js";
import { AXIS_STYLE, HATCH, LEGEND_STYLE, drawAxis } from "../time-axis.js";
import { countedClasses, rowsOf } from "../workflow-figures.js";

/** The picture of a row, in units of its own: it is stretched to the room that there is. */
const WIDTH = 1000;
const HEIGHT = 20;

/** So narrow a bar is still seen, and of two with less between them one is made. */
const NARROWEST = 2;

/** Beyond so many steps they are not drawn apart. */
const STEPS_APART = 120;

/** So many stages of a node are named in its tooltip. */
const STAGES_NAMED = 12;

/** Of the nodes in cache so many classes are named. */
const CLASSES_NAMED = 8;

/** What a path shows, besides nodes and the stages in them. */
const MARKS = /** @type {const} */ (["step", "gap", "cached", "compile", "nan", "expected", "now"]);

/** @typedef {{ kind: StageName | typeof MARKS[number], path: string }} Mark */

export class Nodes extends Component {
  static blueprint = blueprint(
    `<figure>
      <svg width="0" height="0" aria-hidden="true" class="defs">${HATCH}</svg>
      <ul id="rows" tabindex="0" data-tips></ul>
      <div class="row" aria-hidden="true"><span></span><div id="axis" class="number"></div></div>
      <figcaption id="legend" aria-hidden="true"></figcaption>
      <p id="cached" tabindex="0"></p>
    </figure>`,
    `${STAGE_COLOURS}${AXIS_STYLE}${LEGEND_STYLE}
    :host { container-type: inline-size; }
    figure { margin: 0; }
    .defs { position: absolute; }
    .row { display: grid; grid-template-columns: minmax(0, 28%) minmax(0, 1fr) 74px; gap: 8px; font-size: 12px; }
    li.row { align-items: center; min-height: 22px; }
    .name {
      display: flex; gap: 4px; min-width: 0; padding: 0 0 0 calc(var(--depth, 0) * 12px); border: 0;
      background: none; text-align: left; color: inherit;
    }
    .name:disabled { cursor: default; }
    .arrow { flex: 0 0 9px; color: var(--crystools-muted); transition: transform .12s; }
    .name:disabled .arrow { visibility: hidden; }
    [aria-expanded="true"] .arrow { transform: rotate(90deg); }
    .title { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
    [data-kind="rest"] .title, .time { color: var(--crystools-muted); }
    [data-status="running"] :is(.title, .time) { color: var(--crystools-ink); font-weight: 600; }
    [data-status="failed"] .title { color: var(--crystools-critical); font-weight: 600; }
    .time { text-align: right; }
    li svg { display: block; width: 100%; height: ${HEIGHT}px; background: var(--crystools-sunken); border-radius: 3px; }
    li + li svg { border-top: 1px solid var(--crystools-panel); }
    path { fill: var(--color); }
    path[data-kind="node"] { opacity: .55; }
    [data-status="failed"] path[data-kind="node"] { fill: var(--crystools-critical); }
    path.step { fill: var(--crystools-node); }
    path.gap { fill: var(--crystools-sunken); }
    path.cached { fill: var(--crystools-cached); }
    path.compile { fill: url(#hatch); }
    path.nan { fill: var(--crystools-critical); }
    path.expected {
      fill: none; stroke: var(--crystools-node); stroke-dasharray: 3 3; vector-effect: non-scaling-stroke;
    }
    path.now { stroke: var(--crystools-ink); opacity: .45; vector-effect: non-scaling-stroke; }
    .key.step, .key.expected { --color: var(--crystools-node); }
    .key[data-kind="node"]::before { opacity: .55; }
    #cached { font-size: 12px; color: var(--crystools-muted); margin-top: 6px; overflow-wrap: anywhere; }
    #cached:empty { display: none; }
    @container (max-width: 420px) {
      .row { grid-template-columns: minmax(0, 1fr) auto; gap: 0 8px; }
      li.row { padding-bottom: 3px; }
      li svg { grid-area: 2 / 1 / auto / -1; height: ${HEIGHT * 0.7}px; }
      .row > span:empty { display: none; }
      #axis { grid-column: 1 / -1; }
    }
    `,
  );

  /** @type {Set<string>} */
  #opened = new Set();
  /** @type {[RunReport, Layout] | null} */
  #shown = null;

  constructor() {
    super();
    this.byId("rows").addEventListener("click", (event) => {
      const button = /** @type {HTMLElement} */ (event.target).closest("button");
      const key = button?.dataset.key;
      if (key == null || !this.#shown) return;
      if (!this.#opened.delete(key)) this.#opened.add(key);
      this.show(...this.#shown);
    });
  }

  /** @param {RunReport} run @param {Layout} layout */
  show(run, layout) {
    if (this.#shown?.[0].run_id !== run.run_id) this.#opened.clear();
    this.#shown = [run, layout];
    const { nodes, elapsed, whole } = layout;
    const now = run.status === "running" ? elapsed : null;
    const kinds = /** @type {Set<string>} */ (new Set());
    setAttribute(this.byId("rows"), "aria-label", summary(nodes.length, elapsed));
    syncChildren(this.byId("rows"), rowsOf(nodes, elapsed, this.#opened), createRow, (item, row) => {
      const marks = marksOf(row, whole, now);
      for (const { kind } of marks) kinds.add(kind);
      showRow(item, row, marks);
    });
    drawAxis(this.byId("axis"), whole);
    const keys = Object.entries(LEGEND).filter(([kind]) => kinds.has(kind));
    syncChildren(this.byId("legend"), keys, createKey, (key, [kind, title]) => showKey(key, kind, title));
    showCached(this.byId("cached"), run);
  }
}

/** @type {Record<string, string>} */
const LEGEND = {
  node: "node",
  step: "step",
  load: "load, save",
  text_encode: "encode",
  denoise: "denoise",
  vae_decode: "VAE",
  cached: "cached step",
  compile: "compile",
  expected: "expected",
  nan: "NaN",
};

/** @type {Status[]} */
const TELLING = ["failed", "running", "cancelled", "interrupted"];

/** Stages that have the colour of another have its entry too. @type {Record<string, string>} */
const LIKE = { save: "load", download: "load", image_encode: "text_encode", vae_encode: "vae_decode" };

function createRow() {
  const arrow = h("span", { class: "arrow", "aria-hidden": "true" }, "▸");
  const name = h("button", { type: "button", class: "name" }, arrow, h("span", { class: "title" }));
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  return h("li", { class: "row" }, name, picture, h("span", { class: "time number" }));
}

/** @param {HTMLLIElement} item @param {Row} row @param {Mark[]} marks */
function showRow(item, row, marks) {
  const [button, picture, time] = item.children;
  const title = button?.lastElementChild;
  if (!(button instanceof HTMLButtonElement) || !picture || !time || !title) return;
  setAttribute(item, "data-kind", row.kind);
  setAttribute(item, "data-status", statusOf(row));
  setAttribute(item, "data-tip", describe(row));
  setAttribute(button, "data-key", row.key);
  setAttribute(button, "aria-expanded", row.open == null ? null : String(row.open));
  button.disabled = row.open == null;
  button.style.setProperty("--depth", String(row.depth));
  setText(title, titleOf(row));
  setText(time, duration(row.seconds));
  const create = () => svg("path");
  syncChildren(picture, marks, create, (path, { kind, path: d }) => {
    const isMark = MARKS.some((mark) => mark === kind);
    setAttribute(path, "class", isMark ? kind : null);
    setAttribute(path, "data-kind", isMark ? null : kind);
    setAttribute(path, "d", d);
  });
}

function createKey() {
  return h("span");
}

/** @param {HTMLElement} key @param {string} kind @param {string} title */
function showKey(key, kind, title) {
  setAttribute(key, "class", `key ${kind}`);
  setAttribute(key, "data-kind", kind);
  setText(key, title);
}

/** How the row stands, where that is not as it should: the worst of its nodes. @param {Row} row */
function statusOf({ nodes }) {
  const statuses = new Set(nodes.map((node) => node.stage.report.status));
  return TELLING.find((status) => statuses.has(status)) ?? null;
}

/** @param {Row} row */
function titleOf({ kind, nodes }) {
  const [first] = nodes;
  if (!first) return "";
  if (kind === "node") return stageTitle(first.stage.report);
  if (kind === "class") return `${first.stage.report.component} × ${nodes.length}`;
  return `${nodes.length} others`;
}

/** The tooltip of a row. @param {Row} row */
function describe({ kind, nodes, seconds }) {
  const [first] = nodes;
  if (!first) return "";
  const time = duration(seconds);
  if (kind !== "node") {
    return `${time} in all: ${countedClasses(
      nodes.map(({ stage }) => String(stage.report.component)),
      CLASSES_NAMED,
    )}`;
  }
  const { report } = first.stage;
  const where = `${report.component ?? ""} #${report.node?.id ?? ""}`;
  const how = report.status === "succeeded" ? "" : `, ${statusTitle(report.status).toLowerCase()}`;
  const parts = first.parts
    .slice(0, STAGES_NAMED)
    .map((part) => [`${stageTitle(part.report)}: ${duration(part.end - part.start)}`, kindsText(part.report)])
    .map((told) => told.filter(Boolean).join(", "));
  const more = first.parts.length - parts.length;
  const expanded = first.nodes.length ? [`expanded into ${first.nodes.length} nodes`] : [];
  const steps = report.steps.length ? [`${report.steps.length} steps`] : [];
  const lines = [...steps, ...expanded, ...parts, ...(more > 0 ? [`${more} more stages`] : [])];
  return [`${stageTitle(report)} (${where}): ${time}${how}`, reasonText(report), ...lines]
    .filter(Boolean)
    .join("\n");
}

/**
 * What is drawn in a row: its nodes, in their lower half what is in them, and for a single node its steps.
 *
 * @param {Row} row
 * @param {number} whole
 * @param {number | null} now Null in a run that has ended.
 * @returns {Mark[]}
 */
function marksOf({ kind, nodes }, whole, now) {
  const scale = (/** @type {number} */ time) => (time / (whole || 1)) * WIDTH;
  const full = (/** @type {Span[]} */ spans) => drawn(spans, scale, 1, HEIGHT - 2);
  const low = (/** @type {Span[]} */ spans) => drawn(spans, scale, HEIGHT / 2, HEIGHT / 2 - 1);
  const parts = nodes.flatMap((node) => node.parts);
  // Not by their colour alone: they are half as high.
  const cached = kind === "node" ? parts.flatMap(cachedSteps) : [];
  const expanded = nodes.flatMap((node) => node.nodes);
  const single = kind === "node" ? nodes : [];
  const steps = single.flatMap((node) => node.stage.steps);
  const separate = steps.length <= STEPS_APART ? NARROWEST : 0;
  const expected = [...nodes.map((node) => node.stage), ...parts].filter(
    (span) => span.expectedEnd > span.end,
  );
  /** @type {Mark[]} */
  const marks = [
    { kind: "node", path: full(nodes) },
    {
      kind: "step",
      path: drawn(steps, scale, parts.length ? 1 : 4, parts.length ? HEIGHT / 2 - 2 : HEIGHT - 8, separate),
    },
    ...(expanded.length ? [/** @type {Mark} */ ({ kind: "node", path: low(expanded) })] : []),
    ...[...grouped(parts)].map(([name, spans]) => ({ kind: name, path: low(spans) })),
    { kind: "gap", path: drawn(cached, scale, HEIGHT / 2, HEIGHT / 4) },
    { kind: "cached", path: drawn(cached, scale, HEIGHT * 0.75, HEIGHT / 4 - 1) },
    {
      kind: "compile",
      path: low([...parts, ...single.map(({ stage }) => stage)].flatMap((span) => span.compile)),
    },
    { kind: "nan", path: low([...parts, ...nodes.map(({ stage }) => stage)].flatMap(nonfinite)) },
    { kind: "expected", path: full(expected.map((span) => ({ start: span.end, end: span.expectedEnd }))) },
    { kind: "now", path: now == null ? "" : `M${scale(now).toFixed(1)} 0V${HEIGHT}` },
  ];
  return marks.filter((mark) => mark.path);
}

/** @param {StageSpan[]} stages */
function grouped(stages) {
  /** @type {Map<StageName, StageSpan[]>} */
  const kinds = new Map();
  for (const stage of stages) {
    const name = /** @type {StageName} */ (LIKE[stage.report.name] ?? stage.report.name);
    const those = kinds.get(name);
    if (those) those.push(stage);
    else kinds.set(name, [stage]);
  }
  return kinds;
}

/** @param {StageSpan} stage */
function cachedSteps({ steps }) {
  return steps.filter((step) => step.kind === CACHED);
}

/** From the first step with NaN to the last. @param {StageSpan} stage @returns {Span[]} */
function nonfinite({ report, steps }) {
  const first = steps[report.first_nonfinite_step ?? -1];
  const last = steps.at(-1);
  return first && last ? [{ start: first.start, end: last.end }] : [];
}

/**
 * Bars as one path. Those that would touch are one, so that there are never more than the picture is wide.
 *
 * @param {Span[]} spans
 * @param {(time: number) => number} scale
 * @param {number} top
 * @param {number} height
 * @param {number} [gap] Between those that follow one another.
 */
function drawn(spans, scale, top, height, gap = 0) {
  /** @type {[left: number, right: number][]} */
  const bars = [];
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    const left = scale(span.start);
    const right = Math.max(left + NARROWEST, scale(span.end) - gap);
    const before = bars.at(-1);
    if (before && left <= before[1]) before[1] = Math.max(before[1], right);
    else bars.push([left, right]);
  }
  return bars
    .map(([left, right]) => `M${left.toFixed(1)} ${top}H${right.toFixed(1)}v${height}H${left.toFixed(1)}z`)
    .join("");
}

/** @param {Element} element @param {RunReport} run */
function showCached(element, { cached_nodes: cached = [], nodes_total: total }) {
  if (!cached.length) return setText(element, "");
  const of = total == null ? (cached.length === 1 ? "1 node was" : `${cached.length} nodes were`) : "";
  const count = of || `${cached.length} of ${total} nodes ${cached.length === 1 ? "was" : "were"}`;
  const classes = cached.map((node) => node.class_type);
  setText(element, `${count} cached: ${countedClasses(classes, CLASSES_NAMED)}.`);
  setAttribute(element, "data-tip", countedClasses(classes, Infinity));
}

/** @param {number} count @param {number} seconds */
function summary(count, seconds) {
  return `${count} ${count === 1 ? "node" : "nodes"} over ${wholeDuration(seconds)}`;
}

customElements.define("crystools-nodes", Nodes);

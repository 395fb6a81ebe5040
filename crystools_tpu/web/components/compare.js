/**
 * Two runs side by side, as the server compares them: what changed, by how much, and whether by chance.
 *
 * @import { Change, Comparison, RunReport, StageComparison, Verdict } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { StoreView, blueprint } from "../component.js";
import { h, setAttribute, setText, syncChildren } from "../dom.js";
import { NOT_AVAILABLE, duration, gibibytes, moment, percent, stageTitle } from "../format.js";
import { likeness, outcome, runTitle } from "../run-text.js";

/** A row without a change is the title of a stage. @typedef {{ name: string, change: Change | null }} Row */

/** @type {Record<Change["name"], { title: string, format: (value: number | null) => string }>} */
const FIGURES = {
  seconds: { title: "time", format: duration },
  compile_seconds: { title: "compile", format: duration },
  step_seconds_median: { title: "step", format: duration },
  step_seconds_p95: { title: "step p95", format: duration },
  mfu_ratio: { title: "MFU", format: percent },
  hbm_peak_bytes: { title: "HBM peak", format: gibibytes },
};

/** More stages than this are not shown, but those whose time changed most. */
const STAGES_AT_MOST = 12;

/** @type {Record<Verdict, string>} */
const EXPLANATIONS = {
  better: "Changed, and not by chance.",
  worse: "Changed, and not by chance.",
  same: "Changed by less than 1%.",
  noise: "No more than it changes by itself.",
  unproven: "Measured too few times to know whether by chance.",
};

export class Compare extends StoreView {
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <h2 id="title">Compare</h2>
      <label>A <select id="a"></select></label>
      <label>B <select id="b"></select></label>
      <p id="statuses" class="muted"></p>
      <p id="incomparable" role="status"></p>
      <p id="remarks"></p>
      <p id="differs" class="muted"></p>
      <div class="scroll" tabindex="0" role="region" aria-label="Run A beside run B"><table>
        <thead><tr><th></th><th scope="col">A</th><th scope="col">B</th><th scope="col">B to A</th></tr></thead>
        <tbody id="rows"></tbody>
      </table></div>
      <p id="fewer" class="muted note"></p>
      <p id="problem" class="muted note"></p>
    </section>`,
    `
    section { display: grid; grid-template-columns: minmax(0, 1fr); gap: 6px; container-type: inline-size; }
    .scroll { overflow-x: auto; }
    label { display: flex; gap: 8px; align-items: baseline; font-size: 12px; font-weight: 600; }
    select {
      flex: 1; min-width: 0; padding: 3px 6px; font-size: 12px; font-weight: 400; border-radius: 6px;
      background: var(--crystools-sunken); border: 1px solid var(--crystools-line); color: var(--crystools-ink);
    }
    #statuses, #incomparable, #remarks, #differs { font-size: 12px; overflow-wrap: anywhere; }
    #statuses:empty, #incomparable:empty, #remarks:empty, #differs:empty { display: none; }
    #incomparable { font-weight: 600; }
    #remarks { color: var(--crystools-warning); }
    .note { font-size: 11px; }
    .note:empty { display: none; }
    .verdict:empty { display: none !important; }
    .verdict { display: block; font-size: 11px; line-height: 1.2; color: var(--crystools-muted); }
    [data-verdict="better"] { color: var(--crystools-good); }
    [data-verdict="worse"] { color: var(--crystools-critical); }
    @container (min-width: 420px) { .verdict { display: inline; margin-left: 8px; } }
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

  /** What was asked for last, so that it is asked for once. */
  #asked = "";
  /** @type {Comparison | null} */
  #comparison = null;
  #problem = "";
  /** Of the runs that are offered. @type {number | null} */
  #revision = null;

  constructor() {
    super();
    for (const select of [this.#a, this.#b]) {
      select.addEventListener("change", () => {
        this.#held.add(select);
        this.#revision = null;
        this.refresh();
      });
    }
  }

  /** @param {Store} store */
  render(store) {
    if (store.runsRevision === this.#revision) return;
    this.#revision = store.runsRevision;
    const runs = store.runs.filter((run) => run.status !== "running" && run.stages.length > 0);
    const [newest, other] = runs;
    this.hidden = !newest || !other;
    if (!newest || !other) return;
    const good = (/** @type {RunReport} */ run) => outcome(run).level === "good";
    const b = this.#chosen(this.#b, runs, runs.find(good) ?? newest);
    const others = [...runs.slice(runs.indexOf(b) + 1), ...runs.slice(0, runs.indexOf(b))];
    const alike = others.filter((run) => likeness(run) === likeness(b));
    const baseline = alike.find(good) ?? alike[0] ?? others[0] ?? other;
    const a = this.#chosen(this.#a, runs, baseline);
    this.#compare(store, a, b);
    const comparison = this.#comparison;
    setText(this.byId("statuses"), comparison ? `A: ${outcome(a).text}. B: ${outcome(b).text}.` : "");
    setText(this.byId("incomparable"), comparison ? incomparable(comparison) : "");
    setText(this.byId("remarks"), comparison?.remarks.length ? `${comparison.remarks.join("; ")}.` : "");
    setText(this.byId("differs"), comparison ? differences(comparison) : "");
    const stages = comparison ? mostChanged(comparison.stages) : [];
    const fewer = stages.length < (comparison?.stages.length ?? 0);
    const those = `The ${stages.length} of ${comparison?.stages.length} stages whose time changed most.`;
    setText(this.byId("fewer"), fewer ? those : "");
    setText(this.byId("problem"), this.#problem);
    syncChildren(this.byId("rows"), comparison ? rowsOf(comparison.changes, stages) : [], createRow, showRow);
  }

  /** @param {Store} store @param {RunReport} a @param {RunReport} b */
  async #compare(store, a, b) {
    const asked = `${a.run_id} ${b.run_id}`;
    if (this.#asked === asked) return;
    this.#asked = asked;
    try {
      const comparison = await store.compare(a.run_id, b.run_id);
      if (this.#asked !== asked) return;
      this.#comparison = comparison;
      this.#problem = comparison ? "" : "The server no longer knows both runs.";
    } catch (error) {
      if (this.#asked === asked) this.#problem = String(error);
    }
    this.#revision = null;
    this.refresh();
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
        setText(option, optionText(run));
      },
    );
    const run = runs.find((candidate) => candidate.run_id === value) ?? initial;
    if (select.value !== run.run_id) select.value = run.run_id;
    return run;
  }
}

function createRow() {
  const change = h("td", {}, h("span", { class: "ratio" }), h("span", { class: "verdict" }));
  return h("tr", {}, h("th", { scope: "row" }), h("td"), h("td"), change);
}

/** @param {HTMLTableRowElement} row @param {Row} shown */
function showRow(row, { name, change }) {
  const [title, a, b, last] = row.cells;
  const [ratio, verdict] = last?.children ?? [];
  if (!title || !a || !b || !last || !ratio || !verdict) return;
  setAttribute(row, "data-title", change ? null : "");
  title.colSpan = change ? 1 : 4;
  setText(title, name);
  const format = change ? FIGURES[change.name].format : () => "";
  setText(a, format(change?.a ?? null));
  setText(b, format(change?.b ?? null));
  setText(ratio, change ? signed(change.ratio) : "");
  setText(verdict, change?.verdict && change.verdict !== "same" ? change.verdict : "");
  setAttribute(last, "data-verdict", change?.verdict ?? null);
  setAttribute(last, "title", change?.verdict ? EXPLANATIONS[change.verdict] : null);
}

/** @param {RunReport} run */
function optionText(run) {
  const { text, level } = outcome(run);
  const end = level === "good" ? duration(run.total_seconds) : text;
  return `${runTitle(run)}, ${moment(run.started_unix_seconds)}, ${end}`;
}

/** @param {Comparison} comparison */
function incomparable({ incomparable }) {
  return incomparable.length ? `Not comparable: ${incomparable.join("; ")}.` : "";
}

/** @param {Comparison} comparison */
function differences({ differences }) {
  const said = differences.map(
    ({ name, a, b }) => `${name.replaceAll("_", " ")} ${a ?? NOT_AVAILABLE} → ${b ?? NOT_AVAILABLE}`,
  );
  return said.length ? `Differs: ${said.join(", ")}.` : "";
}

/** Of a workflow's thousand nodes those whose time changed most. @param {StageComparison[]} stages */
function mostChanged(stages) {
  if (stages.length <= STAGES_AT_MOST) return stages;
  const change = (/** @type {StageComparison} */ { changes }) => {
    const seconds = changes.find(({ name }) => name === "seconds");
    return seconds?.a == null || seconds.b == null ? 0 : Math.abs(seconds.b - seconds.a);
  };
  const most = new Set([...stages].sort((x, y) => change(y) - change(x)).slice(0, STAGES_AT_MOST));
  return stages.filter((stage) => most.has(stage) && change(stage) > 0);
}

/** A stage with the nodes that it is in. @param {StageComparison} stage */
function titleOf(stage) {
  const path = stage.label.split(" > ");
  const last = stage.name === "node" ? path.slice(-1) : [stageTitle(stage)];
  return [...path.slice(0, -1), ...last].join(" › ");
}

/** @param {Change[]} changes @param {StageComparison[]} stages @returns {Row[]} */
function rowsOf(changes, stages) {
  return [
    ...changes.map((change) => ({ name: "Whole run", change })),
    ...stages.flatMap((stage) => [
      { name: titleOf(stage), change: null },
      ...stage.changes.map((change) => ({ name: FIGURES[change.name].title, change })),
    ]),
  ];
}

/** A change in per cent with its sign: +12%, −3.4%, 0%. @param {number | null} ratio */
function signed(ratio) {
  if (ratio == null) return NOT_AVAILABLE;
  if (Math.abs(ratio) < 0.0005) return percent(0);
  return `${ratio < 0 ? "−" : "+"}${percent(Math.abs(ratio))}`;
}

customElements.define("crystools-compare", Compare);

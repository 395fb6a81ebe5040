/**
 * Two runs side by side, as the server compares them: what changed, by how much, and whether by chance.
 *
 * @import { Change, Comparison, RunReport, StageComparison, Verdict } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { NOT_APPLICABLE } from "../applicable.js";
import { askedText, askedTitle } from "../asked.js";
import { StoreView, blueprint } from "../component.js";
import { h, setAttribute, setText, syncChildren } from "../dom.js";
import { NOT_AVAILABLE, duration, gibibytes, moment, percent, stageTitle } from "../format.js";
import { areAlike, areComparable } from "../likeness.js";
import { outcome, runTitle } from "../run-text.js";
import { MARK } from "../suspicion.js";

/** A row without a change is the title of a stage. @typedef {{ name: string, change: Change | null }} Row */

/** @type {Record<Change["name"], { title: string, format: (value: number | null) => string }>} */
const FIGURES = {
  seconds: { title: "time", format: duration },
  compile_seconds: { title: "compile", format: duration },
  step_seconds_median: { title: "step", format: duration },
  step_seconds_p95: { title: "step p95", format: duration },
  cached_step_seconds_median: { title: "cached step", format: duration },
  cached_steps: { title: "cached steps", format: (value) => String(value ?? NOT_AVAILABLE) },
  mfu_ratio: { title: "MFU", format: percent },
  hbm_peak_bytes: { title: "Memory peak", format: gibibytes },
};

/** More stages than this are not shown, but those whose time changed most. */
const STAGES_AT_MOST = 12;

/** A change below this share is none. */
const SAME_RATIO = 0.01;

const NOTHING_LIKE_IT =
  "No other run that succeeded is of the same model on the same devices. Choose two to see them side by side.";

/** @type {Record<Verdict, string>} */
const EXPLANATIONS = {
  better: "Changed, and not by chance.",
  worse: "Changed, and not by chance.",
  same: "Changed by less than 1%.",
  noise: "No more than it changes by itself.",
  unproven: "Measured too few times to know whether by chance.",
};

export class Compare extends StoreView {
  static showsReadings = false;
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <h2 id="title">Compare</h2>
      <label>A <select id="a"></select></label>
      <label>B <select id="b"></select></label>
      <p id="bottom-line" role="status"></p>
      <p id="statuses" class="muted"></p>
      <p id="remarks"></p>
      <p id="differs" class="muted"></p>
      <div id="figures" class="scroll" tabindex="0" data-tips role="group" aria-label="Run A beside run B"><table>
        <thead><tr><td></td><th scope="col">A</th><th scope="col">B</th><th scope="col">B to A</th></tr></thead>
        <tbody id="rows"></tbody>
      </table></div>
      <details id="unchanged">
        <summary id="folded"></summary>
        <div class="scroll" tabindex="0" data-tips role="group" aria-label="What is unchanged"><table>
          <thead><tr><td></td><th scope="col">A</th><th scope="col">B</th><th scope="col">B to A</th></tr></thead>
          <tbody id="unchanged-rows"></tbody>
        </table></div>
      </details>
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
    #bottom-line { font-size: 13px; font-weight: 600; overflow-wrap: anywhere; }
    #statuses, #remarks, #differs { font-size: 12px; overflow-wrap: anywhere; }
    #bottom-line:empty, #statuses:empty, #remarks:empty, #differs:empty { display: none; }
    #bottom-line[data-incomparable] { color: var(--crystools-critical); }
    summary { font-size: 12px; color: var(--crystools-muted); cursor: pointer; width: fit-content; }
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
      thead td { display: none; }
      td, thead th { padding: 0; }
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
    const b = this.#chosen(this.#b, runs, runs.find(isGood) ?? newest);
    const a = this.#chosen(this.#a, runs, b ? baselineOf(b, runs) : null);
    if (a && b) this.#compare(store, a, b);
    else this.#forget();
    this.#show(this.#comparison, a, b);
  }

  /** @param {Comparison | null} comparison @param {RunReport | null} a @param {RunReport | null} b */
  #show(comparison, a, b) {
    const incomparable = !!comparison?.incomparable.length;
    setText(this.byId("bottom-line"), a && b ? (comparison?.bottom_line ?? "") : NOTHING_LIKE_IT);
    setAttribute(this.byId("bottom-line"), "data-incomparable", incomparable ? "" : null);
    const statuses = comparison && a && b ? `A: ${outcome(a).text}. B: ${outcome(b).text}.` : "";
    setText(this.byId("statuses"), statuses);
    setText(this.byId("remarks"), comparison?.remarks.length ? `${comparison.remarks.join("; ")}.` : "");
    setText(this.byId("differs"), comparison ? differences(comparison) : "");
    const stages = comparison ? mostChanged(comparison.stages) : [];
    const fewer = stages.length < (comparison?.stages.length ?? 0);
    const those = `The ${stages.length} of ${comparison?.stages.length} stages whose time changed most.`;
    setText(this.byId("fewer"), fewer ? those : "");
    setText(this.byId("problem"), this.#problem);
    this.byId("figures").hidden = !comparison;
    const changed = rowsOf(stages, (stage, change) => !isUnchanged(stage, change));
    const unchanged = rowsOf(stages, isUnchanged);
    const whole = (comparison?.changes ?? []).map((change) => ({ name: "Whole run", change }));
    const count = unchanged.filter(({ change }) => change).length;
    syncChildren(this.byId("rows"), [...whole, ...changed], createRow, showRow);
    this.byId("unchanged").hidden = count === 0;
    setText(this.byId("folded"), count === 1 ? "1 unchanged row" : `${count} unchanged rows`);
    syncChildren(this.byId("unchanged-rows"), unchanged, createRow, showRow);
  }

  /** There are no two to compare. */
  #forget() {
    this.#asked = "";
    this.#comparison = null;
    this.#problem = "";
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
   * Offers the runs, and gives the chosen one; `initial` until somebody chooses, where null is none.
   *
   * @param {HTMLSelectElement} select
   * @param {readonly RunReport[]} runs
   * @param {RunReport | null} initial
   */
  #chosen(select, runs, initial) {
    const value = this.#held.has(select) ? select.value : (initial?.run_id ?? "");
    const run = runs.find((candidate) => candidate.run_id === value) ?? initial;
    syncChildren(
      select,
      run ? runs : [null, ...runs],
      () => h("option"),
      (option, offered) => {
        option.value = offered?.run_id ?? "";
        setText(option, offered ? optionText(offered) : "Choose a run");
      },
    );
    if (select.value !== (run?.run_id ?? "")) select.value = run?.run_id ?? "";
    return run;
  }
}

/** @param {RunReport} run */
function isGood(run) {
  return outcome(run).level === "good";
}

/**
 * What a run is compared with at first: the newest good one before it that is alike, or else one that can be
 * compared; null where there is none.
 *
 * @param {RunReport} b
 * @param {readonly RunReport[]} runs
 */
function baselineOf(b, runs) {
  const others = [...runs.slice(runs.indexOf(b) + 1), ...runs.slice(0, runs.indexOf(b))].filter(isGood);
  return others.find((run) => areAlike(run, b)) ?? others.find((run) => areComparable(run, b)) ?? null;
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
  const suspect = change?.suspect ?? [];
  setText(a, format(change?.a ?? null) + (suspect.includes("a") ? MARK : ""));
  setText(b, format(change?.b ?? null) + (suspect.includes("b") ? MARK : ""));
  setText(ratio, change ? ratioOf(change) : "");
  const judged = change?.verdict && change.verdict !== "same" ? change.verdict : "";
  setText(verdict, suspect.length ? "not judged" : judged);
  setAttribute(last, "data-verdict", change?.verdict ?? null);
  setAttribute(last, "data-tip", change?.verdict ? EXPLANATIONS[change.verdict] : null);
}

/** @param {RunReport} run */
function optionText(run) {
  const { text, level } = outcome(run);
  const end = level === "good" ? duration(run.total_seconds) : text;
  return `${runTitle(run)}, ${moment(run.started_unix_seconds)}, ${end}`;
}

/** @param {Comparison} comparison */
function differences({ differences }) {
  const said = differences.map(
    ({ name, a, b }) => `${askedTitle(name)} ${askedText(name, a)} → ${askedText(name, b)}`,
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

/**
 * The rows of these stages that are wanted, each stage's after its title.
 *
 * @param {StageComparison[]} stages
 * @param {(stage: StageComparison, change: Change) => boolean} wanted
 * @returns {Row[]}
 */
function rowsOf(stages, wanted) {
  return stages.flatMap((stage) => {
    const changes = stage.changes.filter((change) => wanted(stage, change));
    if (!changes.length) return [];
    const rows = changes.map((change) => ({ name: FIGURES[change.name].title, change }));
    return [{ name: titleOf(stage), change: null }, ...rows];
  });
}

/** No more changed than by itself. @param {StageComparison} stage @param {Change} change */
function isUnchanged(stage, { verdict, ratio }) {
  if (stage.unchanged || verdict === "same" || verdict === "noise") return true;
  return verdict == null && ratio != null && Math.abs(ratio) < SAME_RATIO;
}

/** Of a figure that only one of them has there is none. @param {Change} change */
function ratioOf({ name, a, b, ratio, suspect }) {
  const none = a == null || b == null || suspect || name === "cached_steps";
  return ratio == null && none ? NOT_APPLICABLE : signed(ratio);
}

/** A change in per cent with its sign: +12%, −3.4%, 0%. @param {number | null} ratio */
function signed(ratio) {
  if (ratio == null) return NOT_AVAILABLE;
  if (Math.abs(ratio) < 0.0005) return percent(0);
  return `${ratio < 0 ? "−" : "+"}${percent(Math.abs(ratio))}`;
}

customElements.define("crystools-compare", Compare);

/**
 * Says what happens to the runs to who does not see it: politely in which stage they are and that one was compiled
 * again, at once that one failed or makes NaN. Each of these once, and nothing of runs that had ended before.
 *
 * @import { RunReport, ServerMessage } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { StoreView, blueprint } from "../component.js";
import { setText } from "../dom.js";
import { stageTitle } from "../format.js";
import { runningStage } from "../run-figures.js";
import { outcome, runTitle } from "../run-text.js";
import { shownRuns } from "./current.js";

/** @typedef {{ key: string, text: string, urgent: boolean }} News */

export class Announcer extends StoreView {
  static showsReadings = false;
  static blueprint = blueprint(
    `<div class="sr-only">
      <div role="status"><p id="stages"></p><p id="note"></p></div>
      <p id="alert" role="alert"></p>
    </div>`,
    `:host { position: absolute; }`,
  );

  /** Runs that had ended when the page was opened; null until they are known. @type {Set<string> | null} */
  #old = null;
  /** Whether this tells of faults too. */
  #tellsFaults = false;
  /** What was said of each run, by key. @type {Map<string, Set<string>>} */
  #said = new Map();

  /** @param {Store} store */
  render(store) {
    if (store.moreRuns == null) return; // the newest runs are being asked for
    const old = (this.#old ??= new Set(store.runs.filter(hasEnded).map((run) => run.run_id)));
    const runs = shownRuns(store).filter((run) => !old.has(run.run_id));
    const told = this.#tellsFaults ? runs.filter((run) => run.status !== "failed") : runs;
    setText(this.byId("stages"), told.map(stageText).join(". "));
  }

  /**
   * Tells of faults from now on: to be called after the store has taken the message. Not needed where something else
   * tells of them, such as toasts.
   *
   * @param {ServerMessage} message
   * @param {Store} store
   */
  receive(message, store) {
    this.#tellsFaults = true;
    const isHello = message.type === "hello";
    const runs = isHello ? store.runs : store.runs.filter((run) => run.run_id === runIdOf(message));
    const news = runs.flatMap((run) => this.#fresh(run, isHello));
    for (const [place, urgent] of /** @type {const} */ ([["alert", true], ["note", false]])) {
      const texts = news.filter((each) => each.urgent === urgent).map((each) => each.text);
      if (texts.length) setText(this.byId(place), texts.join(". "));
    }
  }

  /**
   * What has not been said yet.
   *
   * @param {RunReport} run
   * @param {boolean} past Whether what nobody has heard of yet is no news.
   */
  #fresh(run, past) {
    const news = newsOf(run);
    const said = this.#said.get(run.run_id);
    this.#said.set(run.run_id, new Set(news.map(({ key }) => key)));
    return !said && past ? [] : news.filter(({ key }) => !said?.has(key));
  }
}

/** @param {ServerMessage} message */
function runIdOf(message) {
  if ("run_id" in message) return message.run_id;
  return "report" in message ? message.report.run_id : null;
}

/** @param {RunReport} run */
function hasEnded(run) {
  return run.status !== "running";
}

/** @param {RunReport} run */
function stageText(run) {
  const stage = hasEnded(run) ? null : runningStage(run);
  return `${runTitle(run)} ${stage ? stageTitle(stage) : outcome(run).text}`;
}

/** @param {RunReport} run @returns {News[]} */
function newsOf(run) {
  const title = runTitle(run);
  const news = run.stages.flatMap((stage, index) => {
    const name = stageTitle(stage);
    const { first_nonfinite_step: step, recompiles } = stage;
    return [
      { key: `nan ${index}`, text: `${title}: NaN in ${name} from step ${step} on`, urgent: true, is: step != null },
      { key: `again ${index}`, text: `${title}: ${name} was compiled again`, urgent: false, is: recompiles > 0 },
    ];
  });
  const failed = [title, outcome(run).text, "in", outcome(run).where].join(" ");
  const end = { key: "failed", text: `${failed}: ${run.error ?? "no reason given"}`, urgent: true };
  return [...news.filter(({ is }) => is), ...(run.status === "failed" ? [end] : [])];
}

customElements.define("crystools-announcer", Announcer);

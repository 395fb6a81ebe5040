/**
 * The runs that somebody looks for, found by the server in the whole history: page by page, newest first, and
 * where that takes long in several goes.
 *
 * @import { RunReport, RunsPage } from "./wire.js"
 */

/** What a run must have; an empty text is anything. @typedef {{ text: string, pipeline: string, status: string }} Filter */

/** So many more are looked for at once. */
const PAGE = 20;

/** @param {Filter} filter */
export function isEmpty({ text, pipeline, status }) {
  return !text.trim() && !pipeline && !status;
}

export class RunSearch {
  /** Newest first. @type {RunReport[]} */
  runs = [];
  /** Whether there may be older ones. */
  more = false;
  /** Whether the server is being asked. */
  searching = false;
  /** How far back it has looked, in Unix seconds; null where it is not known, or all has been looked at. @type {number | null} */
  searchedTo = null;
  problem = "";
  #ask;
  #changed;
  /** @type {string | null} */
  #before = null;
  #wanted = 0;
  #over = false;

  /**
   * @param {(before: string | null) => Promise<RunsPage | null>} ask
   * @param {() => void} changed Is called after each answer.
   */
  constructor(ask, changed) {
    this.#ask = ask;
    this.#changed = changed;
    this.older();
  }

  /** Looks for a page more of them. */
  async older() {
    if (this.searching || this.#over) return;
    this.#wanted += PAGE;
    this.searching = true;
    try {
      do await this.#next();
      while (this.more && this.runs.length < this.#wanted && !this.#over);
      this.problem = "";
    } catch (error) {
      this.problem = String(error);
    }
    this.searching = false;
    if (!this.#over) this.#changed();
  }

  /** Looks whether there are newer ones, or some have changed. */
  async refresh() {
    try {
      this.#take((await this.#ask(null))?.runs ?? []);
    } catch {
      // what is there stays
    }
    if (!this.#over) this.#changed();
  }

  /** Nobody wants to know any more. */
  end() {
    this.#over = true;
  }

  async #next() {
    const page = await this.#ask(this.#before);
    if (this.#over) return;
    const found = page?.runs ?? [];
    this.#take(found);
    const { searched_to: to } = page ?? {};
    this.#before = to?.run_id ?? found.at(-1)?.run_id ?? null;
    this.searchedTo = to?.started_unix_seconds ?? null;
    this.more = Boolean(page?.more && this.#before);
    this.#changed();
  }

  /** @param {RunReport[]} found */
  #take(found) {
    const known = new Map(this.runs.map((run) => [run.run_id, run]));
    for (const run of found) known.set(run.run_id, run);
    this.runs = [...known.values()].sort(
      (a, b) => b.started_unix_seconds - a.started_unix_seconds || (a.run_id < b.run_id ? 1 : -1),
    );
  }
}

/**
 * A notification of the browser's when a run ends while nobody looks at the page: once for each run, whichever
 * process it is of.
 *
 * @import { RunReport, ServerMessage } from "./wire.js"
 */

import { duration } from "./format.js";
import { outcome, runTitle } from "./run-text.js";

const KEY = "crystools-tpu.notifications";

/** Whether somebody has chosen to be notified, in this browser. */
export function isChosen() {
  return localStorage.getItem(KEY) === "on";
}

/** @param {boolean} on */
export function choose(on) {
  if (on) localStorage.setItem(KEY, "on");
  else localStorage.removeItem(KEY);
}

export class Notifications {
  /** Those that were seen to run: what ended before is no news. @type {Set<string>} */
  #running = new Set();
  #isWanted;

  /** @param {() => boolean} isWanted */
  constructor(isWanted) {
    this.#isWanted = isWanted;
  }

  /** @param {ServerMessage} message */
  receive(message) {
    if (message.type === "hello") message.runs.forEach(this.#note);
    if (message.type === "run_started" || message.type === "run_changed" || message.type === "run_finished") {
      this.#note(message.report);
    }
  }

  /** @param {RunReport} run */
  #note = (run) => {
    if (run.status === "running") this.#running.add(run.run_id);
    else if (this.#running.delete(run.run_id)) this.#tell(run);
  };

  /** @param {RunReport} run */
  #tell(run) {
    if (!document.hidden || !this.#isWanted() || !mayNotify()) return;
    const { text, where } = outcome(run);
    const how = where ? `${text} in ${where}` : text;
    const [error] = (run.error ?? "").split("\n");
    const body = [run.total_seconds == null ? "" : `After ${duration(run.total_seconds)}`, error]
      .filter(Boolean)
      .join(": ");
    try {
      const notification = new Notification(`${runTitle(run)}: ${how}`, { body, tag: run.run_id });
      notification.addEventListener("click", () => window.focus());
    } catch {
      // a browser, as on phones, that shows those of service workers alone
    }
  }
}

function mayNotify() {
  return "Notification" in window && Notification.permission === "granted";
}

/** Asks the user for leave, where that is not decided. Why there is none, in words; empty where there is. */
export async function askToNotify() {
  if (!window.isSecureContext || !("Notification" in window)) {
    return "A browser shows notifications of https pages and of localhost alone: come by https, or through an ssh tunnel.";
  }
  const permission =
    Notification.permission === "default" ? await Notification.requestPermission() : Notification.permission;
  if (permission === "granted") return "";
  return "This browser lets the page show none: allow notifications for this site in the browser's settings.";
}

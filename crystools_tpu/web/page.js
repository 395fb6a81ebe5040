/**
 * The page: one connection, one store, and the components of index.html bound to it.
 *
 * @import { ConnectionState } from "./client.js"
 * @import { Announcer } from "./components/announcer.js"
 * @import { ServerMessage } from "./wire.js"
 */

import { Connection, ServerApi } from "./client.js";
import { StoreView } from "./component.js";
import "./components/announcer.js";
import "./components/chips.js";
import "./components/compare.js";
import "./components/current.js";
import "./components/header.js";
import "./components/host.js";
import "./components/notify.js";
import "./components/profile.js";
import "./components/runs.js";
import "./components/sources.js";
import { stageTitle } from "./format.js";
import { Notifications, isChosen } from "./notifications.js";
import { runningStage } from "./run-figures.js";
import { Store } from "./store.js";

const INTERVAL_KEY = "crystools-tpu.interval_seconds";

const base = new URL("./", import.meta.url);
const store = new Store(new ServerApi(base));
const connection = new Connection(base);
const notifications = new Notifications(isChosen);

const announcer = /** @type {Announcer} */ (document.querySelector("crystools-announcer"));

connection.addEventListener("message", (event) => {
  const message = /** @type {CustomEvent<ServerMessage>} */ (event).detail;
  store.receive(message);
  announcer.receive(message, store);
  notifications.receive(message);
});
connection.addEventListener("state", (event) => {
  store.setConnection(/** @type {CustomEvent<ConnectionState>} */ (event).detail);
});

store.addEventListener("change", () => {
  const [run] = store.runningRuns;
  const stage = run ? runningStage(run) : null;
  const progress = stage?.steps_total ? ` ${stage.steps.length}/${stage.steps_total}` : "";
  const title = `${stage ? `${stageTitle(stage)}${progress} · ` : ""}Crystools TPU`;
  if (document.title !== title) document.title = title;
});

/** @param {number | null} seconds */
function setRefresh(seconds) {
  store.setChosenInterval(seconds);
  const wanted = seconds ?? store.hello?.settings.interval_seconds;
  if (wanted != null) connection.configure(wanted);
}

document.querySelector("crystools-header")?.addEventListener("interval", (event) => {
  const seconds = /** @type {CustomEvent<number | null>} */ (event).detail;
  if (seconds == null) localStorage.removeItem(INTERVAL_KEY);
  else localStorage.setItem(INTERVAL_KEY, String(seconds));
  setRefresh(seconds);
});

/** The refresh rate chosen in this browser, or null. */
function savedInterval() {
  const saved = localStorage.getItem(INTERVAL_KEY);
  const seconds = Number(saved);
  return saved != null && Number.isFinite(seconds) && seconds >= 0 ? seconds : null;
}

setRefresh(savedInterval());
for (const element of document.querySelectorAll("body *")) {
  if (element instanceof StoreView) element.store = store;
}
connection.open();

/**
 * The monitor in ComfyUI: a bar in its menu, settings, a tab in its sidebar and toasts, over the same
 * connection, store and components as the page; and the table on the node of the timing report.
 *
 * @import { ConnectionState } from "../client.js"
 * @import { RunReport, ServerMessage } from "../wire.js"
 * @import { Api, App } from "./comfyui.js"
 */

import { METRIC_FIELDS } from "../bar-readings.js";
import { Connection, ServerApi } from "../client.js";
import { Bar } from "../components/bar.js";
import { Notifications } from "../notifications.js";
import { Store } from "../store.js";
import theme from "../theme.css" with { type: "css" };
import colours from "./comfyui.css" with { type: "css" };
import { Badges } from "./badges.js";
import { goToRunningNode } from "./canvas.js";
import { Expectations } from "./expectations.js";
import { NodeNotes } from "./node-notes.js";
import { letRatesIntoVideos } from "./nodes.js";
import { workflowOpener } from "./open-workflow.js";
import { keepInPlace } from "./place.js";
import { Preferences } from "./preferences.js";
import { settingDefinitions } from "./settings.js";
import { openSidebar, registerSidebar } from "./sidebar.js";
import { addTable, showTables } from "./timing-report.js";
import { growSockets, settleAll } from "./timing-sockets.js";
import { Toasts } from "./toasts.js";
import { tellWorkflowName } from "./workflow-name.js";

const KEY = "crystools-tpu.comfyui";

/**
 * Registers the extension; ComfyUI sets it up when its menu stands.
 *
 * @param {App} app
 * @param {Api} api
 */
export function start(app, api) {
  const base = new URL(api.apiURL("/crystools-tpu/"), location.href);
  const preferences = new Preferences(browserStorage(), KEY);
  const server = new ServerApi(base);
  const store = new Store(server);
  store.openWorkflow = workflowOpener(app, server);
  const badges = new Badges(app, store);
  app.registerExtension({
    name: "crystools-tpu",
    settings: settingDefinitions(preferences, store),
    setup: () => setUp(app, api, base, preferences, store, badges, new Expectations(app, api, server)),
    afterConfigureGraph: () => {
      badges.refresh();
      settleAll(app);
    },
    addCustomNodeDefs: letRatesIntoVideos,
    nodeCreated: (node) => {
      addTable(node);
      growSockets(node);
    },
    onNodeOutputsUpdated: (outputs) => showTables(app, outputs),
  });
  tellWorkflowName(app, api);
}

/**
 * @param {App} app
 * @param {Api} api
 * @param {URL} base
 * @param {Preferences} preferences
 * @param {Store} store
 * @param {Badges} badges
 * @param {Expectations} expectations
 */
function setUp(app, api, base, preferences, store, badges, expectations) {
  document.adoptedStyleSheets.push(theme, colours);
  const connection = new Connection(base);
  const toasts = new Toasts(app);
  const notes = new NodeNotes(app, store, expectations);
  const notifications = new Notifications(() => preferences.values.notifications);
  const bar = new Bar();
  let allChipsOpen = false;

  const apply = () => {
    const { interval_seconds: seconds, meter_width_pixels, meter_height_pixels } = preferences.values;
    const { choice } = preferences;
    bar.choice = choice;
    badges.wanted = preferences.values.node_badges;
    bar.resize(meter_width_pixels, meter_height_pixels);
    store.setChosenInterval(seconds);
    store.setChosenPrice(preferences.values.price_per_chip_hour);
    notes.refresh();
    const fields = choice.metrics.flatMap((metric) => METRIC_FIELDS[metric]);
    connection.configure(seconds, allChipsOpen ? null : fields);
  };
  preferences.addEventListener("change", apply);
  bar.addEventListener("opened", (event) => {
    allChipsOpen = /** @type {CustomEvent<boolean>} */ (event).detail;
    apply();
  });
  bar.addEventListener("locate", (event) => {
    if (!goToRunningNode(app, /** @type {CustomEvent<RunReport>} */ (event).detail)) openSidebar(app);
  });
  bar.addEventListener("details", () => openSidebar(app));
  api.addEventListener?.("status", ({ detail }) => {
    bar.queued = Math.max(0, (detail?.exec_info?.queue_remaining ?? 0) - 1); // the one that runs is counted too
  });
  connection.addEventListener("message", (event) => {
    const message = /** @type {CustomEvent<ServerMessage>} */ (event).detail;
    store.receive(message);
    toasts.receive(message);
    notifications.receive(message);
    badges.receive(message);
    expectations.receive(message);
  });
  connection.addEventListener("state", (event) => {
    store.setConnection(/** @type {CustomEvent<ConnectionState>} */ (event).detail);
  });

  bar.store = store;
  apply();
  connection.open();
  keepInPlace(bar, app);
  registerSidebar(app, store, base, expectations);
}

/** The browser's storage, or null where it forbids it. */
function browserStorage() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

/**
 * The tab in ComfyUI's sidebar: the current run live, those before it, and two of them side by side.
 *
 * @import { Attached } from "../components/attached.js"
 * @import { Store } from "../store.js"
 * @import { App } from "./comfyui.js"
 * @import { Expectations } from "./expectations.js"
 */

import { StoreView, blueprint } from "../component.js";
import "../components/announcer.js";
import { quietChips } from "../components/attached.js";
import "../components/compare.js";
import "../components/current.js";
import "../components/profile.js";
import "../components/runs.js";
import { connectionText } from "../connection-text.js";
import { setAttribute, setText } from "../dom.js";
import { ExpectedView } from "./expected.js";

const TAB = "crystools-tpu";

export class Sidebar extends StoreView {
  static tickSeconds = 1;
  static blueprint = blueprint(
    `<header>
      <h2>Crystools TPU</h2>
      <span id="state" class="muted" role="status"></span>
      <a id="page" target="_blank" rel="noopener">Open the page ↗</a>
    </header>
    <crystools-attached id="attached" brief hidden></crystools-attached>
    <crystools-expected id="expected" hidden></crystools-expected>
    <crystools-current>
      <h3>No run yet</h3>
      <p class="muted">
        Run a workflow: its nodes, with their times, steps and memory, appear here as they are executed.
      </p>
    </crystools-current>
    <crystools-profile></crystools-profile>
    <crystools-runs></crystools-runs>
    <crystools-compare></crystools-compare>
    <crystools-announcer></crystools-announcer>`,
    `
    :host {
      display: grid; grid-template-columns: minmax(200px, 1fr); align-content: start; gap: 12px; height: 100%;
      overflow: auto; padding: 10px 12px; user-select: text;
    }
    header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 10px; font-size: 12px; }
    header h2 { flex: 1; white-space: nowrap; }
    a { color: var(--crystools-hbm); text-decoration: none; }
    a:hover { text-decoration: underline; }
    `,
  );

  /** @param {string} url The page of its own. */
  set page(url) {
    setAttribute(this.byId("page"), "href", url);
  }

  /** @param {Store} store */
  set store(store) {
    super.store = store;
    for (const view of this.shadowRoot?.querySelectorAll("*") ?? []) {
      if (view instanceof StoreView) view.store = store;
    }
  }

  /** @param {Store} store */
  render(store) {
    setText(this.byId("state"), connectionText(store)[1]);
    /** @type {Attached} */ (this.byId("attached")).show(quietChips(store.snapshot));
  }
}

customElements.define("crystools-sidebar", Sidebar);

/** @param {App} app @param {Store} store @param {URL} base @param {Expectations} expectations */
export function registerSidebar(app, store, base, expectations) {
  /** @type {Sidebar | null} */
  let sidebar = null;
  app.extensionManager?.registerSidebarTab?.({
    id: TAB,
    icon: "pi pi-gauge",
    title: "TPU",
    tooltip: "Crystools TPU: the current run, past runs, compare",
    type: "custom",
    render(container) {
      sidebar ??= new Sidebar();
      sidebar.page = base.href;
      sidebar.store = store;
      /** @type {ExpectedView} */ (sidebar.byId("expected")).show(app, expectations);
      container.append(sidebar);
    },
    destroy() {
      sidebar?.remove();
    },
  });
}

/** Shows the tab, where it is not shown. @param {App} app */
export function openSidebar(app) {
  const tabs = app.extensionManager?.sidebarTab;
  if (tabs?.activeSidebarTabId !== TAB) tabs?.toggleSidebarTab?.(TAB);
}

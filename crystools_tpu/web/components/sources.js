/**
 * Which sources of readings work, quietly: one line, and the reason where one is down.
 *
 * @import { Store } from "../store.js"
 * @import { SourceHealth } from "../wire.js"
 */

import { StoreView, blueprint } from "../component.js";
import { h, setText, syncChildren } from "../dom.js";
import { wholeDuration } from "../format.js";

export class Sources extends StoreView {
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <h2 id="title">Sources</h2>
      <ul id="sources"></ul>
    </section>`,
    `
    ul { display: grid; gap: 4px; margin-top: 6px; font-size: 12px; }
    li { display: grid; grid-template-columns: 10px auto 1fr; gap: 8px; align-items: baseline; }
    .dot { width: 8px; height: 8px; border-radius: 50%; background: var(--crystools-sunken); }
    .name { font-family: var(--crystools-mono); }
    .state { color: var(--crystools-muted); overflow-wrap: anywhere; }
    li[data-state="up"] .dot { background: var(--crystools-good); }
    li:is([data-state="idle"], [data-state="waiting"]) .dot { background: var(--crystools-host); }
    li[data-state="down"] .dot { background: var(--crystools-critical); }
    li[data-state="down"] .state { color: var(--crystools-critical); }
    `,
  );

  /** @param {Store} store */
  render(store) {
    const sources = store.snapshot?.sources ?? [];
    this.toggleAttribute("hidden", sources.length === 0);
    syncChildren(this.byId("sources"), sources, createRow, (row, source) => {
      row.dataset.state = source.state;
      const [, name, state] = row.children;
      if (name) setText(name, source.source);
      if (state) setText(state, describe(source, store.nowUnixSeconds));
    });
  }
}

function createRow() {
  return h(
    "li",
    {},
    h("span", { class: "dot" }),
    h("span", { class: "name" }),
    h("span", { class: "state" }),
  );
}

/** @param {SourceHealth} source @param {number} now */
function describe(source, now) {
  if (source.reason) return source.reason;
  if (source.state === "up") return "up";
  if (source.state === "unread") return "not read yet";
  if (source.state === "absent") return `not here: ${source.error}`;
  const { last_success_unix_seconds: last } = source;
  const since = last == null ? "never read" : `last read ${wholeDuration(now - last)} ago`;
  return `down: ${source.error ?? "no reason given"} (${since})`;
}

customElements.define("crystools-sources", Sources);

/**
 * The runs that are running, or else the latest one, or how to start one.
 *
 * @import { Store } from "../store.js"
 */

import { StoreView, blueprint } from "../component.js";
import { h, setAttribute, syncChildren } from "../dom.js";
import { RunView } from "./run.js";

export class Current extends StoreView {
  static tickSeconds = 0.5;
  static showsReadings = false;
  static blueprint = blueprint(
    `<section aria-labelledby="title">
      <h2 id="title" class="sr-only">Current run</h2>
      <div id="runs" class="live"></div>
      <div id="empty" class="panel" hidden><slot>
        <h3>No run yet</h3>
        <p class="muted">Runs of all your processes appear here as they happen. Start one:</p>
        <pre><span class="muted">$</span> crystools-tpu demo</pre>
        <p class="muted">or let your own pipeline report:</p>
        <pre tabindex="0">from crystools_tpu import telemetry

with telemetry.run("my-pipeline", devices=jax.devices()) as run:
    with run.stage("denoise", steps=50) as stage:
        for i in range(50):
            latents, done = step(latents, i)
            stage.step(done)</pre>
      </slot></div>
    </section>`,
    `
    #runs { display: grid; grid-template-columns: minmax(0, 1fr); gap: 16px; }
    #empty, slot { display: grid; gap: 8px; }
    h3 { font-size: 18px; font-weight: 650; }
    pre {
      font: 12.5px/1.5 var(--crystools-mono); background: var(--crystools-sunken); border-radius: 6px;
      padding: 9px 12px; overflow-x: auto;
    }
    `,
  );

  /** @param {Store} store */
  render(store) {
    const shown = shownRuns(store);
    this.byId("empty").hidden = shown.length > 0 || !store.hello;
    setAttribute(this.byId("runs"), "data-stale", store.connection === "reconnecting" ? "" : null);
    syncChildren(this.byId("runs"), shown, createPanel, (panel, run) => {
      /** @type {RunView} */ (panel.firstElementChild).show(run, store);
    });
  }
}

/** The runs that have the stage; all others are in the list of past runs. @param {Store} store */
export function shownRuns(store) {
  const running = store.runningRuns;
  return running.length ? running : store.runs.slice(0, 1);
}

function createPanel() {
  return h("div", { class: "panel" }, new RunView());
}

customElements.define("crystools-current", Current);

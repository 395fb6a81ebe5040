/**
 * What is looked for among past runs: words, a model, how they ended. Emits `filter` (detail: Filter).
 *
 * @import { Filter } from "../run-search.js"
 * @import { RunReport } from "../wire.js"
 */

import { Component, blueprint } from "../component.js";
import { h, setText, syncChildren } from "../dom.js";
import { statusTitle } from "../format.js";

/** After the last letter. */
const PAUSE_MILLISECONDS = 250;

const STATUSES = /** @type {const} */ (["succeeded", "failed", "cancelled", "interrupted", "running"]);

export class RunFilter extends Component {
  static blueprint = blueprint(
    `<search>
      <input id="text" type="search" maxlength="200" aria-label="Find runs by prompt, name, model or id"
        placeholder="Prompt, name, model or id" />
      <select id="pipeline" aria-label="Model"></select>
      <select id="status" aria-label="How it ended"></select>
    </search>`,
    `
    search { display: flex; flex-wrap: wrap; gap: 6px; margin-top: 8px; }
    input, select {
      min-width: 0; padding: 4px 8px; font: inherit; font-size: 12px; border-radius: 6px;
      color: var(--crystools-ink); background: var(--crystools-sunken); border: 1px solid var(--crystools-line);
    }
    input { flex: 1 1 180px; }
    select { flex: 0 1 auto; max-width: 100%; }
    input::placeholder { color: var(--crystools-muted); opacity: 1; }
    `,
  );

  #text = /** @type {HTMLInputElement} */ (this.byId("text"));
  #pipeline = /** @type {HTMLSelectElement} */ (this.byId("pipeline"));
  #status = /** @type {HTMLSelectElement} */ (this.byId("status"));
  /** @type {number | undefined} */
  #timer;

  constructor() {
    super();
    const statuses = STATUSES.map((status) => h("option", { value: status }, statusTitle(status)));
    this.#status.append(h("option", { value: "" }, "However it ended"), ...statuses);
    this.#text.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(this.#tell, PAUSE_MILLISECONDS);
    });
    this.#pipeline.addEventListener("change", this.#tell);
    this.#status.addEventListener("change", this.#tell);
  }

  /** Offers the models that these runs made use of. @param {readonly RunReport[]} runs */
  offer(runs) {
    const { value } = this.#pipeline;
    const known = runs.flatMap((run) => [run.pipeline, ...run.stages.map((stage) => stage.pipeline)]);
    const pipelines = [...new Set(["", value, ...known])].filter((name) => name != null).sort();
    syncChildren(
      this.#pipeline,
      pipelines,
      () => h("option"),
      (option, name) => {
        option.value = name;
        setText(option, name === "" ? "Any model" : name === "comfyui" ? "Any workflow of ComfyUI" : name);
      },
    );
    if (this.#pipeline.value !== value) this.#pipeline.value = value;
  }

  #tell = () => {
    clearTimeout(this.#timer);
    const detail = { text: this.#text.value, pipeline: this.#pipeline.value, status: this.#status.value };
    this.dispatchEvent(new CustomEvent("filter", { detail }));
  };
}

customElements.define("crystools-run-filter", RunFilter);

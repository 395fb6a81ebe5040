/**
 * Each chip's HBM over a run: before, at the peak, after.
 *
 * @import { RunReport } from "../wire.js"
 */

import { Component, blueprint } from "../component.js";
import { deviceLabel, memoryLabel } from "../device-names.js";
import { h, setAttribute, setText, syncChildren } from "../dom.js";
import { gibibytes, stageTitle } from "../format.js";
import { hbmOverRun } from "../run-figures.js";

/** What has its own memory, by what that is called. @type {Record<string, string>} */
const PARTS = { HBM: "chip", VRAM: "GPU" };
const TITLES = ["Chip", "Before", "Peak", "After", "Limit", "Peak in"];

export class Memory extends Component {
  static blueprint = blueprint(
    `<details id="details">
      <summary id="title">HBM per chip</summary>
      <div class="scroll" tabindex="0" role="group" aria-labelledby="title"><table>
        <thead><tr>${TITLES.map((title) => `<th scope="col">${title}</th>`).join("")}</tr></thead>
        <tbody id="chips"></tbody>
      </table></div>
      <p id="method" class="muted"></p>
    </details>`,
    `
    details { font-size: 12.5px; }
    summary { cursor: pointer; color: var(--crystools-muted); }
    .scroll { max-height: 260px; overflow: auto; }
    table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
    th, td { text-align: right; padding: 3px 0 3px 12px; white-space: nowrap; }
    th:first-child { text-align: left; padding-left: 0; font-weight: 500; }
    thead th { font-weight: 500; font-size: 11px; color: var(--crystools-muted); }
    tbody th { font-family: var(--crystools-mono); }
    #method { font-size: 11px; margin-top: 4px; }
    `,
  );

  #details = /** @type {HTMLDetailsElement} */ (this.byId("details"));
  /** @type {RunReport | null} */
  #run = null;

  constructor() {
    super();
    this.#details.addEventListener("toggle", () => this.#showChips());
  }

  /** @param {RunReport} run */
  show(run) {
    this.#run = run;
    const usages = run.stages.flatMap((stage) => stage.hbm);
    this.hidden = usages.length === 0;
    const memory = memoryLabel(usages.map(({ device }) => device));
    setText(this.byId("title"), `${memory} per ${PARTS[memory] ?? "device"}`);
    this.#showChips();
  }

  /** Hundreds of rows, made for who looks at them. */
  #showChips() {
    const run = this.#run;
    if (!run || !this.#details.open) return;
    const usages = hbmOverRun(run);
    syncChildren(this.byId("chips"), usages, createRow, (row, usage) => {
      const { device, before_bytes, peak_bytes, after_bytes, limit_bytes, peakStage } = usage;
      const bytes = [before_bytes, peak_bytes, after_bytes, limit_bytes].map((value) => gibibytes(value));
      [deviceLabel(device, run.device), ...bytes, stageTitle(peakStage)].forEach((text, index) => {
        setText(/** @type {Element} */ (row.cells[index]), text);
      });
    });
    const methods = [...new Set(usages.map((usage) => usage.method))].join(", ");
    setText(this.byId("method"), `Method: ${methods}.`);
  }
}

function createRow() {
  return h("tr", {}, h("th", { scope: "row" }), ...TITLES.slice(1).map(() => h("td")));
}

customElements.define("crystools-memory", Memory);

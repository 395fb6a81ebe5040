/**
 * One chip or GPU: HBM, duty cycle, TensorCore utilisation and MFU. The last three are three different things.
 *
 * @import { ChipReading } from "../wire.js"
 * @import { Store } from "../store.js"
 * @import { Meter } from "./meter.js"
 */

import "./meter.js";
import { Component, blueprint } from "../component.js";
import { kindLabel } from "../device-names.js";
import { setText } from "../dom.js";
import { celsius, percent, ratioDetail } from "../format.js";
import { capacityReading, fullName, namesFor } from "../readings.js";

export class Chip extends Component {
  static blueprint = blueprint(
    `<div class="head">
      <span id="name"></span><span id="kind" class="muted"></span>
      <span id="temperature" class="number muted"></span>
    </div>
    <div class="meters">
      <crystools-meter id="hbm"></crystools-meter><crystools-meter id="duty"></crystools-meter>
      <crystools-meter id="tensorcore"></crystools-meter><crystools-meter id="mfu"></crystools-meter>
    </div>`,
    `
    :host {
      display: grid; grid-template-columns: 50px minmax(0, 1fr); gap: 10px; padding: 8px 0;
      border-top: 1px solid var(--crystools-line);
    }
    .head { display: grid; align-content: start; font-size: 11px; line-height: 1.5; }
    #name { font: 600 12.5px/18px var(--crystools-mono); }
    .meters { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 6px 12px; }
    #hbm { --color: var(--crystools-hbm); grid-column: 1 / -1; }
    #duty { --color: var(--crystools-duty); }
    #tensorcore { --color: var(--crystools-tensorcore); }
    #mfu { --color: var(--crystools-mfu); }
    `,
  );

  /** @param {ChipReading} chip @param {Store} store */
  show(chip, store) {
    this.dataset.chip = chip.chip;
    setText(this.byId("name"), chip.chip);
    setText(this.byId("kind"), chip.kind == null ? "" : kindLabel(chip.kind));
    const temperature = this.byId("temperature");
    temperature.hidden = chip.temperature_celsius == null;
    setText(temperature, celsius(chip.temperature_celsius));
    this.#showHbm(chip, store);
    const { duty_cycle_ratio: duty, tensorcore_utilization_ratio: tensorcore } = chip;
    const { duty: name } = namesFor([chip]);
    this.#showRatio("duty", name, duty, chip, store, "Share of time in which the chip ran anything.");
    this.#showRatio(
      "tensorcore",
      "TensorCore",
      tensorcore,
      chip,
      store,
      "Utilisation of the TensorCores, as the chip counts it.",
    );
    const mfu = store.chipMfu(chip.chip);
    const made = mfu ? ratioDetail(mfu) : "No step of a run with known FLOPs is running on this chip.";
    this.#showRatio(
      "mfu",
      "MFU",
      mfu?.ratio ?? null,
      chip,
      store,
      `Model FLOPs of the run's latest step over the peak. ${made}`,
    );
  }

  /** @param {ChipReading} chip @param {Store} store */
  #showHbm(chip, store) {
    const { hbm_used_bytes: used, hbm_total_bytes: total } = chip;
    const series = store.chipSeries(chip.chip, "hbm");
    const { memory } = namesFor([chip]);
    const reading = capacityReading(memory, used, total, series, `${memory} of ${chip.chip}`);
    const bandwidth = `Bandwidth in use ${percent(chip.hbm_bandwidth_utilization_ratio)}`;
    this.#meter("hbm").reading = { ...reading, detail: `${reading.detail}\n${bandwidth}` };
  }

  /**
   * @param {"duty" | "tensorcore" | "mfu"} quantity
   * @param {string} label
   * @param {number | null} ratio
   * @param {ChipReading} chip
   * @param {Store} store
   * @param {string} meaning
   */
  #showRatio(quantity, label, ratio, chip, store, meaning) {
    const series = store.chipSeries(chip.chip, quantity);
    const peak = `Peak seen ${percent(series.peak)}`;
    const detail = `${fullName(label)} of ${chip.chip}: ${percent(ratio)}\n${peak}\n${meaning}`;
    this.#meter(quantity).reading = { label, figure: percent(ratio), ratio, series, ceiling: 1, detail };
  }

  /** @param {string} id */
  #meter(id) {
    return /** @type {Meter} */ (this.byId(id));
  }
}

customElements.define("crystools-chip", Chip);

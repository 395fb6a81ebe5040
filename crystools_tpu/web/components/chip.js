/**
 * One chip or GPU by what it says of itself: HBM, duty cycle, and TensorCore utilisation and HBM bandwidth where it
 * counts them. MFU is the run's, and the same for all of its chips.
 *
 * @import { ChipReading } from "../wire.js"
 * @import { Store } from "../store.js"
 * @import { Meter, MeterReading } from "./meter.js"
 */

import "./meter.js";
import { Component, blueprint } from "../component.js";
import { kindLabel } from "../device-names.js";
import { setAttribute, setText } from "../dom.js";
import { celsius, percent } from "../format.js";
import { capacityReading, fullName, isTpu, namesFor } from "../readings.js";

export class Chip extends Component {
  static blueprint = blueprint(
    `<div class="head">
      <span id="name"></span><span id="kind" class="muted"></span>
      <span id="temperature" class="number muted"></span>
    </div>
    <div id="meters" role="group">
      <crystools-meter id="hbm"></crystools-meter><crystools-meter id="duty"></crystools-meter>
      <crystools-meter id="tensorcore"></crystools-meter><crystools-meter id="bandwidth"></crystools-meter>
    </div>`,
    `
    :host {
      display: grid; grid-template-columns: 50px minmax(0, 1fr); gap: 10px; padding: 8px 0;
      border-top: 1px solid var(--crystools-line);
    }
    .head { display: grid; align-content: start; font-size: 11px; line-height: 1.5; }
    #name { font: 600 12.5px/18px var(--crystools-mono); }
    #meters { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 6px 12px; }
    #hbm { --color: var(--crystools-hbm); grid-column: 1 / -1; }
    #duty { --color: var(--crystools-duty); }
    #tensorcore { --color: var(--crystools-tensorcore); }
    #bandwidth { --color: var(--crystools-mfu); }
    `,
  );

  #meters = this.byId("meters");
  #hbm = this.#meter("hbm");
  #duty = this.#meter("duty");
  #tensorcore = this.#meter("tensorcore");
  #bandwidth = this.#meter("bandwidth");
  #name = this.byId("name");
  #kind = this.byId("kind");
  #temperature = this.byId("temperature");

  /** @param {ChipReading} chip @param {Store} store */
  show(chip, store) {
    const { memory, duty } = namesFor([chip]);
    setAttribute(this, "data-chip", chip.chip);
    setText(this.#name, chip.chip);
    setText(this.#kind, chip.kind == null ? "" : kindLabel(chip.kind));
    setAttribute(this.#meters, "aria-label", `Meters of ${chip.chip}`);
    this.#temperature.toggleAttribute("hidden", chip.temperature_celsius == null);
    setText(this.#temperature, celsius(chip.temperature_celsius));
    const { hbm_used_bytes: used, hbm_total_bytes: total } = chip;
    const series = store.chipSeries(chip.chip, "hbm");
    this.#hbm.reading = capacityReading(memory, used, total, series, `${memory} of ${chip.chip}`);
    this.#duty.reading = ratioReading(duty, chip, "duty", chip.duty_cycle_ratio, store);
    const { tensorcore_utilization_ratio: tensorcore, hbm_bandwidth_utilization_ratio: bandwidth } = chip;
    const told = (/** @type {Told} */ quantity) => store.chipSeries(chip.chip, quantity).peak != null;
    showIf(this.#tensorcore, isTpu(chip) || told("tensorcore"), () =>
      ratioReading("TensorCore", chip, "tensorcore", tensorcore, store),
    );
    showIf(this.#bandwidth, told("bandwidth"), () =>
      ratioReading("Bandwidth", chip, "bandwidth", bandwidth, store),
    );
  }

  /** @param {string} id */
  #meter(id) {
    return /** @type {Meter} */ (this.byId(id));
  }
}

/** @typedef {"duty" | "tensorcore" | "bandwidth"} Told */

/** @param {Meter} meter @param {boolean} shown @param {() => MeterReading} reading */
function showIf(meter, shown, reading) {
  meter.toggleAttribute("hidden", !shown);
  if (shown) meter.reading = reading();
}

/** @type {Record<Told, string>} */
const MEANINGS = {
  duty: "Share of time in which the chip ran anything.",
  tensorcore: "Utilisation of the TensorCores, as the chip counts it.",
  bandwidth: "Share of its memory's bandwidth that the chip uses, as it counts it.",
};

/**
 * @param {string} label
 * @param {ChipReading} chip
 * @param {Told} quantity
 * @param {number | null} ratio
 * @param {Store} store
 * @returns {MeterReading}
 */
function ratioReading(label, chip, quantity, ratio, store) {
  const series = store.chipSeries(chip.chip, quantity);
  const peak = `Peak seen ${percent(series.peak)}`;
  const detail = `${fullName(label)} of ${chip.chip}: ${percent(ratio)}\n${peak}\n${MEANINGS[quantity]}`;
  return { label, figure: percent(ratio), ratio, series, ceiling: 1, detail };
}

customElements.define("crystools-chip", Chip);

/**
 * The machine itself: CPU, RAM and disks.
 *
 * @import { Store } from "../store.js"
 * @import { MeterReading } from "./meter.js"
 */

import { StoreView, blueprint } from "../component.js";
import { setAttribute, syncChildren } from "../dom.js";
import { cpuReading, diskReading, ramReading } from "../readings.js";
import { Meter } from "./meter.js";

export class Host extends StoreView {
  static tickSeconds = 1;
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <h2 id="title">Host</h2>
      <div id="meters" class="live" role="group" aria-label="Meters of the host" tabindex="0" data-tips></div>
    </section>`,
    `
    #meters {
      display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px 16px;
      margin-top: 8px;
    }
    `,
  );

  /** @param {Store} store */
  render(store) {
    const meters = this.byId("meters");
    setAttribute(meters, "data-stale", store.stale ? "" : null);
    const readings = readingsOf(store);
    syncChildren(
      meters,
      readings,
      () => new Meter(),
      (meter, reading) => (meter.reading = reading),
    );
  }
}

/** @param {Store} store @returns {MeterReading[]} */
function readingsOf(store) {
  const disks = store.snapshot?.host?.disks ?? [];
  return [cpuReading(store), ramReading(store), ...disks.map((disk) => diskReading(store, disk.mount))];
}

customElements.define("crystools-host", Host);

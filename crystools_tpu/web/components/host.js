/**
 * The machine itself: CPU, RAM and disks.
 *
 * @import { Store } from "../store.js"
 * @import { HostReading } from "../wire.js"
 * @import { MeterReading } from "./meter.js"
 */

import { StoreView, blueprint } from "../component.js";
import { setAttribute, syncChildren } from "../dom.js";
import { NOT_AVAILABLE, gibibytes, percent, usedOfTotal } from "../format.js";
import { Meter } from "./meter.js";

export class Host extends StoreView {
  static tickSeconds = 1;
  static blueprint = blueprint(
    `<section class="panel" aria-labelledby="title">
      <h2 id="title">Host</h2>
      <div id="meters" class="live"></div>
    </section>`,
    `
    #meters {
      display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 10px 16px;
      margin-top: 8px;
    }
    `,
  );

  /** @param {Store} store */
  render(store) {
    const meters = this.byId("meters");
    setAttribute(meters, "data-stale", store.stale ? "" : null);
    const readings = readingsOf(store, store.snapshot?.host ?? null);
    syncChildren(
      meters,
      readings,
      () => new Meter(),
      (meter, reading) => (meter.reading = reading),
    );
  }
}

/** @param {Store} store @param {HostReading | null} host @returns {MeterReading[]} */
function readingsOf(store, host) {
  const cpu = host?.cpu_utilization_ratio ?? null;
  const series = store.hostSeries("cpu");
  const detail = `CPU, all cores: ${percent(cpu)}\nPeak seen ${percent(series.peak)}`;
  return [
    { label: "CPU", figure: percent(cpu), ratio: cpu, series, ceiling: 1, detail },
    capacity(store, "memory", "RAM", host?.memory_used_bytes ?? null, host?.memory_total_bytes ?? null),
    ...(host?.disks ?? []).map((disk) =>
      capacity(store, `disk/${disk.mount}`, `Disk ${disk.mount}`, disk.used_bytes, disk.total_bytes),
    ),
  ];
}

/**
 * @param {Store} store
 * @param {"memory" | `disk/${string}`} quantity
 * @param {string} label
 * @param {number | null} used
 * @param {number | null} total
 * @returns {MeterReading}
 */
function capacity(store, quantity, label, used, total) {
  const series = store.hostSeries(quantity);
  const ratio = used != null && total ? used / total : null;
  return {
    label,
    figure: ratio == null ? NOT_AVAILABLE : usedOfTotal(used, total),
    ratio,
    series,
    ceiling: total,
    exhaustible: true,
    detail: [
      `${label}: ${percent(ratio)}`,
      `Used ${gibibytes(used)}`,
      `Total ${gibibytes(total)}`,
      `Peak seen ${gibibytes(series.peak)}`,
    ].join("\n"),
  };
}

customElements.define("crystools-host", Host);

/**
 * Chips that the machine has and of which no figures come, in grey: whether they are idle, and what was found.
 *
 * @import { MeterReading } from "./meter.js"
 * @import { AttachedChips, Snapshot } from "../wire.js"
 */

import { Component, blueprint } from "../component.js";
import { kindLabel } from "../device-names.js";
import { h, setText, syncChildren } from "../dom.js";
import { NOT_AVAILABLE } from "../format.js";
import { Series } from "../series.js";

/** So many addresses are shown. */
const ADDRESSES_AT_MOST = 16;

/** What is left to say of each word of the wire. @type {Record<string, string>} */
const HINTS = {
  idle: "Figures appear here as soon as a program starts.",
  "idle?": "Figures appear here as soon as a program of yours starts.",
  "in use": "Figures appear here once they are served.",
  "no figures": "Sources says why.",
};

/** The chips of which the page has nothing better to say; null where figures come. @param {Snapshot | null} snapshot */
export function quietChips(snapshot) {
  const attached = snapshot?.attached;
  return attached?.sentence && !snapshot?.chips.some(({ chip }) => chip.startsWith("tpu")) ? attached : null;
}

/** "8 x v6e". @param {AttachedChips} attached */
export function attachedLabel({ count, kind }) {
  return `${count} x ${kindLabel(kind)}`;
}

/** A grey meter in their place. @param {AttachedChips} attached @param {string} label @returns {MeterReading} */
export function quietReading({ word, sentence }, label) {
  const figure = word?.startsWith("idle") ? word : NOT_AVAILABLE;
  return { label, figure, ratio: null, series: new Series(), ceiling: 1, detail: `${label}: ${sentence}` };
}

export class Attached extends Component {
  static blueprint = blueprint(
    `<p id="sentence"></p>
    <p id="hint" class="muted"></p>
    <div id="found">
      <p id="what" class="muted"></p>
      <ul id="addresses"></ul>
    </div>`,
    `
    :host { color: var(--crystools-muted); font-size: 13px; margin-top: 6px; }
    :host([brief]) { margin: 0; }
    :host([brief]) :is(#hint, #found) { display: none; }
    #sentence { font-weight: 600; overflow-wrap: anywhere; }
    #sentence::before {
      content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 50%; margin-inline-end: 8px;
      background: var(--crystools-host);
    }
    #hint, #what { font-size: 12px; margin-top: 4px; }
    #addresses {
      display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: 4px; margin-top: 6px;
    }
    li {
      padding: 3px 6px; border-radius: 5px; background: var(--crystools-sunken); text-align: center;
      font: 11px/1.4 var(--crystools-mono); white-space: nowrap;
    }
    `,
  );

  /** @param {AttachedChips | null} attached */
  show(attached) {
    this.toggleAttribute("hidden", !attached);
    if (!attached) return;
    const { pci_addresses: addresses, sentence, word } = attached;
    setText(this.byId("sentence"), sentence ?? "");
    setText(this.byId("hint"), HINTS[word ?? ""] ?? "");
    setText(this.byId("what"), `Found in sysfs: ${attachedLabel(attached)}, at these PCI addresses.`);
    const more = addresses.length - ADDRESSES_AT_MOST;
    const shown = more > 0 ? [...addresses.slice(0, ADDRESSES_AT_MOST), `${more} more`] : addresses;
    syncChildren(
      this.byId("addresses"),
      shown,
      () => h("li"),
      (item, address) => setText(item, address),
    );
  }
}

customElements.define("crystools-attached", Attached);

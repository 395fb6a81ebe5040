/**
 * The preferences in ComfyUI's settings dialog. The dialog is their face only: ComfyUI would keep values on
 * its server, for all browsers alike, so none is ever given to it. The table in the document is written from
 * the calls of `setting` here, by `make schemas`.
 *
 * @import { Store } from "../store.js"
 * @import { SettingDefinition } from "./comfyui.js"
 * @import { Preferences, RangeName, Values } from "./preferences.js"
 */

import { kindLabel } from "../device-names.js";
import { h } from "../dom.js";
import { askToNotify } from "../notifications.js";
import { METRIC_TITLES, RANGES } from "./preferences.js";

const STYLE = {
  row: "display: flex; align-items: center; gap: 10px; font-size: 14px;",
  number: "min-width: 5em; text-align: right; font-variant-numeric: tabular-nums;",
  list:
    "display: grid; grid-template-columns: repeat(2, max-content); gap: 6px 18px; font-size: 14px; " +
    "max-height: 240px; overflow: auto;",
  label: "display: flex; align-items: center; gap: 8px; cursor: pointer;",
  select:
    "padding: 4px 8px; border-radius: 6px; color: inherit; background: var(--comfy-input-bg, Field); " +
    "border: 1px solid var(--border-color, GrayText);",
};

/** @param {Preferences} preferences @param {Store} store @returns {SettingDefinition[]} */
export function settingDefinitions(preferences, store) {
  const range = (/** @type {RangeName} */ name, /** @type {(value: number) => string} */ format) => () =>
    slider(preferences, name, format);
  const pixels = (/** @type {number} */ value) => `${value} px`;
  return [
    setting(
      "Readings",
      "Refresh rate",
      `Seconds between two readings, ${span("interval_seconds")}. 0 is off: nothing is sent.`,
      range("interval_seconds", rateText),
    ),
    setting(
      "Readings",
      "Disk",
      "The disk in the bar, one of those that the server reports. Automatic is `/`, or else the first.",
      () => diskChoice(preferences, store),
    ),
    setting(
      "Bar",
      "Width of a meter",
      `In pixels, ${span("meter_width_pixels")}. Where its words need more, it is wider.`,
      range("meter_width_pixels", pixels),
    ),
    setting(
      "Bar",
      "Height of a meter",
      `In pixels, ${span("meter_height_pixels")}. Below 26 a meter has one line.`,
      range("meter_height_pixels", pixels),
    ),
    setting("Bar", "Metrics", "Which metrics the bar shows.", () =>
      checkboxes(preferences, "hidden_metrics", Object.entries(METRIC_TITLES)),
    ),
    setting("Bar", "Devices", "Which chips and GPUs the bar shows.", () =>
      checkboxes(preferences, "hidden_devices", devices(store)),
    ),
    setting(
      "Nodes",
      "Time on nodes",
      "Whether each node of the workflow has a badge with the time that it took last. Off at first.",
      () => toggle(preferences, "node_badges", "Show"),
    ),
    setting(
      "Costs",
      "Price of a chip-hour",
      "What you pay for one chip for one hour, in your own currency: runs then have a cost. None at first.",
      () => priceField(preferences),
    ),
    setting(
      "Runs",
      "Notify at the end",
      "Whether the browser notifies of a run that ends while this page is not in sight. Off at first.",
      () => toggle(preferences, "notifications", "Notify", askToNotify),
    ),
  ];
}

/**
 * @param {string} group
 * @param {string} name
 * @param {string} text What the tooltip and the document say of it.
 * @param {() => HTMLElement} type Makes the control.
 * @returns {SettingDefinition}
 */
function setting(group, name, text, type) {
  const id = `CrystoolsTPU.${name.replaceAll(" ", "")}`;
  return {
    id,
    name,
    category: ["Crystools TPU", group, name],
    tooltip: `${text} Of this browser alone.`,
    defaultValue: null,
    type: () => named(type(), name),
  };
}

/**
 * ComfyUI writes the name beside the control, but does not say that it is its name. A box has one of its own.
 *
 * @param {HTMLElement} control
 * @param {string} name
 */
function named(control, name) {
  if (control.matches("label")) return control;
  const field = control.matches("select, input") ? control : control.querySelector("input[type=range]");
  if (!field) control.setAttribute("role", "group");
  (field ?? control).setAttribute("aria-label", name);
  return control;
}

/** @param {RangeName} name */
function span(name) {
  const { min, max, step, initial } = RANGES[name];
  return `${min} to ${max} in steps of ${step} (${initial})`;
}

/** @param {number} seconds */
function rateText(seconds) {
  return seconds === 0 ? "off" : `${seconds} s`;
}

/** @param {Preferences} preferences @param {RangeName} name @param {(value: number) => string} format */
function slider(preferences, name, format) {
  const { min, max, step } = RANGES[name];
  const bounds = { min: String(min), max: String(max), step: String(step) };
  const input = h("input", { type: "range", ...bounds, "data-preference": name });
  const figure = h("output", { style: STYLE.number });
  const show = () => {
    input.value = String(preferences.values[name]);
    figure.textContent = format(preferences.values[name]);
  };
  input.addEventListener("input", () => {
    preferences.change({ [name]: Number(input.value) });
    show();
  });
  show();
  return h("div", { style: STYLE.row }, input, figure);
}

/** @param {Preferences} preferences @param {Store} store */
function diskChoice(preferences, store) {
  const mounts = store.snapshot?.host?.disks.map((disk) => disk.mount) ?? [];
  const { disk } = preferences.values;
  const known = new Set(disk == null ? mounts : [disk, ...mounts]);
  const options = [...known].map((mount) => h("option", { value: mount }, mount));
  const select = h("select", { "data-preference": "disk", style: STYLE.select });
  select.append(h("option", { value: "" }, "Automatic"), ...options);
  select.value = disk ?? "";
  select.addEventListener("change", () => preferences.change({ disk: select.value || null }));
  return select;
}

/** @param {Store} store @returns {[string, string][]} */
function devices(store) {
  const chips = store.snapshot?.chips ?? [];
  return chips.map(({ chip, kind }) => [chip, kind ? `${chip} (${kindLabel(kind)})` : chip]);
}

/** Empty where there is no price. @param {Preferences} preferences */
function priceField(preferences) {
  const field = h("input", {
    type: "number",
    min: "0",
    step: "any",
    placeholder: "none",
    "data-preference": "price_per_chip_hour",
    style: `${STYLE.select} width: 8em;`,
  });
  field.value = String(preferences.values.price_per_chip_hour ?? "");
  field.addEventListener("change", () => {
    preferences.change({ price_per_chip_hour: field.value === "" ? null : Number(field.value) });
    field.value = String(preferences.values.price_per_chip_hour ?? "");
  });
  return field;
}

/**
 * @param {Preferences} preferences
 * @param {"node_badges" | "notifications"} key
 * @param {string} title
 * @param {() => Promise<string>} [ask] For leave to switch it on; says why there is none.
 */
function toggle(preferences, key, title, ask = async () => "") {
  const box = h("input", { type: "checkbox", "data-preference": key });
  const refusal = h("span", { role: "status" });
  box.checked = preferences.values[key];
  box.addEventListener("change", async () => {
    refusal.textContent = box.checked ? await ask() : "";
    if (refusal.textContent) box.checked = false;
    preferences.change({ [key]: box.checked });
  });
  return h("div", {}, h("label", { style: STYLE.label }, box, title), refusal);
}

/**
 * A box for each name; those without a tick are the hidden ones.
 *
 * @param {Preferences} preferences
 * @param {"hidden_metrics" | "hidden_devices"} key
 * @param {[name: string, title: string][]} names
 */
function checkboxes(preferences, key, names) {
  const boxes = names.map(([name, title]) => {
    const box = h("input", { type: "checkbox", "data-preference": key, value: name });
    box.checked = !preferences.values[key].includes(name);
    box.addEventListener("change", () => {
      const others = preferences.values[key].filter((hidden) => hidden !== name);
      preferences.change({ [key]: box.checked ? others : [...others, name] });
    });
    return h("label", { style: STYLE.label }, box, title);
  });
  return h("div", { style: STYLE.list }, ...(boxes.length ? boxes : ["None is reported."]));
}

/**
 * The table of a `TPUTimingReport` on the node itself: ComfyUI shows the text that a node answers with for some
 * nodes of its own alone.
 *
 * @import { App, GraphNode, NodeOutput } from "./comfyui.js"
 */

import { h } from "../dom.js";

const NODE = "TPUTimingReport";

/** Room for the widest table without a scroll bar, and for the stages of one run. */
const WIDTH_PIXELS = 660;
const HEIGHT_PIXELS = 190;

const STYLE =
  "width: 100%; height: 100%; padding: 6px 8px; resize: none; border: 0; border-radius: 6px; white-space: pre; " +
  "font: 11px/1.4 ui-monospace, monospace; font-variant-ligatures: none; " +
  "color: var(--input-text, FieldText); background: var(--comfy-input-bg, Field);";

/** @type {WeakMap<GraphNode, HTMLTextAreaElement>} */
const tables = new WeakMap();

/** Gives the node its table, which is not saved with the workflow. @param {GraphNode} node */
export function addTable(node) {
  if (node.comfyClass !== NODE || !node.addDOMWidget) return;
  const table = h("textarea", {
    readonly: "",
    spellcheck: "false",
    "aria-label": "Where the time went",
    placeholder: "Run the workflow: where the time went appears here.",
    style: STYLE,
  });
  const widget = node.addDOMWidget("table", "table", table, {
    serialize: false,
    getMinHeight: () => HEIGHT_PIXELS,
  });
  widget.serialize = false;
  tables.set(node, table);
  node.setSize?.([Math.max(node.size[0], WIDTH_PIXELS), node.computeSize?.()[1] ?? node.size[1]]);
  const { onExecuted } = node;
  node.onExecuted = function (output) {
    onExecuted?.call(this, output);
    show(node, output);
  };
}

/**
 * The tables of a workflow that is opened again, from what its nodes answered last.
 *
 * @param {App} app
 * @param {Record<string, NodeOutput>} outputs By the node's id.
 */
export function showTables(app, outputs) {
  const graph = app.rootGraph ?? app.graph;
  for (const [id, output] of Object.entries(outputs)) {
    const node = graph?.getNodeById(id);
    if (node) show(node, output);
  }
}

/** @param {GraphNode} node @param {NodeOutput} output */
function show(node, output) {
  const table = tables.get(node);
  if (table) table.value = output.text?.[0] ?? "";
}

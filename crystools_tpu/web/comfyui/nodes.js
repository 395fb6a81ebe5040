/**
 * What our nodes need of the page.
 *
 * @import { GraphNode, NodeDefinition } from "./comfyui.js"
 */

import { h, setText } from "../dom.js";

/**
 * A decoder's `fps` is an INT, ComfyUI's own CreateVideo takes a FLOAT: without this, one could not wire them.
 *
 * @param {Record<string, NodeDefinition>} definitions
 */
export function letRatesIntoVideos(definitions) {
  for (const { category, output, output_name } of Object.values(definitions)) {
    const place = output_name?.indexOf("fps") ?? -1;
    if (category?.startsWith("crystools-tpu/") && output?.[place] === "INT") output[place] = "INT,FLOAT";
  }
}

/**
 * Shows the report of `TPUTimingReport` on the node itself.
 *
 * @param {GraphNode} node
 */
export function showReport(node) {
  if (node.comfyClass !== "TPUTimingReport" || !node.addDOMWidget) return;
  const table = h("pre", { class: "crystools-report" });
  const widget = node.addDOMWidget("report", "crystools-report", table, { serialize: false });
  widget.serialize = false;
  const before = node.onExecuted;
  node.onExecuted = (output) => {
    before?.call(node, output);
    setText(table, output.text?.join("\n") ?? "");
  };
}

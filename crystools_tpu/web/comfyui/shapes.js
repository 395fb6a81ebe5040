/**
 * Sets a shape on the nodes that say it, as if its user had.
 *
 * @import { Shape } from "../wire.js"
 * @import { App, GraphNode } from "./comfyui.js"
 */

import { nodeById } from "./canvas.js";

/**
 * The widgets are set by name, through their callbacks, and all of it is one step to undo.
 *
 * @param {App} app
 * @param {readonly string[]} ids Of the nodes, as a prompt has them.
 * @param {Shape} shape
 */
export function applyShape(app, ids, shape) {
  const { canvas } = app;
  canvas?.emitBeforeChange?.();
  for (const id of ids) {
    const found = nodeById(app, id);
    if (found) setWidgets(app, found.node, shape);
  }
  canvas?.emitAfterChange?.();
  canvas?.setDirty?.(true, true);
}

/** @param {App} app @param {GraphNode} node @param {Shape} shape */
function setWidgets(app, node, shape) {
  for (const [name, value] of Object.entries(shape)) {
    const widget = node.widgets?.find((each) => each.name === name);
    if (!widget || value == null) continue;
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
  }
}

/**
 * Where a run's nodes are on ComfyUI's canvas.
 *
 * @import { RunReport, StageReport } from "../wire.js"
 * @import { App, Graph, GraphNode } from "./comfyui.js"
 */

import { pathTo, runningStage } from "../run-figures.js";

/** A graph that is opened may put itself where it was looked at last, a moment later. */
const SETTLE_MILLISECONDS = 120;

/**
 * Goes to the node of a run that is being executed, into the subgraph that it is in. False where it is not in
 * the workflow that is open.
 *
 * @param {App} app
 * @param {RunReport} run
 */
export function goToRunningNode(app, run) {
  const place = placeOf(app, run);
  const { canvas } = app;
  if (!place || !canvas?.centerOnNode) return false;
  const { graph, node } = place;
  const centre = () => {
    if (canvas.graph === graph) canvas.centerOnNode?.(node);
  };
  if (canvas.graph && canvas.graph !== graph) {
    canvas.setGraph?.(graph);
    setTimeout(centre, SETTLE_MILLISECONDS);
  }
  centre();
  return canvas.graph == null || canvas.graph === graph;
}

/**
 * The innermost node on the canvas of those that are being executed: a node that another expanded into is not
 * there itself.
 *
 * @param {App} app
 * @param {RunReport} run
 */
function placeOf(app, run) {
  if (!isOpen(app, run)) return null;
  for (const stage of pathTo(run, runningStage(run)).reverse()) {
    const found = nodeOf(app, stage);
    if (found) return found;
  }
  return null;
}

/**
 * Whether the workflow that is open may be the run's: another one has the same ids for other nodes.
 *
 * @param {App} app
 * @param {RunReport} run
 */
export function isOpen(app, { name }) {
  const open = app.extensionManager?.workflow?.activeWorkflow?.filename;
  return !name || !open || name === open;
}

/**
 * The node of a stage in the workflow that is open, and the graph that it is in. Its id has those of the
 * subgraphs before it: `10:3` is node 3 in the subgraph that node 10 is.
 *
 * @param {App} app
 * @param {StageReport} stage
 * @returns {{ graph: Graph, node: GraphNode } | null}
 */
export function nodeOf(app, { node: known }) {
  const found = known ? nodeById(app, known.id) : null;
  if (!found || !known) return null;
  return (found.node.comfyClass ?? known.class_type) === known.class_type ? found : null;
}

/**
 * The node with this id in a prompt, and the graph that it is in.
 *
 * @param {App} app
 * @param {string} promptId
 * @returns {{ graph: Graph, node: GraphNode } | null}
 */
export function nodeById(app, promptId) {
  let graph = app.rootGraph ?? app.graph;
  const path = promptId.split(":");
  const last = path.pop();
  for (const id of path) graph = graph?.getNodeById(id)?.subgraph;
  const node = last == null ? null : graph?.getNodeById(last);
  return graph && node ? { graph, node } : null;
}

/**
 * The sockets of the timing nodes grow as they are used: as many as are connected and a free one, up to those that
 * the node has. The names of those that are connected are in order, without a gap.
 *
 * @import { App, Graph, GraphNode, NodeInput } from "./comfyui.js"
 */

const NODES = ["TPUTimingReport", "TPUTimingPlot"];
const SOCKETS_AT_MOST = 8;
const SOCKET = /^timing_\d+$/;

/** From now on the node has the sockets that it needs. @param {GraphNode} node */
export function growSockets(node) {
  if (!NODES.includes(node.comfyClass ?? "") || !node.inputs || !node.addInput || !node.removeInput) return;
  settle(node);
  let waiting = false;
  const { onConnectionsChange } = node;
  node.onConnectionsChange = function (...change) {
    onConnectionsChange?.apply(this, change);
    if (waiting) return;
    waiting = true;
    // A link that is being moved goes from one socket to another: neither may go meanwhile.
    setTimeout(() => {
      waiting = false;
      if (node.graph) settle(node);
    });
  };
}

/** Those of a workflow that was opened have what was saved. @param {App} app */
export function settleAll(app) {
  const graphs = [app.rootGraph ?? app.graph];
  for (let graph = graphs.pop(); graph; graph = graphs.pop()) {
    for (const node of graph.nodes ?? []) {
      if (NODES.includes(node.comfyClass ?? "")) settle(node);
      if (node.subgraph) graphs.push(node.subgraph);
    }
  }
}

/** @param {GraphNode} node */
function settle(node) {
  const [width, height] = node.size;
  const free = sockets(node).filter(({ link }) => link == null);
  const [spare] = free;
  for (const socket of free) node.removeInput?.(node.inputs?.indexOf(socket) ?? -1);
  const used = sockets(node);
  used.forEach((socket, index) => rename(socket, index + 1));
  if (used.length < SOCKETS_AT_MOST) {
    const { type, shape, tooltip } = /** @type {NodeInput} */ (spare ?? used[0]);
    node.addInput?.(`timing_${used.length + 1}`, type, { shape, tooltip });
  }
  node.setSize?.([width, Math.max(height, node.computeSize?.()[1] ?? 0)]);
}

/** @param {GraphNode} node */
function sockets(node) {
  return (node.inputs ?? []).filter(({ name }) => SOCKET.test(name));
}

/** @param {NodeInput} socket @param {number} number */
function rename(socket, number) {
  socket.name = `timing_${number}`;
  if (socket.localized_name) socket.localized_name = socket.name;
}

/**
 * Opens the workflow of a past run as a new one beside those that are open, so that nothing of theirs is lost:
 * ComfyUI makes a tab of a graph that comes with a name which no other has.
 *
 * @import { RunReport } from "../wire.js"
 * @import { ServerApi } from "../client.js"
 * @import { App } from "./comfyui.js"
 */

import { runTitle } from "../run-text.js";

const FOLDER = "workflows/";

/** What opens it, or null where this frontend cannot. @param {App} app @param {ServerApi} server */
export function workflowOpener(app, server) {
  if (!app.loadGraphData) return null;
  return async (/** @type {RunReport} */ run) => {
    const graph = await server.workflow(run.run_id);
    if (!graph) throw new Error("it is no longer kept");
    const name = `${runTitle(run).replaceAll(/[\\/:*?"<>|]/g, "-")} ${run.run_id.slice(0, 8)}`;
    const isTaken = app.extensionManager?.workflow?.getWorkflowByPath?.(`${FOLDER}${name}.json`);
    await app.loadGraphData?.(graph, true, true, isTaken ? null : name);
  };
}

/**
 * Tells the server what the workflow that is open is called, for the run that it becomes: ComfyUI is given a
 * workflow without its name. No event tells of another one, or of another name, so it is looked for again and
 * again, which costs three look-ups.
 *
 * @import { Api, App } from "./comfyui.js"
 */

const LOOK_EVERY_MILLISECONDS = 500;

/** @param {App} app @param {Api} api */
export function tellWorkflowName(app, api) {
  let told = "";
  const look = () => {
    const open = JSON.stringify(openWorkflow(app, api));
    if (open === told) return;
    told = open;
    if (open !== "null") tell(api, open);
  };
  setInterval(look, LOOK_EVERY_MILLISECONDS);
  api.addEventListener?.("reconnected", () => (told = "")); // a server that was started anew knows nothing
}

/** What is open here, or null where this frontend does not say. @param {App} app @param {Api} api */
function openWorkflow(app, api) {
  const id = (app.rootGraph ?? app.graph)?.id;
  const name = app.extensionManager?.workflow?.activeWorkflow?.filename;
  return id && name && api.clientId ? { client_id: api.clientId, id, name } : null;
}

/** @param {Api} api @param {string} body */
async function tell(api, body) {
  const headers = { "Content-Type": "application/json" };
  try {
    await api.fetchApi("/crystools-tpu/workflow", { method: "POST", headers, body });
  } catch {
    // the server is gone: it is told when it is back, and until then nothing is queued
  }
}

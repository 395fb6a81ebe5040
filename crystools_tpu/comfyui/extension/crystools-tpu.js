/**
 * The door to ComfyUI, and all that it is told to import: whatever this folder is called there, everything
 * else comes from our own address, in one request.
 */

/** @type {any} What ComfyUI's own scripts/app.js and scripts/api.js hand out; they are two requests. */
const comfy = Reflect.get(globalThis, "comfyAPI");
const { app } = comfy?.app ?? (await import(new URL("../../scripts/app.js", import.meta.url).href));
const { api } = comfy?.api ?? (await import(new URL("../../scripts/api.js", import.meta.url).href));

try {
  const { start } = await import(api.apiURL("/crystools-tpu/comfyui.js"));
  start(app, api);
} catch (error) {
  console.warn("Crystools TPU is not here: its server part did not answer. ComfyUI's log says why.", error);
}

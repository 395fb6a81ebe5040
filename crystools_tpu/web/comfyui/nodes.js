/**
 * What our nodes need of the page.
 *
 * @import { NodeDefinition } from "./comfyui.js"
 */

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

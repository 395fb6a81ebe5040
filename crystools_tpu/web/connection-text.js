/**
 * How the connection and the readings stand, in a word for the style and words for people.
 *
 * @import { Store } from "./store.js"
 */

/** @param {Store} store @returns {[state: string, text: string]} */
export function connectionText(store) {
  if (store.connection === "connecting") return ["connecting", "Connecting…"];
  if (store.connection === "reconnecting") return ["reconnecting", "Reconnecting…"];
  if (store.intervalSeconds === 0) return ["paused", "Readings off"];
  if (!store.snapshot) return ["waiting", "Waiting for readings"];
  return store.stale ? ["late", "Readings late"] : ["live", "Live"];
}

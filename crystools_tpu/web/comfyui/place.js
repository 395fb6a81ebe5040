/**
 * Keeps the bar in ComfyUI's menu. The menu is taken down and built again as its mode changes, and what was
 * in it is lost; so the place is looked for again and again, which costs two look-ups in the document.
 *
 * @import { Bar } from "../components/bar.js"
 * @import { App } from "./comfyui.js"
 */

import { h, setAttribute } from "../dom.js";

const LOOK_EVERY_MILLISECONDS = 500;

/** What ComfyUI's own buttons need beside the bar, and what the bar's smallest part needs, in pixels. */
const ROOM_FOR_OTHERS = 540;
const ROOM_AT_LEAST = 56;

/** @param {Bar} bar @param {App} app */
export function keepInPlace(bar, app) {
  // ComfyUI hides a part of its menu that is empty, and a shadow root alone counts as empty.
  bar.append(h("span", { hidden: "" }));
  const look = () => {
    place(bar, app);
    bar.room = bar.dataset.place === "list" ? null : room();
  };
  look();
  setInterval(look, LOOK_EVERY_MILLISECONDS);
  addEventListener("resize", look);
}

/** How wide the bar may be, in pixels; 0 where it would cover what ComfyUI has there. */
function room() {
  const panel = document.getElementById("main-panel");
  const pixels = (panel ?? document.body).clientWidth - ROOM_FOR_OTHERS;
  if (pixels >= ROOM_AT_LEAST) return pixels;
  return panel ? 0 : ROOM_AT_LEAST; // a menu without that panel makes room by itself
}

/** @param {Bar} bar @param {App} app */
function place(bar, app) {
  if (app.extensionManager?.focusMode) return; // ComfyUI hides its menus, and the bar with them
  const menu = app.menu?.settingsGroup?.element;
  if (menu && before(menu, bar, "menu")) return;
  const queueButton = document.getElementById("queue-button");
  if (queueButton && before(queueButton, bar, "list")) return;
  setAttribute(bar, "data-place", "overlay");
  if (bar.parentElement !== document.body) document.body.append(bar);
}

/**
 * Puts the bar before `neighbour`; false where it would not be seen there.
 *
 * @param {HTMLElement} neighbour
 * @param {Bar} bar
 * @param {"menu" | "list"} name
 */
function before(neighbour, bar, name) {
  if (neighbour.previousElementSibling === bar) return bar.checkVisibility();
  if (!neighbour.isConnected) return false;
  const probe = h("span", {}, h("span", {}, "\u200b"));
  neighbour.before(probe);
  const seen = probe.checkVisibility();
  probe.remove();
  if (!seen) return false;
  setAttribute(bar, "data-place", name);
  neighbour.before(bar);
  return true;
}

/**
 * A badge on each node with the time that it took last, where somebody wants that.
 *
 * @import { RunReport, ServerMessage, StageReport } from "../wire.js"
 * @import { Store } from "../store.js"
 * @import { App, GraphNode } from "./comfyui.js"
 */

import { duration } from "../format.js";
import { isWorkflow } from "../workflow-figures.js";
import { isOpen, nodeOf } from "./canvas.js";

const COLOURS = { fgColor: "#e8ecf2", bgColor: "#2b3442" };
const FONT = "11px sans-serif";
const PADDING_PIXELS = 6;

/** Where nodes are drawn smaller nobody could read it, and a thousand may be in sight. */
const LEGIBLE_SCALE = 0.5;

/**
 * What ComfyUI asks of a badge, to draw it on its canvas. All is known before the frame in which it is drawn, but
 * for the width of its text, which is measured once.
 */
class TimeBadge {
  /** Its Nodes 2.0 would show what it read here once, and go on to show it: better none. */
  text = "";
  fgColor = COLOURS.fgColor;
  bgColor = COLOURS.bgColor;
  height = 18;
  #time = "";
  /** @type {number | null} */
  #width = null;
  #scale;

  /** @param {() => number} scale How large the canvas is drawn. */
  constructor(scale) {
    this.#scale = scale;
  }

  /** @param {string} time */
  set time(time) {
    if (time === this.#time) return;
    this.#time = time;
    this.#width = null;
  }

  /** @param {CanvasRenderingContext2D} canvas */
  getWidth(canvas) {
    if (this.#width == null) {
      const { font } = canvas;
      canvas.font = FONT;
      this.#width = canvas.measureText(this.#time).width + 2 * PADDING_PIXELS;
      canvas.font = font;
    }
    return this.#width;
  }

  /** @param {CanvasRenderingContext2D} canvas @param {number} x @param {number} y */
  draw(canvas, x, y) {
    if (this.#scale() < LEGIBLE_SCALE) return;
    const { font, fillStyle, textAlign, textBaseline } = canvas;
    canvas.fillStyle = this.bgColor;
    canvas.beginPath();
    canvas.roundRect(x, y, this.getWidth(canvas), this.height, 5);
    canvas.fill();
    canvas.font = FONT;
    canvas.fillStyle = this.fgColor;
    canvas.textAlign = "left";
    canvas.textBaseline = "middle";
    canvas.fillText(this.#time, x + PADDING_PIXELS, y + this.height / 2 + 1);
    Object.assign(canvas, { font, fillStyle, textAlign, textBaseline });
  }
}

export class Badges {
  #app;
  #store;
  #wanted = false;
  /** ComfyUI calls for a badge. @type {Map<GraphNode, { badge: TimeBadge, call: () => TimeBadge }>} */
  #shown = new Map();

  /** @param {App} app @param {Store} store */
  constructor(app, store) {
    this.#app = app;
    this.#store = store;
  }

  /** Whether nodes have badges. @param {boolean} wanted */
  set wanted(wanted) {
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    if (wanted) this.#showKnown();
    else this.#removeAll();
  }

  /** After a workflow has been opened, with nodes of its own. */
  refresh() {
    this.#shown.clear();
    this.#showKnown();
  }

  /** What the store has already heard of. @param {ServerMessage} message */
  receive(message) {
    if (message.type === "hello") this.#showKnown();
    if (message.type === "run_finished" || message.type === "run_changed") this.#showRun(message.report);
    if (message.type !== "stage_finished" || !this.#wanted) return;
    const run = this.#store.runs.find((candidate) => candidate.run_id === message.run_id);
    if (run && isOpen(this.#app, run) && this.#show(message.report)) this.#redraw();
  }

  /** The runs of the workflow that is open, where its name is known: another has the same ids for its nodes. */
  #showKnown() {
    if (!this.#wanted) return;
    const runs = this.#store.runs.filter((run) => run.name && isWorkflow(run));
    for (const run of runs.reverse()) this.#showRun(run); // the newest says the last time
  }

  /** @param {RunReport} run */
  #showRun(run) {
    if (!this.#wanted || !isOpen(this.#app, run)) return;
    for (const stage of run.stages) this.#show(stage);
    this.#redraw();
  }

  /** @param {StageReport} stage */
  #show(stage) {
    if (!stage.node || stage.seconds == null) return false;
    const node = nodeOf(this.#app, stage)?.node;
    if (!node) return false;
    const time = duration(stage.seconds);
    const shown = this.#shown.get(node);
    if (shown) {
      shown.badge.time = time;
      return true;
    }
    const badge = new TimeBadge(() => this.#app.canvas?.ds?.scale ?? 1);
    badge.time = time;
    const call = () => badge;
    node.badges?.push(call);
    this.#shown.set(node, { badge, call });
    return true;
  }

  #removeAll() {
    for (const [node, { call }] of this.#shown) {
      node.badges = node.badges?.filter((badge) => badge !== call);
    }
    this.#shown.clear();
    this.#redraw();
  }

  #redraw() {
    this.#app.canvas?.setDirty?.(true, true);
  }
}

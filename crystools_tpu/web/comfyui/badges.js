/**
 * A badge on each node with the time that it took last, where somebody wants that.
 *
 * @import { RunReport, ServerMessage, StageReport } from "../wire.js"
 * @import { App, GraphNode } from "./comfyui.js"
 */

import { duration } from "../format.js";
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
  #wanted = false;
  /** The last run of a workflow, which is shown when somebody begins to want badges. @type {RunReport | null} */
  #last = null;
  /** ComfyUI calls for a badge. @type {Map<GraphNode, { badge: TimeBadge, call: () => TimeBadge }>} */
  #shown = new Map();

  /** @param {App} app */
  constructor(app) {
    this.#app = app;
  }

  /** Whether nodes have badges. @param {boolean} wanted */
  set wanted(wanted) {
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    if (!wanted) this.#removeAll();
    else if (this.#last) this.#showRun(this.#last);
  }

  /** After a workflow has been opened: where it is surely the one that ran last, its nodes have their times again. */
  refresh() {
    if (this.#last?.name) this.#showRun(this.#last);
  }

  /** @param {ServerMessage} message */
  receive(message) {
    if (message.type === "hello") {
      const run = message.runs.find((candidate) => candidate.stages.some((stage) => stage.node));
      if (run) this.#showRun(run);
    } else if (message.type === "stage_finished") {
      if (this.#wanted && this.#show(message.report)) this.#redraw();
    } else if (message.type === "run_finished" || message.type === "run_changed") {
      this.#showRun(message.report);
    }
  }

  /** @param {RunReport} run */
  #showRun(run) {
    if (!run.stages.some((stage) => stage.node)) return;
    this.#last = run;
    if (!this.#wanted || !isOpen(this.#app, run)) return;
    this.#forgetTheGone();
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

  /** Nodes of a workflow that has been closed, or that somebody removed. */
  #forgetTheGone() {
    for (const node of this.#shown.keys()) if (!node.graph) this.#shown.delete(node);
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

/**
 * Asks what is expected of the workflow that is open, when it has changed and somebody can see the answer.
 *
 * No event tells of each change: ComfyUI says that the graph has changed once the user's hand is off it, and not
 * that another workflow is open; so it is looked for again and again, which costs a look at each node.
 *
 * @import { ServerApi } from "../client.js"
 * @import { Expected, RunReport, ServerMessage } from "../wire.js"
 * @import { Api, App, Graph, GraphNode, PromptNode } from "./comfyui.js"
 */

const LOOK_EVERY_MILLISECONDS = 200;

const SAMPLER = /TPU(Sampler|Pipeline)$/;

const RUNS_KEPT = 20;

/** Emits `change` when there is another answer, or none any more. */
export class Expectations extends EventTarget {
  /** Of the workflow that is open; null where nothing is known of it. @type {Expected | null} */
  answer = null;
  /** Whether somebody looks at it beside the canvas. @type {() => boolean} */
  isWanted = () => false;
  #app;
  #server;
  /** What was expected of runs before they began, by their ids. @type {Map<string, Expected>} */
  #before = new Map();
  /** The last run of the workflow that is open, of those that ended here. @type {RunReport | null} */
  #ended = null;
  /** The workflow that was open when somebody looked last. @type {unknown} */
  #open;
  #revision = 0;
  #seen = "";
  #asked = "";
  #asking = false;

  /** @param {App} app @param {Api} api @param {ServerApi} server */
  constructor(app, api, server) {
    super();
    this.#app = app;
    this.#server = server;
    api.addEventListener?.("graphChanged", () => this.again());
    setInterval(() => this.#look(), LOOK_EVERY_MILLISECONDS);
  }

  /** The run of this workflow that ended last while the page was open, and what was expected of it. */
  get ended() {
    const run = this.#ended;
    if (!run || run.params.workflow !== this.answer?.workflow) return null;
    return { run, expectedSeconds: this.#before.get(run.run_id)?.seconds ?? null };
  }

  /** Asks anew, the next time that somebody looks. */
  again() {
    this.#revision += 1;
  }

  /** What the store has already heard of. @param {ServerMessage} message */
  receive(message) {
    if (message.type === "hello") this.again();
    if (message.type !== "run_started" && message.type !== "run_changed" && message.type !== "run_finished") return;
    const { report } = message;
    const { workflow } = report.params;
    if (workflow == null) return;
    if (this.answer?.workflow === workflow && report.status === "running" && !this.#before.has(report.run_id)) {
      this.#before.set(report.run_id, this.answer);
      for (const old of [...this.#before.keys()].slice(0, -RUNS_KEPT)) this.#before.delete(old);
    }
    if (message.type !== "run_finished") return;
    if (report.status === "succeeded") this.#ended = report;
    this.again();
  }

  #look() {
    if (document.hidden) return;
    const open = this.#app.extensionManager?.workflow?.activeWorkflow;
    const samplers = samplersIn(this.#app.canvas?.graph ?? this.#app.rootGraph ?? this.#app.graph);
    const isSeen = samplers.length > 0 || this.isWanted();
    if (!isSeen || open !== this.#open) this.#forget();
    this.#open = open;
    if (!isSeen) return;
    const state = this.#state(samplers);
    const isStill = state === this.#seen; // what is still being typed is not asked for
    this.#seen = state;
    if (isStill && state !== this.#asked && !this.#asking) this.#ask(state);
  }

  /** What the answer depends on, as far as it is quick to see. @param {readonly GraphNode[]} samplers */
  #state(samplers) {
    const widgets = samplers.map(({ id, widgets }) => [id, widgets?.map(({ value }) => value)]);
    return JSON.stringify([this.#revision, widgets]);
  }

  /** What is known is of another workflow, or nobody's to see. */
  #forget() {
    this.#asked = "";
    this.#give(null);
  }

  /** @param {Expected | null} answer */
  #give(answer) {
    if (!answer && !this.answer) return;
    this.answer = answer;
    this.dispatchEvent(new Event("change"));
  }

  /** @param {string} state */
  async #ask(state) {
    this.#asking = true;
    this.#asked = state;
    /** @type {Expected | null} */
    let answer = null;
    try {
      const graph = this.#app.rootGraph ?? this.#app.graph;
      if (this.#app.graphToPrompt && !allNodes(graph).some(actsWhenAsked)) {
        const { output } = await this.#app.graphToPrompt();
        if (isWhole(output)) answer = await this.#server.expected(output);
      }
    } catch {
      // a graph that is no prompt yet, or a server that is gone: then nothing is known
    } finally {
      this.#asking = false;
    }
    if (this.#asked === state) this.#give(answer);
  }
}

/** @param {Graph | null | undefined} graph */
function samplersIn(graph) {
  return (graph?.nodes ?? []).filter(({ comfyClass }) => comfyClass && SAMPLER.test(comfyClass));
}

/** Those of the subgraphs too. @param {Graph | null | undefined} graph @returns {GraphNode[]} */
function allNodes(graph) {
  return (graph?.nodes ?? []).flatMap((node) => [node, ...allNodes(node.subgraph)]);
}

/** Whether ComfyUI knows all of its nodes: one that is not installed has no class. @param {Record<string, PromptNode>} prompt */
function isWhole(prompt) {
  return Object.values(prompt).every(({ class_type }) => class_type);
}

/** Whether a node does something for its value: it takes a picture with a camera and uploads it. @param {GraphNode} node */
function actsWhenAsked({ widgets }) {
  return (widgets ?? []).some(({ serializeValue }) => serializeValue?.constructor.name === "AsyncFunction");
}

/**
 * The connection to the server: one websocket that comes back by itself.
 *
 * @import { Filter } from "./run-search.js"
 * @import { Comparison, Expected, Explanation, RunReport, RunResult, RunsPage, ServerMessage } from "./wire.js"
 */

/** @typedef {"connecting" | "open" | "reconnecting"} ConnectionState */

const FIRST_RETRY_SECONDS = 0.5;
const LAST_RETRY_SECONDS = 10;

/** A connection on which snapshots are due but nothing arrives for so long is dead (a laptop that slept). */
const SILENCE_SECONDS = 20;

/** The wire schema this page was written for. */
const SCHEMA = 1;

/**
 * The address of one of the server's endpoints beside `base`, so that any prefix or proxy path works. The
 * page's own `?token=` goes along.
 *
 * @param {string} path
 * @param {string | URL} base
 */
export function endpoint(path, base) {
  const url = new URL(path, base);
  const token = new URLSearchParams(location.search).get("token");
  if (token) url.searchParams.set("token", token);
  return url;
}

/**
 * An endpoint's address with the page key, for what the server may take for another site's: behind some proxies
 * it cannot tell by the headers. Without one where the key is not to be had.
 *
 * @param {string} path
 * @param {string | URL} base
 */
async function keyed(path, base) {
  const url = endpoint(path, base);
  const signal = AbortSignal.timeout(SILENCE_SECONDS * 1000);
  const answer = await fetch(endpoint("api/key", base), { signal });
  if (answer.ok) url.searchParams.set("key", (await answer.json()).key);
  return url;
}

/**
 * Emits `message` (detail: ServerMessage) and `state` (detail: ConnectionState).
 *
 * After a failure it tries again with exponential back-off and jitter, and at once when the browser comes
 * back online or the tab is shown again.
 */
export class Connection extends EventTarget {
  /** @type {ConnectionState} */
  state = "connecting";
  #base;
  /** @type {WebSocket | null} */
  #socket = null;
  /** What goes on: nothing while it waits for the next attempt. @type {object | null} */
  #attempt = null;
  /** @type {number | undefined} */
  #retryTimer;
  /** @type {number | undefined} */
  #silenceTimer;
  #failures = 0;
  /** @type {number | null} */
  #intervalSeconds = null;
  /** @type {readonly string[] | null} */
  #metrics = null;
  #serverIntervalSeconds = 0;

  /** @param {string | URL} base The folder of the server's endpoints, such as `/crystools-tpu/`. */
  constructor(base) {
    super();
    this.#base = base;
  }

  open() {
    addEventListener("online", this.#retryNow);
    document.addEventListener("visibilitychange", this.#retryNow);
    this.#connect();
  }

  close() {
    removeEventListener("online", this.#retryNow);
    document.removeEventListener("visibilitychange", this.#retryNow);
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#silenceTimer);
    const socket = this.#socket;
    this.#attempt = this.#socket = null;
    socket?.close();
  }

  /**
   * Sets how often snapshots come to this page alone, 0 is never, and which fields of chips and host they
   * have, null is all. Kept across reconnects.
   *
   * @param {number} intervalSeconds
   * @param {readonly string[] | null} [metrics]
   */
  configure(intervalSeconds, metrics = null) {
    this.#intervalSeconds = intervalSeconds;
    this.#metrics = metrics;
    this.#sendConfiguration();
  }

  async #connect() {
    clearTimeout(this.#retryTimer);
    const attempt = {};
    this.#attempt = attempt;
    const lost = () => {
      if (this.#attempt === attempt) this.#lost();
    };
    /** @type {URL} */
    let url;
    try {
      url = this.#failures === 0 ? endpoint("ws", this.#base) : await keyed("ws", this.#base);
    } catch {
      return lost();
    }
    if (this.#attempt !== attempt) return;
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.#socket = socket;
    socket.addEventListener("open", () => this.#sendConfiguration());
    socket.addEventListener("message", (event) => this.#receive(String(event.data)));
    socket.addEventListener("close", lost);
  }

  /** @param {string} text */
  #receive(text) {
    const message = /** @type {ServerMessage & { schema: number }} */ (JSON.parse(text));
    if (message.schema !== SCHEMA) return;
    if (message.type === "hello") {
      this.#failures = 0;
      this.#serverIntervalSeconds = message.settings.interval_seconds;
      this.#setState("open");
    }
    this.#watchForSilence();
    this.dispatchEvent(new CustomEvent("message", { detail: message }));
  }

  #watchForSilence() {
    clearTimeout(this.#silenceTimer);
    const interval = this.#intervalSeconds ?? this.#serverIntervalSeconds;
    if (interval === 0) return;
    const wait = Math.max(SILENCE_SECONDS, 3 * interval);
    this.#silenceTimer = setTimeout(() => {
      this.#socket?.close();
      this.#lost();
    }, wait * 1000);
  }

  #lost() {
    clearTimeout(this.#silenceTimer);
    this.#attempt = this.#socket = null;
    this.#setState("reconnecting");
    const wait = Math.min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** this.#failures);
    this.#failures += 1;
    this.#retryTimer = setTimeout(() => this.#connect(), wait * (0.75 + Math.random() / 2) * 1000);
  }

  #retryNow = () => {
    if (!this.#attempt && !document.hidden) this.#connect();
  };

  #sendConfiguration() {
    if (this.#intervalSeconds == null || this.#socket?.readyState !== WebSocket.OPEN) return;
    const message = { type: "configure", interval_seconds: this.#intervalSeconds, metrics: this.#metrics };
    this.#socket.send(JSON.stringify(message));
    this.#watchForSilence();
  }

  /** @param {ConnectionState} state */
  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }
}

/** What the server is asked for over HTTP, by the folder of its endpoints. */
export class ServerApi {
  #base;

  /** @param {string | URL} base */
  constructor(base) {
    this.#base = base;
  }

  /**
   * One run as the server knows it, or null where it no longer does.
   * @param {string} runId
   * @returns {Promise<RunReport | null>}
   */
  run(runId) {
    return this.#get(`api/runs/${encodeURIComponent(runId)}`);
  }

  /**
   * The newest runs, or those before run `before`; with a filter those that are meant. Null from a server that
   * has no history.
   * @param {string | null} before
   * @param {Filter} [filter]
   * @returns {Promise<RunsPage | null>}
   */
  runs(before, filter) {
    const query = Object.entries(filter ?? {}).filter(([, value]) => value);
    return this.#get("api/runs", { ...Object.fromEntries(query), ...(before == null ? {} : { before }) });
  }

  /**
   * Whether the run's output is served, or null where the server no longer knows the run.
   * @param {string} runId
   * @returns {Promise<RunResult | null>}
   */
  result(runId) {
    return this.#get(`api/runs/${encodeURIComponent(runId)}/result`);
  }

  /**
   * The workflow whose execution the run was, or null where none is kept.
   * @param {string} runId
   * @returns {Promise<object | null>}
   */
  workflow(runId) {
    return this.#get(`api/runs/${encodeURIComponent(runId)}/workflow`);
  }

  /**
   * Where something of the run's is, which may not be there.
   * @param {string} runId
   * @param {"output" | "thumbnail" | "workflow"} what
   */
  urlOf(runId, what) {
    return endpoint(`api/runs/${encodeURIComponent(runId)}/${what}`, this.#base).href;
  }

  /**
   * Run B compared with run A, or null where the server no longer knows both.
   * @param {string} a
   * @param {string} b
   * @returns {Promise<Comparison | null>}
   */
  compare(a, b) {
    return this.#get("api/compare", { a, b });
  }

  /**
   * What is to be said of a run that has ended, or null where the server does not know it.
   * @param {string} runId
   * @returns {Promise<Explanation | null>}
   */
  explanation(runId) {
    return this.#get(`api/runs/${encodeURIComponent(runId)}/explanation`);
  }

  /**
   * Where the run's trace file is.
   * @param {string} runId
   */
  traceUrl(runId) {
    return endpoint(`api/runs/${encodeURIComponent(runId)}/trace`, this.#base).href;
  }

  /**
   * Asks for a capture of the next steps. Throws the server's reason where it refuses.
   * @param {number} steps
   */
  async profile(steps) {
    const body = JSON.stringify({ steps });
    const response = await fetch(await keyed("api/profile", this.#base), { method: "POST", body });
    if (response.ok) return;
    const answer = await response.json().catch(() => null);
    throw new Error(answer?.error?.message ?? `The server answered ${response.status}.`);
  }

  /**
   * What is expected of a workflow before it begins, or null from a server that knows nothing of workflows.
   * @param {Record<string, unknown>} prompt In the form of ComfyUI's API.
   * @returns {Promise<Expected | null>}
   */
  async expected(prompt) {
    const [method, body] = ["POST", JSON.stringify({ prompt })];
    let response = await fetch(endpoint("api/expected", this.#base), { method, body });
    if (response.status === 403) {
      response = await fetch(await keyed("api/expected", this.#base), { method, body });
    }
    return response.ok ? response.json() : null;
  }

  /** @param {string} path @param {Record<string, string>} [query] */
  async #get(path, query = {}) {
    const url = endpoint(path, this.#base);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    const response = await fetch(url);
    if (response.status === 404) return null;
    if (!response.ok) throw new Error(`The server answered ${response.status} to ${path}.`);
    return response.json();
  }
}

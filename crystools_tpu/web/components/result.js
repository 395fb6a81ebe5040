/**
 * What a run has made: its picture or video where the server gives it, where the file is, and the workflow that
 * it was, to be loaded again.
 *
 * @import { RunReport } from "../wire.js"
 * @import { Store } from "../store.js"
 */

import { Component, blueprint } from "../component.js";
import { h, setAttribute, setText } from "../dom.js";

/** The server has no other, and knows no file by a path that begins nowhere. */
const MAY_BE_SERVED = /^(\/|[a-z]:\\).*\.(mp4|webm|png|jpe?g|webp|gif)$/i;

export class Result extends Component {
  static blueprint = blueprint(
    `<div id="media"></div>
    <p id="file"><a id="link" target="_blank" rel="noopener"></a><span id="path"></span> <span id="why"></span></p>
    <p id="actions">
      <button id="load" type="button">Load this workflow again</button>
      <a id="download" download>Download this workflow</a>
      <span id="problem" role="status"></span>
    </p>`,
    `
    :host { display: grid; grid-template-columns: minmax(0, 1fr); gap: 6px; }
    #media:empty, #path:empty, #why:empty, #problem:empty { display: none; }
    img, video {
      display: block; max-width: 100%; max-height: 320px; border-radius: 6px; background: var(--crystools-sunken);
    }
    #file, #actions { font-size: 12px; overflow-wrap: anywhere; }
    #actions { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 12px; }
    #path { user-select: text; }
    #why { color: var(--crystools-muted); }
    #problem { color: var(--crystools-critical); }
    a { color: var(--crystools-hbm); text-decoration: none; }
    a:hover { text-decoration: underline; }
    button {
      padding: 3px 10px; font-size: 12px; border-radius: 6px; background: var(--crystools-sunken);
      border: 1px solid var(--crystools-line);
    }
    `,
  );

  /** What is shown: a run's id, its output, and what is kept with it. */
  #shown = "";
  /** @type {RunReport | null} */
  #run = null;
  /** @type {Store | null} */
  #store = null;

  constructor() {
    super();
    this.byId("load").addEventListener("click", this.#load);
  }

  /** @param {RunReport} run @param {Store} store */
  show(run, store) {
    this.#run = run;
    this.#store = store;
    const { output, attachments = [] } = run;
    const isOver = run.status !== "running";
    const hasWorkflow = attachments.includes("workflow");
    this.hidden = !isOver || (!output && !attachments.length);
    const shown = JSON.stringify([run.run_id, isOver && output, attachments]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.byId("load").hidden = !hasWorkflow || !store.openWorkflow;
    this.byId("download").hidden = !hasWorkflow || Boolean(store.openWorkflow);
    this.byId("actions").hidden = !hasWorkflow;
    setAttribute(this.byId("download"), "href", hasWorkflow ? store.urlOf(run, "workflow") : null);
    setText(this.byId("problem"), "");
    this.#showFile(output ?? "", null, "");
    this.#showPicture(attachments.includes("thumbnail") ? store.urlOf(run, "thumbnail") : null);
    if (isOver && output && MAY_BE_SERVED.test(output)) this.#ask(run, store, output, shown);
  }

  /** @param {RunReport} run @param {Store} store @param {string} output @param {string} shown */
  async #ask(run, store, output, shown) {
    const result = await store.resultOf(run).catch(() => null);
    if (this.#shown !== shown || !result) return;
    const { media_type: kind, problem } = result;
    const url = kind ? store.urlOf(run, "output") : null;
    this.#showFile(output, url, problem ?? "");
    if (!kind || !url) return;
    if (kind.startsWith("video/")) this.#showVideo(url, run, store);
    else this.#showPicture(url);
  }

  /** @param {string} output @param {string | null} url @param {string} why */
  #showFile(output, url, why) {
    this.byId("file").hidden = !output;
    this.byId("link").hidden = !url;
    setAttribute(this.byId("link"), "href", url);
    setText(this.byId("link"), url ? output : "");
    setText(this.byId("path"), url ? "" : output);
    setText(this.byId("why"), why && `Not shown here. ${why}`);
  }

  /** @param {string | null} url */
  #showPicture(url) {
    const picture = url ? h("img", { src: url, alt: "What the run has made" }) : null;
    picture?.addEventListener("error", () => picture.remove());
    this.byId("media").replaceChildren(...(picture ? [picture] : []));
  }

  /** @param {string} url @param {RunReport} run @param {Store} store */
  #showVideo(url, run, store) {
    const video = h("video", { src: url, "aria-label": "What the run has made", preload: "metadata" });
    Object.assign(video, { controls: true, loop: true, muted: true, playsInline: true });
    if (run.attachments?.includes("thumbnail")) video.poster = store.urlOf(run, "thumbnail");
    this.byId("media").replaceChildren(video);
  }

  #load = async () => {
    if (!this.#run || !this.#store?.openWorkflow) return;
    try {
      await this.#store.openWorkflow(this.#run);
      setText(this.byId("problem"), "");
    } catch (error) {
      setText(this.byId("problem"), `It could not be loaded: ${error instanceof Error ? error.message : error}`);
    }
  };
}

customElements.define("crystools-result", Result);

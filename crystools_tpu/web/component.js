/**
 * What the custom elements share: a shadow root from a template, and a bond to the store that lasts as
 * long as the element is in the document.
 *
 * @import { Store } from "./store.js"
 */

import { TIP_STYLE, listen } from "./tips.js";

/** @param {string} css */
function sheet(css) {
  const made = new CSSStyleSheet();
  made.replaceSync(css);
  return made;
}

const COMMON = sheet(`
  :host { display: block; color: var(--crystools-ink); font: 14px/1.45 var(--crystools-font); }
  :host([hidden]), [hidden] { display: none !important; }
  * { box-sizing: border-box; }
  :focus-visible { outline: 2px solid var(--crystools-focus); outline-offset: 2px; border-radius: 4px; }
  h2, h3, p, dl, dd, ul, ol, pre { margin: 0; padding: 0; }
  ul, ol { list-style: none; }
  h2 {
    font-size: 11px; font-weight: 600; letter-spacing: .07em; text-transform: uppercase;
    color: var(--crystools-muted);
  }
  .panel {
    background: var(--crystools-panel); border: 1px solid var(--crystools-line); border-radius: 10px;
    padding: 14px 16px;
  }
  .number { font-variant-numeric: tabular-nums; white-space: nowrap; }
  .muted { color: var(--crystools-muted); }
  .live[data-stale] {
    filter: grayscale(1); outline: 1px dashed var(--crystools-muted); outline-offset: 3px; border-radius: 4px;
  }
  button, select { font: inherit; color: inherit; }
  button { cursor: pointer; }
  .sr-only {
    position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap;
  }
  ${TIP_STYLE}
  @media (prefers-reduced-motion: reduce) { * { transition: none !important; animation: none !important; } }
`);

/**
 * Makes what a component needs once for all its instances.
 * @param {string} markup Static: values enter through text nodes and attributes only.
 * @param {string} css
 */
export function blueprint(markup, css) {
  const template = document.createElement("template");
  template.innerHTML = markup;
  return { template, sheets: [COMMON, sheet(css)] };
}

/** An element with a shadow root made from its class's `blueprint`. */
export class Component extends HTMLElement {
  /** @type {ReturnType<typeof blueprint>} */
  static blueprint;

  #root = this.attachShadow({ mode: "open" });

  constructor() {
    super();
    const { template, sheets } = /** @type {typeof Component} */ (this.constructor).blueprint;
    this.#root.adoptedStyleSheets = sheets;
    listen(this.#root);
    this.#root.append(document.importNode(template.content, true)); // components in it are whole at once
  }

  /**
   * The element with this id in the shadow root.
   * @param {string} id
   */
  byId(id) {
    const element = this.#root.getElementById(id);
    if (!element) throw new Error(`<${this.localName}> has no element #${id}.`);
    return element;
  }
}

/**
 * A component that shows the store: `render` runs at most once a frame after a change, and every
 * `tickSeconds` where it shows something that moves with the clock. A tab that nobody sees has no frames.
 */
export class StoreView extends Component {
  /** @type {number | null} */
  static tickSeconds = null;

  /** Whether it shows the snapshots; where not it is left in peace by them. */
  static showsReadings = true;

  /** @type {Store | null} */
  #store = null;
  #frame = 0;
  /** @type {number | undefined} */
  #ticker;

  /** @param {Store} store */
  set store(store) {
    this.#unbind();
    this.#store = store;
    if (this.isConnected) this.#bind();
  }

  connectedCallback() {
    this.#bind();
  }

  disconnectedCallback() {
    this.#unbind();
  }

  /** Shows the store again, soon: for a component whose own state changed. */
  refresh() {
    this.#schedule();
  }

  /** @param {Store} _store */
  render(_store) {}

  #bind() {
    if (!this.#store) return;
    const { tickSeconds, showsReadings } = /** @type {typeof StoreView} */ (this.constructor);
    this.#store.addEventListener("change", this.#schedule);
    if (showsReadings) this.#store.addEventListener("readings", this.#schedule);
    if (tickSeconds != null) this.#ticker = setInterval(this.#schedule, tickSeconds * 1000);
    this.#schedule();
  }

  #unbind() {
    this.#store?.removeEventListener("change", this.#schedule);
    this.#store?.removeEventListener("readings", this.#schedule);
    clearInterval(this.#ticker);
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  #schedule = () => {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.#store) this.render(this.#store);
    });
  };
}

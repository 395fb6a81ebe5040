/**
 * What an element has to say of itself besides what is in sight: the text of its `data-tip`, which is shown on hover,
 * on keyboard focus and on a touch. Escape closes it. In a shadow root of ours it takes the place of `title`, which
 * neither the keyboard nor a finger can open. An empty `data-tip` stands for the element's own `aria-label`.
 *
 * Elements that are many, such as the cells of a table, would be as many stops of the Tab key: what is around them has
 * `data-tips` and `tabindex="0"`, is one stop, and the arrow keys go through the elements in it.
 */

const OPEN_AFTER_MILLISECONDS = 350;
/** So long the pointer may be on its way to the text, to read or to select it. */
const CLOSE_AFTER_MILLISECONDS = 150;
/** From the element, and from the edge of the window. */
const GAP_PIXELS = 4;

export const TIP_STYLE = `
  .tip {
    position: fixed; inset: auto; margin: 0; width: max-content; max-width: min(360px, calc(100vw - 8px));
    padding: 6px 9px; border: 0; border-radius: 6px; font: 12px/1.4 var(--crystools-font); text-align: start;
    letter-spacing: normal; text-transform: none; white-space: pre-line; overflow-wrap: anywhere; user-select: text;
    color: var(--crystools-panel); background: var(--crystools-ink); box-shadow: 0 2px 10px rgb(0 0 0 / .3);
  }
  [data-tips]:focus-visible { outline-offset: 1px; }
`;

/** What a stop of the Tab key says of itself. */
const HINT = "The arrow keys go through what is in it.";

const INTERACTIVE = "a, button, input, select, summary";
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

/** @typedef {HTMLElement | SVGElement} Explained */

/** The element whose tip is open. @type {Explained | null} */
let explained = null;
/** What opened it by its focus; null for the pointer. @type {Element | null} */
let focused = null;
/** @type {HTMLElement | null} */
let tip = null;
/** What was clicked has been understood: it says nothing until the pointer has left it. @type {Explained | null} */
let clicked = null;
/** @type {number | undefined} */
let timer;

/** A tip that is open follows its text. */
const observer = new MutationObserver(() => update());

/** @param {Explained} element @param {Element | null} by What has the focus, if it is that. */
function open(element, by) {
  close();
  explained = element;
  focused = by;
  tip = document.createElement("div");
  tip.className = "tip";
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.popover = "manual"; // above all else, and cut by nothing
  if (!element.dataset.tip) tip.style.pointerEvents = "none"; // of one of many beside another
  element.getRootNode().appendChild(tip);
  observer.observe(element, { attributeFilter: ["data-tip", "aria-label"] });
  const named = element.getAttribute("aria-label")?.includes(textOf(element) ?? ""); // and so it is read already
  if (!named && by?.getRootNode() === tip.getRootNode()) by.setAttribute("aria-describedby", tip.id);
  update();
}

function update() {
  const text = explained && textOf(explained);
  if (!text || !explained?.isConnected || !tip) return close();
  if (tip.textContent !== text) tip.textContent = text;
  if (!tip.matches(":popover-open")) tip.showPopover();
  place(tip, explained.getBoundingClientRect());
}

function close() {
  clearTimeout(timer);
  observer.disconnect();
  focused?.removeAttribute("aria-describedby");
  tip?.remove();
  explained = focused = tip = null;
}

/** Below the element, or above it where there is more room. @param {HTMLElement} element @param {DOMRect} beside */
function place({ style, offsetWidth: width, offsetHeight: height }, beside) {
  const below = beside.bottom + GAP_PIXELS + height <= innerHeight || beside.top < innerHeight - beside.bottom;
  const left = Math.min(beside.left, innerWidth - width - GAP_PIXELS);
  style.left = `${Math.max(GAP_PIXELS, left)}px`;
  style.top = `${below ? beside.bottom + GAP_PIXELS : Math.max(0, beside.top - GAP_PIXELS - height)}px`;
}

/** @param {Explained} element */
function textOf(element) {
  if (element === focused && isGroup(element)) return HINT;
  return element.dataset.tip || element.getAttribute("aria-label");
}

/** @param {Explained} element */
function isGroup(element) {
  return element.dataset.tips != null;
}

/** The innermost element of ours on the event's way that says something of itself. @param {Event} event */
function explainedBy(event) {
  const path = event.composedPath();
  return /** @type {Explained | undefined} */ (path.find((node) => isOurs(node) && isExplained(node)));
}

/** @param {EventTarget} node @returns {node is Explained} */
function isOurs(node) {
  if (!(node instanceof Element)) return false;
  const root = node.getRootNode();
  return root instanceof ShadowRoot && root.host.localName.startsWith("crystools-");
}

/** @param {Explained} element */
function isExplained(element) {
  return element.dataset.tip != null && Boolean(textOf(element));
}

/**
 * All that says something of itself in an element and the shadow roots in it, as far as it is seen.
 *
 * @param {ParentNode} root
 * @returns {Explained[]}
 */
function explainedIn(root) {
  return [...root.querySelectorAll("*")].flatMap((element) => {
    const inside = element.shadowRoot ? explainedIn(element.shadowRoot) : [];
    const own = /** @type {Explained} */ (element);
    return isExplained(own) && own.checkVisibility() ? [own, ...inside] : inside;
  });
}

/** @param {PointerEvent} event */
function onPointerOver(event) {
  if (event.pointerType === "touch") return;
  const element = explainedBy(event);
  if (element !== clicked) clicked = null;
  clearTimeout(timer);
  if (element && element !== explained && element !== clicked) {
    timer = setTimeout(() => open(element, null), explained ? 0 : OPEN_AFTER_MILLISECONDS);
  } else if (!element && explained && !focused && !isWithin(tip, event)) {
    timer = setTimeout(close, CLOSE_AFTER_MILLISECONDS);
  }
}

/** @param {PointerEvent} event */
function onPointerDown(event) {
  if (isWithin(tip, event)) return;
  clicked = explainedBy(event) ?? null;
  close();
}

/** A touch on what does nothing else. @param {PointerEvent} event */
function onPointerUp(event) {
  if (event.pointerType !== "touch" || !clicked || explainedBy(event) !== clicked) return;
  const acts = event.composedPath().some((node) => node instanceof Element && node.matches(INTERACTIVE));
  if (!acts) open(clicked, null);
}

/** @param {Event} event */
function onFocusIn(event) {
  const target = /** @type {Explained} */ (event.composedPath()[0]);
  const element = isOurs(target) && isGroup(target) ? target : explainedBy(event);
  if (element === explained && target === focused) return;
  if (element && target.matches(":focus-visible")) open(element, target);
}

function onFocusOut() {
  if (focused) close();
}

/** @param {KeyboardEvent} event */
function onKeyDown(event) {
  if (event.key === "Escape" && explained) {
    if (focused) event.stopImmediatePropagation(); // the next one closes what is around it
    return close();
  }
  const step = STEPS[/** @type {keyof typeof STEPS} */ (event.key)];
  const path = event.composedPath();
  const group = path.find((node) => isOurs(node) && isGroup(node));
  if (!step || !group || (path[0] instanceof Element && path[0].matches(INTERACTIVE))) return;
  const those = explainedIn(/** @type {Explained} */ (group));
  const next = those[those.findIndex((element) => path.includes(element)) + step];
  if (!next) return;
  event.preventDefault();
  if (next.tabIndex < 0) next.setAttribute("tabindex", "-1");
  next.focus();
}

/**
 * Listens for what no shadow root lets out: of a move from one element in it to another nobody else hears.
 * @param {EventTarget} root
 */
export function listen(root) {
  root.addEventListener("pointerover", /** @type {EventListener} */ (onPointerOver));
  root.addEventListener("focusin", onFocusIn);
  root.addEventListener("focusout", onFocusOut);
}

/** @param {Element | null} element @param {Event} event */
function isWithin(element, event) {
  return element != null && event.composedPath().includes(element);
}

// At the window, before those of whoever else closes something by Escape.
addEventListener("keydown", onKeyDown, { capture: true });
addEventListener("pointerdown", onPointerDown, { capture: true, passive: true });
addEventListener("pointerup", onPointerUp, { capture: true, passive: true });
listen(window);
for (const move of ["scroll", "resize"]) {
  addEventListener(move, () => explained && update(), { capture: true, passive: true });
}

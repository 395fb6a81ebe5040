/**
 * What is cut, leaves its card, lies on another text or makes the page scroll sideways: a line each. Shadow roots
 * are walked too. What can be scrolled to is not cut, nor is what has no place at all and is left out as a whole.
 *
 * @param {string} mayBeCut Selectors of what gives way on purpose, such as a prompt.
 * @returns {string[]}
 */
function whatIsCut(mayBeCut) {
  const SLACK_PIXELS = 1.5;
  /** Of a line, above and below its letters. */
  const LEADING_PIXELS = 4;
  const CARD = ".panel, #popover";
  const HOSTS = "crystools-bar, crystools-sidebar";

  /** @type {Set<string>} */
  const found = new Set();
  /** @type {{ element: Element, text: string, lines: Box[] }[]} */
  const seen = [];

  /** @typedef {{ left: number, right: number, top: number, bottom: number }} Box */

  /** @param {Node} node @returns {Element | null} */
  function parentOf(node) {
    if (node instanceof Element && node.assignedSlot) return node.assignedSlot;
    const { parentNode: parent } = node;
    return parent instanceof ShadowRoot ? parent.host : parent instanceof Element ? parent : null;
  }

  /** @param {Element | null} element @param {string} selector */
  function closest(element, selector) {
    for (let at = element; at; at = parentOf(at)) if (at.matches(selector)) return at;
    return null;
  }

  /** @param {Element} element @returns {string} */
  function nameOf(element) {
    const root = element.getRootNode();
    const name = [element.localName, ...(element.id ? ["#", element.id] : [])].join("");
    const whole = [name, ...element.classList].join(".");
    return root instanceof ShadowRoot ? `${nameOf(root.host)} ${whole}` : whole;
  }

  /** @param {Text} text */
  function look(text) {
    const element = parentOf(text);
    if (!element || !text.data.trim() || closest(element, ".sr-only, style, title, option, textarea")) return;
    if (!element.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true })) return;
    const range = document.createRange();
    range.selectNodeContents(text);
    const drawn = range.getBoundingClientRect();
    if (!drawn.width || !drawn.height) return;
    const shown = { left: -Infinity, right: Infinity, top: -Infinity, bottom: Infinity };
    /** @param {string} what */
    const say = (what) => found.add(`${nameOf(element)} ${what}: ${text.data.trim().slice(0, 50)}`);
    let [x, y, inCard] = [true, true, true];
    for (let at = /** @type {Element | null} */ (element); at; at = parentOf(at)) {
      const { overflowX, overflowY, position } = getComputedStyle(at);
      const box = at.getBoundingClientRect();
      const wider = drawn.left < box.left - SLACK_PIXELS || drawn.right > box.right + SLACK_PIXELS;
      const higher = drawn.top < box.top - LEADING_PIXELS || drawn.bottom > box.bottom + LEADING_PIXELS;
      const outside = drawn.top > box.bottom - SLACK_PIXELS || drawn.bottom < box.top + SLACK_PIXELS;
      if (y && overflowY === "hidden" && outside) return;
      if ((x && overflowX === "hidden" && wider) || (y && overflowY === "hidden" && higher)) {
        if (!closest(element, mayBeCut)) say(`is cut by ${nameOf(at)}`);
        return;
      }
      if (x && inCard && at.matches(CARD)) {
        if (wider) say(`leaves ${nameOf(at)}`);
        inCard = false;
      }
      if (overflowX !== "visible") {
        [shown.left, shown.right] = [Math.max(shown.left, box.left), Math.min(shown.right, box.right)];
      }
      if (overflowY !== "visible") {
        [shown.top, shown.bottom] = [Math.max(shown.top, box.top), Math.min(shown.bottom, box.bottom)];
      }
      x &&= overflowX !== "auto";
      y &&= overflowY !== "auto";
      if (position === "fixed") break;
    }
    const lines = [...range.getClientRects()].map((line) => ({
      left: Math.max(line.left, shown.left),
      right: Math.min(line.right, shown.right),
      top: Math.max(line.top, shown.top),
      bottom: Math.min(line.bottom, shown.bottom),
    }));
    seen.push({ element, text: text.data.trim(), lines });
  }

  /** @param {Node} node */
  function walk(node) {
    if (node instanceof Text) return look(node);
    if (node instanceof Element && node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.childNodes) walk(child);
  }

  /** @param {Box} a @param {Box} b */
  function overlap(a, b) {
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    return width > SLACK_PIXELS && height > LEADING_PIXELS;
  }

  const hosts = [...document.querySelectorAll(HOSTS)];
  for (const root of hosts.length ? hosts : [document.body]) {
    if (root.clientWidth) walk(root); // else it has no room at all
  }
  seen.forEach((one, at) => {
    for (const other of seen.slice(at + 1)) {
      if (!one.lines.some((a) => other.lines.some((b) => overlap(a, b)))) continue;
      const layers = [one, other].map(({ element }) => closest(element, "#popover, crystools-header, [role=tooltip]"));
      if (layers[0] === layers[1]) found.add(`${nameOf(one.element)} lies on ${nameOf(other.element)}: ${other.text}`);
    }
  });
  for (const root of [document.documentElement, ...hosts]) {
    const { scrollWidth, clientWidth } = root;
    if (scrollWidth > clientWidth + 1) found.add(`${nameOf(root)} is ${scrollWidth} px wide in ${clientWidth}`);
  }
  return [...found];
}

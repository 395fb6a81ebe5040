/** Which of many elements are in sight, in the window and in all that scrolls around them. */
export class Sight {
  /** @type {WeakSet<Element>} */
  #seen = new WeakSet();
  #observer;

  /** @param {() => void} comes Called when one of them has come into sight. */
  constructor(comes) {
    this.#observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.#seen.add(target);
        else this.#seen.delete(target);
      }
      if (entries.some((entry) => entry.isIntersecting)) comes();
    });
  }

  /**
   * The element, watched from now on for as long as it exists.
   *
   * @template {Element} E
   * @param {E} element
   */
  watched(element) {
    this.#observer.observe(element);
    return element;
  }

  /** @param {Element} element */
  has(element) {
    return this.#seen.has(element);
  }
}

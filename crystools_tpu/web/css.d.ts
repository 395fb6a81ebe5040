/** Stylesheets that a module imports; the server's bundle makes them so. */
declare module "*.css" {
  const sheet: CSSStyleSheet;
  export default sheet;
}

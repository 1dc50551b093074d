/* Elements, made so that text stays text: nothing in this page is ever parsed as HTML. */

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element; children are nodes or strings. */
export const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

/** The element of an id; a page without it is a mistake. */
export function at(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found;
}

const WORDS = { right: "right", wrong: "wrong", open: "", unread: "" };

/** The state of an answer: right, wrong, open (nobody knows) or unread (there is none). */
export const stateOf = (answer, correct) =>
  answer === null || answer === undefined ? "unread" : correct === true ? "right" : correct === false ? "wrong" : "open";

/** A sign for a state, told apart by its shape; the word stands beside it. */
function sign(state) {
  const shape = {
    right: [svg("circle", { class: "ground", cx: 8, cy: 8, r: 7 }), svg("path", { class: "stroke", d: "M4.8 8.3l2.2 2.2 4.3-4.8" })],
    wrong: [svg("rect", { class: "ground", x: 1.5, y: 1.5, width: 13, height: 13, rx: 2 }), svg("path", { class: "stroke", d: "M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6" })],
    open: [svg("circle", { class: "hollow", cx: 8, cy: 8, r: 6 })],
    unread: [svg("circle", { class: "hollow", cx: 8, cy: 8, r: 6, "stroke-dasharray": "2.6 2.1" })],
  }[state];
  return svg("svg", { class: `sign ${state}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, shape);
}

/** An answer with its sign and its word. */
export function given(answer, correct) {
  const state = stateOf(answer, correct);
  const said = state === "unread" ? el("em", {}, "no answer") : el("bdi", { class: "answer", dir: "auto" }, answer);
  const word = WORDS[state] && el("span", { class: `word ${state}` }, ` ${WORDS[state]}`);
  return el("span", { class: `given ${state}` }, sign(state), said, word);
}

/** What went wrong, where it can be seen; `again` is offered where trying again can help. */
export function problem(error, again) {
  return el(
    "div",
    { class: "problem", role: "alert" },
    el("p", {}, el("strong", {}, error.title ?? "This cannot be shown.")),
    error.message && el("p", { dir: "auto" }, error.message),
    error.advice && el("p", {}, error.advice),
    error.request && el("p", { class: "sub" }, "Request ", el("code", {}, error.request)),
    again && (error.mayPass ?? true) && el("button", { type: "button", onclick: again }, "Try again"),
  );
}

/** Tell those who cannot see it. */
export function announce(text) {
  at("live").textContent = text;
}

export const count = (value) => value.toLocaleString("en");
export const many = (value, thing) => `${count(value)} ${thing}${value === 1 ? "" : "s"}`;
export const percent = (value) => `${Math.round(value * 100)}%`;
export const seconds = (value) => (value < 0.9995 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`);

/** A row of a description list. */
export const fact = (name, ...value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));

/** One column: what is under each other on a phone. */
export const narrow = window.matchMedia("(max-width: 62rem)");

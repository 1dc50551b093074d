"use strict";
/* Elements, made so that text stays text: nothing in this page is ever parsed as HTML. */
const report = {};
(() => {
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
  const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
  /** An SVG element. */
  const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

  const tip = document.getElementById("tip");
  let told = null;

  /** Show lines of text beside a point of the window, or beside an element. */
  function showTip(lines, at) {
    tip.replaceChildren(...lines.map((line, i) => el(i ? "div" : "strong", {}, line)));
    tip.hidden = false; // it has no size to place it by while it is hidden
    place(at);
  }
  function place(at) {
    told = at;
    const box = at instanceof Element ? at.getBoundingClientRect() : null;
    tip.hidden = box !== null && (box.bottom < 0 || box.top > window.innerHeight);
    const x = box ? box.left + box.width / 2 : at.clientX;
    const y = box ? box.bottom : at.clientY + 8;
    const left = Math.max(8, Math.min(x + 12, document.documentElement.clientWidth - tip.offsetWidth - 8));
    const below = y + 8 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? y + 8 : Math.max(8, (box ? box.top : at.clientY) - tip.offsetHeight - 8)}px`;
  }
  const hideTip = () => {
    tip.hidden = true;
    told = null;
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
  });
  // The keyboard scrolls to what it focuses: the figures of that stay beside it.
  const followTip = () => (told !== null && told === document.activeElement ? place(told) : hideTip());
  document.addEventListener("scroll", followTip, { passive: true });

  /** Attributes of a mark that tells its figures on hover and on focus. */
  const telling = (lines) => ({
    tabindex: 0,
    role: "img",
    "aria-label": lines.join(", "),
    onpointerenter: (event) => showTip(lines, event),
    onpointerleave: hideTip,
    onfocus: (event) => {
      if (event.target.matches(":focus-visible")) showTip(lines, event.target);
    },
    onblur: hideTip,
  });

  /** Where there is no room for two runs side by side, further runs are folded. */
  const narrow = window.matchMedia("(max-width: 40rem)");

  function runBlock(label, first, level, drawn) {
    const name = el(level, {}, label);
    return narrow.matches && !first
      ? el("details", { class: "run" }, el("summary", {}, name), drawn)
      : el("div", { class: "run" }, name, drawn);
  }

  /**
   * What a function makes for every run; null where no run has anything. Several runs stand side by side, or under each other
   * where they are `tables`, which need the whole width.
   */
  function perRun(data, has, draw, { tables = false } = {}) {
    const runs = data.runs.filter(has);
    if (!runs.length) return null;
    if (data.runs.length === 1) return draw(runs[0], "h3");
    const blocks = runs.map((run, i) => runBlock(run.label, i === 0, "h3", draw(run, "h4")));
    const missing = data.runs.filter((run) => !runs.includes(run)).map((run) => run.label);
    return [
      el("div", { class: tables ? "runs under" : "runs" }, blocks),
      missing.length > 0 && el("p", { class: "note" }, `Nothing of this in ${missing.join(", ")}.`),
    ];
  }

  /** A section of the page. */
  const section = (id, title, lead, ...children) =>
    el(
      "section",
      { id, "aria-labelledby": `${id}-title` },
      el("h2", { id: `${id}-title` }, title),
      lead && el("p", { class: "lead" }, lead),
      children,
    );

  /** What went wrong, where it can be seen. */
  const problem = (error) => el("p", { class: "problem", role: "alert" }, `This cannot be shown. ${error.message}`);

  /** Values, each once, in the order of others; those not among them come last, as they come. */
  const inOrder = (values, order) => [...new Set([...order.filter((value) => values.includes(value)), ...values])];

  /** A closed drawer under a summary. */
  const drawer = (summary, ...children) => el("details", {}, el("summary", {}, summary), children);

  Object.assign(report, { el, svg, showTip, hideTip, telling, perRun, section, problem, inOrder, drawer, sections: [] });
})();

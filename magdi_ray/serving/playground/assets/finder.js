/* The run's questions: found by words, a page at a time, chosen with a click or the keyboard. */
import { ask } from "./api.js";
import { announce, count, el, many, problem } from "./dom.js";

const PAGE = 8;
/* So long after the last key stroke the server is asked. */
const PAUSE_MS = 200;

export const SPLITS = {
  test: "test, held out",
  ood: "out of domain, held out",
  dev: "dev, not trained on",
  train: "train",
};

export class Finder {
  /** `onChoose` is given the id of a question. */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.offset = 0;
    this.total = 0;
    this.last = null;
    this.current = null;
    this.box = el("input", { type: "search", id: "find", autocomplete: "off", spellcheck: "false", maxlength: 200, placeholder: "words or an id" });
    this.hits = el("p", { class: "sub hits", role: "status" });
    this.list = el("ul", { class: "results" });
    this.trouble = el("div");
    this.before = el("button", { type: "button", onclick: () => this.turn(-PAGE) }, "Previous");
    this.after = el("button", { type: "button", onclick: () => this.turn(PAGE) }, "Next");
    this.where = el("span", { class: "sub" });
    this.pager = el("nav", { class: "pager", "aria-label": "Pages of questions" }, this.before, this.where, this.after);
    this.node = el(
      "div",
      { class: "finder" },
      el("label", { for: "find" }, "Find a question"),
      this.box,
      this.hits,
      this.trouble,
      this.list,
      this.pager,
    );
    this.box.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.search(), PAUSE_MS);
    });
    this.list.addEventListener("keydown", (event) => this.move(event));
  }

  search() {
    this.offset = 0;
    return this.load();
  }

  async turn(by) {
    this.offset = Math.max(0, this.offset + by);
    await this.load();
    this.list.querySelector("button")?.focus();
  }

  /** Ask for the page; an answer that is overtaken by a later question is dropped. */
  async load() {
    this.last?.abort();
    const mine = (this.last = new AbortController());
    this.node.setAttribute("aria-busy", "true");
    if (!this.list.childElementCount) this.hits.textContent = "Reading the run's questions…";
    const search = this.box.value.trim();
    const query = new URLSearchParams({ search, offset: this.offset, limit: PAGE });
    try {
      const found = await ask(`playground/questions?${query}`, { signal: mine.signal });
      this.trouble.replaceChildren();
      this.show(found, search);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.hits.textContent = "";
      this.list.replaceChildren();
      this.pager.hidden = true;
      this.trouble.replaceChildren(problem(error, () => this.load()));
    }
    this.node.removeAttribute("aria-busy");
  }

  show({ total, questions }, search) {
    this.total = total;
    this.hits.textContent = search ? `${many(total, "question")} found` : `${many(total, "question")}, held-out ones first`;
    this.list.replaceChildren(...questions.map((question) => this.entry(question)));
    if (!total) this.list.append(search ? this.nothing() : el("li", { class: "note" }, "The run has no questions."));
    this.pager.hidden = total <= PAGE;
    this.before.disabled = this.offset === 0;
    this.after.disabled = this.offset + PAGE >= total;
    this.where.textContent = total ? `${count(this.offset + 1)} to ${count(this.offset + questions.length)}` : "";
  }

  nothing() {
    const clear = () => {
      this.box.value = "";
      this.box.focus();
      this.search();
    };
    return el("li", { class: "note" }, "Nothing holds all these words. ", el("button", { type: "button", class: "link", onclick: clear }, "Clear the search"));
  }

  entry(question) {
    const about = [question.id, SPLITS[question.split] ?? question.split, question.debated ? null : "not debated"];
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", class: "result", "data-id": question.id, "aria-current": question.id === this.current && "true", onclick: () => this.choose(question.id) },
        el("span", { class: "text", dir: "auto" }, question.text.trim() || el("em", {}, "The question is empty.")),
        el("span", { class: "sub" }, el("bdi", {}, about.filter(Boolean).join(" · "))),
      ),
    );
  }

  choose(id) {
    this.current = id;
    for (const button of this.list.querySelectorAll(".result")) {
      if (button.dataset.id === id) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    this.onChoose(id);
  }

  /** The list is shown again: the reader goes on where they were. */
  focus() {
    (this.list.querySelector("[aria-current]") ?? this.box).focus();
    announce("The run's questions.");
  }

  move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const buttons = [...this.list.querySelectorAll(".result")];
    const place = buttons.indexOf(document.activeElement);
    if (!step || place < 0) return;
    event.preventDefault();
    buttons[place + step]?.focus();
  }
}

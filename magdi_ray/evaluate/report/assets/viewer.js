/* The debate viewer. The address after "#" says what is open: question and reply; everything shown follows from it. */
(() => {
  const { el, section, problem, Questions, finder, graph, reply, answers, summary } = report;
  const { count, many } = report.format;

  /** {id, set, node} of "#q=ID&set=SET&n=3", or null. */
  function wanted() {
    if (!location.hash.startsWith("#q=")) return null;
    const asked = new URLSearchParams(location.hash.slice(1)),
      node = asked.get("n");
    return { id: asked.get("q"), set: asked.get("set"), node: node === null ? null : Number(node) };
  }

  const address = (id, set, node) =>
    `#${new URLSearchParams({ q: id, ...(set === null ? {} : { set }), ...(node === null ? {} : { n: node }) })}`;

  const locate = (index, { id, set }) => index.id.findIndex((other, i) => other === id && (set === null || index.set[i] === set));
  /** Sets only belong into an address where ids repeat. */
  const addressOf = (index, position, node = null) =>
    address(
      index.id[position],
      index.id.indexOf(index.id[position]) === index.id.lastIndexOf(index.id[position]) ? null : index.set[position],
      node,
    );

  /** The last reply that gave the debate's answer, or null. */
  function deciding(debate) {
    const at = debate && debate.answer !== null ? debate.nodes.findLastIndex((node) => node.answer === debate.answer) : -1;
    return at < 0 ? null : at;
  }

  class Viewer {
    constructor(data, holder) {
      this.viewer = data.viewer;
      this.run = data.runs[0];
      this.questions = new Questions(data.viewer);
      this.holder = holder;
      this.pane = el(
        "div",
        { class: "pane" },
        el(
          "p",
          { class: "note hint" },
          "Choose a question to see who said what, who was shown it, and what the student makes of it.",
        ),
      );
      this.chosen = new Set();
      this.open = null;
      this.asked = false;
      window.addEventListener("hashchange", () => this.follow());
    }

    /** Inflate the index once and show the list; later calls do nothing. */
    start() {
      this.started ??= this.questions
        .index()
        .then((index) => {
          this.index = index;
          this.finder = finder(
            this.viewer,
            index,
            this.run.sets.map((set) => set.id),
            (position) => this.go(position),
          );
          this.holder.replaceChildren(this.finder.node, this.pane);
        })
        .catch((error) => this.holder.replaceChildren(problem(error)));
      return this.started;
    }

    /** Open a question because somebody asked for it here and now. */
    go(position, node = null) {
      const next = addressOf(this.index, position, node);
      this.asked = true;
      if (next === location.hash) this.follow();
      else location.hash = next;
    }

    /** Show what the address says. */
    async follow() {
      const want = wanted();
      if (!want) return;
      const asked = this.asked;
      this.asked = false;
      await this.start();
      if (!this.index) return;
      const position = locate(this.index, want);
      if (position < 0) {
        this.open = null;
        this.pane.replaceChildren(problem(new Error(`This report holds no question "${want.id}".`)));
        this.reveal(true);
        return;
      }
      if (this.open?.position !== position) await this.load(position);
      if (this.open?.position !== position) return;
      this.finder.mark(position);
      this.read(want.node ?? deciding(this.open.detail.debate), asked && want.node !== null);
      if (!asked) this.reveal(!this.seen);
      else if (want.node === null) {
        this.pane.querySelector("h3")?.focus({ preventScroll: true });
        this.reveal(false);
      }
      this.seen = true;
    }

    async load(position) {
      const turn = Symbol(this.index.id[position]);
      this.turn = turn;
      this.pane.setAttribute("aria-busy", "true");
      const slow = setTimeout(
        () => this.pane.replaceChildren(el("p", { class: "note", role: "status" }, "Unpacking the question …")),
        150,
      );
      try {
        const detail = await this.questions.detail(position);
        if (this.turn === turn) this.show(position, detail);
      } catch (error) {
        if (this.turn !== turn) return;
        this.open = null;
        this.pane.replaceChildren(problem(error));
      } finally {
        clearTimeout(slow);
        if (this.turn === turn) this.pane.removeAttribute("aria-busy");
      }
    }

    show(position, detail) {
      const drawn = detail.debate?.nodes.length ? graph(detail.debate, (i) => this.go(position, i)) : null;
      const place = el("div", { class: "replies" });
      this.open = { position, detail, drawn, place };
      const step = (by, text) =>
        el(
          "button",
          {
            type: "button",
            onclick: () => {
              const next = this.finder.beside(by);
              if (next !== null) this.go(next);
            },
          },
          text,
        );
      this.pane.replaceChildren(
        ...[
          el(
            "div",
            { class: "pane-head" },
            el("h3", { tabindex: -1 }, `Question ${detail.id}`),
            step(-1, "Previous"),
            step(1, "Next"),
          ),
          summary(this.viewer, this.index, position, detail),
          drawn
            ? drawn.node
            : el(
                "p",
                { class: "note" },
                detail.debate ? "The debate holds no reply." : "This question was not debated, or its debate failed.",
              ),
          el("div", { class: "reading" }, drawn && place, answers(this.run, this.viewer, detail, this.chosen)),
        ]
          .flat()
          .filter(Boolean),
      );
    }

    /** Show one reply of the open debate, or a hint where there is none; `follow` scrolls to it where it is out of sight. */
    read(node, follow) {
      const { drawn, place, detail, position } = this.open;
      if (!drawn) return;
      const there = node !== null && detail.debate.nodes[node];
      drawn.select(there ? node : null);
      const hint = el("p", { class: "note hint" }, "Choose a reply in the graph to read it here.");
      place.replaceChildren(
        there
          ? reply(detail.debate, node, (i) => {
              this.go(position, i);
              drawn.focus(i);
            })
          : hint,
      );
      if (there && follow) {
        const box = place.getBoundingClientRect();
        if (box.top > window.innerHeight - 120) place.scrollIntoView({ block: "center" });
      }
    }

    reveal(always) {
      const top = this.pane.getBoundingClientRect().top;
      if (always || top < 0 || top > window.innerHeight * 0.6) this.pane.scrollIntoView({ block: "start" });
    }
  }

  function viewer(data) {
    if (!data.viewer?.count) return null;
    const holder = el("div", { class: "viewer" });
    const left = data.viewer.left_out ? ` ${many(data.viewer.left_out, "further debate")} of the run were left out.` : "";
    const made = section(
      "viewer",
      "Questions and debates",
      `${count(data.viewer.count)} questions${data.runs.length > 1 ? ` of ${data.runs[0].label}` : ""}, packed in this file and unpacked when they are looked at.${left} Send this file; add #q=ID to its address to open one question.`,
      holder,
    );
    if (typeof DecompressionStream === "undefined") {
      holder.replaceChildren(
        problem(
          new Error(
            "The questions are gzipped, and this browser has no DecompressionStream to unpack them. Chrome 80, Firefox 113, Safari 16.4 and later have it.",
          ),
        ),
      );
      return made;
    }
    const shown = new Viewer(data, holder);
    holder.append(el("p", { class: "note hint", role: "status" }, "Unpacking the list of questions …"));
    new IntersectionObserver(
      (entries, observer) => {
        if (entries.some((entry) => entry.isIntersecting)) {
          observer.disconnect();
          shown.start();
        }
      },
      { rootMargin: "800px" },
    ).observe(holder);
    made.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && shown.pane.contains(event.target)) shown.finder.focus();
    });
    requestAnimationFrame(() => shown.follow());
    return made;
  }

  report.sections.push({
    id: "viewer",
    title: "Debates",
    without: "questions and debates to look at (none were kept)",
    build: viewer,
  });
})();

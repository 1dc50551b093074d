/* Reading replies: the chosen one of the debate, and beside it what the systems answered alone. */
(() => {
  const { el, sign, stateOf, stateText, nameOf, scroller } = report;
  const { known, short, count, many, title, brief } = report.format;

  const row = (name, ...value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  const body = (name, text) =>
    text.trim()
      ? scroller(name, el("div", { class: "reply", dir: "auto" }, text))
      : el("p", { class: "note" }, "The reply is empty.");
  const given = (answer) =>
    answer === null || answer === undefined ? el("em", {}, "no answer") : el("bdi", { dir: "auto", class: "answer" }, answer);

  /** Links to other replies of the debate, each said with how it was related. */
  function links(debate, edges, end, choose) {
    if (!edges.length) return "nobody";
    return edges.map((edge) =>
      el(
        "button",
        { type: "button", class: "link", onclick: () => choose(edge[end]) },
        `${debate.nodes[edge[end]].agent}, round ${debate.nodes[edge[end]].round}${edge.type === "peer" ? "" : ` (${edge.type})`}`,
      ),
    );
  }

  /** A reply of the debate. */
  function reply(debate, i, choose) {
    const node = debate.nodes[i];
    return el(
      "article",
      { class: "card", id: "reply", tabindex: -1, "aria-label": `Reply of ${nameOf(node)}` },
      el("h4", {}, el("bdi", {}, nameOf(node))),
      el(
        "dl",
        { class: "facts" },
        row("answer", sign(stateOf(node)), " ", given(node.answer), ` ${stateText(node)}`),
        known(node.confidence) && row("confidence", short(node.confidence)),
        known(node.tokens_out) && row("tokens", count(node.tokens_out)),
        node.model && row("model", el("bdi", {}, node.model)),
        row(
          "was shown",
          links(
            debate,
            debate.edges.filter((edge) => edge.target === i),
            "source",
            choose,
          ),
        ),
        row(
          "shown to",
          links(
            debate,
            debate.edges.filter((edge) => edge.source === i),
            "target",
            choose,
          ),
        ),
      ),
      body(`Reply of ${nameOf(node)}`, node.text),
    );
  }

  const keyOf = (answer) => [answer.system, answer.seed, answer.method, answer.sample].join("\n");
  const HOW = { single: () => null, revised: () => "revised", sample: (answer) => `sample ${answer.sample}` };
  const voted = (answer) => `${answer.method} of ${answer.sample}`;
  const extra = (answer) =>
    [answer.seed ? `seed ${answer.seed}` : null, (HOW[answer.method] ?? voted)(answer)].filter(Boolean).join(", ");

  function card(run, answer, heading) {
    const state = answer.error
      ? "unparsed"
      : answer.answer === null
        ? "unparsed"
        : answer.correct === null
          ? "unlabelled"
          : answer.correct
            ? "right"
            : "wrong";
    const name = [title(run, answer.system), extra(answer)].filter(Boolean).join(", ");
    return el(
      "article",
      { class: "card", "data-system": answer.system },
      el("h4", {}, heading ? [el("span", { class: "where" }, `${heading}: `), name] : name),
      el(
        "dl",
        { class: "facts" },
        row(
          "answer",
          sign(state),
          " ",
          given(answer.answer),
          ` ${answer.error ? "no reply" : { right: "right", wrong: "wrong", unlabelled: "not labelled", unparsed: "wrong" }[state]}`,
        ),
        known(answer.tokens_out) && row("tokens", count(answer.tokens_out)),
      ),
      answer.error && el("p", { class: "problem" }, answer.error),
      !answer.error && answer.method in HOW && body(`Answer of ${name}`, answer.text),
    );
  }

  /** Answers of systems alone: base before, product after, others by choice. `chosen` is a set of keys kept from question to question. */
  function answers(run, viewer, detail, chosen) {
    const base = run.systems.find((system) => system.kind === "base")?.id;
    const order = (answer) => {
      const at = [base, viewer.product, ...(viewer.systems ?? [])].indexOf(answer.system);
      return at < 0 ? Infinity : at;
    };
    const all = [...(detail.answers ?? [])].sort((a, b) => order(a) - order(b) || 0);
    const first = new Set(
      [base, viewer.product]
        .map((system) => all.find((answer) => answer.system === system))
        .filter(Boolean)
        .map(keyOf),
    );
    const others = all.filter((answer) => !first.has(keyOf(answer)));
    const headings = { [base]: "before", [viewer.product]: "after" };
    const holder = el("div", { class: "cards" });
    const show = () =>
      holder.replaceChildren(
        ...all
          .filter((answer) => first.has(keyOf(answer)) || chosen.has(keyOf(answer)))
          .map((answer) => card(run, answer, first.has(keyOf(answer)) ? headings[answer.system] : null)),
      );
    const toggles = others.map((answer) =>
      el(
        "button",
        {
          type: "button",
          class: "chip",
          "aria-pressed": String(chosen.has(keyOf(answer))),
          onclick: (event) => {
            const key = keyOf(answer),
              on = !chosen.has(key);
            on ? chosen.add(key) : chosen.delete(key);
            event.currentTarget.setAttribute("aria-pressed", String(on));
            show();
          },
        },
        [brief(run, answer.system), extra(answer)].filter(Boolean).join(", "),
      ),
    );
    show();
    if (!all.length) return el("p", { class: "note" }, "No system was asked this question alone.");
    return el(
      "div",
      { class: "alone" },
      el("h4", { class: "label" }, "Answered alone"),
      holder,
      toggles.length > 0 &&
        el(
          "div",
          { class: "chips", role: "group", "aria-label": "Other systems' answers" },
          el("span", { class: "sub" }, "Show also"),
          toggles,
        ),
    );
  }

  const ENDS = { consensus: "all agreed", rounds: "after the last round", error: "ended by an error" };

  /** What is known of the question and of how its debate ended. */
  function summary(viewer, index, position, detail) {
    const debate = detail.debate,
      mask = index.kinds[position];
    const rounds = debate ? new Set(debate.nodes.map((node) => node.round)).size : 0;
    const state =
      debate &&
      (debate.answer === null ? "unparsed" : debate.correct === null ? "unlabelled" : debate.correct ? "right" : "wrong");
    return [
      el("p", { class: "question", dir: "auto" }, detail.text || el("em", {}, "The question is empty.")),
      el(
        "dl",
        { class: "facts" },
        row(
          "gold answer",
          detail.gold === null ? el("em", {}, "not known") : el("bdi", { class: "answer", dir: "auto" }, detail.gold),
        ),
        row("set", detail.set),
        debate &&
          row(
            "debate's vote",
            sign(state),
            " ",
            given(debate.answer),
            ` ${{ right: "right", wrong: "wrong", unlabelled: "not labelled", unparsed: "" }[state]}`,
          ),
        debate && known(debate.agreement) && row("agreement", short(debate.agreement)),
        debate && row("ended", `${ENDS[debate.stopped] ?? debate.stopped}, ${many(rounds, "round")}`),
      ),
      mask
        ? el(
            "ul",
            { class: "tags", "aria-label": "Kinds of this question" },
            viewer.kinds.filter((_, bit) => (mask >> bit) & 1).map((kind) => el("li", { title: kind.hint }, kind.title)),
          )
        : null,
    ];
  }

  Object.assign(report, { reply, answers, summary });
})();

/* Accuracy of every system on every set, in domain and out of domain apart. */
(() => {
  const { el, svg, section, table, drawer, mark } = report;
  const { NONE, known, percent, hundred, interval, tokens, count, decimal, plain, usd, method, title, kind } = report.format;

  const name = (run, row) =>
    el(
      "span",
      { class: "named" },
      svg(
        "svg",
        { width: 20, height: 16, viewBox: "-10 -8 20 16", "aria-hidden": "true", class: "inline" },
        mark(kind(run, row.system), 5),
      ),
      el("span", {}, title(run, row.system), method(row) && el("span", { class: "sub" }, method(row))),
    );
  const isProduct = (run, row) => run.systems.find((system) => system.id === row.system)?.product;

  /** Share and interval as a thin bar; the figures stand beside it. */
  function bar(run, row) {
    const x = (value) => 1 + 118 * value;
    return svg(
      "svg",
      { width: 120, height: 14, viewBox: "0 0 120 14", "aria-hidden": "true", class: `bar kind-${kind(run, row.system)}` },
      svg("line", { x1: x(0), x2: x(1), y1: 7, y2: 7, class: "track" }),
      known(row.low) && svg("line", { x1: x(row.low), x2: x(row.high), y1: 7, y2: 7, class: "range" }),
      svg("circle", { cx: x(row.accuracy), cy: 7, r: 4, class: "dot" }),
    );
  }

  const columnsOf = (run) => [
    { name: "accuracy", number: true, value: (row) => percent(row.accuracy) },
    { name: "95% interval", number: true, value: (row) => interval(row.low, row.high) },
    { name: "0 to 100%", value: (row) => bar(run, row), only: "roomy" },
    { name: "tokens out", hint: "generated, mean per question", number: true, value: (row) => tokens(row.tokens_out) },
    { name: "tokens in", hint: "read, mean per question", number: true, value: (row) => tokens(row.tokens_in) },
    { name: "seconds a reply", hint: "asked alone", number: true, value: (row) => decimal(row.seconds), any: "seconds" },
    { name: "price", hint: "mean per question", number: true, value: (row) => usd(row.usd), any: "usd" },
    { name: "trainings", number: true, value: (row) => count(row.seeds), when: (rows) => rows.some((row) => row.seeds > 1) },
    {
      name: "sd between trainings",
      hint: "standard deviation over trainings, in points",
      number: true,
      value: (row) => hundred(row.sd),
      any: "sd",
    },
    { name: "questions", number: true, value: (row) => count(row.questions) },
    {
      name: "no answer",
      hint: "replies in which no answer could be read; a mean over trainings",
      number: true,
      value: (row) => plain(row.unanswered),
    },
    {
      name: "no reply",
      hint: "questions without a reply, which count as wrong; a mean over trainings",
      number: true,
      value: (row) => plain(row.errors),
    },
  ];

  function scoreTable(run, set) {
    const rows = run.scores.filter((row) => row.set === set.id);
    const columns = columnsOf(run).filter((column) =>
      column.any ? rows.some((row) => known(row[column.any])) : column.when ? column.when(rows) : true,
    );
    return table(
      `${set.id}: ${count(set.questions)} questions`,
      [{ name: "system", head: true, value: (row) => name(run, row) }, ...columns],
      rows,
      { rowClass: (row) => (isProduct(run, row) ? "product" : null) },
    );
  }

  const DOMAINS = [
    ["in", "In domain"],
    ["out", "Out of domain"],
  ];
  const scored = (run, set) => run.scores.some((row) => row.set === set.id);

  const full = (run, level) =>
    DOMAINS.map(([domain, text]) => {
      const sets = run.sets.filter((set) => set.domain === domain && scored(run, set));
      return (
        sets.length > 0 &&
        el(
          "div",
          { class: "group" },
          el(level, {}, text),
          sets.map((set) => scoreTable(run, set)),
        )
      );
    });

  /** One set with a column for every run. */
  function across(runs, set) {
    const key = (row) => [row.system, row.method, row.samples].join("\n");
    const cells = runs.map((run) => new Map(run.scores.filter((row) => row.set === set.id).map((row) => [key(row), row])));
    const rows = [...new Set(cells.flatMap((cell) => [...cell.keys()]))].map((id) => ({
      id,
      by: cells.map((cell) => cell.get(id)),
    }));
    const of = (row) => {
      const i = row.by.findIndex(Boolean);
      return [runs[i], row.by[i]];
    };
    const figure = (row) =>
      row
        ? [
            el("strong", {}, percent(row.accuracy)),
            el("span", { class: "range-text" }, ` ${interval(row.low, row.high)}`),
            el("span", { class: "sub" }, `${tokens(row.tokens_out)} tokens`),
          ]
        : NONE;
    return table(
      `${set.id}: accuracy with 95% interval, and tokens generated a question`,
      [
        { name: "system", head: true, value: (row) => name(...of(row)) },
        ...runs.map((run, i) => ({ name: run.label, number: true, value: (row) => figure(row.by[i]) })),
      ],
      rows,
      { rowClass: (row) => (isProduct(...of(row)) ? "product" : null) },
    );
  }

  function sideBySide(data) {
    const sets = new Map(data.runs.flatMap((run) => run.sets.filter((set) => scored(run, set)).map((set) => [set.id, set])));
    return DOMAINS.map(([domain, text]) => {
      const found = [...sets.values()].filter((set) => set.domain === domain);
      return (
        found.length > 0 &&
        el(
          "div",
          { class: "group" },
          el("h3", {}, text),
          found.map((set) => across(data.runs, set)),
        )
      );
    });
  }

  function scores(data) {
    const some = data.runs.filter((run) => run.scores.length);
    if (!some.length) return null;
    const lead = "Right answers as a share of all questions; a reply without a readable answer counts as wrong.";
    if (data.runs.length === 1) return section("scores", "Scores", lead, full(some[0], "h3"));
    return section(
      "scores",
      "Scores",
      lead,
      sideBySide(data),
      drawer(
        "Everything that was measured, run by run",
        some.map((run) => [el("h3", {}, run.label), full(run, "h4")]),
      ),
    );
  }

  report.sections.push({ id: "scores", title: "Scores", without: "scores (nothing was evaluated)", build: scores });
})();

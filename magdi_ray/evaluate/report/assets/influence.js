/* Who convinced whom: agents whose answer was shown on the left, agents that took it over on the right. */
(() => {
  const { el, svg, perRun, section, chart, canvas, telling, table, drawer, inOrder } = report;
  const { NONE, known, count, percent } = report.format;
  const GAP = 14,
    BAR = 10;

  const STRANDS = [
    ["to_right", "from wrong to right"],
    ["rest", "neither"],
    ["to_wrong", "from right to wrong"],
  ];
  const parts = (row) => ({
    to_right: row.to_right ?? 0,
    to_wrong: row.to_wrong ?? 0,
    rest: row.adopted - (row.to_right ?? 0) - (row.to_wrong ?? 0),
  });
  const labelled = (rows) => rows.some((row) => known(row.to_right));
  const told = (row) => [
    `${row.target} took over ${row.source}'s answer`,
    `${count(row.adopted)} of ${count(row.shown)} times (${percent(row.shown ? row.adopted / row.shown : null)})`,
    known(row.to_right)
      ? `${count(row.to_right)} from wrong to right, ${count(row.to_wrong)} from right to wrong`
      : "not labelled as right or wrong",
  ];

  /** Where every agent's bar stands on one side: {agent: {top, size, next}}. */
  function side(agents, rows, key, scale) {
    let y = 8;
    return new Map(
      agents.map((agent) => {
        const size = rows.filter((row) => row[key] === agent).reduce((sum, row) => sum + row.adopted, 0) * scale;
        const bar = { top: y, size, next: y };
        y += Math.max(size, 3) + GAP;
        return [agent, bar];
      }),
    );
  }

  function flow(rows, agents, width) {
    const total = rows.reduce((sum, row) => sum + row.adopted, 0),
      height = 90 + 58 * agents.length;
    const scale = (height - 16 - GAP * (agents.length - 1) - 3 * agents.length) / Math.max(total, 1);
    const text = Math.min(120, 16 + Math.max(...agents.map((agent) => report.textWidth(agent))));
    const left = text,
      right = width - text,
      from = side(agents, rows, "source", scale),
      to = side(agents, rows, "target", scale);
    const ribbon = (a, b, size) => {
      const x1 = left + BAR,
        x2 = right - BAR,
        mid = (x1 + x2) / 2;
      return `M${x1},${a}C${mid},${a} ${mid},${b} ${x2},${b}v${size}C${mid},${b + size} ${mid},${a + size} ${x1},${a + size}Z`;
    };
    const ribbons = agents
      .flatMap((source) =>
        agents
          .map((target) => rows.find((row) => row.source === source && row.target === target))
          .filter((row) => row?.adopted > 0),
      )
      .map((row) => {
        const a = from.get(row.source),
          b = to.get(row.target),
          share = parts(row);
        const strands = STRANDS.filter(([key]) => share[key] > 0).map(([key]) => {
          const size = share[key] * scale,
            drawn = svg("path", { class: `strand ${key.replace("_", "-")}`, d: ribbon(a.next, b.next, size) });
          a.next += size;
          b.next += size;
          return drawn;
        });
        return svg("g", { class: "ribbon", ...telling(told(row)) }, strands);
      });
    const bars = (bars_, x, anchor, shift) =>
      [...bars_].map(([agent, bar]) =>
        svg(
          "g",
          { "aria-hidden": "true" },
          svg("rect", { class: "agent", x, y: bar.top, width: BAR, height: Math.max(bar.size, 3), rx: 2 }),
          svg("text", { class: "label", x: x + shift, y: bar.top + Math.max(bar.size, 3) / 2 + 4, "text-anchor": anchor }, agent),
        ),
      );
    return canvas(
      width,
      height,
      `Answers taken over: ${rows.length} pairs of agents`,
      ribbons,
      bars(from, left, "end", -7),
      bars(to, right - BAR, "start", BAR + 7),
    );
  }

  const legend = (rows) =>
    labelled(rows) &&
    el(
      "ul",
      { class: "legend" },
      STRANDS.map(([key, text]) =>
        el(
          "li",
          {},
          svg(
            "svg",
            { width: 22, height: 12, "aria-hidden": "true" },
            svg("rect", { class: `strand ${key.replace("_", "-")}`, width: 22, height: 12, rx: 2 }),
          ),
          text,
        ),
      ),
    );

  const rate = (row) => (row.shown ? row.adopted / row.shown : null);

  /** A row whose answer was shown, a column who took it over: the share of times it happened. */
  function matrix(rows, agents) {
    const most = Math.max(...rows.map((row) => rate(row) ?? 0), 0.01);
    const cell = (source, target) => {
      const row = rows.find((one) => one.source === source && one.target === target);
      if (!row) return NONE;
      return el(
        "div",
        {
          class: "heat",
          style: { background: `color-mix(in srgb, var(--student) ${Math.round((24 * (rate(row) ?? 0)) / most)}%, transparent)` },
        },
        el("strong", {}, percent(rate(row))),
        el("span", { class: "sub" }, `${count(row.adopted)} of ${count(row.shown)}`),
      );
    };
    const columns = agents.map((agent) => ({ name: `taken by ${agent}`, number: true, value: (source) => cell(source, agent) }));
    return table(
      "Share of the times an answer was taken over when it was shown",
      [{ name: "answers of", head: true, value: (source) => source }, ...columns],
      agents,
      { slim: true },
    );
  }

  function block(run) {
    const rows = run.influence,
      agents = [...new Set(rows.flatMap((row) => [row.source, row.target]))];
    const columns = [
      {
        name: "whose answer → who took it over",
        head: true,
        value: (row) => [row.source, el("span", { class: "against" }, " → "), row.target],
      },
      { name: "rate", number: true, value: (row) => percent(rate(row)) },
      { name: "taken over", number: true, value: (row) => count(row.adopted) },
      { name: "shown", number: true, value: (row) => count(row.shown) },
      { name: "to right", hint: "from a wrong answer to a right one", number: true, value: (row) => count(row.to_right) },
      { name: "to wrong", hint: "from a right answer to a wrong one", number: true, value: (row) => count(row.to_wrong) },
    ];
    const sizes = new Map(run.rounds.map((row) => [row.split, row.debates]));
    const splits = inOrder(
      [...sizes.keys()],
      run.sets.map((set) => set.split),
    ).map((split) => `${count(sizes.get(split))} of ${split}`);
    const over = splits.length > 0 && `Over all debates of the run, training questions included: ${splits.join(", ")}.`;
    const sorted = [...rows].sort((a, b) => rate(b) - rate(a));
    const twin = el(
      "div",
      { class: "twin" },
      el(
        "figure",
        {},
        el(
          "p",
          { class: "ends", "aria-hidden": "true" },
          el("span", {}, "whose answer was shown"),
          el("span", {}, "who took it over"),
        ),
        chart((width) => flow(rows, agents, width), 90 + 58 * agents.length),
        legend(rows),
      ),
      el(
        "div",
        {},
        matrix(rows, agents),
        drawer("Every pair in figures", table("How often an answer that differs was taken over", columns, sorted)),
      ),
    );
    return [over && el("p", { class: "note" }, over), twin];
  }

  function influence(data) {
    const found = perRun(data, (run) => run.influence.length, block, { tables: true });
    return (
      found &&
      section(
        "influence",
        "Who convinced whom",
        "Counted when an agent was shown an answer that differs from its own and then gave that answer. Width is the number of times.",
        found,
      )
    );
  }

  report.sections.push({
    id: "influence",
    title: "Influence",
    without: "who convinced whom (no agent was shown another's answer)",
    build: influence,
  });
})();

/* Paired differences as a forest plot inside their table, the paper's claims, and runs against each other. */
(() => {
  const { el, svg, section, perRun, table, ticks, linear, inOrder } = report;
  const { known, signed, interval, count, many, chance, method, title, brief } = report.format;
  const WIDTH = 184,
    ROW = 26;

  /** One scale for all rows of a table, with zero and every bound inside. */
  function scaleOf(rows) {
    const ends = rows.flatMap((row) => [row.low, row.high, row.difference, row.bound]).filter(known);
    const low = Math.min(0, ...ends),
      high = Math.max(0, ...ends),
      room = Math.max(0.02, (high - low) * 0.06);
    return linear([low - room, high + room], [6, WIDTH - 6]);
  }

  /** What the mark's colour says: a claim's verdict, else on which side of zero a difference lies. */
  const verdict = (row) =>
    row.verdict
      ? ({ holds: "above", reversed: "below" }[row.verdict] ?? "open")
      : row.low > 0
        ? "above"
        : row.high < 0
          ? "below"
          : "open";

  const forest = (row, x) =>
    svg(
      "svg",
      { width: WIDTH, height: ROW, viewBox: `0 0 ${WIDTH} ${ROW}`, "aria-hidden": "true", class: `forest ${verdict(row)}` },
      svg("line", { x1: x(0), x2: x(0), y1: 0, y2: ROW, class: "zero" }),
      row.bound && svg("line", { x1: x(row.bound), x2: x(row.bound), y1: 0, y2: ROW, class: "bound" }),
      known(row.low) &&
        svg("path", {
          d: `M${x(row.low)},${ROW / 2}H${x(row.high)}M${x(row.low)},${ROW / 2 - 4}v8M${x(row.high)},${ROW / 2 - 4}v8`,
          class: "whisker",
        }),
      svg("rect", { x: x(row.difference) - 4, y: ROW / 2 - 4, width: 8, height: 8, class: "box" }),
    );

  /** Round numbers that leave room for their text. */
  const marks = (x) => {
    const fine = ticks(x.domain, 6);
    return fine.length * 36 < WIDTH ? fine : ticks(x.domain, 3);
  };

  const axis = (x) =>
    svg(
      "svg",
      { width: WIDTH, height: 18, viewBox: `0 0 ${WIDTH} 18`, "aria-hidden": "true", class: "forest axis" },
      marks(x).map((value) =>
        svg("text", { x: x(value), y: 13, "text-anchor": "middle" }, value === 0 ? "0" : signed(value).replace(".0", "")),
      ),
    );

  const figures = [
    { name: "difference", hint: "in percentage points", number: true, only: "roomy", value: (row) => signed(row.difference) },
    { name: "95% interval", number: true, only: "roomy", value: (row) => interval(row.low, row.high, signed) },
  ];

  /** The figures once more, in the first cell, where there is no room for their columns. */
  const tight = (row) => el("span", { class: "tight" }, `${signed(row.difference)} (${interval(row.low, row.high, signed)})`);

  function forestTable(caption, first, rows, rest) {
    const x = scaleOf(rows);
    return table(
      caption,
      [first, ...figures, { name: [axis(x), el("span", { class: "quiet" }, "drawn")], value: (row) => forest(row, x) }, ...rest],
      rows,
      { rowClass: (row) => (row.product ? "product" : null) },
    );
  }

  const GAINED = [
    { name: "gained", hint: "questions only the first has right", number: true, value: (row) => count(row.gained) },
    { name: "lost", hint: "questions only the second has right", number: true, value: (row) => count(row.lost) },
  ];
  const TRAININGS = { name: "trainings", number: true, value: (row) => count(row.seeds) };
  const REST = [
    { name: "p", hint: "exact McNemar test; over several trainings a t-test", number: true, value: (row) => chance(row.p_value) },
    { name: "questions", number: true, value: (row) => count(row.questions) },
  ];
  /** Columns behind the drawing: none that says the same, or nothing, of all rows. */
  const restOf = (rows) => [
    ...(rows.some((row) => row.seeds > 1) ? [TRAININGS] : []),
    ...(rows.some((row) => known(row.gained)) ? GAINED : []),
    ...REST,
  ];

  const called = (run, system, how) => [brief(run, system), how && how !== "single" && how].filter(Boolean).join(", ");

  const pairs = (run) =>
    run.sets.map((set) => {
      const rows = run.differences.filter((row) => row.set === set.id);
      const name = {
        name: "compared",
        head: true,
        value: (row) => [
          called(run, row.system, row.method),
          el("span", { class: "against" }, " against "),
          called(run, row.reference, row.reference_method),
          tight(row),
        ],
      };
      return (
        rows.length > 0 &&
        forestTable(
          `${set.id}${set.domain === "out" ? ", out of domain" : ""}: points more often right on the same questions`,
          name,
          rows,
          restOf(rows),
        )
      );
    });

  const SIGNS = { holds: "✓", reversed: "✗", "not seen": "○" };

  const sign = (row) =>
    el(
      "span",
      { class: `verdict ${row.verdict.replace(" ", "-")}` },
      el("span", { "aria-hidden": "true" }, SIGNS[row.verdict] ?? "·"),
      ` ${row.verdict}`,
    );

  function claims(run) {
    const sets = inOrder(
      [...new Set(run.orderings.map((row) => row.set))],
      run.sets.map((set) => set.id),
    );
    const first = {
      name: "claim",
      head: true,
      value: (row) => [
        row.claim,
        el("span", { class: "sub" }, row.source),
        el("span", { class: "tight" }, sign(row)),
        tight(row),
      ],
    };
    const said = { name: "verdict", only: "roomy", value: (row) => sign(row) };
    const x = scaleOf(run.orderings);
    const drawn = () => ({ name: [axis(x), el("span", { class: "quiet" }, "drawn")], value: (row) => forest(row, x) });
    return sets.map((set) =>
      table(
        `${sets.length > 1 ? `${set}: e` : "E"}xpected orderings, and whether they were found here`,
        [first, said, ...figures, drawn()],
        run.orderings.filter((row) => row.set === set),
      ),
    );
  }

  function comparisons(data) {
    const rows = data.comparisons ?? [];
    const runOf = (label) => data.runs.find((run) => run.label === label) ?? data.runs[0];
    const name = {
      name: "compared",
      head: true,
      value: (row) => [
        el("strong", {}, row.run),
        ` ${called(runOf(row.run), row.system, row.method)}`,
        el("span", { class: "against" }, " against "),
        el("strong", {}, row.reference_run),
        ` ${called(runOf(row.reference_run), row.reference, row.reference_method)}`,
        tight(row),
      ],
    };
    const sets = inOrder([...new Set(rows.map((row) => row.set))], [
      ...new Set(data.runs.flatMap((run) => run.sets.map((set) => set.id))),
    ]);
    const place = (row) => (sets.includes(row.set) ? sets.indexOf(row.set) : sets.length);
    const matched = [...(data.matched ?? [])].sort((a, b) => place(a) - place(b));
    const common = matched.map((row) => {
      const alone = [
        row.only_run && `${count(row.only_run)} only in ${row.run}`,
        row.only_reference && `${count(row.only_reference)} only in ${row.reference_run}`,
      ];
      const left = alone.some(Boolean) ? `; ${alone.filter(Boolean).join(", ")} not compared` : "";
      return el(
        "p",
        { class: "note" },
        `${row.set}: ${row.run} and ${row.reference_run} have ${many(row.common, "question")} in common${left}.`,
      );
    });
    const tables = sets.map((set) =>
      forestTable(
        `${set}: run against run, points more often right on the same questions`,
        name,
        rows.filter((row) => row.set === set),
        restOf(rows),
      ),
    );
    return [...tables, ...common];
  }

  function differences(data) {
    const between = comparisons(data),
      within = perRun(data, (run) => run.differences.length, pairs, { tables: true });
    if (!between.length && !within) return null;
    return section(
      "differences",
      "Differences",
      "An interval that leaves out zero is a difference that was seen. Only questions both systems were asked are compared.",
      between.length > 0 && [el("h3", {}, "Between runs"), between],
      within && el("div", { class: "stack" }, within),
    );
  }

  const orderings = (data) => {
    const found = perRun(data, (run) => run.orderings.length, claims, { tables: true });
    return (
      found &&
      section(
        "claims",
        "The paper's claims",
        "Each claim orders two systems; it holds where the whole interval lies above its bound: zero, or the dashed line where the claim names another.",
        el("div", { class: "stack" }, found),
      )
    );
  };

  report.sections.push({
    id: "differences",
    title: "Differences",
    without: "paired differences (they need two systems on one set)",
    build: differences,
  });
  report.sections.push({
    id: "claims",
    title: "Claims",
    without: "the paper's claims (they need the levels and the debate)",
    build: orderings,
  });
})();

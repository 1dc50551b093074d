/* Accuracy against tokens generated a question: the figure the whole work is about. */
(() => {
  const {
    el,
    svg,
    telling,
    perRun,
    section,
    drawer,
    chart,
    canvas,
    log,
    linear,
    ticks,
    logTicks,
    xAxis,
    yAxis,
    mark,
    KINDS,
    place,
    table,
  } = report;
  const { percent, short, interval, tokens, count, method, title, brief, kind } = report.format;
  const HEIGHT = 400,
    EDGE = { left: 46, right: 18, top: 16, bottom: 50 };

  const points = (run, set) =>
    run.scores
      .filter((row) => row.set === set && row.tokens_out > 0)
      .map((row) => ({
        ...row,
        kind: kind(run, row.system),
        product: Boolean(run.systems.find((system) => system.id === row.system)?.product),
        label: [brief(run, row.system), method(row)].filter(Boolean).join(", "),
        name: [title(run, row.system), method(row)].filter(Boolean).join(", "),
      }));

  /** The same scales for all runs, so that they can be compared by eye. */
  function domains(all) {
    const x = all.map((row) => row.tokens_out),
      y = all.flatMap((row) => [row.accuracy, row.low ?? row.accuracy, row.high ?? row.accuracy]);
    const low = Math.max(0, Math.floor(Math.min(...y) * 10 - 0.2) / 10),
      high = Math.min(1, Math.ceil(Math.max(...y) * 10 + 0.2) / 10);
    return { x: [Math.min(...x) / 1.7, Math.max(...x) * 1.7], y: [Math.min(low, Math.max(0, high - 0.3)), high] };
  }

  const lines = (row) => [
    row.name,
    `${percent(row.accuracy)} right (${interval(row.low, row.high)})`,
    `${tokens(row.tokens_out)} tokens a question`,
    `${count(row.questions)} questions`,
  ];

  function draw(run, set, rows, { x: xs, y: ys }, width) {
    const bounds = { left: EDGE.left, right: width - EDGE.right, top: EDGE.top, bottom: HEIGHT - EDGE.bottom };
    const x = log(xs, [bounds.left, bounds.right]),
      y = linear(ys, [bounds.bottom, bounds.top]);
    const at = rows.map((row) => ({
      row,
      x: x(row.tokens_out),
      y: y(row.accuracy),
      text: row.label,
      reach: row.samples > 1 ? 16 : row.product ? 13 : 11,
    }));
    const box = ({ x: cx, y: cy }, w, h, weight) => ({ left: cx - w, right: cx + w, top: cy - h, bottom: cy + h, weight });
    const obstacles = at.flatMap((point) => [
      box(point, 8, 8, 30),
      { ...box(point, 2, 0, 4), top: y(point.row.high ?? point.row.accuracy), bottom: y(point.row.low ?? point.row.accuracy) },
    ]);
    const boxes = place(at, obstacles, bounds);
    const marks = at.map((point) =>
      svg(
        "g",
        {
          class: `point kind-${point.row.kind}${point.row.product ? " product" : ""}`,
          transform: `translate(${point.x},${point.y})`,
          ...telling(lines(point.row)),
        },
        point.row.low !== null &&
          svg("path", {
            class: "whisker",
            d: `M0,${y(point.row.low) - point.y}V${y(point.row.high) - point.y}M-4,${y(point.row.low) - point.y}h8M-4,${y(point.row.high) - point.y}h8`,
          }),
        point.row.samples > 1 && svg("circle", { r: 11, class: "ring" }),
        svg("circle", { r: 14, class: "reach" }),
        mark(point.row.kind, point.row.product ? 8 : 6),
      ),
    );
    const names = boxes.map((place_, i) => {
      const middle = (place_.top + place_.bottom) / 2,
        inner = Math.max(place_.left, Math.min(at[i].x, place_.right));
      return svg(
        "g",
        { "aria-hidden": "true" },
        Math.hypot(inner - at[i].x, middle - at[i].y) > 22 &&
          svg("line", { class: "leader", x1: at[i].x, y1: at[i].y, x2: inner, y2: middle + (middle < at[i].y ? 7 : -7) }),
        svg(
          "text",
          {
            class: `label kind-${at[i].row.kind}${at[i].row.product ? " product" : ""}`,
            x: place_.anchor === "end" ? place_.right - 2 : place_.left + 2,
            y: middle + 4.5,
            "text-anchor": place_.anchor,
          },
          at[i].text,
        ),
      );
    });
    return canvas(
      width,
      HEIGHT,
      `Accuracy against tokens generated per question on ${set}, ${run.label}: ${rows.length} systems`,
      yAxis(y, ticks(ys, 6), short, bounds.left, bounds.right),
      xAxis(
        x,
        logTicks(xs, Math.floor(width / 55)),
        count,
        bounds.bottom,
        "tokens generated per question (log scale)",
        (bounds.left + bounds.right) / 2,
      ),
      names,
      marks,
    );
  }

  function legend(rows) {
    const kinds = Object.keys(KINDS).filter((kind_) => rows.some((row) => row.kind === kind_));
    const entry = (shape, text) =>
      el("li", {}, svg("svg", { width: 26, height: 24, viewBox: "-13 -12 26 24", "aria-hidden": "true" }, shape), text);
    return el(
      "ul",
      { class: "legend" },
      kinds.map((kind_) => entry(mark(kind_), KINDS[kind_].text)),
      rows.some((row) => row.samples > 1) &&
        entry([svg("circle", { r: 10, class: "ring" }), svg("circle", { r: 4, class: "mark" })], "vote over several samples"),
    );
  }

  const asTable = (rows) =>
    drawer(
      "The same as a table",
      table(
        "Accuracy and tokens of every system",
        [
          { name: "system", head: true, value: (row) => row.name },
          { name: "kind", value: (row) => KINDS[row.kind]?.text ?? row.kind },
          { name: "accuracy", number: true, value: (row) => percent(row.accuracy) },
          { name: "95% interval", number: true, value: (row) => interval(row.low, row.high) },
          { name: "tokens a question", number: true, value: (row) => tokens(row.tokens_out) },
        ],
        rows,
      ),
    );

  function frontier(data) {
    const usable = data.runs.flatMap((run) => run.sets.filter((set) => points(run, set.id).length).map((set) => set.id));
    const sets = [...new Set(usable)];
    if (!sets.length) return null;
    const holder = el("div");
    const show = (set) => {
      const scales = domains(data.runs.flatMap((run) => points(run, set)));
      holder.replaceChildren(
        ...[
          perRun(
            data,
            (run) => points(run, set).length,
            (run) => {
              const rows = points(run, set);
              return [chart((width) => draw(run, set, rows, scales, width), HEIGHT), legend(rows), asTable(rows)];
            },
          ),
        ]
          .flat(Infinity)
          .filter(Boolean),
      );
    };
    show(sets[0]);
    const select = el(
      "select",
      { onchange: (event) => show(event.target.value) },
      sets.map((set) => el("option", { value: set }, set)),
    );
    return section(
      "results",
      "Accuracy and tokens",
      "Up is more often right, left is cheaper. Whiskers are 95% intervals.",
      sets.length > 1 && el("p", { class: "controls" }, el("label", {}, "Questions of ", select)),
      holder,
    );
  }

  report.sections.push({
    id: "results",
    title: "Result",
    without: "accuracy against tokens (nothing was evaluated)",
    build: frontier,
  });
})();

/* Whether a stated confidence means what it says: a reliability diagram for each who states one, set by set. */
(() => {
  const { el, svg, perRun, section, chart, canvas, linear, xAxis, yAxis, telling, table, drawer, inOrder } = report;
  const { known, short, percent, count, wilson, NONE } = report.format;
  const TOP = 10,
    PLOT = 200,
    COUNTS = 44,
    MARKS = [0, 0.25, 0.5, 0.75, 1];
  const SOURCES = {
    stated: "confidence as stated",
    probability: "probability of its tokens",
    agreement: "share of agents that agree",
  };

  const usable = (bin) => bin.count > 0 && known(bin.accuracy) && known(bin.confidence);

  function draw(row, width) {
    const left = 46,
      right = width - 12,
      bottom = TOP + PLOT,
      base = bottom + 12 + COUNTS;
    const x = linear([0, 1], [left, right]),
      y = linear([0, 1], [bottom, TOP]),
      most = Math.max(...row.bins.map((bin) => bin.count), 1);
    const bars = row.bins.map((bin) => {
      const size = bin.count ? Math.max(1.5, (bin.count / most) * COUNTS) : 0;
      return svg("rect", {
        class: "count",
        x: x(bin.low) + 1,
        width: Math.max(1, x(bin.high) - x(bin.low) - 2),
        y: base - size,
        height: size,
      });
    });
    const points = row.bins.filter(usable).map((bin) => {
      const [low, high] = wilson(bin.accuracy, bin.count);
      const lines = [
        `Confidence ${short(bin.low)} to ${short(bin.high)}`,
        `mean confidence ${percent(bin.confidence)}`,
        `right ${percent(bin.accuracy)}`,
        `${count(bin.count)} answers`,
      ];
      return svg(
        "g",
        { class: "point", ...telling(lines) },
        svg("line", { class: "whisker", x1: x(bin.confidence), x2: x(bin.confidence), y1: y(low), y2: y(high) }),
        svg("circle", { class: "dot", cx: x(bin.confidence), cy: y(bin.accuracy), r: 4.5 }),
      );
    });
    return canvas(
      width,
      base + 44,
      `Reliability of ${row.who}`,
      yAxis(y, MARKS, short, left, right),
      svg("line", { class: "ideal", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
      bars,
      points,
      xAxis(x, MARKS, short, base, "confidence", (left + right) / 2),
    );
  }

  const asTable = (row) =>
    drawer(
      "The same as a table",
      table(
        `Reliability of ${row.who}`,
        [
          { name: "confidence", head: true, value: (bin) => `${short(bin.low)} to ${short(bin.high)}` },
          { name: "mean", number: true, value: (bin) => percent(bin.confidence) },
          { name: "right", number: true, value: (bin) => percent(bin.accuracy) },
          { name: "answers", number: true, value: (bin) => count(bin.count) },
        ],
        row.bins,
      ),
    );

  function panel(run, row, level) {
    const facts = [
      SOURCES[row.source] ?? row.source,
      known(row.ece) ? `ECE ${row.ece.toFixed(3)}` : `ECE ${NONE}`,
      `${count(row.count)} answers`,
    ];
    return el(
      "div",
      { class: "panel" },
      el(level, {}, report.format.brief(run, row.who)),
      el("p", { class: "sub" }, facts.join(" · ")),
      chart((width) => draw(row, width), TOP + PLOT + COUNTS + 56),
      asTable(row),
    );
  }

  const WHOSE = {
    teacher: "of teachers all replies of all rounds",
    debate: "of the debate its answer",
    student: "of students the single replies of all trainings",
    engine: "of other models their single replies",
  };

  /** The diagrams of one set, and whose answers they count. */
  function group(run, id, level) {
    const rows = run.calibration.filter((row) => row.set === id),
      set = run.sets.find((one) => one.id === id);
    const where = set
      ? `evaluated, ${set.domain === "out" ? "out of" : "in"} domain`
      : "which no student was evaluated on; students learn from debates of training questions";
    const whose = Object.keys(WHOSE)
      .filter((kind) => rows.some((row) => row.kind === kind))
      .map((kind) => WHOSE[kind]);
    return [
      el("p", { class: "note" }, `Questions of ${id}, ${where}. Counted are ${whose.join(", ")}.`),
      el(
        "div",
        { class: "panels" },
        rows.map((row) => panel(run, row, level)),
      ),
    ];
  }

  /** Evaluated questions in domain are shown at once, so that all are seen on the same questions; others lie in a drawer. */
  function block(run, level) {
    const sets = inOrder(
      [...new Set(run.calibration.map((row) => row.set))],
      run.sets.map((set) => set.id),
    );
    const main = sets.filter((id) => run.sets.some((set) => set.id === id && set.domain !== "out")),
      shown = main.length ? main : sets.slice(0, 1),
      others = sets.filter((id) => !shown.includes(id));
    return [
      shown.map((id) => group(run, id, level)),
      others.length > 0 &&
        drawer(
          `On other questions: ${others.join(", ")}`,
          others.map((id) => group(run, id, level)),
        ),
    ];
  }

  function calibration(data) {
    const found = perRun(data, (run) => run.calibration.length, block);
    return (
      found &&
      section(
        "calibration",
        "Calibration",
        "Share of right answers against confidence. On the diagonal the two are equal; below it there is too much confidence. Bars count answers, whiskers are 95% intervals, ECE is the expected calibration error.",
        found,
      )
    );
  }

  report.sections.push({
    id: "calibration",
    title: "Calibration",
    without: "calibration (no confidence was given)",
    build: calibration,
  });
})();

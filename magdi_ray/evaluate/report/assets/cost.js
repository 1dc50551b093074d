/* What the run took: time, tokens and money by stage. */
(() => {
  const { el, perRun, section, table } = report;
  const { NONE, known, count, seconds, usd } = report.format;

  const sum = (rows, key) =>
    rows.some((row) => known(row[key])) ? rows.reduce((total, row) => total + (row[key] ?? 0), 0) : null;

  function block(run) {
    const total = {
      stage: "together",
      what: "",
      seconds: null, // stages may have run side by side
      ...Object.fromEntries(["tokens_in", "tokens_out", "usd"].map((key) => [key, sum(run.cost, key)])),
      total: true,
    };
    const columns = [
      { name: "stage", head: true, value: (row) => row.stage },
      { name: "what", only: "wordy", value: (row) => (row.total ? "" : row.what || NONE) },
      { name: "time", number: true, value: (row) => seconds(row.seconds) },
      { name: "tokens in", number: true, value: (row) => count(row.tokens_in) },
      { name: "tokens out", number: true, value: (row) => count(row.tokens_out) },
      ...(known(total.usd) ? [{ name: "price", number: true, value: (row) => usd(row.usd) }] : []),
    ];
    return table("Cost by stage", columns, run.cost.length > 1 ? [...run.cost, total] : run.cost, {
      shown: false,
      rowClass: (row) => (row.total ? "total" : null),
    });
  }

  function cost(data) {
    const found = perRun(data, (run) => run.cost.length, block, { tables: true });
    const lead =
      "Time is wall-clock, from a stage's start to its end, and is not summed: stages may have run side by side. Worker seconds are those of a training's steps and measurements, summed over its workers. Sums leave out what is unknown.";
    return found && section("cost", "Cost", lead, found);
  }

  report.sections.push({ id: "cost", title: "Cost", without: "cost (not recorded)", build: cost });

  /** What the run was. */
  function about(data) {
    const list = (run) =>
      el(
        "dl",
        { class: "facts" },
        (run.facts ?? []).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
      );
    return section(
      "about",
      "About this run",
      null,
      perRun(data, (run) => run.facts?.length, list),
    );
  }
  Object.assign(report, { about });
})();

/* What discussion does: agreement and consensus, and who is right, round by round. */
(() => {
  const { el, perRun, section, lineChart, table, drawer, inOrder } = report;
  const { known, short, percent, count } = report.format;

  const MEASURES = [
    ["agreement", "agreement"],
    ["consensus", "consensus"],
    ["vote_accuracy", "vote right"],
    ["reply_accuracy", "replies right"],
  ];

  function chartOf(split, rows, level) {
    const series = MEASURES.map(([key, label], i) => ({
      name: label,
      label,
      style: i,
      points: rows.map((row) => [row.round, row[key]]),
    })).filter((one) => one.points.some((point) => known(point[1])));
    return el(
      "div",
      { class: "panel wide" },
      el(level, {}, `${split}: ${count(rows[0].debates)} debates`),
      lineChart(series, {
        name: `Agreement and accuracy by round, ${split}`,
        height: 250,
        yFormat: short,
        xFormat: String,
        xName: "round",
        yDomain: [0, 1],
        dots: true,
        xTicks: rows.map((row) => row.round),
      }),
    );
  }

  function block(run, level) {
    const splits = inOrder(
      [...new Set(run.rounds.map((row) => row.split))],
      run.sets.map((set) => set.split),
    );
    const of = (split) => run.rounds.filter((row) => row.split === split).sort((a, b) => a.round - b.round);
    const columns = [
      { name: "debates of", head: true, value: (row) => row.split },
      { name: "round", number: true, value: (row) => String(row.round) },
      { name: "debates", number: true, value: (row) => count(row.debates) },
      ...MEASURES.map(([key, label]) => ({ name: label, number: true, value: (row) => percent(row[key]) })),
    ];
    return [
      el(
        "div",
        { class: "panels" },
        splits.map((split) => chartOf(split, of(split), level)),
      ),
      drawer("The same as a table", table("Round by round", columns, splits.flatMap(of))),
    ];
  }

  function rounds(data) {
    const found = perRun(data, (run) => run.rounds.length, block);
    return (
      found &&
      section(
        "rounds",
        "Debates, round by round",
        "Agreement is the mean share of replies that give the commonest answer, consensus the share of debates in which all agree. A debate that stopped early counts with its last state in later rounds.",
        found,
      )
    );
  }

  report.sections.push({ id: "rounds", title: "Rounds", without: "debates by round (there was no debate)", build: rounds });
})();
